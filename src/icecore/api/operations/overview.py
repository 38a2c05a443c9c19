"""The one-screen answers: am I safe, and what does it cost."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from icecore.api.contract import Call
from icecore.api.operations import DEFAULT_RESULTS, Context, Result, growth, marked
from icecore.catalog import clusters, logs, queries
from icecore.catalog.intents import now
from icecore.model import ClusterStatus

STALE_AFTER_S = 24 * 3600  # older than a day needs a person, until policies set their own objective
HISTORY_DAYS = 90


def describe_overview(context: Context, call: Call) -> Result:
    """Per cluster: what would be lost now (the age of the newest restorable moment), and at most one sentence."""
    params = call.params
    if params["db_cluster_id"]:
        clusters.one(context.catalog, params["db_cluster_id"])
    key = marked(call, "cluster")
    try:
        page, backups, ended = queries.overview(
            context.catalog,
            cluster_id=params["db_cluster_id"] or "",
            after_cluster=key[0] if key else "",
            limit=params["max_results"] or (DEFAULT_RESULTS if key else None),
        )
    except LookupError as error:
        raise call.refuse("marker") from error
    told = logs.states(context.catalog, [row.id for row in page.rows])
    items = [
        _overview(row, backups.get(row.last_id), ended.get(row.failed_id), ended.get(row.succeeded_id))
        | _log(row, backups.get(row.last_id), told.get(row.id))
        for row in page.rows
    ]
    return {
        "items": {"cluster": items},
        "sentences": [f"{item['db_cluster_name']}: {item['sentence']}" for item in items if item["sentence"]],
        "next_marker": page.next_marker or None,
    }


def describe_repository(context: Context, call: Call) -> Result:
    """What the process last read, and what its history says about the days to come."""
    facts = context.repository()
    days = queries.repository_days(context.catalog, HISTORY_DAYS)
    per_day = growth.bytes_per_day([(row.noted_at, row.stored_bytes) for row in days])
    history = [{"day": row.day, "stored_bytes": row.stored_bytes, "logical_bytes": row.logical_bytes} for row in days]
    return {
        **facts,
        "growth_bytes_per_day": per_day,
        "full_time": growth.full_at(now(), facts["free_bytes"], per_day),
        "history": history,
    }


def _log(row: sa.Row[Any], last: sa.Row[Any] | None, state: sa.Row[Any] | None) -> Result:
    """What log backup changes of it: moments after the last backup's can be restored; or it does not get on."""
    if state is None or last is None:
        return {}
    changed: Result = {}
    windows = logs.windows_of(state)
    if windows and windows[-1].until_us // 1_000_000 >= last.consistent_at:
        changed["lose_now_seconds"] = logs.lose_now_s(state)
    if state.error_code and not _sentence(row, last):
        changed["sentence"] = f"log backup is interrupted: {state.error_message}"
    return changed


def _overview(
    row: sa.Row[Any], last: sa.Row[Any] | None, failed: sa.Row[Any] | None, succeeded: sa.Row[Any] | None
) -> Result:
    if failed and succeeded and (succeeded.queued_at, succeeded.id) > (failed.queued_at, failed.id):
        failed = None  # overtaken
    return {
        "db_cluster_id": row.id,
        "db_cluster_name": row.name,
        "db_cluster_status": row.status,
        "lose_now_seconds": now() - last.consistent_at if last else None,
        "last_backup_id": last.id if last else None,
        "last_backup_time": last.consistent_at if last else None,
        "last_backup_size": last.size_bytes if last else None,
        "manual_backups": row.manual,
        "running_job_id": row.running,
        "sentence": _sentence(row, last),
        "status_reason": row.status_reason or None,
        "size_bytes": row.size_bytes,
        "last_failure_job_id": failed.id if failed else None,
        "last_failure_code": failed.error_code if failed else None,
    }


def _sentence(row: sa.Row[Any], last: sa.Row[Any] | None) -> str:
    if row.status == ClusterStatus.STOPPED:
        return f"not reachable: {row.status_reason}"
    if row.status != ClusterStatus.RUNNING:
        return ""
    if last is None and row.origin != "registered":
        return ""  # a copy: what it was made from is what must not be lost
    if last is None:
        return "never backed up; everything would be lost"
    if now() - last.consistent_at > STALE_AFTER_S:
        return f"the last backup is {(now() - last.consistent_at) // 3600} hours old"
    return ""
