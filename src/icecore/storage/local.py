"""Storage in a local folder: temporary file, fsync, link, fsync of the parent.

Beside the objects the root holds ``tmp/`` (half-written objects, never listed) and ``leases/`` (one file
per lease: an ``flock`` on it is the ownership, its content the epoch). Files are 0600, directories 0700.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from icecore import directio
from icecore.errors import Damaged, LeaseHeld, ObjectExists, ObjectMissing, StorageFailed, StorageFull
from icecore.storage import Buffer, StoredObject, valid_segment

STALE_TEMPORARY_S = 86_400  # no single put takes a day; what is older was left by a crash
STRETCH_BYTES = 4 << 20  # of a pack, read at once; each thread that reads keeps a buffer of this size
RESERVED = frozenset({"tmp", "leases"})
EPOCH_DIGITS = 20  # fixed width: an epoch is overwritten in place and never longer than a disk sector
AT_FDCWD, RENAME_NOREPLACE = -100, 1  # linux/fcntl.h, linux/fs.h

_libc = ctypes.CDLL(None, use_errno=True)


def checked_name(name: str) -> str:
    """``name`` itself, or ``StorageFailed`` if it could lead out of the root or into its private folders."""
    segments = name.split("/")
    if not all(valid_segment(segment) for segment in segments) or segments[0] in RESERVED:
        raise StorageFailed(doing="name", name=repr(name), reason="not a valid object name")
    return name


def checked_prefix(prefix: str) -> str:
    """``prefix`` itself, or ``StorageFailed`` unless it is empty or a name and a slash."""
    if prefix and not prefix.endswith("/"):
        raise StorageFailed(doing="list", name=repr(prefix), reason="a prefix ends with /")
    if prefix:
        checked_name(prefix[:-1])
    return prefix


@contextmanager
def _translated(doing: str, name: str) -> Iterator[None]:
    """The operating system's errors as the contract's, cause kept."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        kind = StorageFull if full else StorageFailed
        raise kind(doing=doing, name=name, reason=error.strerror or str(error)) from error


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, parts: Sequence[Buffer]) -> None:
    offset = 0
    for part in parts:
        data = memoryview(part).cast("B")
        directio.write_at(fd, data, offset)
        offset += len(data)


