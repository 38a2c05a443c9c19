"""Past the page cache, and through it where that cannot be: the same bytes either way."""

from __future__ import annotations

import errno
import fcntl
import os
import random
from pathlib import Path

import pytest

from icecore.directio import ALIGNMENT, WORTH_BYTES, aligned_buffer, read_at, write_at

SIZES = (0, 1, ALIGNMENT, WORTH_BYTES - 1, WORTH_BYTES, WORTH_BYTES + 1, 3 * WORTH_BYTES + 5 * ALIGNMENT + 17)


@pytest.fixture
def opened(tmp_path: Path):
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def filled(size_bytes: int) -> memoryview:
    buffer = aligned_buffer(max(size_bytes, 1))[:size_bytes]
    buffer[:] = random.Random(size_bytes).randbytes(size_bytes)
    return buffer


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("offset", [0, 2 * ALIGNMENT, 511])
@pytest.mark.parametrize("shift", [0, 8])  # of the memory
@pytest.mark.parametrize("cached", [True, False])
def test_what_was_written_is_read(opened, size_bytes, offset, shift, cached):
    data = filled(size_bytes + shift)[shift:]
    write_at(opened, data, offset)
    os.fsync(opened)
    if not cached:
        os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    assert os.fstat(opened).st_size == (offset + size_bytes if size_bytes else 0)
    into = aligned_buffer(size_bytes + shift + ALIGNMENT)[shift:]
    assert read_at(opened, into, offset) == size_bytes
    assert into[:size_bytes] == data


def test_large_stretches_leave_no_pages_behind(opened, monkeypatch):
    """Asked of the calls: the cache is not ours alone."""
    flags: list[tuple[str, bool]] = []
    for name in ("pwrite", "preadv"):
        inner = getattr(os, name)

        def noted(descriptor, *rest, inner=inner, name=name):
            flags.append((name, bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)))
            return inner(descriptor, *rest)

        monkeypatch.setattr(os, name, noted)
    data = filled(2 * WORTH_BYTES + 100)
    write_at(opened, data, 0)
    assert flags == [("pwrite", True), ("pwrite", False)]
    flags.clear()
    os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_DONTNEED)
    into = aligned_buffer(2 * WORTH_BYTES)
    assert read_at(opened, into, 0) == len(into) and into == data[: len(into)]
    assert ("preadv", True) in flags


@pytest.mark.parametrize("short_bytes", [None, ALIGNMENT, 1000])
def test_where_it_cannot_be_done_or_stops_short_the_cache_does_it(opened, monkeypatch, short_bytes):
    def direct(descriptor: int) -> bool:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT)

    pwrite, preadv = os.pwrite, os.preadv

    def odd_write(descriptor, data, offset):
        if not direct(descriptor):
            return pwrite(descriptor, data, offset)
        if short_bytes is None:
            raise OSError(errno.EINVAL, "no")
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR)
        try:
            return pwrite(descriptor, data[:short_bytes], offset)
        finally:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR | os.O_DIRECT)

    def odd_read(descriptor, buffers, offset, flags=0):
        if flags:
            raise OSError(errno.EAGAIN, "nothing there")
        if not direct(descriptor):
            return preadv(descriptor, buffers, offset)
        if short_bytes is None:
            raise OSError(errno.EINVAL, "no")
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR)
        try:
            return preadv(descriptor, [buffers[0][:short_bytes]], offset)
        finally:
            fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_RDWR | os.O_DIRECT)

    monkeypatch.setattr(os, "pwrite", odd_write)
    monkeypatch.setattr(os, "preadv", odd_read)
    data = filled(2 * WORTH_BYTES + 100)
    write_at(opened, data, 0)
    into = aligned_buffer(4 * WORTH_BYTES)
    assert read_at(opened, into, 0) == len(data) and into[: len(data)] == data


def test_a_failure_is_not_mistaken_for_a_refusal(opened, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        write_at(opened, filled(WORTH_BYTES), 0)
