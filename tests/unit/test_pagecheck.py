"""The page check: the C form and the NumPy form agree, on made pages and on the ones a server wrote."""

from __future__ import annotations

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icecore.engines.postgresql import pages
from icecore.engines.postgresql.pages import _bad_pages_numpy, _checksums_numpy, bad_pages

PAGE = 8192


def made(seed: int, block: int, *, page_bytes: int = PAGE) -> bytes:
    """A page with a checksum that is right for ``block``."""
    content = bytearray(random.Random(seed).randbytes(page_bytes))
    struct.pack_into("<H", content, 14, 4096)  # pd_upper: not a new page
    return sealed(content, block)


def sealed(content: bytearray, block: int) -> bytes:
    import numpy

    array = numpy.frombuffer(bytes(content), dtype="<u4").reshape(1, -1)
    struct.pack_into("<H", content, 8, int(_checksums_numpy(array, numpy.array([block], dtype=numpy.uint32))[0]))
    return bytes(content)


def both(content: bytes, first_block: int, page_bytes: int = PAGE) -> list[int]:
    numpys = _bad_pages_numpy(memoryview(content), first_block, page_bytes)
    assert bad_pages(content, first_block, page_bytes) == numpys
    return numpys


def test_the_compiled_form_is_in_use_here() -> None:
    assert pages.native(), "build it: python setup.py build_ext --inplace"


def test_right_pages_pass_and_each_wrong_one_is_named() -> None:
    content = bytearray(b"".join(made(n, 700 + n) for n in range(16)))
    assert both(bytes(content), 700) == []
    content[3 * PAGE + 5000] ^= 1
    content[15 * PAGE + 8] ^= 1  # in the checksum itself
    assert both(bytes(content), 700) == [3, 15]


def test_a_page_in_another_place_is_wrong() -> None:
    assert both(made(1, 5), 6) == [0]


def test_a_block_number_counts_across_segments() -> None:
    assert both(made(1, 2 * 131072 + 9), 2 * 131072 + 9) == []


def test_a_new_page_must_be_all_zero() -> None:
    zero = bytes(PAGE)
    assert both(zero, 0) == []
    assert both(zero[:-1] + b"\1", 0) == [0]
    assert both(b"\1" + zero[1:], 0) == [0]


def test_no_pages_and_broken_pages() -> None:
    assert both(b"", 0) == []
    with pytest.raises(ValueError, match="whole pages"):
        bad_pages(b"x" * 100, 0)


@pytest.mark.parametrize("page_bytes", [1024, 4096, 16384, 32768])
def test_other_page_sizes(page_bytes: int) -> None:
    content = made(1, 3, page_bytes=page_bytes) + made(2, 4, page_bytes=page_bytes)
    assert both(content, 3, page_bytes) == []
    assert both(content, 4, page_bytes) == [0, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32 - 40), st.lists(st.integers(0, 9 * PAGE * 8 - 1), max_size=4))
def test_both_forms_agree_on_anything(seed: int, first_block: int, flips: list[int]) -> None:
    chance = random.Random(seed)
    content = bytearray()
    for number in range(9):
        kind = chance.randrange(4)
        content += (
            bytes(PAGE)
            if kind == 0
            else chance.randbytes(PAGE)
            if kind == 1
            else made(seed + number, first_block + number)
        )
    for bit in flips:
        content[bit // 8] ^= 1 << bit % 8
    both(bytes(content), first_block)


def test_any_single_flipped_bit_outside_the_hole_is_found() -> None:
    page = made(7, 42)
    for bit in random.Random(3).sample(range(PAGE * 8), 400):
        if bit // 8 in (14, 15):
            continue  # pd_upper may become 0: another rule, tested above
        damaged = bytearray(page)
        damaged[bit // 8] ^= 1 << bit % 8
        assert both(bytes(damaged), 42) == [0], f"bit {bit}"
