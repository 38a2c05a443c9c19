"""File systems of a test's own, in a file: XFS and btrfs share blocks between files, ext4 (what /tmp mostly is) not."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import world

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import places
from places import SHARING, mount, unmount

__all__ = ["SHARING", "crash", "mount", "mounted", "unmount"]

XFS_IOC_GOINGDOWN = 0x8004587D


@contextmanager
def mounted(kind: str, size_bytes: int = 2 << 30) -> Iterator[Path]:
    """An empty file system; servers left on it are ended before it goes. Skips where mounting is not allowed."""
    with ExitStack() as stack:
        try:
            point = stack.enter_context(places.new_place(kind, size_bytes, world.end_servers_below))
        except places.CannotMount as error:
            pytest.skip(str(error))
        yield point


def crash(point: Path) -> None:
    """The power is cut: what the file system had sent to its device by now is there at the next mount, what it held in
    memory is not. Nothing below ``point`` may be open, nor be written meanwhile."""
    place = point.parent
    told = subprocess.run(["findmnt", "-no", "SOURCE,FSTYPE", str(point)], check=True, capture_output=True, text=True)
    device, kind = told.stdout.split()
    if kind == "xfs":
        descriptor = os.open(point, os.O_RDONLY)
        fcntl.ioctl(descriptor, XFS_IOC_GOINGDOWN, (2).to_bytes(4, "little"))  # not even its log is written any more
        os.close(descriptor)
    else:
        # the superblock comes first in the copy and is written last: the copy is of the moment when it was read
        subprocess.run(["cp", "--sparse=always", str(place / "image"), str(place / "crashed")], check=True)
    unmount(point)
    if kind != "xfs":
        (place / "crashed").rename(place / "image")
        # btrfs remembers the newer state of the device
        subprocess.run(["btrfs", "device", "scan", "--forget"], check=False, capture_output=True)
    # at the same device, so that files keep their device number
    again = ["mount", "-o", f"loop={device}", str(place / "image"), str(point)]
    if subprocess.run(again, check=False, capture_output=True).returncode:
        mount(place / "image", point)
