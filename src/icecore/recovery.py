"""Which moments can be restored, and from what. Pure: backups' boundaries, log units and timeline histories in,
windows or a choice out.

A moment is restored by stopping right before the first commit later than it. To know that commit, the log must be here
without a hole from the backup's last segment up to a unit that is known to hold every commit acknowledged before the
moment (``LogUnit.known_at_us``). All that follows rests on two facts about a unit and those before it: no commit in it
is later than ``known_at_us``, and no commit behind it was acknowledged before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from icecore import errors
from icecore.model import LogBase, LogUnit

Switches = tuple[tuple[int, int], ...]  # a timeline's ancestors, oldest first, and where each was left


@dataclass(frozen=True, slots=True)
class Window:
    """Every moment from ``since_us`` to ``until_us``, both included, can be restored."""

    since_us: int
    until_us: int
    timeline: int


@dataclass(frozen=True)
class Choice:
    """How to get to a moment or a position: which backup, along which timelines."""

    base: LogBase
    timeline: int
    path: tuple[tuple[int, int, int], ...]  # timeline, from where, up to where; the last one is open (end 0)
    units: tuple[LogUnit, ...]  # in order, those that may hold a commit later than the moment

    def conclusive(self, unit: LogUnit) -> bool:
        """Whether the moment ends with ``unit`` if no later commit is in it. One that ends where its timeline was left
        knows of commits on the branch that was given up: the next timeline's units go on."""
        return all(line != unit.timeline or unit.end < left_at or not left_at for line, _, left_at in self.path)


@dataclass(frozen=True)
class Logs:
    """What a repository has of a cluster's log. ``switches``: of each timeline whose history is known."""

    units: Sequence[LogUnit]
    switches: Mapping[int, Switches]

    def timelines(self) -> list[int]:
        return sorted({unit.timeline for unit in self.units}, reverse=True)


def windows(bases: Iterable[LogBase], logs: Logs) -> list[Window]:
    """All recovery windows, oldest first, each as long as it goes."""
    found: list[Window] = []
    for timeline in logs.timelines():
        spans = []
        for base in bases:
            reached = _reach(base, timeline, logs)
            if reached is not None and reached.since_us <= reached.until_us:
                spans.append(reached)
        for each in sorted(spans, key=lambda window: window.since_us):
            # P1: two windows are one only where they meet or overlap
            if found and found[-1].timeline == timeline and each.since_us <= found[-1].until_us + 1:
                last = found.pop()
                each = Window(last.since_us, max(last.until_us, each.until_us), timeline)
            found.append(each)
    return sorted(_not_twice(found), key=lambda window: (window.since_us, window.until_us))


def _not_twice(found: Sequence[Window]) -> Iterator[Window]:
    """Without those that lie inside another timeline's: a moment is restored along the newest one that has it."""
    for each in found:
        if not any(
            other.timeline > each.timeline and other.since_us <= each.since_us and each.until_us <= other.until_us
            for other in found
        ):
            yield each


def choose(moment_us: int, bases: Sequence[LogBase], logs: Logs) -> Choice:
    """The newest backup on the newest timeline that leads to the moment. ``MomentNotRestorable`` names the nearest
    moments on both sides."""
    for timeline in logs.timelines():
        for base in sorted(bases, key=lambda each: (each.stop, each.backup_id), reverse=True):
            reached = _reach(base, timeline, logs)
            if reached is not None and reached.since_us <= moment_us <= reached.until_us:
                chain = _chain(base, timeline, logs)
                units = tuple(unit for unit in chain if unit.known_at_us >= moment_us and unit.end >= base.stop)
                return Choice(base, timeline, _path(base, timeline, logs), units)
    # P2: refused, and what can be had instead is named
    raise errors.MomentNotRestorable(moment=moment_text(moment_us), nearest=nearest(moment_us, windows(bases, logs)))


def settle(choice: Choice, commit_after: Callable[[LogUnit], int]) -> tuple[LogUnit, int]:
    """The unit that the moment ends in, and where: at the first later commit (``commit_after`` finds it in a unit), or
    0: at the unit's end."""
    for unit in choice.units:
        found = commit_after(unit)
        if found or choice.conclusive(unit):
            return unit, found
    raise errors.Damaged(name="the log", reason="it ends before what it knows of")


