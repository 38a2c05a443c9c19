"""File systems of a test's own, in a file: XFS and btrfs share blocks between files, ext4 (what /tmp mostly is) not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import world

MAKE = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q"],
    "ext4": ["mkfs.ext4", "-q", "-F"],
}
SHARING = ("xfs", "btrfs")


@contextmanager
def mounted(kind: str, size_bytes: int = 2 << 30) -> Iterator[Path]:
    """An empty file system; servers left on it are ended before it goes. Skips where mounting is not allowed."""
    if os.geteuid() != 0 or not shutil.which(MAKE[kind][0]):
        pytest.skip(f"needs root and {MAKE[kind][0]}")
    place = world.new_place()
    image, point = place / "image", place / "mounted"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)
    subprocess.run([*MAKE[kind], str(image)], check=True, capture_output=True)
    try:
        mount(image, point)
    except subprocess.CalledProcessError as error:
        shutil.rmtree(place)
        pytest.skip(f"cannot mount: {error.stderr.decode()}")
    point.chmod(0o755)
    try:
        yield point
    finally:
        world.end_servers_below(point)
        unmount(point)
        shutil.rmtree(place)


def mount(image: Path, point: Path) -> None:
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True, capture_output=True)


def unmount(point: Path) -> None:
    subprocess.run(["umount", str(point)], check=True, capture_output=True)
