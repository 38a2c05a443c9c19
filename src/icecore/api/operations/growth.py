"""How fast the repository grows, and when its place will be full. Pure."""

from __future__ import annotations

from collections.abc import Sequence

DAY_S = 86_400
WINDOW_S = 30 * DAY_S  # what grew earlier says little about next month
LEAST_S = 2 * DAY_S  # less is one evening's noise
HORIZON_S = 3650 * DAY_S  # an estimate further away than ten years is none


def bytes_per_day(seen: Sequence[tuple[int, int]]) -> int | None:
    """The slope of a least-squares line through ``(Unix seconds, stored bytes)`` of the last 30 days, oldest first;
    None where they span less than two days. Negative: it shrinks."""
    if not seen:
        return None
    recent = [(at, size) for at, size in seen if at >= seen[-1][0] - WINDOW_S]
    if recent[-1][0] - recent[0][0] < LEAST_S:
        return None
    # in exact integers: bytes by seconds squared leave no room in a float
    count = len(recent)
    sum_at, sum_size = sum(at for at, _ in recent), sum(size for _, size in recent)
    above = count * sum(at * size for at, size in recent) - sum_at * sum_size
    below = count * sum(at * at for at, _ in recent) - sum_at**2
    return above * DAY_S // below


def full_at(now_s: int, free_bytes: int, per_day: int | None) -> int | None:
    """When the free bytes are used up at that pace, Unix seconds; None while it does not grow, or too far away."""
    if per_day is None or per_day <= 0:
        return None
    left_s = free_bytes * DAY_S // per_day
    return now_s + left_s if left_s <= HORIZON_S else None