def choose_position(position: int, timeline: int, bases: Sequence[LogBase], logs: Logs) -> Choice:
    """The same for a position of the log; ``timeline`` 0 means the newest that has it."""
    ranges = []
    for candidate in [timeline] if timeline else logs.timelines():
        for base in sorted(bases, key=lambda each: (each.stop, each.backup_id), reverse=True):
            chain = _chain(base, candidate, logs)
            if not chain or chain[-1].timeline != candidate:
                continue
            if base.stop <= position <= chain[-1].end:
                units = tuple(unit for unit in chain if unit.end >= position)
                return Choice(base, candidate, _path(base, candidate, logs), units)
            ranges.append((base.stop, chain[-1].end))
    told = ", ".join(f"{low:X} to {high:X}" for low, high in sorted(set(ranges))[-3:]) or "none"
    raise errors.MomentNotRestorable(moment=f"position {position:X}", nearest=f"there are (as one number): {told}")


def latest(bases: Sequence[LogBase], logs: Logs) -> int:
    """The last restorable moment; 0 if there is none."""
    return max((window.until_us for window in windows(bases, logs)), default=0)


TOLD_LATE_S = 90  # an idle server is asked every 30 s: told longer ago than that, nothing is known of now


def lose_now_s(now: int, *, known_at_us: int, told_at: int, quiet: bool, lag_bytes: int) -> int:
    """How much time would be lost if the host vanished now. Nothing, where the server was asked a moment ago and had
    written nothing that is not here."""
    if quiet and lag_bytes == 0 and now - told_at < TOLD_LATE_S:
        return 0
    return max(now - known_at_us // 1_000_000, 0)


def nearest(moment_us: int, found: Sequence[Window]) -> str:
    """What to choose instead."""
    before = max((window.until_us for window in found if window.until_us < moment_us), default=0)
    after = min((window.since_us for window in found if window.since_us > moment_us), default=0)
    if before and after:
        return f"the nearest restorable moments are {moment_text(before)} and {moment_text(after, up=True)}"
    if before:
        return f"the last restorable moment is {moment_text(before)}"
    if after:
        return f"the first restorable moment is {moment_text(after, up=True)}"
    return "no moment after a backup's own end can be restored: there is no log that continues a backup"


def moment_text(moment_us: int, *, up: bool = False) -> str:
    """In whole seconds, rounded into the window that it bounds, so that what is named can be asked for."""
    return datetime.fromtimestamp(-(-moment_us // 1_000_000) if up else moment_us // 1_000_000, UTC).strftime(
        "%Y-%m-%d %H:%M:%S UTC"
    )


# ---------------------------------------------------------------- one backup along one timeline


def _ancestors(timeline: int, logs: Logs) -> Switches:
    return logs.switches.get(timeline, ())


def _path(base: LogBase, timeline: int, logs: Logs) -> tuple[tuple[int, int, int], ...]:
    """Timelines from the backup's own to ``timeline`` and the stretch of each; empty if there is no way."""
    if base.timeline == timeline:
        return ((timeline, base.needs_from, 0),)
    path: list[tuple[int, int, int]] = []
    start = base.needs_from
    for ancestor, left_at in _ancestors(timeline, logs):
        if ancestor == base.timeline and left_at < base.stop:
            return ()  # the backup ends on a branch that was given up
        if ancestor == base.timeline or path:
            path.append((ancestor, start, left_at))
            start = left_at
    return (*path, (timeline, start, 0)) if path else ()


def _chain(base: LogBase, timeline: int, logs: Logs) -> list[LogUnit]:
    """Units in the order of recovery, without a hole from ``needs_from`` on. Of a timeline that was left, a unit that
    goes on past the switch is cut there; see ``Choice.conclusive``."""
    chain: list[LogUnit] = []
    at = base.needs_from
    for line, _, left_at in _path(base, timeline, logs):
        for unit in (each for each in logs.units if each.timeline == line):
            if unit.end < at or (unit.end == at and unit.start < unit.end):
                continue
            if unit.start > at or (left_at and at >= left_at):
                break
            at = min(unit.end, left_at) if left_at else unit.end
            chain.append(LogUnit(line, unit.start, at, unit.known_at_us, unit.name, unit.size_bytes))
        if left_at and at < left_at:
            break
    return chain


def _reach(base: LogBase, timeline: int, logs: Logs) -> Window | None:
    """From the first moment that is certainly past the backup's end to the last one that the log knows."""
    chain = _chain(base, timeline, logs)
    # P1: what a unit knows counts only on the timeline that is restored to; an ancestor's may know of a lost branch
    own = [unit for unit in chain if unit.timeline == timeline]
    if not own or own[-1].end < base.stop:
        return None
    since_us = base.since_us
    if not since_us:
        since_us = 1 + max(unit.known_at_us for unit in chain if unit.start < base.stop)
    return Window(since_us, own[-1].known_at_us, timeline)
