"""The repository's parts on their own: block table, seen ids, file table, sealing, parsers that never trust."""

from __future__ import annotations

import errno
import os
import random
import tracemalloc
from array import array
from collections.abc import Callable, Iterator
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icecore.errors import Damaged, StorageFailed, StorageFull, Usage, WrongKey
from icecore.model import BackupFacts, BackupMode, Boundary, FileKind, FileMeta
from icecore.repository import sealing
from icecore.repository.blocks import COMPRESSED, BlockCodec
from icecore.repository.index import FRESH_LIMIT, BlockTable, SeenIds, decode_index, encode_index
from icecore.repository.manifest import (
    ID_SECTION_BYTES,
    SECTION_FILES_AT_MOST,
    Root,
    StoredFile,
    decode_manifest,
    encode_manifest,
    read_table,
    store_table,
)
from icecore.repository.pack import HEADER_BYTES, MAX_PACK_BYTES, OpenPack, PackTable, check_pack
from icecore.repository.pack import read_table as read_pack_table
from icecore.repository.scratch import WRITE_AT_ONCE, Scratch
from icecore.repository.sealing import KeyFile, Keyring, Passphrase

REPO_ID = "00112233445566778899aabbccddeeff"
RINGS = {"encrypted": Keyring(bytes(range(32)), REPO_ID), "plain": Keyring(None, REPO_ID)}


def table_of(ids: list[bytes], number: int = 0) -> PackTable:
    stored = array("I", [100 + place for place in range(len(ids))])
    plain = array("I", [4096 | COMPRESSED] * len(ids))
    size = HEADER_BYTES + sum(stored) + 40 * len(ids) + 32
    return PackTable(bytes([number]) * 32, bytes([number + 1]) * 32, size, b"".join(ids), stored, plain)


# ---------------------------------------------------------------- index

# Few distinct parts, so that different ids with the same beginning, up to the last byte, are common.
HALF = st.sampled_from([bytes(8), b"\xff" * 8, b"\0" * 7 + b"\1", b"\x80" + bytes(7), b"abcdefgh"])
IDS = st.builds(lambda a, b, c: a + b + a + c, HALF, HALF, HALF)


@given(packs=st.lists(st.lists(IDS, max_size=8), max_size=5), asked=st.lists(IDS, max_size=10))
def test_a_block_table_finds_what_a_dictionary_finds(packs: list[list[bytes]], asked: list[bytes]) -> None:
    tables = [table_of(ids, number) for number, ids in enumerate(packs)]
    expected: dict[bytes, set[tuple[int, int, int, int]]] = {}
    for number, table in enumerate(tables):
        for position, block_id, offset, stored, _ in table.entries():
            expected.setdefault(block_id, set()).add((number, position, offset, stored))
    blocks = BlockTable(tables)
    assert len(blocks) == sum(map(len, packs))
    assert [blocks.pack_of(row) for row in range(len(blocks))] == [n for n, ids in enumerate(packs) for _ in ids]
    assert [list(blocks.rows_in(number)) for number in range(len(packs))] == [
        [row for row in range(len(blocks)) if blocks.pack_of(row) == number] for number in range(len(packs))
    ]
    for block_id in [*asked, *expected]:
        places = [blocks.place(row) for row in blocks.rows(block_id)]
        found = {(place.pack, place.position, place.offset, place.stored) for place in places}
        assert found == expected.get(block_id, set())
        assert all(place.plain_word == 4096 | COMPRESSED for place in places)
    for some in (asked, [block_id for ids in packs for block_id in ids]):
        rows = blocks.rows_of(b"".join(some)).tolist()
        assert all(row in (list(blocks.rows(block_id)) or [-1]) for row, block_id in zip(rows, some, strict=True))
    marks = np.zeros(len(blocks), np.bool_)
    assert blocks.mark(b"".join(asked), marks) == sum(block_id not in expected for block_id in asked)
    assert marks.sum() == sum(len(expected.get(block_id, ())) for block_id in set(asked))
    marked = list(blocks.places(np.flatnonzero(marks)))
    assert blocks.packs_marked(marks).tolist() == [n in {place.pack for place in marked} for n in range(len(packs))]
    assert blocks.stored_by_pack(marks).tolist() == [
        sum(place.stored for place in marked if place.pack == number) for number in range(len(packs))
    ]
    assert blocks.stored_by_pack().tolist() == [sum(table.stored) for table in tables]
    twins = {tuple(rows) for rows in blocks.twins(marks)}
    assert twins == {
        tuple(sorted(blocks.rows(block_id))) for block_id in set(asked) if len(expected.get(block_id, ())) > 1
    }


