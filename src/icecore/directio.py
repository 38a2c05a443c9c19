"""Reading and writing past the page cache.

What a backup writes nobody reads soon, and what it reads once crowds out pages that the database beside it wants. The
kernel must find a page of memory for each 4 KiB that goes through the cache; on a virtual machine whose free memory
lies with its host that alone took 2 s a GB (``docs/decisions/pipeline.md``). So large stretches go straight between
the disk and our buffers where the file system can do that, and through the cache where it cannot.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

ALIGNMENT = 4096  # of memory, offset and length: satisfies disks with sectors of 512 and of 4096 bytes
WORTH_BYTES = 1 << 20  # below, the wait for the disk costs more than the pages


def aligned_buffer(size_bytes: int) -> memoryview:
    """Memory that direct reads and writes accept; writable, zeroed."""
    return memoryview(mmap.mmap(-1, size_bytes))


def write_at(descriptor: int, data: memoryview, offset: int) -> None:
    """All of ``data``. Large aligned stretches go past the cache, the rest through it."""
    whole = len(data) - len(data) % ALIGNMENT
    if whole >= WORTH_BYTES and offset % ALIGNMENT == 0 and _address(data) % ALIGNMENT == 0:
        with _direct(descriptor):
            done = _write_some(descriptor, data[:whole], offset)
        data, offset = data[done:], offset + done
    while data:
        done = os.pwrite(descriptor, data, offset)
        data, offset = data[done:], offset + done


def _write_some(descriptor: int, data: memoryview, offset: int) -> int:
    """How much was written before the system would not go on: at an odd place, or because it cannot do this here."""
    done = 0
    while done < len(data) and done % ALIGNMENT == 0:
        try:
            done += os.pwrite(descriptor, data[done:], offset + done)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            break
    return done


def read_at(descriptor: int, into: memoryview, offset: int) -> int:
    """Fill ``into``; short only at the file's end. What the cache has comes from there; the rest past it where
    ``into`` allows, so that reading a file once does not fill the cache with it."""
    if len(into) < WORTH_BYTES or _address(into) % ALIGNMENT or offset % ALIGNMENT:
        return _read_cached(descriptor, into, offset)
    done = _read_present(descriptor, into, offset)
    done -= done % ALIGNMENT
    whole = len(into) - len(into) % ALIGNMENT
    if done < whole:
        with _direct(descriptor):
            while done < whole and done % ALIGNMENT == 0:
                try:
                    part = os.preadv(descriptor, [into[done:whole]], offset + done)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    break
                if part == 0:
                    return done
                done += part
    return done + _read_cached(descriptor, into[done:], offset + done)


def _read_present(descriptor: int, into: memoryview, offset: int) -> int:
    """What the cache has at once."""
    try:
        return os.preadv(descriptor, [into], offset, os.RWF_NOWAIT)
    except OSError:  # EAGAIN: nothing; EOPNOTSUPP: this file system cannot say
        return 0


def _read_cached(descriptor: int, into: memoryview, offset: int) -> int:
    done = 0
    while done < len(into):
        part = os.preadv(descriptor, [into[done:]], offset + done)
        if part == 0:
            break
        done += part
    return done


@contextmanager
def _direct(descriptor: int) -> Iterator[None]:
    """``descriptor`` past the cache meanwhile; a file system that cannot leaves it as it is."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    with contextlib.suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    try:
        yield
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def _address(data: memoryview) -> int:
    """Where it lies; an odd number for read-only memory, which is none of ours."""
    if data.readonly or not len(data):
        return 1
    return ctypes.addressof(ctypes.c_char.from_buffer(data))
