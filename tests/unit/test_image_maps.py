"""What maps of two files say together: pure. tests/live holds real ones against bytes."""

from __future__ import annotations

import numpy as np
import pytest

from icecore.images.extents import _EXTENT, Extents, same_places, whole_blocks

KIB = 1024


def extent_map(*found: tuple[int, int, int, int]) -> Extents:
    """Logical, physical, length, flags."""
    rows = np.zeros(len(found), _EXTENT)
    for row, values in zip(rows, found, strict=True):
        row["logical"], row["physical"], row["length"], row["flags"] = values
    return rows


@pytest.mark.parametrize("bit", range(16))
def test_only_plain_written_extents_prove_anything(bit: int) -> None:
    """Each flag of fiemap.h, on either side: but for the last extent's and the shared one's, nothing is sure."""
    plain, flagged = extent_map((0, 4096, 8192, 0)), extent_map((0, 4096, 8192, 1 << bit))
    harmless = 1 << bit in (0x1, 0x2000)
    assert bool(len(same_places(plain, flagged))) == bool(len(same_places(flagged, plain))) == harmless


def test_the_same_place_at_another_offset_is_another_block() -> None:
    one = extent_map((0, 100 * KIB, 64 * KIB, 0), (64 * KIB, 300 * KIB, 64 * KIB, 0))
    moved = extent_map((0, 300 * KIB, 64 * KIB, 0), (64 * KIB, 100 * KIB, 64 * KIB, 0))
    assert not len(same_places(one, moved))
    split = extent_map((0, 100 * KIB, 32 * KIB, 0), (32 * KIB, 132 * KIB, 32 * KIB, 0))
    assert same_places(one, split).tolist() == [[0, 64 * KIB]]


def test_a_block_counts_whole_or_not_at_all() -> None:
    stretches = np.array([[0, 40 * KIB], [64 * KIB, 128 * KIB]])
    assert whole_blocks(stretches, 128 * KIB, 128 * KIB, 32 * KIB).tolist() == [True, False, True, True]
    # the last one is cut off by the end of both, of one, of the other
    assert whole_blocks(stretches, 100 * KIB, 100 * KIB, 32 * KIB).tolist() == [True, False, True, True]
    assert whole_blocks(stretches, 128 * KIB, 100 * KIB, 32 * KIB).tolist() == [True, False, True, False]
    assert whole_blocks(stretches, 100 * KIB, 128 * KIB, 32 * KIB).tolist() == [True, False, True, False]