def test_seen_ids_remember_beyond_their_small_set() -> None:
    chance = random.Random(1)
    ids = [chance.randbytes(32) for _ in range(FRESH_LIMIT * 3 + 10)]
    seen = SeenIds()
    for block_id in ids:
        seen.add(block_id)
    assert len(seen._runs) == 2
    assert all(block_id in seen for block_id in ids[::97])
    assert ids[0] in seen and ids[-1] in seen
    assert not any(chance.randbytes(32) in seen for _ in range(1000))
    assert not any(block_id[:31] + bytes([block_id[31] ^ 1]) in seen for block_id in ids[::97])


def test_a_block_and_an_id_take_few_bytes_of_memory() -> None:
    """Counted by the allocator, so the same everywhere; the scratch file is no memory."""
    chance = np.random.default_rng(1)

    def held_and_peak(work: Callable[[], object]) -> tuple[int, int]:
        tracemalloc.start()
        try:
            held = work()
            found = tracemalloc.get_traced_memory()
            del held
            return found
        finally:
            tracemalloc.stop()

    def packs() -> Iterator[PackTable]:
        lengths = array("I", [50_000]) * 512
        return (PackTable(bytes(32), bytes(32), 0, chance.bytes(512 * 32), lengths, lengths) for _ in range(400))

    held, peak = held_and_peak(lambda: BlockTable(packs()))
    assert held < 400 * 512 * 10 and peak < 400 * 512 * 10 + 8 * WRITE_AT_ONCE, (held, peak)

    def see() -> SeenIds:
        seen = SeenIds()
        for _ in range(FRESH_LIMIT * 4):
            seen.add(chance.bytes(32))
        return seen

    held, peak = held_and_peak(see)
    assert held < FRESH_LIMIT * 4 * 10, held


def test_what_does_not_fit_beside_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = Scratch()
    scratch.append(b"held")
    scratch.flush()
    assert scratch.read(1, 2) == b"el"
    with pytest.raises(StorageFailed, match="cut short"):
        scratch.read(2, 3)
    monkeypatch.setattr(os, "pwrite", lambda *_: _raise(OSError(errno.ENOSPC, "No space left on device")))
    scratch.append(b"more")
    with pytest.raises(StorageFull, match="scratch file in /"):
        scratch.flush()


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("ring", RINGS)
def test_an_index_comes_back_and_its_name_is_its_hash(ring: str) -> None:
    keyring = RINGS[ring]
    tables = [table_of([bytes([n]) * 32 for n in range(count)], count) for count in (3, 0, 5)]
    digest, parts = encode_index(tables, keyring, "pc-1")
    data = b"".join(parts)
    assert decode_index(data, keyring, "pc-1", f"x/{digest}") == tables
    for cluster_id, name in (("pc-2", f"x/{digest}"), ("pc-1", "x/" + "0" * 64)):
        with pytest.raises(Damaged, match="x/"):
            decode_index(data, keyring, cluster_id, name)


def forged_index(body: bytes) -> tuple[bytes, str]:
    """An index that anyone can make for a repository without encryption."""
    from blake3 import blake3

    from icecore.repository.index import INDEX_MAGIC
    from icecore.repository.pack import object_header

    keyring = RINGS["plain"]
    header, salt = object_header(INDEX_MAGIC, keyring)
    data = header + keyring.sealer("index", "pc-1", salt).seal(0, body, header)
    return data, blake3(data).hexdigest()


@settings(max_examples=300)
@given(
    st.binary(max_size=300)
    | st.builds(
        lambda p, n, rest: p.to_bytes(4, "little") + n.to_bytes(4, "little") + rest,
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.binary(max_size=300),
    )
)
def test_a_forged_index_is_refused_or_consistent(body: bytes) -> None:
    data, digest = forged_index(body)
    try:
        tables = decode_index(data, RINGS["plain"], "pc-1", digest)
    except Damaged as error:
        assert error.fields["name"] == digest
    else:
        for table in tables:
            assert all(
                offset >= HEADER_BYTES and offset + stored <= table.size_bytes
                for _, _, offset, stored, _ in table.entries()
            )


