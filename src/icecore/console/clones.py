"""Instant clones on the pages: looked inside from a Level-1 backup, listed where they belong, extended, deleted."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from icecore.console import view
from icecore.console.doors import Doors
from icecore.console.visit import Visit
from icecore.errors import InvalidParameter

LONGER_S = 24 * 3600

Found = dict[str, Any]


def shown(visit: Visit, **of: str) -> dict[str, Any]:
    """For ``clones.html``: those of a backup, a cluster, or the one with an id."""
    return {"clones": listed(visit.doors, **of), "longer_s": LONGER_S, "clone_token": secrets.token_hex(16)}


def listed(doors: Doors, **of: str) -> list[Found]:
    try:
        found: list[Found] = doors.read("DescribeClones", **of)["items"]["clone"]
    except InvalidParameter:
        return []
    return found


def deleting(visit: Visit, params: Mapping[str, str]) -> list[str]:
    clone_id = params.get("db_cluster_id", "")
    visit.extra["back"] = f"/console/clusters/{view.segment(clone_id)}"
    found = listed(visit.doors, db_cluster_id=clone_id)
    if not found:
        return ["It is gone already."]
    clone = found[0]
    source = clone.get("source_db_cluster_name") or clone["source_db_cluster"]
    return [
        f"Clone {clone['db_cluster_description']} is stopped and removed, with everything that was written to it.",
        f"{source} and backup {clone['backup_id']} are not touched.",
    ]
