"""Whole backups of a made-up data directory of many small files, on XFS: no server, everything else as it is.

The files are 600 bytes in directories of 5000, as a cluster of many databases has; each is its own block. One in a
thousand has 300 kB instead, so that the image has something to prove.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from icecore import backup
from icecore.engines import BackupSession, Probe, SourceFile
from icecore.engines.postgresql.memory import MemoryFile
from icecore.engines.postgresql.session import LocalSession
from icecore.engines.postgresql.walk import Walk
from icecore.model import Boundary, Phase
from icecore.repository import Repository
from icecore.storage.local import LocalStorage

A_DIRECTORY, LARGE_ONE_IN, LARGE_BYTES, SMALL_BYTES = 5000, 1000, 300_000, 600


class Held(LocalSession):
    """The session's own way to list and read files, without a server."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._walk = Walk(data, version_directory="PG_15_202209061")
        self._checks = None

    @property
    def source(self) -> Any:
        class Source:
            data_directory, checksums = str(self._data), False

        return Source

    def neighbours(self) -> tuple[Path, ...]:
        return (self._data.parent,)

    def closing_files(self) -> Iterator[SourceFile]:
        yield MemoryFile("global/pg_control", bytes(8192), 0)

    def stop(self) -> Boundary:
        self._omitted = self.walk.omitted()
        return Boundary("0/1", "0/2", 1, 1, 2, 2)

    def tail_files(self) -> Iterator[SourceFile]:
        return iter(())

    def warnings(self) -> tuple[str, ...]:
        return ()

    def facts(self) -> dict[str, Any]:
        return {}

    def alive(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Nobody:
    """An engine of no server, and the watch of a backup that nobody looks at."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def probe(self) -> Probe:
        return Probe("postgresql", "15.18", "15", "1", 0, True, str(self._data))

    def start(self, label: str, scratch: Path) -> BackupSession:
        return Held(self._data)

    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...
    def step(self, name: str) -> None: ...


def make_files(place: Path, size: int) -> None:
    """A data directory of ``size`` files on an XFS of its own, mounted at ``place/mounted``."""
    image, point = place / "image", place / "mounted"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(size * 8000 + (2 << 30))  # sparse
    subprocess.run(["mkfs.xfs", "-q", "-b", "size=1024", "-m", "reflink=1", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
    for name in ("global", "base", "pg_tblspc"):
        (point / "data" / name).mkdir(parents=True)
    for number in range(size):
        directory = point / "data" / "base" / str(16384 + number // A_DIRECTORY)
        if number % A_DIRECTORY == 0:
            directory.mkdir()
        length = LARGE_BYTES if number % LARGE_ONE_IN == 0 else SMALL_BYTES
        content = (b"%012d" % number) * (length // 12)
        descriptor = os.open(directory / str(20000 + number), os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(descriptor, content)
        os.close(descriptor)
    os.sync()
    Repository.create(LocalStorage(point / "repository"), None)


def unmount(place: Path) -> None:
    if os.path.ismount(place / "mounted"):
        subprocess.run(["umount", str(place / "mounted")], check=True)


def back_up(place: Path, number: int) -> Callable[[], backup.BackupDone]:
    point, nobody = place / "mounted", Nobody(place / "mounted" / "data")
    order = backup.BackupOrder(str(number), "pc-growth", "growth", f"uuid-{number}")
    repository = Repository.open(LocalStorage(point / "repository"), None)
    scratch = place / f"scratch-{number}"
    scratch.mkdir()
    return lambda: backup.run(nobody, repository, order, nobody, scratch=scratch, threads=2)