def test_an_index_cannot_ask_for_memory_it_does_not_have() -> None:
    huge = [(1).to_bytes(4, "little") + (2**32 - 1).to_bytes(4, "little"), (2**32 - 1).to_bytes(4, "little") + bytes(4)]
    one_pack = bytes(64) + MAX_PACK_BYTES.to_bytes(8, "little") + (2**31).to_bytes(4, "little")
    huge.append((1).to_bytes(4, "little") + (0).to_bytes(4, "little") + one_pack)
    for body in huge:
        data, digest = forged_index(body)
        with pytest.raises(Damaged):
            decode_index(data, RINGS["plain"], "pc-1", digest)


# ---------------------------------------------------------------- packs and blocks


@pytest.mark.parametrize("ring", RINGS)
@given(contents=st.lists(st.binary(min_size=1, max_size=200) | st.just(bytes(4000)), max_size=6))
def test_a_pack_can_be_read_without_its_index(ring: str, contents: list[bytes]) -> None:
    keyring = RINGS[ring]
    codec = BlockCodec(keyring.block_key)
    pack = OpenPack(keyring, "pc-1", memoryview(bytearray(50_000 + OpenPack.table_room())), 50_000)
    for data in contents:
        payload, word = codec.pack(data)
        slot = pack.take(codec.block_id(data), len(payload), word)
        assert slot is not None
        pack.fill(slot, payload, codec.block_id(data), word)
    table, whole = pack.finish()
    assert read_pack_table(whole, keyring, "pc-1", "p") == check_pack(whole, keyring, "pc-1", codec, "p") == table
    assert [block_id for _, block_id, *_ in table.entries()] == [codec.block_id(data) for data in contents]
    assert table.size_bytes == len(whole)


def test_a_full_pack_takes_no_more() -> None:
    pack = OpenPack(RINGS["plain"], "pc-1", memoryview(bytearray(1000 + OpenPack.table_room())), 1000)
    assert pack.take(bytes(32), 1000 - HEADER_BYTES - 16 - 16, 1) is not None
    assert pack.take(bytes(32), 1, 1) is None
    assert pack.take(bytes(32), 0, 1) is not None  # exactly full


def test_R5_a_payload_that_is_another_block_is_refused() -> None:
    codec = BlockCodec(RINGS["plain"].block_key)
    payload, word = codec.pack(bytes(4096))
    assert word == 4096 | COMPRESSED and isinstance(payload, bytes)
    block_id = codec.block_id(bytes(4096))
    assert codec.unpack(payload, word, block_id, "p") == bytes(4096)
    other, _ = codec.pack(bytes(4097))
    bomb, _ = codec.pack(bytes(1 << 30 >> 6))
    for bad, bad_word in (
        (bytes(other), word),
        (payload, word + 1),
        (payload, 4096),
        (payload[:-1], word),
        (b"", word),
        (bytes(bomb), word),
        (bytes(bomb), (1 << 24) | COMPRESSED),
    ):
        with pytest.raises(Damaged, match="p is damaged"):
            codec.unpack(bad, bad_word, block_id, "p")


def test_compression_is_kept_only_where_it_pays() -> None:
    codec = BlockCodec(RINGS["plain"].block_key)
    noise = random.Random(1).randbytes(10_000)
    assert codec.pack(noise) == (noise, 10_000)
    assert codec.pack(noise[:9800] + bytes(200)) == (noise[:9800] + bytes(200), 10_000)  # saves 2 %
    assert codec.pack(noise[:9000] + bytes(1000))[1] == 10_000 | COMPRESSED


# ---------------------------------------------------------------- manifest

METAS = st.builds(
    FileMeta,
    path=st.text(min_size=1, max_size=20),
    kind=st.sampled_from(FileKind),
    mode=st.integers(0, 0o7777),
    mtime_s=st.integers(-(2**40), 2**40),
    size_bytes=st.integers(0, 20_000),
    target=st.text(max_size=5),
)


