"""Backups on the wire: the seed page's operation and those around it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from icecore import __version__, errors
from icecore.api.contract import Call
from icecore.api.operations import Context, Result, marked
from icecore.api.operations.proofs import badges
from icecore.catalog import clusters, intents, queries
from icecore.model import BackupStatus, Phase, percent


def create_backup(context: Context, call: Call) -> Result:
    """The reply is built after the commit that accepted the backup (C1)."""
    job_id = intents.accept_backup(
        context.catalog,
        call.params["db_cluster_id"],
        token=call.params["client_token"] or "",
        comment=call.params["comment"] or "",
    )
    return {"backup_job_id": job_id}


def delete_backup(context: Context, call: Call) -> Result:
    intents.accept_deletion(context.catalog, call.params["db_cluster_id"], call.params["backup_id"])
    return {}


def describe_backups(context: Context, call: Call) -> Result:
    params = call.params
    clusters.one(context.catalog, params["db_cluster_id"], also_removed=True)
    rows, total = queries.backups(
        context.catalog,
        params["db_cluster_id"],
        start_at=params["start_time"],
        end_at=params["end_time"],
        backup_id=params["backup_id"] or "",
        status=params["backup_status"] or "",
        mode=params["backup_mode"] or "",
        page=params["page_number"],
        page_size=params["page_size"],
    )
    return {
        "items": {"backup": [_backup(row) for row in rows]},
        "page_number": params["page_number"],
        "page_record_count": len(rows),
        "total_record_count": total,
    }


def describe_backup_history(context: Context, call: Call) -> Result:
    params = call.params
    if params["db_cluster_id"]:
        clusters.one(context.catalog, params["db_cluster_id"], also_removed=True)
    page = queries.history(
        context.catalog,
        cluster_id=params["db_cluster_id"] or "",
        after=marked(call, "backup"),
        limit=params["max_results"],
    )
    return {"items": {"backup": [_remembered(row) for row in page.rows]}, "next_marker": page.next_marker or None}


def describe_backup_tasks(context: Context, call: Call) -> Result:
    """A projection of the backup jobs: the phases are PolarDB's own words."""
    params = call.params
    try:
        clusters.one(context.catalog, params["db_cluster_id"], also_removed=True)
    except errors.ClusterNotFound as error:
        raise errors.ClusterNotFoundInTasks() from error
    rows = queries.backup_jobs(
        context.catalog,
        params["db_cluster_id"],
        job_id=params["backup_job_id"] or "",
        mode=params["backup_mode"] or "",
    )
    return {
        "items": {
            "backup_job": [
                {
                    "backup_job_id": row.id,
                    "backup_progress_status": row.phase,
                    "job_mode": row.mode or "Manual",
                    "process": percent(Phase(row.phase), row.bytes_done, row.bytes_total),
                    "start_time": row.started_at or row.queued_at,
                    "task_action": "TempBackupTask" if row.mode != "Automated" else "NormalBackupTask",
                }
                for row in rows
            ]
        }
    }


def describe_backup(context: Context, call: Call) -> Result:
    """Everything about one backup, with the way to restore it on a machine that has only the repository."""
    row = queries.backup(context.catalog, call.params["backup_id"])
    cluster = clusters.one(context.catalog, row.cluster_id, also_removed=True)
    facts = json.loads(row.facts or "{}")
    return {
        "backup": {
            **_backup(row),
            "db_cluster_name": cluster.name,
            "backup_job_id": row.id,
            "job_uuid": row.job_uuid,
            "engine_version": facts.get("engine_version", ""),
            "start_position": facts.get("start_position", ""),
            "stop_position": facts.get("stop_position", ""),
            "timeline": facts.get("timeline", 0),
            "file_count": facts.get("file_count", 0),
            "logical_bytes": row.size_bytes,
            "new_bytes": row.new_bytes,
            "client_token": row.client_token,
            "held_reason": row.held_reason,
            "tool_version": facts.get("tool_version", ""),
            "warnings": facts.get("warnings", []),
            "restore_recipe": _recipe(row.id, context) if row.status == BackupStatus.SUCCESS else [],
            "start_time": row.started_at or row.accepted_at,
            "stop_time": facts.get("stopped_at"),
        }
    }


def _backup(row: sa.Row[Any]) -> Result:
    ready = row.status == BackupStatus.SUCCESS
    return {
        "backup_id": row.id,
        "db_cluster_id": row.cluster_id,
        "backup_status": row.status,
        "backup_mode": row.mode,
        "backup_method": "Snapshot",
        "backup_type": "FullBackup",
        "backups_level": "Level-1" if row.imaged else "Level-2",  # an image on the cluster's own file system, too
        "backup_start_time": row.started_at or row.accepted_at,
        "backup_end_time": row.ended_at,
        "consistent_time": row.consistent_at,
        "backup_set_size": row.size_bytes,
        "is_avail": int(ready),
        "expect_expire_type": "NEVER" if row.held_reason is not None else "EXPIRED" if row.expires_at else None,
        "expect_expire_time": row.expires_at,
        "comment": row.comment or None,
        **badges(row),
    }


def _remembered(row: sa.Row[Any]) -> Result:
    unfinished = row.status in (BackupStatus.PENDING, BackupStatus.RUNNING) and row.job_id
    phase = Phase(row.job_phase) if unfinished else Phase.FINISHED
    return {
        **_backup(row),
        "db_cluster_name": row.cluster_name,
        "new_bytes": row.new_bytes,
        "backup_job_id": row.job_id,
        "job_state": row.job_state if unfinished else None,
        "phase": phase if unfinished else None,
        "process": percent(phase, row.job_bytes_done, row.job_bytes_total) if unfinished else None,
        "error_code": row.job_error_code or None,
    }


def _recipe(backup_id: str, context: Context) -> list[str]:
    config = context.catalog.config
    key = "--key-file repository.key " if config.encrypted else ""
    return [
        f"pip install icecore=={__version__}",
        f"icecore restore --repo {config.repository} {key}{backup_id} --to /path/to/new/data",
    ]
