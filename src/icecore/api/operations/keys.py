"""Access keys on the wire. A secret is answered once, by the call that makes it."""

from __future__ import annotations

from icecore.api.contract import Call
from icecore.api.operations import Context, Result
from icecore.catalog import keys


def create_access_key(context: Context, call: Call) -> Result:
    made = keys.create(context.catalog, call.params["role"], call.params["description"] or "")
    return {"key_id": made.id, "key_secret": made.secret}


def describe_access_keys(context: Context, call: Call) -> Result:
    last_used = context.calls.last_used()
    return {
        "items": {
            "access_key": [
                {
                    "key_id": row.id,
                    "role": row.role,
                    "description": row.description,
                    "status": "Active" if row.enabled else "Inactive",
                    "create_time": row.created_at,
                    "last_used_time": last_used.get(row.id),
                }
                for row in keys.every(context.catalog)
            ]
        }
    }


def revoke_access_key(context: Context, call: Call) -> Result:
    keys.revoke(context.catalog, call.params["key_id"])
    return {}


def create_console_link(context: Context, call: Call) -> Result:
    """For the caller's own key, so that nobody gains a right by it; a reader may."""
    token, expires_at = context.make_link(context.caller)
    return {"link_token": token, "expire_time": expires_at}
