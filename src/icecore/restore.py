"""The restore, as a runbook: a backup's files into an empty directory that a server can start on.

Knows no catalog and no HTTP: it works on a machine with nothing but the package, the repository and its key.
Everything that could refuse is asked in ``plan``, before the first byte is written; until the very last file is in
place the directory cannot be started as a server.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from icecore import errors
from icecore.binding import Part
from icecore.copying import SPAN_BYTES, Watch
from icecore.engines import RestoreEngine, RestoreTarget
from icecore.images import KeptImage
from icecore.laps import Laps, lap
from icecore.model import BackupFacts, FileKind, Phase
from icecore.repository import Reader, StoredFile

TABLESPACES = "pg_tblspc/"
BLOCK_ID_BYTES = 32
_ZEROS = bytes(1 << 20)  # as long as a block can be


@dataclass(frozen=True)
class RestorePlan:
    """What a restore will do; made and shown before anything is written."""

    facts: BackupFacts
    target: RestoreTarget
    owner: tuple[int, int] | None  # uid, gid of what is written; None: whoever runs this
    block_bytes: int


def plan(
    reader: Reader,
    engine: RestoreEngine,
    target: RestoreTarget,
    *,
    owner: tuple[int, int] | None,
    block_bytes: int,
) -> RestorePlan:
    """Check everything that can be checked. Raises TargetRefused; writes nothing."""
    engine.check_target(reader.facts, target)
    missing = [path for path in tablespaces(reader.facts) if path not in target.tablespaces]
    if missing:
        raise errors.TargetRefused(
            f"no place was given for tablespace {missing[0]}", hint="Name one: --tablespace OID=DIR."
        )
    return RestorePlan(reader.facts, target, owner, block_bytes)


def tablespaces(facts: BackupFacts) -> list[str]:
    """The link paths of a backup's tablespaces, such as ``pg_tblspc/16384``."""
    return [f"{TABLESPACES}{space['oid']}" for space in facts.engine_facts.get("tablespaces", ())]


def run(
    restore: RestorePlan,
    reader: Reader,
    engine: RestoreEngine,
    watch: Watch,
    *,
    threads: int,
    hand_over: Callable[[], None] = lambda: None,
    image: KeptImage | None = None,
    laps: Laps | None = None,
) -> None:
    """Carry out a plan. Afterwards the directory is durable and can be started.

    ``image``: of this very backup, if there is one. What it has on the target's own file system is cloned and not
    written: its bytes are those that the backup was made from, unless the disk changed them since; the engine's own
    page checksums tell.

    Where root restores for another user, the directories stay root's and closed until everything that we write by path
    is written, for who may enter could lead us astray by a planted link. ``hand_over``: the caller's own part of that.

    Errors: Damaged (a stored byte is wrong: nothing wrong was delivered as right), StorageFailed, StorageFull.
    """
    # The directories
    watch.phase(Phase.PREPARING, restore.facts.size_bytes)
    target = restore.target
    tops = (target.data_directory, *target.tablespaces.values())
    for place in tops:
        _make_directory(place, 0o700, None)
    watch.step("directories-made")

    # Every file but the last ones, in several threads
    watch.phase(Phase.UPLOADING, restore.facts.size_bytes)
    last: list[StoredFile] = []
    layer = _Layer(restore, reader, watch, threads, image, laps or Laps())
    layer.lay(file for file in reader.files() if not _kept_for_later(file, engine, last))
    watch.step("files-laid")

    # The files without which no server starts: guarded, and under another name for now
    staged = []
    for file in last:
        content = engine.guarded(file.meta.path, _content(file, reader))
        staged.append(_Staged(layer.place(file.meta.path), content, file.meta.mode, restore.owner))
    for place in tops:
        if restore.owner:
            os.chown(place, *restore.owner, follow_symlinks=False)
    hand_over()

    # Links, empty directories, signals and settings; the tree is made durable
    watch.phase(Phase.CHECKING, restore.facts.size_bytes)
    engine.finish_files(restore.facts, target)
    watch.step("files-finished")

    # Now the last ones get their names
    for each in staged:
        each.give_name()
    watch.step("restored")


def _kept_for_later(file: StoredFile, engine: RestoreEngine, last: list[StoredFile]) -> bool:
    if file.meta.path not in engine.last_paths():
        return False
    last.append(file)
    return True


