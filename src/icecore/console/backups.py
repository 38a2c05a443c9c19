"""One backup: the facts of its manifest, what it cost, how it is restored with and without this server."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from starlette.responses import Response

from icecore.console import clones, clusters, pictures, tasks, view
from icecore.console.doors import Doors
from icecore.console.visit import Visit
from icecore.errors import BackupNotFound, InvalidParameter, JobNotFound

PROOFS = 10  # checks and verifications shown of it,
ROWS_SHOWN = 30  # and tables with their rows of the newest
NEIGHBOURS = 30  # shown on the time line around it

Found = dict[str, Any]


def page(visit: Visit) -> Response:
    # The backup, and the task that made it; one that a rebuilt catalog took over has none
    backup = _backup(visit.doors, visit.part["backup_id"])
    if backup is None:
        return visit.page("missing.html", 404, title="Not found")
    backup_id, cluster_id, status = backup["backup_id"], backup["db_cluster_id"], backup["backup_status"]
    job = _job(visit.doors, backup["backup_job_id"])
    unfinished = status in ("Pending", "Running")

    # Among which others it stands
    others = [
        each for each in clusters.restorable(visit.doors, cluster_id, NEIGHBOURS)[0] if each["backup_id"] != backup_id
    ]
    around = clusters.moments_picture([backup, *others], visit.now, chosen=backup_id)
    return visit.page(
        "backup.html",
        title=f"Backup {backup_id}",
        backup=backup,
        job=job,
        unfinished=unfinished,
        jobs=tasks.fragment(visit.doors, {"job": backup["backup_job_id"]})[1]["jobs"] if unfinished and job else [],
        events=view.link("/console/tasks/events", job=backup["backup_job_id"]),
        took_s=(backup.get("backup_end_time") or visit.now) - backup["start_time"],
        sizes=sizes(backup, measured=job is not None),
        around=around,
        protected=clusters.standing(visit.doors, cluster_id) is not None,
        token=secrets.token_hex(16),
        evidence=evidence(visit.doors, backup_id) if status == "Success" else [],
        **clones.shown(visit, backup_id=backup_id),
        calls=visit.calls("DescribeBackup", backup_id=backup_id),
    )


def sizes(backup: Mapping[str, Any], *, measured: bool) -> Markup:
    """What it stands for beside what it cost. ``measured``: the cost was noted when it was made."""
    logical, new, stored = backup.get("logical_bytes") or 0, backup.get("new_bytes"), backup.get("stored_bytes")
    rows = [pictures.Bar("In the backup", logical, view.size(logical))]
    if measured and new is not None:
        rows.append(pictures.Bar("New: in no earlier backup", new, view.size(new)))
    if measured and stored is not None:
        rows.append(pictures.Bar("Stored for it", stored, view.size(stored)))
    return pictures.bars(rows, "; ".join(f"{row.label}: {row.text}" for row in rows))


def evidence(doors: Doors, backup_id: str) -> list[Found]:
    """What was found of it, newest first; only the newest of each kind with all that it looked at."""
    found: list[Found] = doors.read("DescribeBackupEvidence", backup_id=backup_id, max_results=PROOFS)["items"][
        "evidence"
    ]
    seen: set[str] = set()
    for each in found:
        each["open"] = each["kind"] not in seen
        each["rows_shown"] = ROWS_SHOWN if each["open"] else 0
        seen.add(each["kind"])
    return found


def deleting(visit: Visit, params: Mapping[str, str]) -> list[str]:
    """What to know before a backup is deleted: above all, which moments go with it."""
    backup = visit.doors.read("DescribeBackup", backup_id=params.get("backup_id", ""))["backup"]
    visit.extra["back"] = f"/console/backups/{view.segment(backup['backup_id'])}"
    cluster = backup.get("db_cluster_name") or backup["db_cluster_id"]
    said = [f"Backup {backup['backup_id']} of {cluster} will be deleted. It cannot be brought back."]
    if backup["backup_status"] != "Success":
        return [*said, "It failed, so no restorable moment is lost with it."]
    known, complete = clusters.restorable(visit.doors, backup["db_cluster_id"], clusters.COUNTED_TO)
    ats = [each["consistent_time"] for each in known]
    return [
        *said,
        what_goes(backup["consistent_time"], ats, complete, visit.now, str(cluster)),
        "Only bytes that no other backup needs are given back.",
    ]


def what_goes(at: int, ats: Sequence[int], complete: bool, now: int, cluster: str) -> str:
    """What cannot be restored any more once the moment ``at`` is gone. ``ats``: the newest restorable moments; all
    there are if ``complete``."""
    earlier, later = [each for each in ats if each < at], [each for each in ats if each > at]
    moment = f"The moment {view.when(at)} will not be restorable any more"
    if ats.count(at) > 1:
        return f"Another backup of {cluster} stands for the same second, {view.when(at)}: that moment stays restorable."
    if complete and not earlier and not later:
        return f"It is the only restorable moment of {cluster}: without it nothing can be restored."
    if earlier and not later:
        lost, then = view.lasting(now - at), view.lasting(now - max(earlier))
        if lost == then:
            return f"{moment}; the newest one will then be {view.when(max(earlier))}."
        return f"It is the newest of {cluster}. What you would lose now grows from {lost} to {then}."
    if earlier and later:
        return f"{moment}; the nearest ones will be {view.when(max(earlier))} and {view.when(min(later))}."
    if complete:
        return f"{moment}; the oldest one will then be {view.when(min(later))}."
    return f"{moment}."


def _backup(doors: Doors, backup_id: str) -> Found | None:
    try:
        found: Found = doors.read("DescribeBackup", backup_id=backup_id)["backup"]
    except (BackupNotFound, InvalidParameter):
        return None
    return found if found["backup_id"] == backup_id else None


def _job(doors: Doors, job_id: str) -> Found | None:
    try:
        found: list[Found] = doors.read("DescribeJobs", job_id=job_id, max_results=1)["items"]["job"]
    except JobNotFound:
        return None
    return found[0] if found else None
