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

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

from icecore.evidence import Examination
from icecore.model import BackupFacts, Boundary, FileMeta, LogBase


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


class ClonableFile(SourceFile, Protocol):
    """A file of this host that may be cloned during the session and read later, also after it (``cloned``)."""

    @property
    def path(self) -> str: ...


def path_of(file: SourceFile) -> str | None:
    """Of a ``ClonableFile``; None for any other. To ask the protocol itself takes longer than to read a small file."""
    path = getattr(file, "path", None)
    return path if type(path) is str else None


class BackupSession(Protocol):
    ordered: bool  # a stream: files must be read wholly, one after the other, in the order given

    def files(self) -> Iterator[SourceFile]: ...
    def closing_files(self) -> Iterator[SourceFile]: ...
    def stop(self) -> Boundary: ...
    def tail_files(self) -> Iterator[SourceFile]: ...
    def omitted(self) -> frozenset[str]: ...
    def warnings(self) -> tuple[str, ...]: ...
    def facts(self) -> dict[str, Any]:
        """JSON for ``BackupFacts.engine_facts``: all that restore needs besides the files."""

    def give_up(self) -> None:
        """From another thread: what an ordered session's files wait for ends within a second, by an error."""

    def alive(self) -> None:
        """Raise ``EngineFailed`` when the session is lost or the server was promoted. Cheap; called often."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the backup on the server whatever happened; drops slots and scratch files."""


@runtime_checkable
class ClonableSession(BackupSession, Protocol):
    """Of a server on this host. A million files need not be held for the time between listing and reading them: what
    ``files`` saw of each is enough to have it again."""

    def neighbours(self) -> tuple[Path, ...]:
        """Directories on the cluster's own file systems, outside of its data, where clones may lie."""

    def file(self, meta: FileMeta) -> SourceFile:
        """One of ``files`` again."""

    def cloned(self, meta: FileMeta, clone: str) -> SourceFile:
        """One of ``files``, to be read from a clone, also after the session."""


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
    """Where a restored server lives. ``sealed_off``: only to be looked at, then thrown away. It listens on its socket
    alone, nothing of what the source did by itself goes on in it (subscriptions, schedulers, archiving), it takes
    little memory, and it does not care for a power cut. ``guest``: a clone beside its source: it listens as any other,
    and nothing of what the source did by itself goes on in it either. ``durable``: whether it cares for a power cut."""

    data_directory: Path
    socket_directory: Path
    log_file: Path
    port: int
    owner: tuple[int, int]  # uid, gid that run it
    sealed_off: bool = False
    guest: bool = False
    durable: bool = True


@dataclass(frozen=True)
class Assertion:
    """What a user says must hold in a restored copy: ``query`` gives one row with one true value."""

    name: str
    database: str
    query: str


@dataclass(frozen=True)
class RecoveryTarget:
    """Where a recovery ends: right before the record at ``position``, or right after it if ``inclusive``."""

    timeline: int
    position: int
    inclusive: bool


@dataclass(frozen=True)
class RestoreTarget:
    """Where files go. ``tablespaces`` maps a source tablespace's link path (``pg_tblspc/16384``) to a new directory.
    ``recovery``: None ends it at the backup's own end."""

    data_directory: Path
    tablespaces: Mapping[str, Path]
    recovery: RecoveryTarget | None = None
    named: Mapping[Path, Path] = field(default_factory=dict)  # what a directory is called, where we write another way
    shared: frozenset[Path] = frozenset()  # directories whose files will share blocks with others: they need no room


@dataclass(frozen=True)
class LogFile:
    """A file of the log in a data directory."""

    path: str
    position: int  # of its first byte
    size_bytes: int


@dataclass(frozen=True)
class LogServer:
    """What a server says of its log when a stream is opened."""

    identity: str  # equal for all who share this log's history
    major: str
    timeline: int
    position: int
    reserved: int  # it keeps the log for us from here on; a good place to begin
    segment_bytes: int
    page_bytes: int
    switches: tuple[tuple[int, int], ...] = ()  # its timeline's ancestors, oldest first, and where each was left
    history: bytes = b""  # the same as the server's own file


