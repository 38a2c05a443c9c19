"""Which packs are worth writing anew."""

from __future__ import annotations

import numpy as np
import pytest

from icecore.repository.repacking import Usage, victims

MANY = 1 << 40


def usage(*packs: tuple[int, int]) -> Usage:
    """(stored, needed) of each pack."""
    return Usage(np.array([stored for stored, _ in packs]), np.array([needed for _, needed in packs]))


@pytest.mark.parametrize(
    ("packs", "chosen"),
    [
        ([(100, 100), (100, 90)], []),  # a tenth dead of one
        ([(100, 49), *[(100, 100)] * 9], [0]),  # more than half of one, little of all
        ([(100, 50), *[(100, 100)] * 9], []),  # half is not more than half
        ([(100, 0), (100, 100)], []),  # nothing to move: it simply goes
        ([(100, 70), (100, 60), (100, 80)], [1]),  # 90 of 300 dead; without the emptiest 50 of 260
        ([(100, 70)] * 3, [0, 1]),  # 90 of 300 dead; 30 of 240 is little enough
        ([], []),
    ],
)
def test_a_pack_more_than_half_dead_and_the_emptiest_while_a_fifth_is(
    packs: list[tuple[int, int]], chosen: list[int]
) -> None:
    assert sorted(victims(usage(*packs), MANY)) == chosen


def test_a_run_has_a_limit_and_begins_with_the_emptiest() -> None:
    packs = usage((100, 40), (100, 10), (100, 20))
    assert victims(packs, 30) == [1, 2]
    assert victims(packs, 29) == [1]
    assert victims(packs, 9) == []
