"""The contract of a database engine: it gives files to a backup and takes files back into a server.

An engine knows neither repository nor storage. ``tests/contract/engine.py`` is run by every engine.

A backup's order of calls, which ``backup.run`` follows::

    engine.probe() -> Probe               refuse early
    with engine.start(label) as session:  checkpoint; log capture runs from here on
        session.files()                   read or clone each; directories and links too
        session.closing_files()           read after all of files() were read (pg_control)
        session.stop() -> Boundary        end of the backup; the log up to it is captured
        session.tail_files()              labels and log segments
        session.omitted() -> set[path]    files read above that must be left out after all
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from icecore.model import BackupFacts, Boundary, FileMeta


class SourceVanished(Exception):
    """The file was dropped while the backup ran: normal, the log brings the truth. Leave it out."""


class SourceReader(Protocol):
    """An open source file. Not shared between threads."""

    def read(self, offset: int, into: memoryview) -> int:
        """Fill ``into`` with checked bytes from ``offset``; returns how many (short only at the end: a
        file that shrank; never past the size seen when it was listed)."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class SourceFile(Protocol):
    meta: FileMeta

    def open(self) -> SourceReader:
        """May be opened by several threads at once unless the session is ``ordered``. ``SourceVanished``."""


@runtime_checkable
class ClonableFile(SourceFile, Protocol):
    """A file of this host that may be cloned during the session and read later, also after it."""

    @property
    def path(self) -> Path: ...

    def at(self, clone: Path) -> SourceFile: ...


class BackupSession(Protocol):
    ordered: bool  # a stream: files must be read wholly, one after the other, in the order given

    def neighbours(self) -> tuple[Path, ...]:
        """Directories on the cluster's own file systems, outside of its data, where clones may lie."""
        return ()

    def files(self) -> Iterator[SourceFile]: ...
    def closing_files(self) -> Iterator[SourceFile]: ...
    def stop(self) -> Boundary: ...
    def tail_files(self) -> Iterator[SourceFile]: ...
    def omitted(self) -> frozenset[str]: ...
    def warnings(self) -> tuple[str, ...]: ...
    def facts(self) -> dict[str, Any]:
        """JSON for ``BackupFacts.engine_facts``: all that restore needs besides the files."""

    def alive(self) -> None:
        """Raise ``EngineFailed`` when the session is lost or the server was promoted. Cheap; called often."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the backup on the server whatever happened; drops slots and scratch files."""


@dataclass(frozen=True)
class Finding:
    """One line of ``cluster check``."""

    level: str  # "ok", "warning", "refusal"
    what: str
    fix: str = ""


@dataclass(frozen=True)
class Probe:
    engine: str
    version: str  # "15.18"
    major: str  # "15": DBVersion on the wire
    identity: str  # system identifier: equal for a cluster and its restores; never used as an id
    size_bytes: int  # estimate for progress
    local: bool  # the data directory is readable here
    data_directory: str
    findings: tuple[Finding, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerPlace:
    """Where a restored server lives."""

    data_directory: Path
    socket_directory: Path
    log_file: Path
    port: int
    owner: tuple[int, int]  # uid, gid that run it


@dataclass(frozen=True)
class RestoreTarget:
    """Where files go. ``tablespaces`` maps a source tablespace's link path (``pg_tblspc/16384``) to a new directory."""

    data_directory: Path
    tablespaces: Mapping[str, Path]


class Engine(Protocol):
    """An engine bound to one registered cluster. Cheap to make; connects when asked something."""

    def probe(self) -> Probe:
        """Raises ``EngineUnreachable``; what would make a backup fail is a ``refusal`` finding."""

    def start(self, label: str, scratch: Path) -> BackupSession:
        """Refuses (``EngineRefused``) what ``probe`` found. ``scratch``: an empty directory for log capture."""


class RestoreEngine(Protocol):
    """The half of an engine that needs no source: it works from a manifest's facts and a directory."""

    def check_server(self, facts: BackupFacts) -> None:
        """Raise ``TargetRefused`` when no server for this backup could be started here."""

    def check_target(self, facts: BackupFacts, target: RestoreTarget) -> None:
        """Raise ``TargetRefused`` before the first byte is written."""

    def check_existing(self, facts: BackupFacts, target: RestoreTarget, *, unfinished: bool) -> None:
        """Raise ``TargetRefused`` unless the target holds an older or damaged copy of this very cluster that nobody
        uses. ``unfinished``: what an earlier try has left of one, so that less of it can be recognised."""

    def last_paths(self) -> frozenset[str]:
        """Files to be written after all others (``global/pg_control``)."""

    def guarded(self, path: str, content: bytes) -> bytes:
        """The bytes to lay down for a path of ``last_paths`` so that a half-done restore cannot start."""

    def finish_files(self, facts: BackupFacts, target: RestoreTarget) -> None:
        """After the files lie there: empty directories, links, recovery signal, safe settings. Idempotent."""

    def server(self, facts: BackupFacts, place: ServerPlace) -> RestoredServer:
        """The server of a restored directory, as it is: nothing is written, nothing is run. Cheap; always answers."""


class RestoredServer(Protocol):
    """``running``, ``stop`` and ``dsn`` work without ``prepare``, and when the directory is gone or half removed."""

    def prepare(self) -> None:
        """Give the server its own port, socket and access: once after a restore, and again right before a start (the
        port may be another one). Idempotent. ``TargetRefused``, ``EngineFailed``."""

    def start(self, timeout_s: float, still_wanted: Callable[[], None] = lambda: None) -> None:
        """Start and return when it is recovered, promoted and takes writes. ``EngineFailed``: not in time, or it ended,
        or it refuses us for good. ``still_wanted`` is called at least 5 times a second; what it raises ends the wait
        and the server that this call started, and comes out of here."""

    def running(self) -> bool:
        """Recovering counts."""

    def stop(self, timeout_s: float) -> None:
        """Nothing happens when it does not run. ``EngineFailed`` when it still does after ``timeout_s``."""

    def dsn(self) -> str:
        """Without a password."""
