"""The level-1 part of a backup: its files cloned while the server is held, read when it is free again.

``Imaging`` does nothing where no file system of the cluster can share blocks; then every file is read at once.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from icecore import errors
from icecore.copying import Copier, Distrusted, Known
from icecore.engines import BackupSession, ClonableSession, SourceFile, path_of
from icecore.images import Images, KeptImage, NewImage
from icecore.model import FileMeta
from icecore.repository import FileList, Repository, StoredFile, Writer

PAGE_WARNING = "page checksum does not match"  # see engines.postgresql.files: such a file is read each time
FILES_A_TASK = 64
TASKS_AHEAD = 8  # so that a few files are held at a time, however many there are

Noting = Callable[[tuple[Path, ...]], None]  # told beside which directories images will lie, before there is one


class Imaging:
    """``take`` during the session, ``copy`` after it, ``keep`` once the backup exists."""

    def __init__(
        self,
        cluster_id: str,
        backup_id: str,
        job_uuid: str,
        session: BackupSession,
        *,
        block_bytes: int,
        noting: Noting | None,
    ) -> None:
        self._cluster_id, self._backup_id, self._job_uuid = cluster_id, backup_id, job_uuid
        self._session, self._block_bytes = session, block_bytes
        self._host = session if noting and isinstance(session, ClonableSession) else None
        self.parents = self._host.neighbours() if self._host else ()
        self._noting = noting or (lambda parents: None)
        self._images = Images(cluster_id, self.parents)
        self._image: NewImage | None = None
        self._clones: dict[Path, FileList] = {}  # by the directory that they lie below: what the walk saw of each
        self._warnings: list[str] = []
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self.parents:
            self._noting(self.parents)
        self._image = self._images.begin(self._backup_id, self._block_bytes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._image is not None:
            self._image.drop()
        self._images.__exit__()

    def take(self, files: Iterable[SourceFile], threads: int) -> Iterable[SourceFile]:
        """Clone what can be cloned; gives the files that must be read now."""
        if self._image is None or self._host is None:
            return files
        host, started = self._host, time.monotonic()
        left, cloned_files = FileList(), 0
        with ThreadPoolExecutor(threads, thread_name_prefix="clone") as pool:
            for below, meta in itertools.chain.from_iterable(self._taken(pool, files)):
                if below is None:
                    left.append(StoredFile(meta, b""))
                else:
                    if below not in self._clones:
                        self._clones[below] = FileList()
                    self._clones[below].append(StoredFile(meta, b""))
                    cloned_files += 1
        self._facts = {"cloned_files": cloned_files, "cloned_in_ms": round((time.monotonic() - started) * 1000)}
        return (host.file(file.meta) for file in left)

    def alive(self) -> None:
        """Raise when the session is lost, or ``StorageFull`` when what the clones pin leaves the server no room."""
        self._session.alive()
        if self._image is not None:
            self._image.check_space()

    def copy(self, copier: Copier, repository: Repository, writer: Writer) -> FileList:
        """Read the clones; what the image of an earlier backup proves unchanged is adopted instead."""
        stored = FileList()
        if self._image is None or not self._clones:
            return stored
        self._image.sync()
        try:
            older = self._older(repository, writer)
            copier.copy(self._cloned(), stored, older.known, alive=self._image.check_space)
        except Distrusted as found:
            # never again on this machine, until a person has looked; this backup reads everything
            self._images.distrust(str(found))
            self._warnings.append(f"{found}: the file system called changed bytes unchanged; everything was read")
            stored = FileList()
            copier.copy(self._cloned(), stored, alive=self._image.check_space)
        self._facts |= {"read_bytes": copier.read_bytes}
        return stored

    def keep(self) -> bool:
        """Seal the image and drop the earlier one. Whatever fails here, the backup exists."""
        if self._image is None or not self._clones or self._images.distrusted():
            return False
        try:
            kept = self._image.seal(self._job_uuid)
            self._image = None
            self._images.keep_only(self._backup_id)
            return kept
        except (OSError, errors.IcecoreError):
            return False

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def facts(self) -> dict[str, Any]:
        """For the manifest's engine facts: how the files were taken; empty without an image."""
        return {"image": self._facts} if self._clones else {}

    # ------------------------------------------------------------ parts

    def _taken(
        self, pool: ThreadPoolExecutor, files: Iterable[SourceFile]
    ) -> Iterator[list[tuple[Path | None, FileMeta]]]:
        """What ``_take`` gives, in the order of ``files``."""
        waiting: deque[Future[list[tuple[Path | None, FileMeta]]]] = deque()
        for some in _some(files, FILES_A_TASK):
            waiting.append(pool.submit(self._take, some))
            if len(waiting) > TASKS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _take(self, files: Sequence[SourceFile]) -> list[tuple[Path | None, FileMeta]]:
        """Each with the directory that its clone lies below; without one it must be read. That goes for one that was
        dropped as well: its reader knows what that means."""
        assert self._image is not None
        taken = []
        for file in files:
            below, path = None, path_of(file)
            if path is not None:
                with contextlib.suppress(FileNotFoundError):
                    below = self._image.take(file.meta.path, path)
            taken.append((below, file.meta))
        return taken

    def _cloned(self) -> Iterator[SourceFile]:
        assert self._host is not None
        for below, files in self._clones.items():
            for file in files:
                yield self._host.cloned(file.meta, f"{below}/{file.meta.path}")

    def _older(self, repository: Repository, writer: Writer) -> _Older:
        """What the newest earlier backup that still has its image knows. Nothing where it cannot be read: this backup
        must not fail for that one."""
        with contextlib.suppress(errors.Damaged, errors.BackupNotFound):
            found = self._newest(repository, writer)
            if found is not None:
                return found
        return _Older(None, FileList(), self._block_bytes)

    def _newest(self, repository: Repository, writer: Writer) -> _Older | None:
        if self._images.distrusted():
            return None
        for backup_id in self._images.backup_ids():
            facts = repository.has(self._cluster_id, backup_id)
            if facts is None or any(PAGE_WARNING in warning for warning in facts.warnings):
                continue
            kept, files = self._images.kept(backup_id, facts.job_uuid), FileList()
            if len(kept):  # else its table need not be read
                for file in repository.reader(self._cluster_id, backup_id, beside=writer).files():
                    if file.meta.size_bytes > self._block_bytes and file.meta.path in kept:
                        files.append(file)
            return _Older(kept, files, self._block_bytes)
        return None


class _Older:
    """An earlier backup: the files that its image has a seal of, with their blocks."""

    def __init__(self, image: KeptImage | None, files: FileList, block_bytes: int) -> None:
        self._image, self._files, self._block_bytes = image, files, block_bytes

    def known(self, file: SourceFile) -> Known | None:
        path = path_of(file)
        if self._image is None or path is None or file.meta.size_bytes <= self._block_bytes:
            return None
        before = self._files.find(file.meta.path)
        if before is None:
            return None
        prove = functools.partial(self._image.unchanged, file.meta.path, path, self._block_bytes)
        return Known(before.meta.size_bytes, before.blocks, prove)


def _some(files: Iterable[SourceFile], count: int) -> Iterator[list[SourceFile]]:
    rest = iter(files)
    while some := list(itertools.islice(rest, count)):
        yield some
