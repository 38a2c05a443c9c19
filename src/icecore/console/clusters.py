"""One cluster: what it would lose, its backups, its health, and what can be done with it."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from starlette.responses import Response

from icecore.console import clones, overview, pictures, policy, tasks, view
from icecore.console.doors import Doors
from icecore.console.visit import Visit
from icecore.errors import BackupNotFound, ClusterNotFound, InvalidParameter, MissingParameter
from icecore.model import MANUAL_BACKUP_LIMIT, JobKind, JobState

TABS = {"backups": "Backups", "policy": "Policy", "health": "Health"}
BACKUPS_A_PAGE = 30
COUNTED_TO = 100

Found = dict[str, Any]


def page(visit: Visit) -> Response:
    # Whose page it is. A removed cluster has one as long as backups of it are kept
    cluster_id = visit.part["cluster_id"]
    cluster = attribute(visit.doors, cluster_id)
    after = visit.query.get("after", "")
    history = _history(visit.doors, cluster_id, after)
    if history is None or (cluster is None and not history["items"]["backup"] and not after):
        return _never_made(visit, cluster_id) or visit.page("missing.html", 404, title="Not found")
    backups = history["items"]["backup"]
    name = cluster["db_cluster_description"] if cluster else _name(backups) or cluster_id

    # What it would lose, and what runs
    stands = standing(visit.doors, cluster_id)
    health = _health(visit.doors, cluster_id)
    itself = clones.listed(visit.doors, db_cluster_id=cluster_id) if cluster else []
    tab = visit.query.get("tab", "")
    here = f"/console/clusters/{view.segment(cluster_id)}"
    further = history.get("next_marker")
    return visit.page(
        "cluster.html",
        title=name,
        name=name,
        cluster_id=cluster_id,
        cluster=cluster,
        stands=stands,
        concern=overview.concern(stands) if stands else None,
        health=health,
        logs=_logs(visit.doors, cluster_id) if cluster else {},
        jobs=tasks.unfinished(visit.doors, cluster_id),
        events=view.link("/console/tasks/events", cluster=cluster_id),
        here=here,
        tabs=TABS if cluster else {"backups": "Backups"},
        tab=tab if cluster and tab in TABS else "backups",
        **(policy.shown(visit, cluster_id) if cluster and stands and tab == "policy" else {}),
        backups=backups,
        largest=max((backup.get("backup_set_size") or 0 for backup in backups), default=0),
        meter=pictures.meter,
        picture=moments_picture(backups, visit.now, newest=cluster is not None and not after),
        after=after,
        first=here if after else "",
        next=view.link(here, after=further) if further else "",
        limit=MANUAL_BACKUP_LIMIT,
        token=secrets.token_hex(16),  # pressed twice, the button of this page makes one backup
        restored=_restored(visit.doors, cluster) if cluster else {},
        is_clone=bool(itself),
        **(clones.shown(visit, source_db_cluster=cluster_id) | ({"clones": itself} if itself else {})),
        restore_job=_restore_job(visit.doors, cluster_id) if cluster else None,
        calls=visit.calls("CreateBackup", db_cluster_id=cluster_id) if cluster else [],
    )


def attribute(doors: Doors, cluster_id: str) -> Found | None:
    """DescribeDBClusterAttribute; None for a cluster that is not there, and for what cannot be an id."""
    try:
        return doors.read("DescribeDBClusterAttribute", db_cluster_id=cluster_id)
    except (ClusterNotFound, InvalidParameter, MissingParameter):
        return None


def standing(doors: Doors, cluster_id: str) -> Found | None:
    """Its line of DescribeOverview; None once it is being removed."""
    try:
        found: list[Found] = doors.read("DescribeOverview", db_cluster_id=cluster_id)["items"]["cluster"]
    except (ClusterNotFound, InvalidParameter):
        return None
    return found[0] if found else None


def _logs(doors: Doors, cluster_id: str) -> Found:
    """What log backup makes of it: windows, newest first."""
    found = doors.read("DescribeRecoveryWindows", db_cluster_id=cluster_id)
    return {**found, "windows": found["windows"][::-1]}


def moments_picture(
    backups: Sequence[Mapping[str, Any]], now: int, *, newest: bool = True, chosen: str = "", path: str = ""
) -> Markup:
    """The restorable ones of ``backups`` on a time line. Each mark leads to the backup, or to ``path`` with its id put
    for ``{}``."""
    moments = [
        pictures.Moment(
            backup["consistent_time"],
            f"Backup {backup['backup_id']}, {view.ago(backup['consistent_time'], now)}, "
            f"{view.when(backup['consistent_time'])}",
            (path or "/console/backups/{}").format(view.segment(backup["backup_id"])),
            chosen=backup["backup_id"] == chosen,
        )
        for backup in backups
        if backup["backup_status"] == "Success" and backup.get("consistent_time") is not None
    ]
    return pictures.timeline(moments, now, "Restorable moments", newest=newest)


def removing(visit: Visit, params: Mapping[str, str]) -> list[str]:
    """What to know before a cluster is removed; its name is typed to confirm."""
    cluster_id = params.get("db_cluster_id", "")
    cluster = visit.doors.read("DescribeDBClusterAttribute", db_cluster_id=cluster_id)
    name = cluster["db_cluster_description"]
    visit.extra["back"] = f"/console/clusters/{view.segment(cluster_id)}"
    visit.extra["name"] = name
    return [
        f"The restored server {name} will be stopped and its data directory removed."
        if cluster.get("restore_type")
        else f"{name} will no longer be protected. The server itself is not touched.",
        what_is_kept(
            *restorable(visit.doors, cluster_id, COUNTED_TO),
            params.get("backup_retention_policy_on_cluster_deletion", "NONE"),
        ),
    ]


def what_is_kept(backups: Sequence[Found], complete: bool, retention: str) -> str:
    """What becomes of the restorable backups, as ``restorable`` gives them."""
    if not backups and complete:
        return "It has no backup that could be restored."
    many = str(len(backups)) if complete else f"at least {len(backups)}"
    if retention == "ALL":
        return f"Its backups are kept ({many}) and can still be restored."
    if retention == "LATEST":
        return f"Of its backups ({many}) the newest is kept; the others are deleted and cannot be brought back."
    return f"Its backups ({many}) are deleted with it. Nothing of it can be restored after that."


def restorable(doors: Doors, cluster_id: str, limit: int) -> tuple[list[Found], bool]:
    """What can be restored of the newest ``limit`` backups of a cluster that may be gone, and whether those are all."""
    try:
        found = doors.read("DescribeBackupHistory", db_cluster_id=cluster_id, max_results=limit)
    except ClusterNotFound:
        return [], True
    return [each for each in found["items"]["backup"] if each["backup_status"] == "Success"], not found.get(
        "next_marker"
    )


def _history(doors: Doors, cluster_id: str, after: str) -> Found | None:
    try:
        return doors.read(
            "DescribeBackupHistory", db_cluster_id=cluster_id, marker=after or None, max_results=BACKUPS_A_PAGE
        )
    except ClusterNotFound:
        return None
    except InvalidParameter:
        if after:
            raise  # a marker of another list is a mistake to be told
        return None


def _never_made(visit: Visit, cluster_id: str) -> Response | None:
    """Of a cluster that a restore was to make and did not: who waited for it on its page is told why."""
    try:
        job = _restore_job(visit.doors, cluster_id)
    except InvalidParameter:
        return None
    if job is None or job["state"] not in (JobState.FAILED, JobState.CANCELLED):
        return None
    try:
        backup = visit.doors.read("DescribeBackup", backup_id=job["backup_id"])["backup"]
    except BackupNotFound:
        backup = None
    name = job.get("db_cluster_name") or cluster_id
    return visit.page("cluster_failed.html", title=name, name=name, cluster_id=cluster_id, job=job, backup=backup)


def _health(doors: Doors, cluster_id: str) -> Found | None:
    try:
        return doors.read("DescribeClusterHealth", db_cluster_id=cluster_id)
    except (ClusterNotFound, InvalidParameter):
        return None


def _name(backups: Sequence[Mapping[str, Any]]) -> str:
    return str(backups[0].get("db_cluster_name") or "") if backups else ""


def _restored(doors: Doors, cluster: Found) -> Found:
    """Of a cluster that a restore made: its source, the backup, and where it answers."""
    if not cluster.get("restore_type"):
        return {}
    found: Found = {"source_id": cluster["source_db_cluster"], "backup_id": cluster.get("restore_data_point")}
    source = attribute(doors, found["source_id"])
    found["source_name"] = source["db_cluster_description"] if source else found["source_id"]
    if cluster["db_cluster_status"] == "Deleting":
        return found
    endpoints = doors.read("DescribeDBClusterEndpoints", db_cluster_id=cluster["db_cluster_id"])["items"]
    found["addresses"] = [address for endpoint in endpoints for address in endpoint["address_items"]]
    return found


def _restore_job(doors: Doors, cluster_id: str) -> Found | None:
    """The task that made the cluster."""
    found = doors.read("DescribeJobs", db_cluster_id=cluster_id, job_kind=JobKind.RESTORE, max_results=1)
    jobs: list[Found] = found["items"]["job"]
    return jobs[0] if jobs else None
