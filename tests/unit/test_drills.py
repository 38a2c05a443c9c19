"""Drills: every backup gets its turn, none too early."""

from __future__ import annotations

from dataclasses import replace

from icecore.drills import Drilled, choose, due_at
from icecore.schedule import DAY_S


def test_the_newest_first_then_the_oldest_then_round():
    backups = [Drilled(str(number), number * DAY_S, None) for number in range(1, 6)]
    order, now = [], 10 * DAY_S
    for _ in range(10):
        chosen = choose(backups)
        order.append(chosen)
        now += DAY_S
        backups = [replace(each, tried_at=now) if each.backup_id == chosen else each for each in backups]
    assert order == ["5", "1", "2", "3", "4", "5", "1", "2", "3", "4"]
    backups.append(Drilled("6", 6 * DAY_S, None))
    assert choose(backups) == "6"


def test_when_the_next_is_due():
    first, second = Drilled("1", 0, None), Drilled("2", 5, None)
    assert due_at([], 7) is None and due_at([first], 0) is None
    assert due_at([first, second], 7) == 0
    assert due_at([first, replace(second, tried_at=100)], 7) == 100 + 7 * DAY_S
