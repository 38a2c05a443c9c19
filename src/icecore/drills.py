"""Which backup is verified next, and when: a backup that was never restored is a hope. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from icecore.schedule import DAY_S


@dataclass(frozen=True)
class Drilled:
    """A backup that exists. ``tried_at``: its newest verification, however it ended; None: there was none."""

    backup_id: str
    consistent_at: int
    tried_at: int | None


def due_at(backups: Sequence[Drilled], every_days: int) -> int | None:
    """When the next drill is due: ``every_days`` after the last one; at once (0) if there never was one. None: there
    is nothing to verify, or no drills are wanted."""
    if not backups or not every_days:
        return None
    tried = [each.tried_at for each in backups if each.tried_at is not None]
    return max(tried) + every_days * DAY_S if tried else 0


def choose(backups: Sequence[Drilled]) -> str:
    """The newest if it was never tried; else the oldest that never was: what has lain longest is the likeliest to have
    rotted; else the one whose last try is longest ago."""
    ordered = sorted(backups, key=lambda each: (each.consistent_at, len(each.backup_id), each.backup_id))
    if ordered[-1].tried_at is None:
        return ordered[-1].backup_id
    untried = [each for each in ordered if each.tried_at is None]
    return (untried or sorted(ordered, key=lambda each: each.tried_at or 0))[0].backup_id
