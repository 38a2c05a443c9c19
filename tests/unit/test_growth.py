"""How fast the repository grows and when its place is full."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from icecore.api.operations.growth import DAY_S, HORIZON_S, bytes_per_day, full_at

NOW = 1_795_500_000


def daily(*sizes: int) -> list[tuple[int, int]]:
    return [(NOW + n * DAY_S, size) for n, size in enumerate(sizes)]


def test_two_days_of_history_are_needed() -> None:
    assert bytes_per_day([]) is None
    assert bytes_per_day(daily(5)) is None
    assert bytes_per_day(daily(5, 9)) is None
    assert bytes_per_day([(NOW, 5), (NOW + 2 * DAY_S - 1, 9)]) is None
    assert bytes_per_day(daily(5, 7, 9)) == 2


def test_one_odd_day_does_not_make_the_pace() -> None:
    steady = daily(*range(0, 3000, 100))
    assert bytes_per_day(steady) == 100
    odd = [(at, size + (5000 if n == 15 else 0)) for n, (at, size) in enumerate(steady)]
    assert 90 <= (bytes_per_day(odd) or 0) <= 120


def test_what_is_older_than_a_month_does_not_count() -> None:
    assert bytes_per_day(daily(*range(0, 10_000, 1000), *[9000] * 60)) == 0
    # days on which nobody looked are no days of no growth
    assert bytes_per_day([(NOW, 0), (NOW + 10 * DAY_S, 1000), (NOW + 20 * DAY_S, 2000)]) == 100


@given(
    st.integers(-(10**12), 10**12),
    st.integers(0, 10**15),
    st.lists(st.integers(0, 29 * DAY_S), min_size=2, max_size=30, unique=True).filter(
        lambda each: max(each) - min(each) >= 2 * DAY_S
    ),
)
def test_a_straight_line_gives_its_own_slope(per_day: int, start: int, offsets: list[int]) -> None:
    """Exactly, but for the bytes that a size rounds away."""
    seen = [(NOW + at, start + per_day * at // DAY_S) for at in sorted(offsets)]
    found = bytes_per_day(seen)
    assert found is not None and abs(found - per_day) <= 1


def test_when_it_is_full() -> None:
    assert full_at(NOW, 1000, 100) == NOW + 10 * DAY_S
    assert full_at(NOW, 0, 100) == NOW
    for per_day in (None, 0, -5):
        assert full_at(NOW, 1000, per_day) is None
    assert full_at(NOW, 3650, 1) == NOW + HORIZON_S
    assert full_at(NOW, 3651, 1) is None  # also no date beyond what a time can say
    assert full_at(NOW, 10**30, 1) is None
