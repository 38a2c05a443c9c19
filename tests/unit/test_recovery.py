"""Windows and choices against a naive account of what happened: every byte, every commit, every moment looked at."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icecore.errors import MomentNotRestorable
from icecore.model import LogBase, LogUnit
from icecore.recovery import Logs, choose, choose_position, settle, windows

SEGMENT = 8
S = 1_000_000


@dataclass
class History:
    """What really happened. On a timeline: position -> time of the commit that begins there; a commit has length 1."""

    commits: dict[int, dict[int, int]]
    switch: int  # timeline 2 left timeline 1 there; 0: there is none
    units: list[LogUnit] = field(default_factory=list)
    bases: list[LogBase] = field(default_factory=list)

    @property
    def logs(self) -> Logs:
        units = tuple(sorted(self.units, key=lambda unit: (unit.timeline, unit.start, unit.end)))
        return Logs(units, {2: ((1, self.switch),)} if self.switch else {})


def clock(commits: dict[int, int], position: int) -> int:
    """A time at which the log ended at ``position``."""
    return max((at for where, at in commits.items() if where < position), default=0)


@st.composite
def histories(draw: st.DrawFn) -> History:
    def line(start: int, now: int, length: int) -> dict[int, int]:
        commits = {}
        for position in range(start, start + length):
            now += draw(st.integers(0, 3))
            if draw(st.booleans()):
                now += 1
                commits[position] = now
        return commits

    def cut(timeline: int, start: int, end: int, commits: dict[int, int]) -> list[LogUnit]:
        marks = sorted({start, end, *draw(st.lists(st.integers(start, end), max_size=5))})
        units, known = [], 0
        for low, high in itertools.pairwise(marks):
            latest = max((at for where, at in commits.items() if low <= where < high), default=0)
            after = min((at for where, at in commits.items() if where >= high), default=10**6)
            quiet = draw(st.integers(clock(commits, high), min(after - 1, clock(commits, high) + 4)))
            known = max(known, latest, quiet if draw(st.booleans()) else 0)
            units.append(LogUnit(timeline, low, high, known))
        # as after a merge that was cut off: both, the whole and its parts
        if len(units) > 2 and draw(st.booleans()):
            units.append(LogUnit(timeline, units[0].start, units[1].end, units[1].known_at_us))
        return [unit for unit in units if draw(st.integers(0, 5))]

    first = line(0, 0, draw(st.integers(8, 30)))
    end = max(first, default=8) + draw(st.integers(1, 3))
    found = History({1: first}, 0)
    found.units += cut(1, 0, end, first)
    lines = [(1, end)]
    if draw(st.booleans()):
        found.switch = draw(st.integers(1, end))
        copied = {where: at for where, at in first.items() if where < found.switch}
        # the new primary began after the old one had written all that it took over
        began = max((unit.known_at_us for unit in found.units if unit.end < found.switch), default=0)
        began = max(began, clock(first, found.switch))
        second = copied | line(found.switch, began, draw(st.integers(1, 20)))
        low = found.switch - found.switch % SEGMENT
        end = max(found.switch, *second, 0) + 1
        found.commits[2] = second
        found.units += cut(2, low, end, {where: at for where, at in second.items() if where >= low})
        lines.append((2, end))
    for number in range(draw(st.integers(1, 3))):
        timeline, end = draw(st.sampled_from(lines))
        stop = draw(st.integers(found.switch + 1 if timeline == 2 else 1, max(end, found.switch + 1)))
        since = clock(found.commits[timeline], stop) + 1
        inexact = draw(st.integers(0, 4)) == 0
        needs = (stop - 1) - (stop - 1) % SEGMENT
        found.bases.append(LogBase(f"b{number}", timeline, needs, stop, 0 if inexact else since))
    return found


def naive_reach(history: History, base: LogBase, timeline: int) -> tuple[int, int] | None:
    """Byte by byte: how long the log goes on, and the last moment that a unit within it knows of."""
    if timeline < base.timeline or (timeline == 2 and base.timeline == 1 and history.switch < base.stop):
        return None
    have = {(unit.timeline, at) for unit in history.units for at in range(unit.start, unit.end)}
    at, line = base.needs_from, base.timeline
    while True:
        if line != timeline and at >= history.switch:
            line = timeline
        if (line, at) not in have:
            break
        at += 1
    low = base.needs_from if line == base.timeline else history.switch
    known = [
        unit.known_at_us
        for unit in history.units
        if unit.timeline == timeline == line and unit.end <= at and unit.end > low
    ]
    return (at, max(known)) if known and at >= base.stop else None


def restorable(history: History, moment: int) -> bool:
    for base in history.bases:
        for timeline in history.commits:
            reach = naive_reach(history, base, timeline)
            if reach is None or moment > reach[1]:
                continue
            if base.since_us:
                since = base.since_us
            else:  # only the log tells: every unit that begins before the stop is past
                since = 1 + max(
                    unit.known_at_us
                    for unit in history.units
                    if unit.start < base.stop and unit.end > base.needs_from and unit.timeline <= timeline
                )
            if since <= moment:
                return True
    return False


@settings(max_examples=150, deadline=None)
@given(histories())
def test_P1_and_P2_a_window_has_the_restorable_moments_and_no_others(history: History) -> None:
    found = windows(history.bases, history.logs)
    for moment in range(8 + max(unit.known_at_us for unit in (*history.units, LogUnit(1, 0, 0, 0)))):
        inside = any(window.since_us <= moment <= window.until_us for window in found)
        if not inside:
            with pytest.raises(MomentNotRestorable):
                choose(moment, history.bases, history.logs)
            if all(base.since_us for base in history.bases):
                assert not restorable(history, moment), moment
            continue
        # What is reported can be done: the commits that come back are those up to the moment, and all of them
        choice = choose(moment, history.bases, history.logs)
        commits = history.commits[choice.timeline]
        lines = dict.fromkeys([1, 2], 0) | {line: left_at for line, _, left_at in choice.path}

        def commit_after(unit: LogUnit, commits: dict[int, int] = commits, moment: int = moment) -> int:
            later = [where for where, at in commits.items() if unit.start <= where < unit.end and at > moment]
            return min(later, default=0)

        unit, position = settle(choice, commit_after)
        end = position or unit.end
        assert {at for where, at in commits.items() if where < end} == {at for at in commits.values() if at <= moment}
        assert end >= choice.base.stop, (choice, end, lines)
        have = {(unit.timeline, at) for unit in history.units for at in range(unit.start, unit.end)}
        for line, start, left_at in choice.path:
            upto = min(left_at or end, end)
            assert all((line, at) in have for at in range(start, upto)), (line, start, upto)


def units(*cuts: tuple[int, int, int]) -> tuple[LogUnit, ...]:
    return tuple(LogUnit(1, start, end, known * S) for start, end, known in cuts)


def test_P2_a_moment_outside_names_the_nearest_on_both_sides() -> None:
    bases = [LogBase("1", 1, 0, 5, 100 * S), LogBase("2", 1, 16, 20, 300 * S)]
    logs = Logs(units((0, 8, 150), (8, 12, 200), (16, 24, 350)), {})
    spans = [(window.since_us // S, window.until_us // S) for window in windows(bases, logs)]
    assert spans == [(100, 200), (300, 350)]
    for moment, words in (
        (250, "1970-01-01 00:03:20 UTC and 1970-01-01 00:05:00 UTC"),
        (99, "the first restorable moment is 1970-01-01 00:01:40 UTC"),
        (351, "the last restorable moment is 1970-01-01 00:05:50 UTC"),
    ):
        with pytest.raises(MomentNotRestorable, match=words):
            choose(moment * S, bases, logs)
    with pytest.raises(MomentNotRestorable, match="no log that continues a backup"):
        choose(200 * S, bases[:1], Logs((), {}))


def test_a_position_is_chosen_within_the_log_that_continues_a_backup() -> None:
    bases = [LogBase("1", 1, 0, 5, 100 * S), LogBase("2", 1, 8, 10, 180 * S)]
    logs = Logs(units((0, 8, 150), (8, 12, 200), (16, 24, 350)), {})
    assert choose_position(7, 0, bases, logs).base.backup_id == "1"
    assert choose_position(11, 0, bases, logs).base.backup_id == "2"
    for outside in (4, 13, 20):
        with pytest.raises(MomentNotRestorable):
            choose_position(outside, 0, bases, logs)


def test_a_backup_of_a_branch_that_was_given_up_leads_to_no_moment_of_the_other() -> None:
    """Timeline 2 left at 4; the backup ends at 6 on timeline 1, and holds what timeline 2 never had."""
    log = (*units((0, 8, 150)), LogUnit(2, 0, 20, 400 * S))
    logs = Logs(log, {2: ((1, 4),)})
    (window,) = windows([LogBase("1", 1, 0, 6, 100 * S)], logs)
    assert (window.timeline, window.until_us) == (1, 150 * S)
    early = LogBase("0", 1, 0, 3, 50 * S)
    assert [(each.timeline, each.until_us) for each in windows([early], logs)] == [(2, 400 * S)]
