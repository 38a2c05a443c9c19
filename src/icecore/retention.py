"""Which backups expire: a verdict with its reason for each, the same for the preview and for the deed. Pure.

Only automatic backups expire. What a person made, a person removes: the quota of three keeps these few. On PolarDB they
follow the level-1 retention; too much removed is the worse mistake (``docs/compatibility.md``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from icecore.schedule import DAY_S, weekday

FOREVER = -1
QUARANTINE_S = DAY_S  # between the verdict and the removal: time to notice a policy that was set wrong


class Reason(StrEnum):
    HELD = "held"
    MANUAL = "made by a person"
    NEWEST = "the newest backup"
    NEWEST_VERIFIED = "the newest verified backup"
    YOUNG = "within the retention"
    YOUNG_LONG = "within the long retention"
    NOT_FIRST_OF_ITS_DAY = "a later one of its day, and that day has passed"
    OLD = "older than the retention"


@dataclass(frozen=True)
class Candidate:
    """A backup that exists."""

    backup_id: str
    consistent_at: int
    automatic: bool
    held: bool = False
    verified: bool = False


@dataclass(frozen=True)
class Retention:
    """``days`` for every automatic backup; ``long_days`` (0: none, ``FOREVER``) for those of the ``long_weekdays``
    (none named: of all). ``per_day`` above 1: of a day that is over a day past, only the first one stays."""

    days: int
    long_days: int = 0
    long_weekdays: frozenset[int] = frozenset()
    per_day: int = 1


@dataclass(frozen=True)
class Verdict:
    backup_id: str
    keep: bool
    reason: Reason


def judge(retention: Retention, backups: Iterable[Candidate], now: int) -> list[Verdict]:
    """One for each, the newest first. The newest backup, and the newest verified one, stay whatever the policy."""
    ordered = sorted(backups, key=lambda each: (each.consistent_at, len(each.backup_id), each.backup_id), reverse=True)
    newest = ordered[0].backup_id if ordered else ""
    verified = next((each.backup_id for each in ordered if each.verified), "")
    firsts = {each.consistent_at // DAY_S: each.backup_id for each in ordered if each.automatic}  # the earliest wins
    return [Verdict(each.backup_id, *_judge(retention, each, now, newest, verified, firsts)) for each in ordered]


def _judge(
    retention: Retention, each: Candidate, now: int, newest: str, verified: str, firsts: dict[int, str]
) -> tuple[bool, Reason]:
    age_s = now - each.consistent_at
    if each.held:
        return True, Reason.HELD
    if not each.automatic:
        return True, Reason.MANUAL
    if each.backup_id == newest:
        return True, Reason.NEWEST
    if each.backup_id == verified:
        return True, Reason.NEWEST_VERIFIED
    crowded = retention.per_day > 1 and age_s > DAY_S
    if crowded and firsts[each.consistent_at // DAY_S] != each.backup_id:
        return False, Reason.NOT_FIRST_OF_ITS_DAY
    if age_s <= retention.days * DAY_S:
        return True, Reason.YOUNG
    long = not retention.long_weekdays or weekday(each.consistent_at) in retention.long_weekdays
    if long and (retention.long_days == FOREVER or age_s <= retention.long_days * DAY_S):
        return True, Reason.YOUNG_LONG
    return False, Reason.OLD
