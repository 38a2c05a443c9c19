"""Places for tests and benchmarks: a new directory below /tmp, or a file system made for the time in a file there.

XFS and btrfs share blocks between files, which Icecore makes use of; ext4, what /tmp mostly is, does not.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from source_server import server_user

HERE = "here"
MAKE = {  # -K: what was given to the file stays its own
    "xfs": ["mkfs.xfs", "-q", "-K", "-m", "reflink=1"],
    "btrfs": ["mkfs.btrfs", "-q", "-K"],
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"],
}
SHARING = ("xfs", "btrfs")


class CannotMount(Exception):
    """What is missing for a file system of one's own: a program, or the right to mount."""


def new_directory(prefix: str = "icecore-") -> Path:
    """Below /tmp, of the database's user. Short: a socket's path has at most 107 bytes."""
    place = Path(tempfile.mkdtemp(prefix=prefix, dir="/tmp"))
    place.chmod(0o755)
    own(place)
    return place


@contextmanager
def new_place(
    file_system: str, size_bytes: int, before_it_goes: Callable[[Path], None] = lambda _: None, *, whole: bool = False
) -> Iterator[Path]:
    """A directory of the database's user on ``file_system``; nothing of it is left afterwards. What runs in it must
    have ended, or be ended by ``before_it_goes``. Errors: CannotMount."""
    outer = new_directory()
    try:
        if file_system == HERE:
            try:
                yield outer
            finally:
                before_it_goes(outer)
            return
        image, point = outer / "image", outer / "mounted"
        make(file_system, image, size_bytes, whole=whole)
        point.mkdir()
        mount(image, point)
        try:
            point.chmod(0o755)
            own(point)
            yield point
        finally:
            before_it_goes(point)
            unmount(point)
    finally:
        if not os.path.ismount(outer / "mounted"):
            shutil.rmtree(outer, ignore_errors=True)


def make(kind: str, image: Path, size_bytes: int, *, whole: bool = False) -> None:
    """``whole``: with all of its room from the start, where there is enough. A file that grew block by block takes
    minutes to remove when it was large."""
    if os.geteuid() != 0 or not shutil.which(MAKE[kind][0]):
        raise CannotMount(f"needs root and {MAKE[kind][0]}")
    with image.open("wb") as file:
        file.truncate(size_bytes)  # sparse: takes what is written
    if whole:
        subprocess.run(["fallocate", "--length", str(size_bytes), str(image)], capture_output=True, check=False)
    subprocess.run([*MAKE[kind], str(image)], check=True, capture_output=True)


def mount(image: Path, point: Path) -> None:
    """Past the page cache of the file below, where that works: nothing lies in memory twice."""
    device = _sure("losetup", "--find", "--show", image)
    subprocess.run(["losetup", "--direct-io=on", device], capture_output=True, check=False)
    try:
        _sure("mount", device, point)
    finally:
        _sure("losetup", "--detach", device)  # when it is unmounted, if it is mounted now


def _sure(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMount(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def unmount(point: Path) -> None:
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
