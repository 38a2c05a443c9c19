"""The level-1 part of a backup: its files cloned while the server is held, read when it is free again.

``Imaging`` does nothing where no file system of the cluster can share blocks; then every file is read at once.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from icecore import errors
from icecore.copying import Copier, Distrusted, Known
from icecore.engines import BackupSession, ClonableFile, SourceFile
from icecore.images import Images, NewImage
from icecore.repository import Repository, StoredFile

PAGE_WARNING = "page checksum does not match"  # see engines.postgresql.files: such a file is read each time
FILES_A_TASK = 64

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
        self.parents = session.neighbours() if noting and not session.ordered else ()
        self._noting = noting or (lambda parents: None)
        self._images = Images(cluster_id, self.parents)
        self._image: NewImage | None = None
        self._clones: list[SourceFile] = []
        self._warnings: list[str] = []
        self._facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        if self.parents:
            self._noting(self.parents)
        self._image = self._images.begin(self._backup_id)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._image is not None:
            self._image.drop()
        self._images.__exit__()

    def take(self, files: Iterable[SourceFile], threads: int) -> Iterable[SourceFile]:
        """Clone what can be cloned; gives the files that must be read now."""
        if self._image is None:
            return files
        started = time.monotonic()
        left: list[SourceFile] = []
        with ThreadPoolExecutor(threads, thread_name_prefix="clone") as pool:
            for clones, others in pool.map(self._take, _some(files, FILES_A_TASK)):
                self._clones += clones
                left += others
        self._facts = {"cloned_files": len(self._clones), "cloned_in_ms": round((time.monotonic() - started) * 1000)}
        return left

    def alive(self) -> None:
        """Raise when the session is lost, or ``StorageFull`` when what the clones pin leaves the server no room."""
        self._session.alive()
        if self._image is not None:
            self._image.check_space()

    def copy(self, copier: Copier, repository: Repository) -> list[StoredFile]:
        """Read the clones; what the image of an earlier backup proves unchanged is adopted instead."""
        if self._image is None or not self._clones:
            return []
        self._image.sync()
        known = self._known(repository)
        try:
            stored = copier.copy(self._clones, known, alive=self._image.check_space)
        except Distrusted as found:
            # never again on this machine, until a person has looked; this backup reads everything
            self._images.distrust(str(found))
            self._warnings.append(f"{found}: the file system called changed bytes unchanged; everything was read")
            stored = copier.copy(self._clones, alive=self._image.check_space)
        self._facts |= {"read_bytes": copier.read_bytes}
        return stored

    def keep(self) -> bool:
        """Seal the image and drop the earlier one. Whatever fails here, the backup exists."""
        if self._image is None or not self._clones or self._images.distrusted():
            return False
        try:
            kept = self._image.seal(self._block_bytes, self._job_uuid)
            self._image = None
            self._images.keep_only(self._backup_id)
            return kept
        except (OSError, errors.IcecoreError):
            return False

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def facts(self) -> dict[str, Any]:
        """For the manifest's engine facts: how the files were taken; empty without an image."""
        return {"image": self._facts} if self._facts else {}

    # ------------------------------------------------------------ parts

    def _take(self, files: Sequence[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
        """Clones, and those that must be read; among these one that was dropped: its reader knows what that means."""
        assert self._image is not None
        clones, left = [], []
        for file in files:
            clone = None
            if isinstance(file, ClonableFile):
                with contextlib.suppress(FileNotFoundError):
                    clone = self._image.take(file.meta.path, file.path)
            if clone is None:
                left.append(file)
            else:
                assert isinstance(file, ClonableFile)
                clones.append(file.at(clone))
        return clones, left

    def _known(self, repository: Repository) -> dict[str, Known]:
        """What the newest earlier backup that still has its image knows of the cloned files, by path. Nothing where it
        cannot be read: this backup must not fail for that one."""
        with contextlib.suppress(errors.Damaged, errors.BackupNotFound):
            return self._known_of_newest(repository)
        return {}

    def _known_of_newest(self, repository: Repository) -> dict[str, Known]:
        if self._images.distrusted():
            return {}
        for backup_id in self._images.backup_ids():
            facts = repository.has(self._cluster_id, backup_id)
            if facts is None or any(PAGE_WARNING in warning for warning in facts.warnings):
                continue
            kept = self._images.kept(backup_id, facts.job_uuid)
            clones = {file.meta.path: file.path for file in self._clones if isinstance(file, ClonableFile)}
            return {
                stored.meta.path: Known(
                    stored.meta.size_bytes,
                    stored.blocks,
                    functools.partial(
                        kept.unchanged, stored.meta.path, clones[stored.meta.path], repository.block_bytes
                    ),
                )
                for stored in repository.reader(self._cluster_id, backup_id).files()
                if stored.meta.path in kept and stored.meta.path in clones
            }
        return {}


def _some(files: Iterable[SourceFile], count: int) -> Iterator[list[SourceFile]]:
    rest = iter(files)
    while some := list(itertools.islice(rest, count)):
        yield some
