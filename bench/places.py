"""Where a run lies: a new directory below /tmp, or a file system made for the run in a file there.

XFS and btrfs share blocks between files, which Icecore makes use of; ext4, what /tmp mostly is, does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from source_server import server_user

HERE = "here"
MAKE = {"xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"], "btrfs": ["mkfs.btrfs", "-q"]}
FILE_SYSTEMS = (HERE, *MAKE)


@contextmanager
def new_place(file_system: str, size_bytes: int) -> Iterator[Path]:
    """A directory of the database's user; nothing of it is left afterwards. What runs in it must have ended."""
    outer = Path(tempfile.mkdtemp(prefix="icecore-bench-", dir="/tmp"))
    outer.chmod(0o755)
    try:
        if file_system == HERE:
            own(outer)
            yield outer
            return
        if os.geteuid() != 0:
            raise SystemExit(f"--file-system {file_system} is for root: it mounts one")
        if not shutil.which(MAKE[file_system][0]):
            raise SystemExit(f"--file-system {file_system} needs {MAKE[file_system][0]}")
        with _mounted(file_system, outer, size_bytes) as point:
            own(point)
            yield point
    finally:
        if not os.path.ismount(outer / "mounted"):
            shutil.rmtree(outer, ignore_errors=True)


@contextmanager
def _mounted(kind: str, outer: Path, size_bytes: int) -> Iterator[Path]:
    image, point = outer / "image", outer / "mounted"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size_bytes)  # sparse: takes what is written
    subprocess.run([*MAKE[kind], str(image)], check=True, capture_output=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    try:
        point.chmod(0o755)
        yield point
    finally:
        _unmount(point)


def _unmount(point: Path) -> None:
    for _ in range(20):  # a process that was ended may take a moment to let go
        if subprocess.run(["umount", str(point)], capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.5)
    subprocess.run(["umount", "--lazy", str(point)], check=True)


def own(place: Path) -> None:
    """Give it to the database's user."""
    _, uid, gid = server_user()
    os.chown(place, uid, gid)


def kind_of(place: Path) -> str:
    told = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", str(place)], capture_output=True, text=True, check=True)
    return told.stdout.strip()
