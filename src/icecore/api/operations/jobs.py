"""Jobs as they are, with what PolarDB's task list has no word for: failure, cause and hint."""

from __future__ import annotations

from icecore import errors
from icecore.api.contract import Call
from icecore.api.operations import Context, Result
from icecore.catalog import intents, queries
from icecore.model import Phase, percent


def describe_jobs(context: Context, call: Call) -> Result:
    params = call.params
    rows, total = queries.jobs(
        context.catalog,
        cluster_id=params["db_cluster_id"] or "",
        job_id=params["job_id"] or "",
        state=params["job_state"] or "",
        page=params["page_number"],
        page_size=params["page_size"],
    )
    if params["job_id"] and not rows:
        raise errors.JobNotFound()
    return {
        "items": {
            "job": [
                {
                    "job_id": row.id,
                    "job_kind": row.kind,
                    "db_cluster_id": row.cluster_id,
                    "db_cluster_name": row.cluster_name,
                    "backup_id": row.backup_id,
                    "state": row.state,
                    "phase": row.phase,
                    "process": percent(Phase(row.phase), row.bytes_done, row.bytes_total),
                    "bytes_done": row.bytes_done,
                    "bytes_total": row.bytes_total,
                    "bytes_new": row.bytes_new,
                    "error_code": row.error_code or None,
                    "error_message": row.error_message or None,
                    "error_hint": row.error_hint or None,
                    "queued_time": row.queued_at,
                    "start_time": row.started_at,
                    "end_time": row.ended_at,
                    "attempts": row.epoch,
                }
                for row in rows
            ]
        },
        "page_number": params["page_number"],
        "page_record_count": len(rows),
        "total_record_count": total,
    }


def cancel_job(context: Context, call: Call) -> Result:
    intents.request_cancel(context.catalog, call.params["job_id"])
    return {}
