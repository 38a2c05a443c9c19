"""The restore over what is there, as a runbook: an older or damaged copy of a cluster becomes the backup again.

What is there is read and hashed; only blocks that differ are fetched and written, and what the backup does not have is
removed. Before the first byte is changed the directory cannot be started any more, and a note says what it is to
become: whatever stops this, a server does not start on the half of it, and the same call goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from icecore import directio, errors, restore
from icecore.copying import Watch
from icecore.engines import RestoreEngine
from icecore.laying import BLOCK_ID_BYTES, Layer, RestorePlan, Stretch, make_directory, opened, translated
from icecore.model import FileKind, Phase
from icecore.repository import Reader, StoredFile

NOTE = "icecore.unfinished"  # in the data directory, from before the first change until after the last
AWAY = ".icecore-away"
KEPT = frozenset((NOTE, "lost+found"))


@dataclass(frozen=True)
class Difference:
    """Between a directory and a backup."""

    read_bytes: int  # of what is there
    written_bytes: int  # of blocks that differ
    fetched_bytes: int  # what these take in the repository, each once
    removed: int  # names that the backup does not have


def plan(reader: Reader, engine: RestoreEngine, restore_plan: RestorePlan) -> None:
    """Check everything that can be checked. Raises TargetRefused; writes nothing."""
    target = restore_plan.target
    engine.check_existing(reader.facts, target, unfinished=_unfinished(restore_plan))
    restore.refuse_without_places(reader.facts, target)


def compare(
    restore_plan: RestorePlan, reader: Reader, engine: RestoreEngine, watch: Watch, *, threads: int
) -> Difference:
    """What ``run`` would do. Reads all that is there; changes nothing."""
    watch.phase(Phase.UPLOADING, reader.facts.size_bytes)
    mender = _Mender(restore_plan, reader, watch, threads, write=False)
    removed = sum(_sweep(place, within, remove=False) for place, within in _trees(restore_plan, mender, reader))
    mender.lay(file for file in reader.files() if file.meta.path not in engine.last_paths())
    return mender.difference(removed)


def run(
    restore_plan: RestorePlan,
    reader: Reader,
    engine: RestoreEngine,
    watch: Watch,
    *,
    threads: int,
) -> Difference:
    """Carry out a plan. Afterwards the directory is as after ``restore.run``. Errors: as there, and TargetRefused."""
    target = restore_plan.target
    mender = _Mender(restore_plan, reader, watch, threads, write=True)
    with _alone(target.data_directory):
        # Once more, now that nobody else does the same; then nothing starts here any more
        watch.phase(Phase.PREPARING, restore_plan.facts.size_bytes)
        plan(reader, engine, restore_plan)
        _note(restore_plan)
        watch.step("noted")
        _make_unstartable(restore_plan, reader, engine, mender)
        watch.step("unstartable")

        # Closed to its user while we write by path; what the backup does not have goes
        for place in (target.data_directory, *target.tablespaces.values()):
            make_directory(place, 0o700, (0, 0) if restore_plan.owner and os.geteuid() == 0 else None)
        removed = sum(_sweep(place, within, remove=True) for place, within in _trees(restore_plan, mender, reader))
        watch.step("swept")

        # From here on as any restore, but that what is right already stays
        restore.fill(restore_plan, reader, engine, watch, mender)
        (target.data_directory / NOTE).unlink()
        watch.step("note-removed")
    return mender.difference(removed)


# ---------------------------------------------------------------- unstartable, and known again


@contextmanager
def _alone(data: Path) -> Iterator[None]:
    with translated(data):
        descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise errors.TargetRefused(f"another restore works in {data}", hint="Wait for it.") from None
    finally:
        os.close(descriptor)


def _place_names(plan: RestorePlan) -> dict[str, str]:
    return {link: os.path.realpath(place) for link, place in sorted(plan.target.tablespaces.items())}


def _note(plan: RestorePlan) -> None:
    note = {"cluster_id": plan.facts.cluster_id, "tablespaces": _place_names(plan)}
    place = plan.target.data_directory / NOTE
    with suppress(FileNotFoundError):
        place.unlink()
    with opened(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as descriptor:
        os.write(descriptor, json.dumps(note).encode())
        os.fsync(descriptor)
    _sync_directory(place.parent)


def _unfinished(plan: RestorePlan) -> bool:
    """Whether an earlier call has noted that this directory is to become a backup of this cluster, in these places."""
    try:
        with opened(plan.target.data_directory / NOTE, os.O_RDONLY | os.O_NONBLOCK) as descriptor:
            note = json.loads(os.read(descriptor, 1 << 16))
        return bool(note == {"cluster_id": plan.facts.cluster_id, "tablespaces": _place_names(plan)})
    except (errors.StorageFailed, OSError, ValueError):
        return False


def _make_unstartable(plan: RestorePlan, reader: Reader, engine: RestoreEngine, mender: Layer) -> None:
    """The files without which no server starts go aside; back, if one has started in this very moment."""
    aside = []
    for path in sorted(engine.last_paths()):
        place = mender.place(path)
        away = place.with_name(place.name + AWAY)
        with translated(place), suppress(FileNotFoundError):
            place.rename(away)
            aside.append((away, place))
            _sync_directory(place.parent)
    try:
        engine.check_existing(reader.facts, plan.target, unfinished=True)
    except errors.TargetRefused:
        for away, place in aside:
            away.rename(place)
        (plan.target.data_directory / NOTE).unlink()
        raise


def _sync_directory(place: Path) -> None:
    with opened(place, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


# ---------------------------------------------------------------- what the backup does not have

Within = dict[str, bool]  # path below a place -> whether it is a directory


def _trees(plan: RestorePlan, mender: Layer, reader: Reader) -> list[tuple[Path, Within]]:
    """Each top with what the backup has below it."""
    data, spaces = plan.target.data_directory, plan.target.tablespaces
    trees: dict[Path, Within] = {place: {} for place in (data, *spaces.values())}
    for file in reader.files():
        place = mender.place(file.meta.path)
        top = next((space for space in spaces.values() if place.is_relative_to(space)), data)
        below = trees[top]
        path = str(place.relative_to(top))
        if file.meta.kind is not FileKind.SYMLINK:
            below[path] = file.meta.kind is FileKind.DIRECTORY
        below.update({str(above): True for above in PurePosixPath(path).parents[:-1]})
    return [*trees.items()]


def _sweep(top: Path, within: Within, *, remove: bool) -> int:
    """Remove what is not ``within``, or is there as another kind; how many names. No link is followed: a tablespace's
    is left for the engine to set."""
    removed = 0
    if not top.is_dir():
        return 0
    for folder, directories, files, descriptor in os.fwalk(top, follow_symlinks=False):
        below = os.path.relpath(folder, top)
        for name in (*directories, *files):
            path = name if below == "." else f"{below}/{name}"
            mode = os.lstat(name, dir_fd=descriptor).st_mode
            if (below == "." and name in KEPT) or (below == "pg_tblspc" and stat.S_ISLNK(mode)):
                right = True
            elif within.get(path, False):
                right = stat.S_ISDIR(mode)
            else:
                right = path in within and stat.S_ISREG(mode)
            if not right:
                removed += not name.endswith(AWAY)
                if remove:
                    _remove(name, mode, descriptor, folder)
        directories[:] = [
            name
            for name in directories
            if within.get(name if below == "." else f"{below}/{name}", False) and not (below == "." and name in KEPT)
        ]
    return removed


def _remove(name: str, mode: int, directory: int, folder: str) -> None:
    with translated(Path(folder, name)):
        if stat.S_ISDIR(mode):
            shutil.rmtree(name, dir_fd=directory)
        else:
            os.unlink(name, dir_fd=directory)


# ---------------------------------------------------------------- blocks that differ


class _Mender(Layer):
    """Lays files over what is there. ``write=False``: only looks."""

    def __init__(self, plan: RestorePlan, reader: Reader, watch: Watch, threads: int, *, write: bool) -> None:
        super().__init__(plan, reader, watch, threads)
        self._writes = write
        self._fresh: set[str] = set()  # made now: nothing to compare
        self._counting = threading.Lock()
        self._read_bytes = self._written_bytes = 0
        self._fetched: list[bytes] = []

    def difference(self, removed: int) -> Difference:
        fetched_bytes = self._reader.stored_bytes(self._fetched)
        return Difference(self._read_bytes, self._written_bytes, fetched_bytes, removed)

    def _directories(self, files: Iterator[StoredFile]) -> Iterator[StoredFile]:
        if self._writes:
            return super()._directories(files)
        return (file for file in files if file.meta.kind is FileKind.FILE)

    def _create(self, file: StoredFile) -> bool:
        """Make the name ready to be compared with. An empty one is right at once."""
        place, meta = self.place(file.meta.path), file.meta
        if self._writes and not self._kept(place, meta.mode, meta.size_bytes):
            with suppress(FileNotFoundError):
                place.unlink()
            super()._create(file)
            self._fresh.add(meta.path)
        return False

    def _kept(self, place: Path, mode: int, size_bytes: int) -> bool:
        """Whether the file that is there stays, with its size, mode and owner set right. Not one that has a second
        name: that may be part of another copy."""
        try:
            status = place.lstat()
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            return False
        if not status.st_mode & 0o200:
            place.chmod(0o600)
        with opened(place, os.O_WRONLY | os.O_NONBLOCK) as descriptor:
            if os.fstat(descriptor).st_size != size_bytes:
                os.truncate(descriptor, size_bytes)
            self._give(descriptor, place, mode)
        return True

    def _lay_some(self, files: Sequence[StoredFile]) -> tuple[int, list[Stretch]]:
        more = list[Stretch]()
        small = list[tuple[StoredFile, int]]()
        done_bytes = 0
        for file in files:
            size_bytes = file.meta.size_bytes
            self._create(file)
            if size_bytes > self._restore.block_bytes:
                starts = range(0, size_bytes, self._span_bytes)
                more += [(file, start, min(start + self._span_bytes, size_bytes)) for start in starts]
            elif size_bytes:
                small += [(file, at) for at in self._differing((file, 0, size_bytes))]
                done_bytes += size_bytes
        self._mend(small)
        return done_bytes, more

    def _write(self, stretch: Stretch) -> tuple[int, Sequence[Stretch]]:
        file, start, end = stretch
        self._mend([(file, at) for at in self._differing(stretch)])
        return end - start, ()

    def _differing(self, stretch: Stretch) -> list[int]:
        """Where the blocks begin that are not what the backup has. Of a disk that cannot be read, all."""
        file, start, end = stretch
        block_bytes, size_bytes = self._restore.block_bytes, file.meta.size_bytes
        places = range(start, end, block_bytes)
        if file.meta.path in self._fresh:
            return list(places)
        try:
            with opened(self.place(file.meta.path), os.O_RDONLY | os.O_NONBLOCK) as descriptor:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    return list(places)
                buffer = memoryview(bytearray(block_bytes))
                found, read_bytes = [], 0
                for at in places:
                    block = buffer[: min(block_bytes, size_bytes - at)]
                    read_bytes += len(block)
                    number = at // block_bytes * BLOCK_ID_BYTES
                    if not _read(descriptor, block, at) or not self._reader.is_block(
                        block, file.blocks[number : number + BLOCK_ID_BYTES]
                    ):
                        found.append(at)
        except errors.StorageFailed:
            return list(places)
        with self._counting:
            self._read_bytes += read_bytes
        return found

    def _mend(self, differing: Sequence[tuple[StoredFile, int]]) -> None:
        if not differing:
            return
        block_bytes = self._restore.block_bytes
        numbers = [at // block_bytes * BLOCK_ID_BYTES for _, at in differing]
        each = zip(differing, numbers, strict=True)
        ids = b"".join(file.blocks[number : number + BLOCK_ID_BYTES] for (file, _), number in each)
        with self._counting:
            self._fetched.append(ids)
            self._written_bytes += sum(min(block_bytes, file.meta.size_bytes - at) for file, at in differing)
        if self._writes:
            for (file, at), block in zip(differing, self._reader.blocks(ids), strict=True):
                with opened(self.place(file.meta.path), os.O_WRONLY) as descriptor:
                    self._put(descriptor, file, at, block)

    def _put(self, descriptor: int, file: StoredFile, at: int, block: bytes) -> None:
        if file.meta.path in self._fresh:
            super()._put(descriptor, file, at, block)
        elif len(block) != min(self._restore.block_bytes, file.meta.size_bytes - at):
            raise errors.Damaged(name=file.meta.path, reason="a block has the wrong length")
        else:
            directio.write_at(descriptor, memoryview(block), at)  # zeros, too: something else is there


def _read(descriptor: int, into: memoryview, at: int) -> bool:
    """Fill ``into``; what lies beyond the file's end is zero, as it is once the file has its size."""
    try:
        done = directio.read_at(descriptor, into, at)
    except OSError:
        return False
    into[done:] = bytes(len(into) - done)
    return True
