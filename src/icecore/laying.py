"""Files of a backup, laid below a target: names, blocks or clones, and the last ones with care."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from icecore import directio, errors
from icecore.binding import Part
from icecore.copying import SPAN_BYTES, Watch
from icecore.cores import usable_cores
from icecore.crew import Crew
from icecore.engines import RestoreTarget
from icecore.images import KeptImage
from icecore.laps import Laps, lap
from icecore.model import BackupFacts, FileKind
from icecore.pace import Pace
from icecore.repository import Reader, StoredFile

TABLESPACES = "pg_tblspc/"
BLOCK_ID_BYTES = 32
FILES_A_TASK = 64
RUN_BYTES = 4 << 20  # written at once; each thread has a buffer of this size
_ZEROS = bytes(1 << 20)  # as long as a block can be

Stretch = tuple[StoredFile, int, int]  # of a file, from a byte to another


@dataclass(frozen=True)
class RestorePlan:
    """What a restore will do; made and shown before anything is written."""

    facts: BackupFacts
    target: RestoreTarget
    owner: tuple[int, int] | None  # uid, gid of what is written; None: whoever runs this
    block_bytes: int


class Layer:
    """Lays files below the target."""

    def __init__(
        self,
        restore: RestorePlan,
        reader: Reader,
        watch: Watch,
        threads: int,
        image: KeptImage | None = None,
        laps: Laps | None = None,
        readers_at_most: int = 0,
    ) -> None:
        self._restore = restore
        self._image = image
        self._reader = reader
        self._watch = watch
        self._threads = threads
        self._laps = laps or Laps()
        self._crew = Crew(threads, readers_at_most, usable_cores(), self._laps, Pace())
        self._done_bytes = 0
        self._span_bytes = SPAN_BYTES - SPAN_BYTES % restore.block_bytes  # spans begin with a block, as when stored
        self._own = threading.local()
        self._closed: list[tuple[Path, int]] = []  # files that not even their owner may write, and their modes

    def lay(self, files: Iterator[StoredFile]) -> None:
        """Every file of ``files``, in threads; a directory comes before what is in it."""
        waiting: deque[Future[tuple[int, Sequence[Stretch]]]] = deque()

        def take(pool: ThreadPoolExecutor) -> None:
            done_bytes, more = waiting.popleft().result()
            waiting.extend(pool.submit(self._write, stretch) for stretch in more)
            self._tell(done_bytes)

        with ThreadPoolExecutor(self._crew.at_most, thread_name_prefix="lay") as pool:
            try:
                plain = self._directories(files)
                while some := list(itertools.islice(plain, FILES_A_TASK)):
                    waiting.append(pool.submit(self._lay_some, some))
                    while len(waiting) > self._crew.size * 4:
                        take(pool)
                while waiting:
                    take(pool)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for place, mode in self._closed:
            place.chmod(mode)

    def place(self, path: str) -> Path:
        """Where a path of the backup lies below the target. A path that would leave it is damage, not a place."""
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise errors.Damaged(name="the manifest", reason="a file name leads out of the data directory")
        if path.startswith(TABLESPACES) and len(parts) > 2:
            link = f"{TABLESPACES}{parts[1]}"
            if link in self._restore.target.tablespaces:
                return self._restore.target.tablespaces[link].joinpath(*parts[2:])
        return self._restore.target.data_directory.joinpath(*parts)

    # ------------------------------------------------------------ parts

    def _directories(self, files: Iterator[StoredFile]) -> Iterator[StoredFile]:
        """Make the directories; gives the plain files. Links are the engine's: it knows where they may lead."""
        for file in files:
            if file.meta.kind is FileKind.DIRECTORY:
                make_directory(self.place(file.meta.path), file.meta.mode, self._restore.owner)
            elif file.meta.kind is FileKind.FILE:
                yield file

    def _lay_some(self, files: Sequence[StoredFile]) -> tuple[int, list[Stretch]]:
        """Make the names. What can be cloned is, the smallest are written at once, together; gives how many bytes are
        there, and the stretches that are still to be written. Runs in a worker thread."""
        done_bytes, small, more = 0, list[StoredFile](), list[Stretch]()
        for file in files:
            size_bytes = file.meta.size_bytes
            if self._create(file):
                done_bytes += size_bytes
            elif size_bytes <= self._restore.block_bytes:
                small += [file] if size_bytes else []
            else:
                starts = range(0, size_bytes, self._span_bytes)
                more += [(file, start, min(start + self._span_bytes, size_bytes)) for start in starts]
        with self._crew, self._laps.working():
            blocks = self._reader.blocks(b"".join(file.blocks for file in small))
            for file, block in zip(small, blocks, strict=True):
                with opened(self.place(file.meta.path), os.O_WRONLY) as descriptor:
                    self._put(descriptor, file, 0, block)
                done_bytes += file.meta.size_bytes
        return done_bytes, more

    def _create(self, file: StoredFile) -> bool:
        """Make the name; whether its bytes are there already, as a clone."""
        place, meta = self.place(file.meta.path), file.meta
        if not place.parent.is_dir():
            make_directory(place.parent, 0o700, self._restore.owner)
        with opened(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
            os.truncate(descriptor, meta.size_bytes)
            cloned = self._image is not None and self._image.lay(meta.path, descriptor, meta.size_bytes)
            self._give(descriptor, place, meta.mode)
        return cloned

    def _give(self, descriptor: int, place: Path, mode: int) -> None:
        os.fchmod(descriptor, mode | 0o200)
        if self._restore.owner:
            os.fchown(descriptor, *self._restore.owner)
        if not mode & 0o200:
            self._closed.append((place, mode))

    def _write(self, stretch: Stretch) -> tuple[int, Sequence[Stretch]]:
        """Write one stretch; zeros are left as holes. Runs in a worker thread."""
        file, start, end = stretch
        block_bytes = self._restore.block_bytes
        with self._crew, self._laps.working(), opened(self.place(file.meta.path), os.O_WRONLY) as descriptor:
            first, behind = start // block_bytes, -(-end // block_bytes)
            blocks = self._reader.blocks(file.blocks[first * BLOCK_ID_BYTES : behind * BLOCK_ID_BYTES])
            run = _Run(descriptor, self._buffer())
            for at, block in zip(range(start, end, block_bytes), blocks, strict=True):
                if self._is_something(file, at, block):
                    run.add(at, block)
            run.flush()
        self._crew.count(end - start)
        return end - start, ()

    def _buffer(self) -> memoryview:
        if not hasattr(self._own, "buffer"):
            self._own.buffer = directio.aligned_buffer(max(RUN_BYTES, self._restore.block_bytes))
        buffer: memoryview = self._own.buffer
        return buffer

    def _put(self, descriptor: int, file: StoredFile, at: int, block: bytes) -> None:
        if self._is_something(file, at, block):
            directio.write_at(descriptor, memoryview(block), at)
            lap(Part.WRITE)

    def _is_something(self, file: StoredFile, at: int, block: bytes) -> bool:
        """Whether the block must be written: zeros are a hole."""
        if len(block) != min(self._restore.block_bytes, file.meta.size_bytes - at):
            raise errors.Damaged(name=file.meta.path, reason="a block has the wrong length")
        return block != _ZEROS[: len(block)]

    def _tell(self, done_bytes: int) -> None:
        self._done_bytes += done_bytes
        self._watch.advance(self._done_bytes, self._done_bytes)
        self._watch.step("laying")
        self._crew.look()


def content(file: StoredFile, reader: Reader) -> bytes:
    whole = b"".join(reader.blocks(file.blocks))
    if len(whole) != file.meta.size_bytes:
        raise errors.Damaged(name=file.meta.path, reason="its blocks do not add up to its size")
    return whole


class _Run:
    """Neighbouring blocks, written together and past the page cache."""

    def __init__(self, descriptor: int, buffer: memoryview) -> None:
        self._descriptor, self._buffer = descriptor, buffer
        self._start, self._filled = 0, 0

    def add(self, at: int, block: bytes) -> None:
        if at != self._start + self._filled or self._filled + len(block) > len(self._buffer):
            self.flush()
            self._start = at
        self._buffer[self._filled : self._filled + len(block)] = block
        self._filled += len(block)

    def flush(self) -> None:
        lap(Part.CPU)
        directio.write_at(self._descriptor, self._buffer[: self._filled], self._start)
        lap(Part.WRITE)
        self._filled = 0


class Staged:
    """A whole, durable file beside its place; ``give_name`` puts it there. Its directory is held open meanwhile: a path
    could be led elsewhere by then."""

    def __init__(self, place: Path, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
        self._place, self._name, self._staged = place, place.name, place.name + ".icecore"
        with translated(place):
            self._directory = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(self._staged, flags, mode, dir_fd=self._directory), "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                if owner:
                    os.fchown(file.fileno(), *owner)
                os.fsync(file.fileno())

    def give_name(self) -> None:
        with translated(self._place):
            os.rename(self._staged, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            os.fsync(self._directory)
            os.close(self._directory)


def make_directory(place: Path, mode: int, owner: tuple[int, int] | None) -> None:
    with translated(place):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(mode)
        if owner:
            os.chown(place, *owner)


class opened:
    """An open descriptor of ``place``, no link followed, and ``translated``."""

    def __init__(self, place: Path, flags: int) -> None:
        self._translated, self._place, self._flags = translated(place), place, flags

    def __enter__(self) -> int:
        with self._translated:
            self._descriptor = os.open(self._place, self._flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        return self._descriptor

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        os.close(self._descriptor)
        self._translated.__exit__(kind, error, trace)


class translated:
    """Operating system errors below a restore target become ours, naming the place."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            family = errors.StorageFull if full else errors.StorageFailed
            raise family(doing="write", name=str(self._place), reason=error.strerror) from error
