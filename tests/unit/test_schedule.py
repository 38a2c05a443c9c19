"""When automatic backups are due, against the calendar of the standard library."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from icecore.schedule import DAY_S, WEEKDAYS, Schedule, due, weekday

MOMENTS = st.integers(0, 4_000_000_000)
SCHEDULES = st.builds(
    Schedule,
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, 1439),
    st.sampled_from([1, 2, 3, 4]),
)


def at(moment: int) -> datetime:
    return datetime.fromtimestamp(moment, UTC)


def slots_between(schedule: Schedule, after: int, until: int) -> list[int]:
    """By the clock on the wall, minute for minute."""
    found, step = [], timedelta(minutes=1)
    clock = at(after).replace(second=0, microsecond=0)
    while clock.timestamp() <= until:
        minute = clock.hour * 60 + clock.minute
        every = 1440 // schedule.per_day
        fits = schedule.per_day > 1 or clock.weekday() in schedule.weekdays
        if fits and minute % every == schedule.start_minute % every and clock.timestamp() > after:
            found.append(int(clock.timestamp()))
        clock += step
    return found


@given(MOMENTS)
def test_weekdays_are_the_calendars(moment):
    assert WEEKDAYS[weekday(moment)] == at(moment).strftime("%A")


@given(SCHEDULES, MOMENTS)
def test_the_slots_around_a_moment_are_those_of_the_clock(schedule, moment):
    week = slots_between(schedule, moment, moment + 8 * DAY_S)
    assert schedule.next_slot(moment) == week[0]
    assert schedule.last_slot(week[0]) == week[0] and schedule.last_slot(week[0] - 1) != week[0]
    earlier = schedule.last_slot(moment)
    assert earlier is not None and slots_between(schedule, earlier, moment) == []


def test_a_fortnight_misses_doubles_and_starves_nothing():
    """Looked at irregularly, away for up to two days: each slot at most once, and after each absence at once."""
    chance = random.Random(7)
    for _ in range(50):
        schedule = Schedule(
            frozenset(chance.sample(range(7), chance.randint(2, 7))),
            chance.randrange(1440),
            chance.choice([1, 1, 2, 3, 4]),
        )
        now = start = chance.randrange(1_700_000_000, 1_800_000_000)
        taken, begun, looked = start, [], [start]
        while now < start + 14 * DAY_S:
            now += chance.choice([15, 15, 600, 3600, chance.randrange(2 * DAY_S)])
            looked.append(now)
            slot = due(schedule, now, taken)
            if slot is not None:
                begun.append((slot, now))
                taken = slot
        all_slots = slots_between(schedule, start, now)
        assert len({slot for slot, _ in begun}) == len(begun)  # none doubled
        for slot in all_slots:
            seen = min(moment for moment in looked if moment >= slot)  # the first look after it
            made = [each for each, moment in begun if moment == seen]
            assert len(made) == 1 and made[0] >= slot  # made then, or made up for by a later one at that same look
