"""The repository: what it holds, what it costs, and when its place will be full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.responses import Response

from icecore.console.overview import repository_growth
from icecore.console.visit import Visit

DAY_S = 86_400
SOON_S = 30 * DAY_S  # full within a month needs a person


def page(visit: Visit) -> Response:
    repository = visit.doors.read("DescribeRepository")
    return visit.page(
        "repository.html",
        title="Repository",
        repository=repository,
        factor=factor(repository),
        growth=growth(repository),
        picture=repository_growth(repository),
        full_soon=(repository.get("full_time") or visit.now + SOON_S) < visit.now + SOON_S,
        used=used(repository),
        clusters=by_size(repository["clusters"]),
        calls=visit.calls("DescribeRepository"),
    )


def factor(repository: Mapping[str, Any]) -> float | None:
    """How many bytes can be restored for each one stored; None while there is no backup."""
    stored, logical = repository["stored_bytes"], repository["logical_bytes"]
    return logical / stored if stored and logical else None


def used(repository: Mapping[str, Any]) -> int | None:
    """Percent of what the repository could take that it has taken: its own bytes against those that are free."""
    free = repository.get("free_bytes")
    stored = repository["stored_bytes"]
    return None if free is None or not free + stored else round(100 * stored / (free + stored))


def growth(repository: Mapping[str, Any]) -> str:
    """What its history says: ``unknown``, ``still`` or ``grows`` (or shrinks)."""
    per_day = repository.get("growth_bytes_per_day")
    return "unknown" if per_day is None else "grows" if per_day > 0 else "shrinks" if per_day < 0 else "still"


def by_size(clusters: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The largest first, each with its share of all stored bytes in percent."""
    whole = sum(each["stored_bytes"] for each in clusters) or 1
    largest_first = sorted(clusters, key=lambda each: (-each["stored_bytes"], each["db_cluster_id"]))
    return [{**each, "share": round(100 * each["stored_bytes"] / whole)} for each in largest_first]
