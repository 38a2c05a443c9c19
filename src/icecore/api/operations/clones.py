"""Instant clones on the wire: Icecore's own operations. A clone is a cluster, too, and shown as one."""

from __future__ import annotations

import getpass
from typing import Any

import sqlalchemy as sa

from icecore import errors
from icecore.api.contract import Call
from icecore.api.operations import Context, Result
from icecore.catalog import clones
from icecore.catalog.intents import now


def create_clone(context: Context, call: Call) -> Result:
    """Answers at once; the clone is Creating until its server takes writes."""
    params = call.params
    if not params["db_cluster_id"] and not params["backup_id"]:
        raise errors.MissingParameter(parameter=call.operation.parameter("backup_id").name)
    clone_id = clones.accept(
        context.catalog,
        cluster_id=params["db_cluster_id"] or "",
        backup_id=params["backup_id"] or "",
        name=params["db_cluster_description"] or "",
        owner=_owner(context),
        purpose=params["purpose"] or "",
        lifetime_s=params["lifetime_seconds"],
        token=params["client_token"] or "",
        region_id=context.catalog.config.region_id,
    )
    return {"db_cluster_id": clone_id, "expire_time": clones.one(context.catalog, clone_id).expires_at or None}


def describe_clones(context: Context, call: Call) -> Result:
    params = call.params
    rows = clones.every(
        context.catalog,
        source_id=params["source_db_cluster"] or "",
        backup_id=params["backup_id"] or "",
        clone_id=params["db_cluster_id"] or "",
    )
    return {"items": {"clone": [_listed(row) for row in rows]}}


def modify_clone(context: Context, call: Call) -> Result:
    params = call.params
    expires_at = clones.change(
        context.catalog, params["db_cluster_id"], lifetime_s=params["lifetime_seconds"], purpose=params["purpose"]
    )
    return {"db_cluster_id": params["db_cluster_id"], "expire_time": expires_at or None}


def delete_clone(context: Context, call: Call) -> Result:
    clones.remove(context.catalog, call.params["db_cluster_id"])
    return {}


def _owner(context: Context) -> str:
    """A command that runs in its own process has no key: its user is who asks."""
    return context.caller.access_key_id if context.caller is not None else f"user {getpass.getuser()}"


def _listed(row: sa.Row[Any]) -> Result:
    left_s = row.expires_at - now()
    return {
        "db_cluster_id": row.id,
        "db_cluster_description": row.name,
        "db_cluster_status": row.status,
        "status_reason": row.status_reason or None,
        "source_db_cluster": row.source_cluster_id,
        "source_db_cluster_name": row.source_name or None,
        "backup_id": row.source_backup_id,
        "consistent_time": row.consistent_at,
        "owner": row.owner,
        "purpose": row.purpose or None,
        "create_time": row.created_at,
        "expire_time": row.expires_at or None,
        "ends_soon": bool(row.expires_at) and left_s < clones.ENDS_SOON_S,
        "durable": row.durable,
        "pinned_bytes": row.pinned_bytes,
        "connection_string": row.host or None,
        "port": row.port or None,
    }
