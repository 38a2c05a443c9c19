"""File systems of a test's own, in a file: XFS and btrfs share blocks between files, ext4 (what /tmp mostly is) not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import world

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

import places
from places import SHARING, mount, unmount

__all__ = ["SHARING", "mount", "mounted", "unmount"]


@contextmanager
def mounted(kind: str, size_bytes: int = 2 << 30) -> Iterator[Path]:
    """An empty file system; servers left on it are ended before it goes. Skips where mounting is not allowed."""
    with ExitStack() as stack:
        try:
            point = stack.enter_context(places.new_place(kind, size_bytes, world.end_servers_below))
        except places.CannotMount as error:
            pytest.skip(str(error))
        yield point
