"""Jobs as they are, with what PolarDB's task list has no word for: failure, cause and hint."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from icecore import binding, errors
from icecore.api.contract import Call
from icecore.api.operations import DEFAULT_RESULTS, Context, Result, marked
from icecore.binding import Part
from icecore.catalog import intents, queries
from icecore.model import JobKind, Phase, percent


def describe_jobs(context: Context, call: Call) -> Result:
    """In numbered pages with a total, or by markers: these cost the same however many jobs there are."""
    params = call.params
    wanted = {
        "cluster_id": params["db_cluster_id"] or "",
        "job_id": params["job_id"] or "",
        "state": params["job_state"] or "",
        "kind": params["job_kind"] or "",
    }
    paging: Result
    if params["marker"] or params["max_results"]:
        page = queries.jobs_after(
            context.catalog, **wanted, after=marked(call, "job"), limit=params["max_results"] or DEFAULT_RESULTS
        )
        rows, paging = page.rows, {"next_marker": page.next_marker or None}
    else:
        rows, total = queries.jobs(context.catalog, **wanted, page=params["page_number"], page_size=params["page_size"])
        paging = {"page_number": params["page_number"], "total_record_count": total}
    if params["job_id"] and not rows and not params["marker"]:
        raise errors.JobNotFound()
    return {"items": {"job": [_job(row) for row in rows]}, "page_record_count": len(rows), **paging}


def _job(row: sa.Row[Any]) -> Result:
    spent_ms = {Part(part): spent for part, spent in json.loads(row.spent).items()}
    parts = binding.by_size(spent_ms)
    return {
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
        "binding_part": parts[0] if parts else None,
        "binding_sentence": binding.sentence(spent_ms, JobKind(row.kind)) or None,
        "time_spent": [
            {"part": part, "milliseconds": spent_ms[part], "percent": binding.percent(spent_ms, part)} for part in parts
        ]
        or None,
    }


def cancel_job(context: Context, call: Call) -> Result:
    intents.request_cancel(context.catalog, call.params["job_id"])
    return {}