@given(st.lists(METAS, max_size=12))
def test_a_file_table_comes_back(metas: list[FileMeta]) -> None:
    chance = random.Random(1)
    sections: dict[bytes, bytes] = {}

    def store(section: bytes | memoryview) -> bytes:
        sections[key := len(sections).to_bytes(32, "big")] = bytes(section)
        return key

    counts = [-(-meta.size_bytes // 4096) if meta.kind is FileKind.FILE else 0 for meta in metas]
    files = [StoredFile(meta, chance.randbytes(32 * count)) for meta, count in zip(metas, counts, strict=True)]
    root = store_table(files, 4096, store)
    assert list(read_table(root, 4096, sections.__getitem__, "m")) == files
    # One id more or less anywhere is noticed.
    for section in root.id_sections:
        for changed in (sections[section][32:], sections[section] + bytes(32)):
            with pytest.raises(Damaged, match="m is damaged"):
                list(read_table(root, 4096, lambda key, s=section, c=changed: c if key == s else sections[key], "m"))


def test_sections_of_a_large_unchanged_file_recur_whatever_comes_before_it() -> None:
    large = StoredFile(FileMeta("large", FileKind.FILE, 0, 0, 10_000 * 4096), random.Random(1).randbytes(10_000 * 32))
    stored: list[set[bytes]] = []
    for small in ([], [StoredFile(FileMeta("small", FileKind.FILE, 0, 0, 1), bytes(32))]):
        contents: set[bytes] = set()

        def store(section: bytes | memoryview, contents: set[bytes] = contents) -> bytes:
            contents.add(bytes(section))
            return bytes(32)

        store_table([*small, large], 4096, store)
        stored.append({content for content in contents if len(content) == ID_SECTION_BYTES})
    assert len(stored[0]) == 10_000 * 32 // ID_SECTION_BYTES
    assert stored[0] == stored[1]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(0, 5_999), max_size=4, unique=True), st.integers(0, 3), st.randoms())
def test_a_changed_file_costs_its_own_sections_and_no_others(
    changed: list[int], inserted: int, chance: random.Random
) -> None:
    """Files that came, went or changed anywhere in the table: what lies between two of them is shared."""

    def file(number: int, content: int = 0) -> StoredFile:
        meta = FileMeta(f"base/1/{number:06}", FileKind.FILE, 0o600, 0, 8192)
        return StoredFile(meta, bytes([content]) * 16 + number.to_bytes(48, "big"))

    def sections(files: list[StoredFile]) -> list[bytes]:
        found: list[bytes] = []

        def store(section: bytes | memoryview) -> bytes:
            found.append(bytes(section))
            return bytes(32)

        store_table(files, 4096, store)
        return found

    files = [file(number) for number in range(6_000)]
    before = sections(files)
    for number in changed:
        files[number] = file(number, content=1)
    for _ in range(inserted):
        at = chance.randrange(len(files))
        files[at:at] = [file(1_000_000 + chance.randrange(1_000_000))]
    after = sections(files)
    # each change: its file section, its id sections (of two blocks a file), and at worst the next section's beginning
    longest = SECTION_FILES_AT_MOST * 2 * 32 // ID_SECTION_BYTES
    assert len(set(after) - set(before)) <= (len(changed) + inserted) * 2 * (1 + longest)
    assert len(before) > 6_000 // SECTION_FILES_AT_MOST * 2


def test_a_change_among_many_small_files_costs_two_sections() -> None:
    def sections(metas: list[FileMeta]) -> set[bytes]:
        found: set[bytes] = set()

        def store(section: bytes | memoryview) -> bytes:
            found.add(bytes(section))
            return bytes(32)

        store_table((StoredFile(meta, blake2b(meta.path.encode()).digest()[:32]) for meta in metas), 131_072, store)
        return found

    metas = [FileMeta(f"base/{16384 + n // 900}/{n}", FileKind.FILE, 0o600, 1, 8192) for n in range(50_000)]
    before = sections(metas)
    assert 60 <= len(before) <= 260
    in_front = [FileMeta("base/1/1", FileKind.FILE, 0o600, 1, 8192), *metas]
    # before: the first section of each kind only, or the second as well where the least length moved its end
    assert len(sections(in_front) - before) <= 4
    dropped = metas[:30_000] + metas[30_001:]
    assert len(sections(dropped) - before) <= 4


def facts() -> BackupFacts:
    boundary = Boundary("0/1", "0/2", 1, 1, 2, 3)
    return BackupFacts(
        "7", "pc-1", "c", "u", BackupMode.AUTOMATED, boundary, "postgresql", "15", 1, 1, "0.1", warnings=("w",)
    )


