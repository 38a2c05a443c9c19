"""Tasks: what runs, what ran, what to do about what failed. ``fragment`` is what ``live.py`` sends again and again."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from icecore import __version__
from icecore.console import pace, view
from icecore.console.doors import Doors
from icecore.console.visit import Visit
from icecore.errors import BackupNotFound, IcecoreError
from icecore.model import JobKind, JobState

ROWS = 30
RUNNING_ROWS = 20
CLUSTERS_OFFERED = 100

KINDS = {
    JobKind.BACKUP: "Backup",
    JobKind.RESTORE: "Restore",
    JobKind.VERIFY: "Verification",
    JobKind.CHECK: "Check",
    JobKind.DELETE_BACKUP: "Removal of a backup",
    JobKind.DELETE_CLUSTER: "Removal of a cluster",
}


@dataclass(frozen=True)
class Again:
    """The call that tries a failed task once more: made at once, or on a page that asks first (``path``)."""

    action: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    path: str = ""


# ---------------------------------------------------------------- pages


def page(visit: Visit) -> Response:
    """All tasks, newest first, of a kind, a state and a cluster if asked for."""
    template, shown = _table(visit.doors, visit.query)
    wanted = _wanted(visit.query)
    clusters = visit.doors.read("DescribeDBClusters", page_size=CLUSTERS_OFFERED)
    offered = {each["db_cluster_id"]: each["db_cluster_description"] for each in clusters["items"]["db_cluster"]}
    if wanted["cluster"]:
        offered.setdefault(wanted["cluster"], wanted["cluster"])  # one that is gone has tasks all the same
    further = shown["next_marker"]
    return visit.page(
        "tasks.html",
        title="Tasks",
        table=template,
        **shown,
        wanted=wanted,
        states=list(JobState),
        clusters=dict(sorted(offered.items(), key=lambda pair: str(pair[1]))),
        all_clusters_offered=clusters["total_record_count"] <= CLUSTERS_OFFERED,
        # an older page stands still: what it shows has ended
        events="" if visit.query.get("after") else view.link("/console/tasks/events", list="1", **wanted),
        first=view.link("/console/tasks", **wanted) if visit.query.get("after") else "",
        next=view.link("/console/tasks", **wanted, after=further) if further else "",
        calls=visit.calls("DescribeJobs", **_filters(visit.query), max_results=ROWS),
    )


def one(visit: Visit) -> Response:
    """One task: how it stands, or how it ended and what can be done then."""
    job_id = visit.part["job_id"]
    template, shown = _now(visit.doors, job_id)
    job = shown["job"]
    failed = job["state"] in (JobState.FAILED, JobState.CANCELLED)
    return visit.page(
        "task.html",
        title=pace.title(job),
        now_template=template,
        **shown,
        kinds=KINDS,
        running=pace.unfinished(job),
        failed=failed,
        events=view.link("/console/tasks/events", task=job["job_id"]),
        may_be_cancelled=pace.may_be_cancelled(job),
        backup_exists=_backup_exists(visit.doors, job),
        again=_again(visit.doors, job) if failed and visit.may_change else None,
        report=report(job, visit.now) if failed else "",
        calls=visit.calls("DescribeJobs", job_id=job["job_id"]),
    )


# ---------------------------------------------------------------- fragments


def fragment(doors: Doors, query: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """The template and the ``jobs`` (and more) of the part of a page that the query names: ``task=ID`` a task's page,
    ``list=1`` the list with its filters, ``job=ID``, ``cluster=ID`` or nothing: rows of what is unfinished.

    Errors: JobNotFound, and what the contract says about a value."""
    if query.get("task"):
        return _now(doors, query["task"])
    if query.get("list"):
        return _table(doors, query)
    if query.get("job"):
        return "task_rows.html", {"jobs": _jobs(doors, job_id=query["job"])}
    cluster_id = query.get("cluster", "")
    # a task may begin and end between two looks: the newest tells
    newest = _jobs(doors, db_cluster_id=cluster_id or None, max_results=1)
    shown = {"jobs": unfinished(doors, cluster_id), "newest": newest[0]["job_id"] if newest else ""}
    return "task_rows.html", shown


def unfinished(doors: Doors, cluster_id: str = "") -> list[dict[str, Any]]:
    """What runs, then what waits, of one cluster or all; the newest of each first."""
    found = [
        job
        for state in (JobState.RUNNING, JobState.QUEUED)
        for job in _jobs(doors, job_state=state, db_cluster_id=cluster_id or None, max_results=RUNNING_ROWS)
    ]
    # one that began between the two readings is in both
    return list({job["job_id"]: job for job in found}.values())


def _table(doors: Doors, query: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    read = doors.read("DescribeJobs", **_filters(query), marker=query.get("after") or None, max_results=ROWS)
    return "task_table.html", {"jobs": read["items"]["job"], "kinds": KINDS, "next_marker": read.get("next_marker")}


def _now(doors: Doors, job_id: str) -> tuple[str, dict[str, Any]]:
    job = _jobs(doors, job_id=job_id)[0]
    ahead = None
    if job["state"] == JobState.QUEUED:
        running = _jobs(doors, job_state=JobState.RUNNING, db_cluster_id=job["db_cluster_id"], max_results=1)
        ahead = running[0] if running else None
    return "task_now.html", {"job": job, "jobs": [job], "ahead": ahead, "late_after_s": pace.LATE_AFTER_S}


def _jobs(doors: Doors, **params: Any) -> list[dict[str, Any]]:
    return list(doors.read("DescribeJobs", **params)["items"]["job"])


def _wanted(query: Mapping[str, str]) -> dict[str, str]:
    return {name: query.get(name, "").strip() for name in ("kind", "state", "cluster")}


def _filters(query: Mapping[str, str]) -> dict[str, str]:
    wanted = _wanted(query)
    named = {"job_kind": wanted["kind"], "job_state": wanted["state"], "db_cluster_id": wanted["cluster"]}
    return {name: value for name, value in named.items() if value}


# ---------------------------------------------------------------- after the end


def _backup_exists(doors: Doors, job: pace.Job) -> bool:
    """Whether the backup that a task made can still be looked at."""
    if job["job_kind"] != JobKind.BACKUP or job["state"] != JobState.SUCCEEDED:
        return False
    try:
        found = doors.read("DescribeBackup", backup_id=job["backup_id"])
    except BackupNotFound:
        return False
    return bool(found["backup"]["backup_id"] == job["backup_id"])


def _again(doors: Doors, job: pace.Job) -> Again | None:
    """How to ask for the same once more. The token is made with the page: pressed twice, it is one backup."""
    cluster_id, backup_id = job["db_cluster_id"], job.get("backup_id", "")
    ways: dict[str, Callable[[], Again]] = {
        JobKind.BACKUP: lambda: Again(
            "CreateBackup", {"db_cluster_id": cluster_id, "client_token": secrets.token_hex(16)}
        ),
        JobKind.RESTORE: lambda: _restore_again(doors, job),
        JobKind.VERIFY: lambda: _prove_again(doors, "VerifyBackup", backup_id),
        JobKind.CHECK: lambda: _prove_again(doors, "CheckBackup", backup_id),
        JobKind.DELETE_BACKUP: lambda: Again("DeleteBackup", {"db_cluster_id": cluster_id, "backup_id": backup_id}),
        JobKind.DELETE_CLUSTER: lambda: Again(
            path=view.link(
                "/console/confirm",
                Action="DeleteDBCluster",
                **{"p.db_cluster_id": cluster_id, "p.backup_retention_policy_on_cluster_deletion": "ALL"},
            )
        ),
    }
    way = ways.get(job["job_kind"])
    try:
        return way() if way else None
    except IcecoreError:
        return None  # what it was made from is gone


def _restore_again(doors: Doors, job: pace.Job) -> Again:
    """By way of the restore page: a new plan is looked at before it is carried out."""
    backup = doors.read("DescribeBackup", backup_id=job["backup_id"])["backup"]
    name = job.get("db_cluster_name") or ""
    return Again(
        path=view.link("/console/restore", cluster=backup["db_cluster_id"], backup=backup["backup_id"], name=name)
    )


def _prove_again(doors: Doors, action: str, backup_id: str) -> Again:
    doors.read("DescribeBackup", backup_id=backup_id)  # is it still there?
    return Again(action, {"backup_id": backup_id, "client_token": secrets.token_hex(16)})


def report(job: pace.Job, now: int) -> str:
    """A failure as plain text, for a ticket or a colleague: all that is known, nothing secret."""
    stands = pace.pace(job, now)
    lines = [
        ("Task", f"{job['job_id']}: {pace.title(job)}"),
        ("Cluster", job["db_cluster_id"]),
        ("Backup", job.get("backup_id", "")),
        ("State", job["state"]),
        ("Code", job.get("error_code", "")),
        ("Cause", job.get("error_message", "")),
        ("Hint", job.get("error_hint", "")),
        ("Queued", view.when(job.get("queued_time"))),
        ("Started", view.when(job.get("start_time"))),
        ("Ended", view.when(job.get("end_time"))),
        ("Took", view.lasting(stands.elapsed_s)),
        ("Attempts", str(job["attempts"])),
        ("Bytes", f"{job['bytes_done']} of {job['bytes_total']} done, {job['bytes_new']} new"),
        ("Icecore", __version__),
        ("Reported", view.when(now)),
    ]
    kept = [(name, " ".join(value.split())) for name, value in lines if value not in ("", "-")]
    width = max(len(name) for name, _ in kept)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in kept)