@dataclass(frozen=True, slots=True)
class LogChunk:
    position: int
    data: bytes
    server_end: int  # how far the server had sent or could send
    sent_at_us: int  # the server's clock


class TimelineEnded(Exception):
    """The server goes on with another timeline, which left this one at ``position``."""

    def __init__(self, following: int, position: int) -> None:
        super().__init__(following, position)
        self.following, self.position = following, position


class LogRecords(Protocol):
    """Follows the log record by record, from a page's start."""

    position: int
    last_record: int  # where the last whole record begins,
    last_end: int  # and the position after it; 0: none was seen

    def feed(self, data: bytes | memoryview) -> None: ...
    def latest_commit_us(self) -> int:
        """The latest commit's time among those since the last call, 0 if there was none."""


class LogStream(Protocol):
    """A server's log, received through a slot that outlives connections. Not shared between threads."""

    def open(self) -> LogServer: ...
    def history(self, timeline: int) -> bytes: ...
    def start(self, timeline: int, position: int) -> None:
        """``LogGone``: the server no longer has it from there on."""

    def records(self, server: LogServer, position: int) -> LogRecords: ...
    def receive(self, timeout_s: float) -> LogChunk | None:
        """None when nothing came in time. ``TimelineEnded``, ``LogGone``."""

    def acknowledge(self, position: int) -> None:
        """All before is durable elsewhere: the server may forget it."""

    def quiet_at_us(self, position: int) -> int:
        """The server's clock at a moment when it had written nothing after ``position``; 0: it had."""

    def server_position(self) -> int: ...
    def close(self) -> None: ...


@runtime_checkable
class LogEngine(Protocol):
    """An engine whose log can be followed."""

    def log_stream(self, cluster_id: str) -> LogStream: ...
    def forget_log(self, cluster_id: str) -> None:
        """The server need not keep log for us any more."""


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

    def log_base(self, facts: BackupFacts) -> LogBase:
        """The backup as the beginning of a recovery to a later moment."""

    def log_files(self, facts: BackupFacts, timeline: int, start: int, end: int) -> list[LogFile]:
        """The files that hold the log of one timeline from ``start`` up to the byte before ``end``."""

    def history_path(self, timeline: int) -> str:
        """Where a timeline's history lies in the data directory."""

    def switch_points(self, history: bytes) -> tuple[tuple[int, int], ...]:
        """A timeline's ancestors, oldest first, each with the position at which the next one took over."""

    def commit_after(self, pieces: Iterable[bytes], position: int, moment_us: int, known: Mapping[str, Any]) -> int:
        """Where the record of the first commit later than ``moment_us`` begins, 0 if there is none. ``pieces``: the log
        from ``position`` on; ``known``: what ``LogStream`` said of it."""

    def finish_files(self, facts: BackupFacts, target: RestoreTarget, *, durable: bool = True) -> None:
        """After the files lie there: empty directories, links, recovery signal, safe settings. Idempotent. ``durable``:
        afterwards all of it is, which may mean that everything else on its file system must be written, too."""

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

    def version(self) -> str:
        """Of the running server: ``15.18``."""

    def examine(
        self,
        assertions: Sequence[Assertion],
        *,
        threads: int,
        count_for_s: float,
        still_wanted: Callable[[], None] = lambda: None,
    ) -> Iterator[Examination]:
        """Query the running, sealed-off server all over: what its structures say of themselves, how many rows each
        table has (for so long), the user's assertions. What is wrong is in the examinations, never raised.
        ``still_wanted``: as in ``start``. ``EngineUnreachable``: it is gone and does not come back."""

    def examine_pages(self, still_wanted: Callable[[], None] = lambda: None) -> Examination:
        """Every page of the stopped server against its checksum."""
