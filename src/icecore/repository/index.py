"""Indexes: which block lies where. One index names some packs; all indexes of a cluster together are its table.

::

    header    64   magic "ICEINDX1", repository id 16, salt 32, zeros 8
    body      …    sealed at position 0, bound to the header:
                   packs u32, blocks u32
                   per pack: pack id 32, salt 32, size u64, blocks u32
                   then columns over all blocks, pack after pack: ids 32·n, stored lengths u32·n, plain words u32·n

In memory a block takes 8 bytes: 16 million blocks (1 TB) take 128 MB. They are the first 4 bytes of its id and a
number; all the rest lies in a scratch file, 44 bytes a block. What begins alike is only a candidate: the whole id
decides.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from icecore.errors import Damaged
from icecore.repository.blocks import BLOCK_ID_BYTES
from icecore.repository.pack import (
    ENTRY_BYTES,
    HEADER_BYTES,
    MAX_ENTRIES,
    MAX_PACK_BYTES,
    TRAILER_BYTES,
    PackTable,
    check_columns,
    column,
    column_bytes,
    object_header,
    read_header,
)
from icecore.repository.scratch import Scratch
from icecore.repository.sealing import SALT_BYTES, TAG_BYTES, Keyring
from icecore.storage import Buffer

INDEX_MAGIC = b"ICEINDX1"
MAX_INDEX_BYTES = 64 << 20
FRESH_LIMIT = 65_536  # ids in a Python set before they move to a sorted array
RUN_LIMIT = 1 << 22  # keys in one sorted array, so that joining two takes 64 MB at most

_COUNTS = struct.Struct("<II")
_PACK = struct.Struct(f"<{BLOCK_ID_BYTES}s{SALT_BYTES}sQI")

_PREFIX_BYTES = 4
_ROW_BITS = np.uint64(32)
_ROW_MASK = np.uint64(0xFFFF_FFFF)
_RECORD = np.dtype([("id", f"V{BLOCK_ID_BYTES}"), ("offset", "<u4"), ("stored", "<u4"), ("plain", "<u4")])
SUM_AT_ONCE = 65_536  # records

U64 = NDArray[np.uint64]


def encode_index(tables: Sequence[PackTable], keyring: Keyring, cluster_id: str) -> tuple[str, list[Buffer]]:
    """Name (hex of the hash) and parts of an index object over ``tables``."""
    header, salt = object_header(INDEX_MAGIC, keyring)
    body = [_COUNTS.pack(len(tables), sum(len(t.stored) for t in tables))]
    body += [_PACK.pack(t.pack_id, t.salt, t.size_bytes, len(t.stored)) for t in tables]
    body += [t.ids for t in tables]
    body += [column_bytes(t.stored) for t in tables]
    body += [column_bytes(t.plain) for t in tables]
    sealed = keyring.sealer("index", cluster_id, salt).seal(0, b"".join(body), header)
    digest = blake3(header)
    digest.update(sealed)
    return digest.hexdigest(), [header, sealed]


def decode_index(data: bytes, keyring: Keyring, cluster_id: str, name: str) -> list[PackTable]:
    """The packs that the index object ``name`` speaks of; ``Damaged(name)`` if a byte of it differs."""
    salt = read_header(data, INDEX_MAGIC, keyring, name)
    if blake3(data).hexdigest() != name.rpartition("/")[2]:
        raise Damaged(name=name, reason="its content does not match its name")
    sealer = keyring.sealer("index", cluster_id, salt)
    body = sealer.open(0, memoryview(data)[HEADER_BYTES:], data[:HEADER_BYTES], name)
    if len(body) < _COUNTS.size:
        raise Damaged(name=name, reason="it is cut short")
    packs, blocks = _COUNTS.unpack_from(body)
    ids_at = _COUNTS.size + packs * _PACK.size
    stored_at, plain_at = ids_at + blocks * BLOCK_ID_BYTES, ids_at + blocks * (BLOCK_ID_BYTES + 4)
    if len(body) != ids_at + blocks * ENTRY_BYTES:
        raise Damaged(name=name, reason="its counts do not match its size")
    tables, done = [], 0
    for number in range(packs):
        pack_id, pack_salt, size_bytes, count = _PACK.unpack_from(body, _COUNTS.size + number * _PACK.size)
        if count > MAX_ENTRIES or count > blocks - done or size_bytes > MAX_PACK_BYTES:
            raise Damaged(name=name, reason="a pack in it is larger than packs are")
        stored = column(body[stored_at + done * 4 : stored_at + (done + count) * 4])
        plain = column(body[plain_at + done * 4 : plain_at + (done + count) * 4])
        ids = body[ids_at + done * BLOCK_ID_BYTES : ids_at + (done + count) * BLOCK_ID_BYTES]
        room = size_bytes - HEADER_BYTES - count * ENTRY_BYTES - TAG_BYTES - TRAILER_BYTES
        check_columns(stored, plain, room, name)
        tables.append(PackTable(pack_id, pack_salt, size_bytes, ids, stored, plain))
        done += count
    if done != blocks:
        raise Damaged(name=name, reason="its packs do not hold all its blocks")
    return tables


def _prefixes(ids: Buffer) -> U64:
    """The beginnings of the concatenated ids, in a key's upper half."""
    beginnings = np.frombuffer(ids, ">u4").reshape(-1, BLOCK_ID_BYTES // _PREFIX_BYTES)[:, 0]
    return beginnings.astype(np.uint64) << _ROW_BITS


def _candidates(keys: memoryview, block_id: bytes) -> Iterator[int]:
    """Rows whose id begins as ``block_id`` does, in order. ``keys``: sorted, prefix then row."""
    prefix = int.from_bytes(block_id[:_PREFIX_BYTES], "big")
    at = bisect_left(keys, prefix << 32)
    while at < len(keys) and keys[at] >> 32 == prefix:
        yield keys[at] & 0xFFFF_FFFF
        at += 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where one block lies. ``pack`` counts in ``BlockTable.packs``."""

    pack: int
    position: int
    offset: int
    stored: int
    plain_word: int


@dataclass(frozen=True, slots=True)
class PackFacts:
    pack_id: bytes
    salt: bytes
    size_bytes: int


class BlockTable:
    """Every block of some packs. Immutable, safe for threads.

    A block is known by its *row*: its number in the packs' order. Sorted keys, 8 bytes each, lead from an id to rows;
    what else there is to know of a row is read from the scratch file.
    """

    def __init__(self, tables: Iterable[PackTable]) -> None:
        self.packs: list[PackFacts] = []
        starts: list[int] = []  # the first row of each pack
        # one piece that grows, since thousands of small arrays would not be given back to the system
        keys, self._records, count = bytearray(), Scratch(), 0
        for table in tables:
            self.packs.append(PackFacts(table.pack_id, table.salt, table.size_bytes))
            starts.append(count)
            records = np.empty(len(table.stored), _RECORD)
            stored = np.array(table.stored, np.uint32)
            records["id"] = np.frombuffer(table.ids, _RECORD["id"])
            records["stored"], records["plain"] = stored, np.array(table.plain, np.uint32)
            records["offset"] = np.cumsum(stored, dtype=np.uint32) - stored + np.uint32(HEADER_BYTES)
            self._records.append(records.tobytes())
            keys += (_prefixes(table.ids) | np.arange(count, count + len(records), dtype=np.uint64)).data
            count += len(records)
        self._records.flush()
        self._keys: U64 = np.frombuffer(keys, np.uint64)
        self._keys.sort()  # where they lie
        self._view = memoryview(self._keys.data)
        self._starts, self._start_list = np.array(starts, np.int64), starts

    def __len__(self) -> int:
        return len(self._keys)

    def rows(self, block_id: bytes) -> Iterator[int]:
        """The rows of a block: none, one, or several if it was stored again after a loss."""
        for row in _candidates(self._view, block_id):
            if self._records.read(row * _RECORD.itemsize, BLOCK_ID_BYTES) == block_id:
                yield row

    def rows_of(self, ids: Buffer) -> NDArray[np.int64]:
        """For each of the concatenated ids one of its rows, or -1."""
        wanted = np.frombuffer(ids, _RECORD["id"])
        found = np.full(len(wanted), -1, np.int64)
        # blocks of a file mostly lie one behind the other: what follows the first one is tried before it is searched
        start = next(self.rows(wanted[0].tobytes()), None) if len(wanted) else None
        if start is not None:
            following = np.arange(start, min(start + len(wanted), len(self)))
            same = np.flatnonzero(self._records.records(following, _RECORD)["id"] == wanted[: len(following)])
            found[same] = following[same]
        left = np.flatnonzero(found < 0)
        for numbers, rows in self._matches(wanted[left]):
            found[left[numbers]] = rows
        return found

    def pack_of(self, row: int) -> int:
        """The pack, counted in ``packs``."""
        return bisect_right(self._start_list, row) - 1

    def packs_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        packs: NDArray[np.int64] = np.searchsorted(self._starts, rows, "right") - 1
        return packs

    def rows_in(self, pack: int) -> range:
        """The rows of a pack, in the order of their positions."""
        last = pack + 1 == len(self._start_list)
        return range(self._start_list[pack], len(self) if last else self._start_list[pack + 1])

    def place(self, row: int) -> Place:
        return next(self.places(np.array([row])))

    def places(self, rows: NDArray[np.int64]) -> Iterator[Place]:
        packs, records = self.packs_of(rows), self._records.records(rows, _RECORD)
        positions = rows - self._starts[packs]
        columns = (packs, positions, records["offset"], records["stored"], records["plain"])
        return map(Place, *(column.tolist() for column in columns))

    def stored_by_pack(self, marks: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Of each pack what its blocks, or the marked ones of them, take in it."""
        totals = np.zeros(len(self.packs), np.int64)
        for start in range(0, len(self), SUM_AT_ONCE):
            records = self._some(start)
            chosen = np.arange(len(records)) if marks is None else np.flatnonzero(marks[start : start + len(records)])
            np.add.at(totals, self.packs_of(chosen + start), records["stored"][chosen])
        return totals

    def packs_marked(self, marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which packs have a marked row."""
        found = np.zeros(len(self.packs), np.bool_)
        for start in range(0, len(self), SUM_AT_ONCE):
            found[self.packs_of(np.flatnonzero(marks[start : start + SUM_AT_ONCE]) + start)] = True
        return found

    def twins(self, marks: NDArray[np.bool_]) -> Iterator[list[int]]:
        """The rows of each block that has several marked ones."""
        alike = np.empty(0, np.int64)
        for start in range(0, len(self) - 1, SUM_AT_ONCE):
            keys = self._keys[start : start + SUM_AT_ONCE + 1]
            alike = np.append(alike, np.flatnonzero((keys[1:] ^ keys[:-1]) <= _ROW_MASK) + start)
        rows = (self._keys[np.unique(np.concatenate([alike, alike + 1]))] & _ROW_MASK).astype(np.int64)
        rows = rows[marks[rows]]
        groups: dict[bytes, list[int]] = {}
        for row, block_id in zip(rows.tolist(), self._records.records(rows, _RECORD)["id"].tolist(), strict=True):
            groups.setdefault(block_id, []).append(row)
        return (sorted(some) for some in groups.values() if len(some) > 1)

    def mark(self, ids: Buffer, marks: NDArray[np.bool_]) -> int:
        """Set ``marks`` at all rows of the concatenated ``ids``; returns how many of the ids have no row."""
        found = np.zeros(len(ids) // BLOCK_ID_BYTES, np.bool_)
        for numbers, rows in self._matches(np.frombuffer(ids, _RECORD["id"])):
            marks[rows] = True
            found[numbers] = True
        return int(len(found) - found.sum())

    def _some(self, start: int) -> NDArray[np.void]:
        count = min(SUM_AT_ONCE, len(self) - start)
        return np.frombuffer(self._records.read(start * _RECORD.itemsize, count * _RECORD.itemsize), _RECORD)

    def _matches(self, wanted: NDArray[np.void]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Which of the ids have which rows: numbers and rows, equally many."""
        prefixes = _prefixes(wanted.tobytes())
        at, numbers = np.searchsorted(self._keys, prefixes), np.arange(len(wanted))
        while True:
            inside = at < len(self._keys)
            inside[inside] = self._keys[at[inside]] & ~_ROW_MASK == prefixes[numbers[inside]]
            at, numbers = at[inside], numbers[inside]
            if not len(numbers):
                return
            rows = (self._keys[at] & _ROW_MASK).astype(np.int64)
            same = self._records.records(rows, _RECORD)["id"] == wanted[numbers]
            yield numbers[same], rows[same]
            at = at + 1


class SeenIds:
    """A growing set of block ids at 8 bytes each: a small Python set before a few sorted arrays of keys. The ids lie in
    a scratch file and are compared whole."""

    def __init__(self) -> None:
        self._fresh: set[bytes] = set()
        self._runs: list[memoryview] = []  # sorted keys; the row is an id's number in the file
        self._ids = Scratch()

    def __contains__(self, block_id: bytes) -> bool:
        if block_id in self._fresh:
            return True
        for run in self._runs:
            for row in _candidates(run, block_id):
                if self._ids.read(row * BLOCK_ID_BYTES, BLOCK_ID_BYTES) == block_id:
                    return True
        return False

    def add(self, block_id: bytes) -> None:
        self._fresh.add(block_id)
        if len(self._fresh) < FRESH_LIMIT:
            return
        ids, count = b"".join(self._fresh), len(self._ids) // BLOCK_ID_BYTES
        self._ids.append(ids)
        self._ids.flush()
        keys = _prefixes(ids) | np.arange(count, count + len(self._fresh), dtype=np.uint64)
        self._fresh.clear()
        # Runs double in length from the end, up to the limit, so their number stays small.
        while self._runs and len(self._runs[-1]) <= len(keys) <= RUN_LIMIT // 2:
            keys = np.concatenate([np.frombuffer(self._runs.pop(), np.uint64), keys])
        keys.sort()
        self._runs.append(memoryview(keys.data))
