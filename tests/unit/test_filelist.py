"""The list of a backup's files outside of memory, and the seals of an image's: what goes in comes out, or nothing."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icecore.images.extents import Seal
from icecore.images.seals import NewSeals, Seals
from icecore.model import FileKind, FileMeta
from icecore.repository import FileList, StoredFile
from icecore.repository.filelist import READ_AT_ONCE

# surrogates stand for bytes that are not UTF-8
TEXT = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=30)
FILES = st.builds(
    StoredFile,
    st.builds(
        FileMeta,
        TEXT,
        st.sampled_from(FileKind),
        st.integers(0, 0o7777),
        st.integers(-(2**60), 2**60),
        st.integers(0, 2**60),
        TEXT,
    ),
    st.integers(0, 3).map(lambda count: bytes(32 * count)),
)


@settings(deadline=None)
@given(st.lists(FILES, max_size=30, unique_by=lambda file: file.meta.path), TEXT)
def test_files_come_back_in_order_and_by_path(files: list[StoredFile], other: str) -> None:
    listed = FileList()
    for file in files:
        listed.append(file)
    assert list(listed) == files == list(listed)
    assert len(listed) == len(files) and listed.size_bytes == sum(file.meta.size_bytes for file in files)
    assert [listed.find(file.meta.path) for file in files] == files
    assert (listed.find(other) is None) == (other not in {file.meta.path for file in files})


def test_records_longer_than_what_is_read_at_once_and_a_list_that_grows_on() -> None:
    chance = random.Random(1)
    files = []
    listed = FileList()
    for number, size in enumerate((0, READ_AT_ONCE - 100, READ_AT_ONCE, 3 * READ_AT_ONCE + 32, 32, 0)):
        files.append(StoredFile(FileMeta(f"base/{number}", FileKind.FILE, 0o600, 0, size), chance.randbytes(size)))
        listed.append(files[-1])
        assert list(listed) == files and listed.find(f"base/{number}") == files[-1]


def test_a_listed_file_takes_no_memory() -> None:
    """Counted by the allocator: a StoredFile took 377 bytes."""
    tracemalloc.start()
    try:
        listed = FileList()
        for number in range(40_000):
            meta = FileMeta(f"base/{16384 + number // 300}/{20_000 + number}", FileKind.FILE, 0o600, 0, 8192)
            listed.append(StoredFile(meta, bytes(32)))
        assert sum(1 for _ in listed) == 40_000
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4_000_000 and held < 1_500_000, (held, peak)  # what is written and read at once


# ---------------------------------------------------------------- seals

SEALS = st.builds(Seal, st.just(7), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**62))


def encoded(seals: dict[str, Seal], job_uuid: str = "uuid-1") -> bytes:
    new = NewSeals()
    for path, seal in seals.items():
        new.add(path, seal)
    return b"".join(new.encoded(7, job_uuid))


@settings(deadline=None)
@given(st.dictionaries(TEXT, SEALS, max_size=20), TEXT)
def test_seals_come_back_by_path(seals: dict[str, Seal], other: str) -> None:
    kept = Seals(encoded(seals))
    assert kept.job_uuid == "uuid-1" and len(kept) == len(seals)
    assert {path: kept.find(path) for path in seals} == seals
    assert kept.find(other) == seals.get(other)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_a_seal_file_that_is_not_as_it_was_written_vouches_for_nothing(data: st.DataObject) -> None:
    whole = encoded({f"base/{number}": Seal(7, number, number, number) for number in range(20)})
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    for broken in (bytes(changed), whole[:at], whole + whole[:at] + b"x"):
        with pytest.raises(ValueError):
            Seals(broken)


def test_a_seal_of_the_format_before_vouches_for_nothing() -> None:
    for old in (b"", b'{"device": 7, "files": {"base/1": [1, 2, 300000]}}', b'{"job": "u", "device": 7, "files": {}}'):
        with pytest.raises(ValueError):
            Seals(old)


def test_a_seal_takes_few_bytes_of_memory() -> None:
    new = NewSeals()
    for number in range(20_000):
        new.add(f"base/16384/{number}", Seal(7, number, number, number))
    data = b"".join(new.encoded(7, "uuid"))
    tracemalloc.start()
    try:
        seals = Seals(data)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(seals) == 20_000 and held < 20_000 * 36 and peak < 20_000 * 50, (held, peak)
