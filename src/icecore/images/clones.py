"""One file that shares all blocks of another. Source: ioctl_ficlone(2)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from pathlib import Path

from icecore.errors import EngineFailed, StorageFull

FICLONE = 0x40049409
_NEVER = (errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS)  # this file system shares no blocks at all
_CANNOT = (*_NEVER, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ETXTBSY)


class CannotClone(Exception):
    """The file system does not share blocks between these two files. Read and copy instead.

    ``never``: nor between any others.
    """

    def __init__(self, reason: str, *, never: bool) -> None:
        super().__init__(reason)
        self.never = never


def clone_file(source: Path, target: Path) -> int:
    """Make ``target`` share all blocks of ``source``; its size. Errors: those of ``clone_open``, and
    ``FileNotFoundError`` for a source that was dropped."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return clone_open(reading, str(target)).st_size
    finally:
        os.close(reading)


def clone_open(reading: int, target: str, *, below: int | None = None) -> os.stat_result:
    """Make ``target``, below the open directory, share all blocks of the open file; what it is from now on. One moment
    of the file: a write is in it or not.

    ``target`` must not exist; it is removed again when anything goes wrong. Errors: ``CannotClone``, ``StorageFull``,
    ``EngineFailed``.
    """
    writing = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, stat.S_IRUSR, dir_fd=below)
    try:
        share(reading, writing)
        return os.fstat(writing)
    except BaseException:
        os.unlink(target, dir_fd=below)
        raise
    finally:
        os.close(writing)


def share(reading: int, writing: int) -> None:
    """The open file ``writing`` has the blocks of ``reading`` from now on. Errors as of ``clone_file``."""
    try:
        fcntl.ioctl(writing, FICLONE, reading)
    except OSError as error:
        if error.errno in _CANNOT:
            raise CannotClone(str(error.strerror), never=error.errno in _NEVER) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(doing="clone", name="a file", reason=str(error.strerror)) from error
        raise EngineFailed(doing="cloning a file", reason=str(error.strerror)) from error


def sync_file_system(descriptor: int) -> None:
    """Everything written to the file system that ``descriptor`` is on is durable. syncfs(2)."""
    if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
        raise EngineFailed(doing="syncing a file system", reason=os.strerror(ctypes.get_errno()))
