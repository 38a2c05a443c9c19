"""The call log on the wire: who asked for what, and what came of it."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from icecore.api import contract
from icecore.api.contract import Call
from icecore.api.operations import Context, Result, marked


def describe_calls(context: Context, call: Call) -> Result:
    """A reader's own calls, an admin's all. What is not the caller's to see is answered like what does not exist."""
    params = call.params
    key = params["call_access_key_id"] or ""
    after = marked(call, "call")
    if context.caller is not None and context.caller.role != "admin":
        if key not in ("", context.caller.access_key_id):
            return {"items": {"call": []}}
        key = context.caller.access_key_id
    action, only_changes = params["call_action"] or "", params["only_changes"]
    if action and only_changes:
        # an operation's calls are all changes or none is
        known = contract.operations().get(action)
        if known is None or not known.mutates:
            return {"items": {"call": []}}
    page = context.calls.page(
        access_key_id=key,
        action=action,
        only_changes=only_changes and not action,
        request_id=params["call_request_id"] or "",
        before=after[0] if after else None,
        limit=params["max_results"],
    )
    return {"items": {"call": [_call(row) for row in page.rows]}, "next_marker": page.next_marker or None}


def _call(row: sa.Row[Any]) -> Result:
    return {
        "call_request_id": row.request_id,
        "call_action": row.action,
        "access_key_id": row.access_key_id,
        "result_code": row.code,
        "result_message": row.message or None,
        "http_status": row.status,
        "call_time": row.called_at,
        "took_ms": row.took_ms,
        "source_address": row.source,
        "origin": row.origin,
        "mutates": row.mutates,
        "call_parameters": [{"name": name, "value": value} for name, value in json.loads(row.params)],
    }
