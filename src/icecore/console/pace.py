"""How a task stands, in words and numbers: from a job as DescribeJobs gives it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icecore.model import JobKind, JobState, Phase

Job = Mapping[str, Any]

UNFINISHED = (JobState.QUEUED, JobState.RUNNING)
RATE_AFTER_S = 3  # times are whole seconds: a shorter run gives no rate worth saying
NAME_LENGTH = 60
LATE_AFTER_S = 15  # a free worker takes a job within a second or two
_WITH_PHASES = frozenset({JobKind.BACKUP, JobKind.RESTORE, JobKind.CLONE, JobKind.VERIFY})
_NO_WAITING = frozenset({JobKind.RESTORE, JobKind.CLONE, JobKind.VERIFY})  # they have no database to wait for


@dataclass(frozen=True)
class Pace:
    """None: not known, or of no meaning any more. ``rate_bytes`` is a second's."""

    elapsed_s: int | None
    rate_bytes: int | None
    left_s: int | None


@dataclass(frozen=True)
class Step:
    phase: str
    place: str  # "done", "now" or "next"


def pace(job: Job, now: int) -> Pace:
    """From what was done so far. A job taken up again counts from its first start: its rate is a low one."""
    started_at, ended_at = job.get("start_time"), job.get("end_time")
    if started_at is None:
        return Pace(None, None, None)
    elapsed_s = max(0, (ended_at or now) - started_at)
    done, total = job["bytes_done"], job["bytes_total"]
    rate = done // elapsed_s if done and elapsed_s >= RATE_AFTER_S else None
    uploading = job["state"] == JobState.RUNNING and job["phase"] == Phase.UPLOADING
    left_s = (total - done) // rate if uploading and rate and total > done else None
    return Pace(elapsed_s, rate, left_s)


def steps(job: Job) -> list[Step]:
    """The phases in their order; none for what has no phases, and none where it ended before the last: which one it was
    in is not kept."""
    kind = job["job_kind"]
    if kind not in _WITH_PHASES or job["state"] in (JobState.FAILED, JobState.CANCELLED):
        return []
    phases = [each for each in Phase if not (kind in _NO_WAITING and each is Phase.WAITING)]
    at = phases.index(Phase(job["phase"])) if job["phase"] in phases else 0
    if job["state"] == JobState.SUCCEEDED:
        at = len(phases)
    return [Step(each, "done" if i < at else "now" if i == at else "next") for i, each in enumerate(phases)]


def title(job: Job) -> str:
    """``Backup of orders``."""
    cluster = cluster_name(job)
    return {
        JobKind.BACKUP: f"Backup of {cluster}",
        JobKind.RESTORE: f"Restore to {cluster}",
        JobKind.CLONE: f"Clone {cluster}",
        JobKind.VERIFY: f"Verification of backup {job.get('backup_id', '')} of {cluster}",
        JobKind.CHECK: f"Check of backup {job.get('backup_id', '')} of {cluster}",
        JobKind.DELETE_BACKUP: f"Removal of backup {job.get('backup_id', '')} of {cluster}",
        JobKind.DELETE_CLUSTER: f"Removal of {cluster}",
    }.get(job["job_kind"], f"{job['job_kind']} of {cluster}")


def cluster_name(job: Job) -> str:
    """Its name, cut to what a row has room for, or its id."""
    name = str(job.get("db_cluster_name") or job["db_cluster_id"])
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def said(job: Job) -> str:
    """What is read out when it changes: ``Backup of orders: Uploading``."""
    return f"{title(job)}: {job['phase'] if job['state'] == JobState.RUNNING else job['state']}"


def unfinished(job: Job) -> bool:
    return job["state"] in UNFINISHED


def may_be_cancelled(job: Job) -> bool:
    """What removes something was taken out of view already and is done to its end."""
    return unfinished(job) and job["job_kind"] not in (JobKind.DELETE_BACKUP, JobKind.DELETE_CLUSTER)
