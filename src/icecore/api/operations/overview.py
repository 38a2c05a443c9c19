"""The one-screen answers: am I safe, and what does it cost."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from icecore.api.contract import Call
from icecore.api.operations import Context, Result
from icecore.catalog import clusters, queries
from icecore.catalog.intents import now
from icecore.model import ClusterStatus

STALE_AFTER_S = 24 * 3600  # older than a day needs a person, until policies set their own objective


def describe_overview(context: Context, call: Call) -> Result:
    """Per cluster: what would be lost now (the age of the newest restorable moment), and at most one sentence."""
    wanted = call.params["db_cluster_id"]
    rows = [clusters.one(context.catalog, wanted)] if wanted else clusters.live(context.catalog)
    found = queries.summaries(context.catalog, [row.id for row in rows])
    items = [_overview(row, found[row.id]) for row in rows]
    return {
        "items": {"cluster": items},
        "sentences": [f"{item['db_cluster_name']}: {item['sentence']}" for item in items if item["sentence"]],
    }


def describe_repository(context: Context, call: Call) -> Result:
    return context.repository()


def _overview(row: sa.Row[Any], summary: dict[str, Any]) -> Result:
    last = summary["last"]
    return {
        "db_cluster_id": row.id,
        "db_cluster_name": row.name,
        "db_cluster_status": row.status,
        "lose_now_seconds": now() - last.consistent_at if last else None,
        "last_backup_id": last.id if last else None,
        "last_backup_time": last.consistent_at if last else None,
        "last_backup_size": last.size_bytes if last else None,
        "manual_backups": summary["manual"],
        "running_job_id": summary["running"] or None,
        "sentence": _sentence(row, last),
    }


def _sentence(row: sa.Row[Any], last: sa.Row[Any] | None) -> str:
    if row.status == ClusterStatus.STOPPED:
        return f"not reachable: {row.status_reason}"
    if row.status != ClusterStatus.RUNNING:
        return ""
    if last is None and row.origin == "restored":
        return ""  # a copy: what it was made from is what must not be lost
    if last is None:
        return "never backed up; everything would be lost"
    if now() - last.consistent_at > STALE_AFTER_S:
        return f"the last backup is {(now() - last.consistent_at) // 3600} hours old"
    return ""