@pytest.mark.parametrize("ring", RINGS)
def test_R8_a_manifest_comes_back_only_under_its_own_name(ring: str) -> None:
    keyring = RINGS[ring]
    root = Root((bytes(32),), (b"\1" * 32, b"\2" * 32), 3, 4)
    data = b"".join(encode_manifest(facts(), root, keyring, "clusters/pc-1/manifests/7"))
    assert decode_manifest(data, keyring, "pc-1", "clusters/pc-1/manifests/7") == (facts(), root)
    for cluster_id, name in (("pc-1", "clusters/pc-1/manifests/8"), ("pc-2", "clusters/pc-2/manifests/7")):
        with pytest.raises(Damaged, match=name):
            decode_manifest(data, keyring, cluster_id, name)


# ---------------------------------------------------------------- sealing


@pytest.mark.parametrize("ring", RINGS)
def test_a_sealed_part_opens_only_where_it_was_sealed(ring: str) -> None:
    keyring = RINGS[ring]
    sealed = keyring.sealer("pack", "pc-1", bytes(32)).seal(3, b"data", b"bound")
    assert keyring.sealer("pack", "pc-1", bytes(32)).open(3, sealed, b"bound", "o") == b"data"
    elsewhere = [
        (keyring.sealer("index", "pc-1", bytes(32)), 3, b"bound"),
        (keyring.sealer("pack", "pc-2", bytes(32)), 3, b"bound"),
        (keyring.sealer("pack", "pc-1", b"\1" * 32), 3, b"bound"),
        (keyring.sealer("pack", "pc-1", bytes(32)), 4, b"bound"),
        (keyring.sealer("pack", "pc-1", bytes(32)), 3, b"bounD"),
        (Keyring(keyring.data_key, "ff" * 16).sealer("pack", "pc-1", bytes(32)), 3, b"bound"),
    ]
    for sealer, position, bound in elsewhere:
        with pytest.raises(Damaged, match="o is damaged"):
            sealer.open(position, sealed, bound, "o")
    for cut in range(len(sealed)):
        with pytest.raises(Damaged):
            keyring.sealer("pack", "pc-1", bytes(32)).open(3, sealed[:cut], b"bound", "o")


def test_a_stored_key_cannot_ask_for_any_amount_of_work() -> None:
    phrase = Passphrase("x", scrypt_n=1024)
    stored = sealing.wrap(bytes(32), phrase, b"repository")
    assert sealing.unwrap(stored, phrase, b"repository") == bytes(32)
    facts = sealing.read_line(stored, "key")
    bad: list[dict[str, object]] = [
        {"n": 1 << 40}, {"n": 1000}, {"n": 1}, {"n": 0}, {"n": -2}, {"n": "1024"}, {"n": True}, {"n": None},
        {"r": 1 << 30}, {"r": 0}, {"p": 1 << 20}, {"p": 0}, {"salt": "zz"}, {"salt": 5}, {"nonce": ""},
        {"wrapped": "00"}, {"kind": "keyfile "}, {"kind": None},
    ]  # fmt: skip
    for change in bad:
        with pytest.raises((Damaged, WrongKey)):
            sealing.unwrap(sealing.checked_line(facts | change), phrase, b"repository")
    for missing in facts:
        left = {name: value for name, value in facts.items() if name != missing}
        with pytest.raises((Damaged, WrongKey)):
            sealing.unwrap(sealing.checked_line(left), phrase, b"repository")
    with pytest.raises(WrongKey):
        sealing.unwrap(stored, phrase, b"another repository")
    with pytest.raises(WrongKey):
        sealing.unwrap(stored, KeyFile(bytes(32)), b"repository")


@given(st.binary(max_size=200))
def test_a_small_object_of_any_bytes_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(Damaged, match="key is damaged"):
        sealing.read_line(data, "key")


def test_deep_json_is_refused_too() -> None:
    from blake3 import blake3

    for line in (b"[" * 100_000, b"[]", b"\xff"):
        with pytest.raises(Damaged):
            sealing.read_line(line + b"\n" + blake3(line).hexdigest().encode() + b"\n", "key")


def test_equal_passphrases_in_two_normal_forms_are_equal() -> None:
    stored = sealing.wrap(b"k" * 32, Passphrase("u\u0308", scrypt_n=16), b"r")
    assert sealing.unwrap(stored, Passphrase("\u00fc"), b"r") == b"k" * 32
    with pytest.raises(Usage):
        Passphrase("")