class _Layer:
    """Lays files below the target."""

    def __init__(
        self,
        restore: RestorePlan,
        reader: Reader,
        watch: Watch,
        threads: int,
        image: KeptImage | None,
        laps: Laps,
    ) -> None:
        self._restore = restore
        self._image = image
        self._reader = reader
        self._watch = watch
        self._threads = threads
        self._laps = laps
        self._done_bytes = 0
        self._span_bytes = SPAN_BYTES - SPAN_BYTES % restore.block_bytes  # spans begin with a block, as when stored
        self._closed: list[tuple[Path, int]] = []  # files that not even their owner may write, and their modes

    def lay(self, files: Iterator[StoredFile]) -> None:
        waiting: deque[Future[int]] = deque()
        with ThreadPoolExecutor(self._threads, thread_name_prefix="lay") as pool:
            try:
                for file in files:
                    for start, end in self._create(file):
                        waiting.append(pool.submit(self._write, file, start, end))
                    while len(waiting) > self._threads * 4:
                        self._tell(waiting.popleft().result())
                while waiting:
                    self._tell(waiting.popleft().result())
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

    def _create(self, file: StoredFile) -> Iterator[tuple[int, int]]:
        """Make the name; yields the stretches to be written. Links are the engine's: it knows where they may lead."""
        place, meta = self.place(file.meta.path), file.meta
        if meta.kind is FileKind.SYMLINK:
            return
        if meta.kind is FileKind.DIRECTORY:
            _make_directory(place, meta.mode, self._restore.owner)
            return
        if not place.parent.is_dir():
            _make_directory(place.parent, 0o700, self._restore.owner)
        with _translated(place):
            descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                os.truncate(descriptor, meta.size_bytes)
                cloned = self._image is not None and self._image.lay(meta.path, descriptor, meta.size_bytes)
                os.fchmod(descriptor, meta.mode | 0o200)
                if self._restore.owner:
                    os.fchown(descriptor, *self._restore.owner)
            finally:
                os.close(descriptor)
        if not meta.mode & 0o200:
            self._closed.append((place, meta.mode))
        if cloned:
            self._tell(meta.size_bytes)
            return
        for start in range(0, meta.size_bytes, self._span_bytes):
            yield start, min(start + self._span_bytes, meta.size_bytes)

    def _write(self, file: StoredFile, start: int, end: int) -> int:
        """Write one stretch; zeros are left as holes. Runs in a worker thread."""
        place, block_bytes = self.place(file.meta.path), self._restore.block_bytes
        with _translated(place), self._laps.working():
            descriptor = os.open(place, os.O_WRONLY | os.O_NOFOLLOW)
            try:
                first, behind = start // block_bytes, -(-end // block_bytes)
                blocks = self._reader.blocks(file.blocks[first * BLOCK_ID_BYTES : behind * BLOCK_ID_BYTES])
                for at, block in zip(range(start, end, block_bytes), blocks, strict=True):
                    if len(block) != min(block_bytes, file.meta.size_bytes - at):
                        raise errors.Damaged(name=file.meta.path, reason="a block has the wrong length")
                    if block != _ZEROS[: len(block)]:
                        _write_at(descriptor, block, at)
                        lap(Part.WRITE)
            finally:
                os.close(descriptor)
        return end - start

    def _tell(self, written_bytes: int) -> None:
        self._done_bytes += written_bytes
        self._watch.advance(self._done_bytes, self._done_bytes)
        self._watch.step("laying")


def _content(file: StoredFile, reader: Reader) -> bytes:
    ids = [file.blocks[at : at + BLOCK_ID_BYTES] for at in range(0, len(file.blocks), BLOCK_ID_BYTES)]
    content = b"".join(reader.block(each) for each in ids)
    if len(content) != file.meta.size_bytes:
        raise errors.Damaged(name=file.meta.path, reason="its blocks do not add up to its size")
    return content


def _write_at(descriptor: int, block: bytes, at: int) -> None:
    view = memoryview(block)
    while view:
        written = os.pwrite(descriptor, view, at)
        view, at = view[written:], at + written


class _Staged:
    """A whole, durable file beside its place; ``give_name`` puts it there. Its directory is held open meanwhile: a path
    could be led elsewhere by then."""

    def __init__(self, place: Path, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
        self._place, self._name, self._staged = place, place.name, place.name + ".icecore"
        with _translated(place):
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
        with _translated(self._place):
            os.rename(self._staged, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
            os.fsync(self._directory)
            os.close(self._directory)


def _make_directory(place: Path, mode: int, owner: tuple[int, int] | None) -> None:
    with _translated(place):
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(mode)
        if owner:
            os.chown(place, *owner)


class _translated:
    """Operating system errors below a restore target become ours, naming the place."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            family = errors.StorageFull if full else errors.StorageFailed
            raise family(doing="write", name=str(self._place), reason=error.strerror) from error