def _give_name(temporary: Path, target: Path) -> None:
    """``FileExistsError`` if ``target`` is there. ``temporary`` may or may not be left."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # No hard links here (FAT, some network and FUSE file systems).
        names = os.fsencode(temporary), os.fsencode(target)
        if _libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_NOREPLACE) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code)) from error


class LocalStorage:
    """``Storage`` below ``root``, which is made by the first write."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()
        self._lock = threading.Lock()
        self._own = threading.local()
        self._root_fd = -1
        self._durable_directories: set[Path] = set()
        # Held open from here on: the kernel reports a write-back error to syncfs only on descriptors older than it.
        if self.root.is_dir():
            self._open_root()
            self._sweep_temporary()

    def __str__(self) -> str:
        return str(self.root)

    # ------------------------------------------------------------ writing

    def put(self, name: str, parts: Sequence[Buffer], *, durable: bool = True) -> None:
        target = self.root / checked_name(name)
        with _translated("write", name):
            # 1 all bytes under a temporary name
            self._make_parents(target)
            temporary = self._write_temporary(parts, durable=durable)
            try:
                # 2 the name appears whole or not at all, and never over another object
                _give_name(temporary, target)  # R1
            except FileExistsError as error:
                raise ObjectExists(name=name) from error
            finally:
                temporary.unlink(missing_ok=True)
            # 3 the name is durable
            if durable:
                _fsync_directory(target.parent)

    def replace(self, name: str, data: Buffer) -> None:
        target = self.root / checked_name(name)
        with _translated("replace", name):
            self._make_parents(target)
            temporary = self._write_temporary([data], durable=True)
            try:
                temporary.replace(target)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            _fsync_directory(target.parent)

    def barrier(self) -> None:
        # One flush of the file system costs less than an fsync of every pack, and takes names along.
        if self._root_fd < 0:
            return
        with _translated("flush", str(self.root)):
            if _libc.syncfs(self._root_fd) != 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))

    def delete(self, name: str) -> None:
        target = self.root / checked_name(name)
        with _translated("delete", name):
            try:
                target.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return
            _fsync_directory(target.parent)

    # ------------------------------------------------------------ reading

    def get(self, name: str) -> bytes:
        with self._opened(name) as fd:
            return _read_exactly(fd, 0, os.fstat(fd).st_size, name)

    def get_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        with self._opened(name) as fd:
            size_bytes = os.fstat(fd).st_size
            for offset, length in ranges:
                if offset < 0 or length < 0 or offset + length > size_bytes:
                    raise Damaged(name=name, reason=f"it has no {length} bytes at {offset}")
            return [part for stretch in _stretches(ranges) for part in self._read_stretch(fd, stretch, name)]

    def _read_stretch(self, fd: int, ranges: Sequence[tuple[int, int]], name: str) -> list[bytes]:
        """Neighbouring ranges, in one read where that is large."""
        start, end = ranges[0][0], ranges[-1][0] + ranges[-1][1]
        if end - start < directio.WORTH_BYTES:
            return [_read_exactly(fd, offset, length, name) for offset, length in ranges]
        if not hasattr(self._own, "window"):
            self._own.window = directio.aligned_buffer(STRETCH_BYTES + 2 * directio.ALIGNMENT)
        head = start % directio.ALIGNMENT
        wanted = -(-(head + end - start) // directio.ALIGNMENT) * directio.ALIGNMENT
        window: memoryview = self._own.window[:wanted]
        if directio.read_at(fd, window, start - head) < head + end - start:
            raise Damaged(name=name, reason="it became shorter while it was read")
        return [bytes(window[head + offset - start :][:length]) for offset, length in ranges]

    def size_bytes(self, name: str) -> int:
        with self._opened(name) as fd:
            return os.fstat(fd).st_size

    def list(self, prefix: str) -> Iterator[StoredObject]:
        with _translated("list", checked_prefix(prefix) or str(self.root)):
            self._look_at_root()
            yield from self._walk(self.root / prefix, prefix)

    def folders(self, prefix: str) -> Iterator[str]:
        with _translated("list", checked_prefix(prefix) or str(self.root)):
            self._look_at_root()
            try:
                found = [entry.name for entry in os.scandir(self.root / prefix) if entry.is_dir(follow_symlinks=False)]
            except FileNotFoundError:
                found = []
            yield from sorted(name for name in found if valid_segment(name) and (prefix or name not in RESERVED))

    # ------------------------------------------------------------ ownership

    def lease(self, name: str) -> LocalLease:
        path = self.root / "leases" / checked_name(name)
        with _translated("lease", name):
            self._make_parents(path)
            return LocalLease(path, name)

    # ------------------------------------------------------------ inside

    def _look_at_root(self) -> None:
        """A root that went away must not look empty (R6); one that nobody wrote to yet is."""
        if self._root_fd >= 0:
            self.root.stat()

    def _open_root(self) -> None:
        with self._lock:
            if self._root_fd < 0:
                self._root_fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                weakref.finalize(self, os.close, self._root_fd)

    def _make_parents(self, target: Path) -> None:
        """Make the directories above ``target`` and their names durable.

        Each once per instance, also those that exist already: whoever made one may not have flushed it yet.
        """
        unproven = []
        parent = target.parent
        while parent not in self._durable_directories and parent != parent.parent:
            unproven.append(parent)
            if parent == self.root and parent.is_dir():
                break
            parent = parent.parent
        for directory in reversed(unproven):
            if not directory.is_dir():
                directory.mkdir(mode=0o700, exist_ok=True)
            elif directory == self.root or not directory.is_relative_to(self.root):
                continue  # what was there before us is its owner's care
            _fsync_directory(directory.parent)
        if self._root_fd < 0:
            self._open_root()
        self._durable_directories.update(d for d in unproven if d.is_relative_to(self.root))

    def _write_temporary(self, parts: Sequence[Buffer], *, durable: bool) -> Path:
        folder = self.root / "tmp"
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / os.urandom(16).hex()
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write_all(fd, parts)
            if durable:
                os.fsync(fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        return path

    def _sweep_temporary(self) -> None:
        """Drop what a crash left half-written. A failure here is no reason to refuse the storage."""
        with suppress(OSError):
            for path in (self.root / "tmp").iterdir():
                with suppress(OSError):
                    if path.lstat().st_mtime < time.time() - STALE_TEMPORARY_S:
                        path.unlink()

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        path = self.root / checked_name(name)
        with _translated("read", name):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise ObjectMissing(name=name) from error
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ObjectMissing(name=name)
                yield fd
            finally:
                os.close(fd)

    def _walk(self, directory: Path, prefix: str) -> Iterator[StoredObject]:
        try:
            entries = [entry for entry in os.scandir(directory) if valid_segment(entry.name)]
        except FileNotFoundError:
            return  # a prefix nobody wrote to
        # A directory sorts as its name with the slash, so that whole names come out in order.
        folders = {entry.name for entry in entries if entry.is_dir(follow_symlinks=False)}
        for entry in sorted(entries, key=lambda e: e.name + "/" if e.name in folders else e.name):
            name = prefix + entry.name
            if entry.name in folders:
                if not prefix and entry.name in RESERVED:
                    continue
                yield from self._walk(directory / entry.name, name + "/")
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # deleted since: it is absent
                    yield StoredObject(name, entry.stat(follow_symlinks=False).st_size)
            else:
                raise StorageFailed(doing="list", name=name, reason="neither a file nor a directory")


def _stretches(ranges: Sequence[tuple[int, int]]) -> Iterator[Sequence[tuple[int, int]]]:
    """Cut where the next range does not follow its neighbour, or where one read would get too long."""
    first = 0
    for number in range(1, len(ranges) + 1):
        if number < len(ranges):
            offset, length = ranges[number]
            if offset == sum(ranges[number - 1]) and offset + length - ranges[first][0] <= STRETCH_BYTES:
                continue
        yield ranges[first:number]
        first = number


def _read_exactly(fd: int, offset: int, length: int, name: str) -> bytes:
    data = os.pread(fd, length, offset)
    if len(data) == length:
        return data
    pieces = [data]
    done = len(data)
    while done < length:
        piece = os.pread(fd, length - done, offset + done)
        if not piece:
            raise Damaged(name=name, reason="it became shorter while it was read")
        pieces.append(piece)
        done += len(piece)
    return b"".join(pieces)


class LocalLease:
    """Ownership while the ``flock`` on ``path`` is held and the epoch in it is still ours."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        new = not path.exists()
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # 1 the lock; it falls with the process
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise LeaseHeld(name=name) from error
            # 2 the epoch; it fences a holder whose lock was lost without its knowing (a network file system)
            self.epoch = self._read_epoch() + 1
            os.pwrite(self._fd, f"{self.epoch:0{EPOCH_DIGITS}d}\n".encode(), 0)
            os.fsync(self._fd)
            if new:
                _fsync_directory(path.parent)
        except BaseException:
            os.close(self._fd)
            raise

    def confirm(self) -> None:
        if self._fd < 0:
            raise LeaseHeld(name=self._name)
        with _translated("confirm", self._name):
            try:
                same_file = os.path.samestat(self._path.stat(), os.fstat(self._fd))
            except FileNotFoundError:
                same_file = False
            if not same_file or self._read_epoch() != self.epoch:
                raise LeaseHeld(name=self._name)

    def _read_epoch(self) -> int:
        text = os.pread(self._fd, EPOCH_DIGITS + 1, 0)
        if not text:
            return 0  # just made
        if len(text) != EPOCH_DIGITS + 1 or not text.strip().isdigit():
            raise Damaged(name=f"leases/{self._name}", reason="it holds no epoch")
        return int(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
