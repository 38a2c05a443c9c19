"""Log backup on the wire: which moments can be restored, how far the log is, and whether it is archived at all."""

from __future__ import annotations

from icecore.api.contract import Call
from icecore.api.operations import Context, Result
from icecore.catalog import clusters, logs


def describe_recovery_windows(context: Context, call: Call) -> Result:
    """As log backup told them last; a window's ends are rounded into it."""
    row = clusters.one(context.catalog, call.params["db_cluster_id"], also_removed=True)
    state = logs.state(context.catalog, row.id)
    lost = logs.gaps(context.catalog, row.id)
    enabled = bool(row.log_backup and context.catalog.config.log_backup and row.deleted_at is None)
    answer: Result = {
        "db_cluster_id": row.id,
        "log_backup": "on" if enabled else "off",
        "windows": [
            {"begin_time": -(-each.since_us // 1_000_000), "end_time": each.until_us // 1_000_000}
            for each in logs.windows_of(state)
        ],
        "gaps": [
            {
                "timeline": each.timeline,
                "begin_position": position_text(each.start),
                "end_position": position_text(each.end),
                "noted_time": each.noted_at,
            }
            for each in lost
        ],
    }
    if state is None:
        return answer
    lag_bytes = max(state.server_position - state.durable, 0)
    known_at = state.known_at_us // 1_000_000
    return answer | {
        "timeline": state.timeline or None,
        "position": position_text(state.durable) if state.durable else None,
        "known_time": known_at or None,
        "lag_bytes": lag_bytes,
        "lose_now_seconds": logs.lose_now_s(state) if known_at else None,
        "told_time": state.told_at or None,
        "error_code": state.error_code or None,
        "error_message": state.error_message or None,
    }


def modify_log_backup(context: Context, call: Call) -> Result:
    logs.switch(context.catalog, call.params["db_cluster_id"], on=call.params["log_backup"] == "on")
    return {}


def position_text(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
