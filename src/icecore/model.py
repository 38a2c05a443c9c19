"""The nouns of the product and the states they move through. Pure: no files, sockets, clock or randomness.

Spelling: inside, snake case with units (``size_bytes``, ``started_at`` in whole Unix seconds UTC unless said
otherwise); on the wire, PolarDB's names. They meet in ``api/contract.py`` only.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

MANUAL_BACKUP_LIMIT = 3  # seed page: "You can manually create up to three backups for each cluster"
CLIENT_TOKEN_LENGTH = 64  # seed page: "cannot exceed 64 characters in length"


class BackupMode(StrEnum):
    MANUAL = "Manual"
    AUTOMATED = "Automated"


class BackupStatus(StrEnum):
    """What a backup is to its holder. Only ``SUCCESS`` and ``FAILED`` have a word on PolarDB's wire."""

    PENDING = "Pending"  # accepted; its job has not started
    RUNNING = "Running"
    SUCCESS = "Success"  # its manifest is in the repository (R4)
    FAILED = "Failed"
    DELETING = "Deleting"  # no longer shown; its manifest is being removed


class ClusterStatus(StrEnum):
    CREATING = "Creating"
    RUNNING = "Running"
    STOPPED = "Stopped"
    DELETING = "Deleting"


class JobKind(StrEnum):
    BACKUP = "backup"
    RESTORE = "restore"
    CLONE = "clone"
    VERIFY = "verify"
    CHECK = "check"
    DELETE_BACKUP = "delete-backup"
    DELETE_CLUSTER = "delete-cluster"


# Takes a manifest away: it runs beside its cluster's one other job, unless that works on this very backup.
RUNS_BESIDE = JobKind.DELETE_BACKUP


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    """PolarDB's ``BackupProgressStatus``, so DescribeBackupTasks is a projection of the job."""

    NO_START = "NoStart"
    PREPARING = "Preparing"
    WAITING = "Waiting"
    UPLOADING = "Uploading"
    CHECKING = "Checking"
    FINISHED = "Finished"


# C5: a state that is not named here as a successor cannot follow. A crash is running -> running (a new epoch).
TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    JobState.RUNNING: frozenset({JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
}

BACKUP_TRANSITIONS: dict[BackupStatus, frozenset[BackupStatus]] = {
    BackupStatus.PENDING: frozenset({BackupStatus.RUNNING, BackupStatus.FAILED}),
    BackupStatus.RUNNING: frozenset({BackupStatus.RUNNING, BackupStatus.SUCCESS, BackupStatus.FAILED}),
    BackupStatus.SUCCESS: frozenset({BackupStatus.DELETING}),
    BackupStatus.FAILED: frozenset({BackupStatus.DELETING}),
    BackupStatus.DELETING: frozenset(),
}

# These count against MANUAL_BACKUP_LIMIT: sets that exist or are being made. Failed and deleted ones do not.
COUNTED_AGAINST_QUOTA = (BackupStatus.PENDING, BackupStatus.RUNNING, BackupStatus.SUCCESS)


class FileKind(StrEnum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"


@dataclass(frozen=True, slots=True)
class FileMeta:
    """One name in a backup, without its content.

    ``path`` is relative to the data directory, ``/``-separated, undecodable bytes as surrogate escapes; a
    tablespace's files stand below ``pg_tblspc/<oid>/``, whose own entry is a SYMLINK with the source's
    ``target``. ``mode`` holds permission bits only. ``mtime_s`` is told and never relied on: what a file holds is
    read, or proven by its extents, so no backup waits for the clock's next second.
    """

    path: str
    kind: FileKind
    mode: int
    mtime_s: int = 0
    size_bytes: int = 0
    target: str = ""


@dataclass(frozen=True)
class Boundary:
    """Where a backup begins and ends in the engine's log, and the moment it stands for."""

    start_position: str  # PostgreSQL: LSN "0/3000028"
    stop_position: str
    timeline: int
    started_at: int
    stopped_at: int
    consistent_at: int  # every commit acknowledged before this second is in the backup


@dataclass(frozen=True, slots=True)
class LogUnit:
    """A stretch of a cluster's log as it lies in the repository: positions ``start`` up to the one before ``end``.

    ``known_at_us`` (the server's clock, microseconds): no commit in the unit is later, and every commit that was
    acknowledged before lies before ``end``. A unit without length is a mark: it only moves that moment on.
    """

    timeline: int
    start: int
    end: int
    known_at_us: int
    name: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LogBase:
    """A backup as the beginning of a recovery. Positions in its engine's log as numbers."""

    backup_id: str
    timeline: int
    needs_from: int  # the log must be there from here on, without a hole
    stop: int  # before this position the restored files are not consistent
    since_us: int  # no commit that the backup holds is later; 0: only the log tells


@dataclass(frozen=True)
class BackupFacts:
    """The manifest's header: everything but the files. All of it survives a lost catalog (R8)."""

    backup_id: str
    cluster_id: str
    cluster_name: str
    job_uuid: str
    mode: BackupMode
    boundary: Boundary
    engine: str  # "postgresql"
    engine_version: str  # "15.18"
    size_bytes: int  # logical: the sum of all file sizes
    file_count: int
    tool_version: str
    client_token: str = ""
    token_digest: str = ""  # digest of the parameters that came with the token (C2)
    comment: str = ""
    warnings: tuple[str, ...] = ()
    engine_facts: dict[str, Any] = field(default_factory=dict)  # JSON; read by the engine that wrote it


# Where a job stands in percent when it enters a phase; Uploading runs up to Checking with the bytes
_PERCENT = {Phase.NO_START: 0, Phase.PREPARING: 1, Phase.WAITING: 3, Phase.UPLOADING: 5, Phase.CHECKING: 95}


def percent(phase: Phase, done_bytes: int, total_bytes: int) -> int:
    """0 to 100; 100 only when the job has ended."""
    if phase is Phase.FINISHED:
        return 100
    if phase is Phase.UPLOADING and total_bytes:
        span = _PERCENT[Phase.CHECKING] - _PERCENT[Phase.UPLOADING]
        return _PERCENT[Phase.UPLOADING] + min(span - 1, span * done_bytes // total_bytes)
    return _PERCENT[phase]


def facts_to_dict(facts: BackupFacts) -> dict[str, Any]:
    """JSON-ready; read back by ``facts_from_dict``."""
    return asdict(facts)


def facts_from_dict(found: dict[str, Any]) -> BackupFacts:
    """Unknown keys (a later version's) are ignored. KeyError or TypeError where one is missing or wrong."""
    known = {name: found[name] for name in BackupFacts.__dataclass_fields__ if name in found}
    known["boundary"] = Boundary(**known["boundary"])
    known["mode"] = BackupMode(known["mode"])
    known["warnings"] = tuple(known.get("warnings", ()))
    return BackupFacts(**known)


def allowed(before: JobState, after: JobState) -> bool:
    """C5: whether a job may move from ``before`` to ``after``."""
    return after in TRANSITIONS[before]


# ---------------------------------------------------------------- how fast

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
MAX_RATE_BYTES_S = 10**15  # more is a mistake


def rate_bytes_s(text: str) -> int:
    """Bytes a second: ``50MB``, ``0.5 GB``, ``64MiB``, or a plain number; 0 means no limit. ``ValueError``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kMG]i?)?B?(?:/s)?", text.strip())
    rate = float(found[1]) * _UNITS[found[2] or ""] if found else -1.0
    if rate != 0 and not 1 <= rate <= MAX_RATE_BYTES_S:
        raise ValueError(f"{text!r} is not a rate")
    return int(rate)
