"""Indexes: which block lies where. One index names some packs; all indexes of a cluster together are its table.

::

    header    64   magic "ICEINDX1", repository id 16, salt 32, zeros 8
    body      …    sealed at position 0, bound to the header:
                   packs u32, blocks u32
                   per pack: pack id 32, salt 32, size u64, blocks u32
                   then columns over all blocks, pack after pack: ids 32·n, stored lengths u32·n, plain words u32·n

In memory a block takes 34 bytes: 8 million blocks (1 TB) take 270 MB. Sixteen bytes of the id are kept: ids are
keyed hashes, 8 million of them collide there with a chance of 2^-83, and a reader checks all 32 anyway (R5).
"""

from __future__ import annotations

import itertools
import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from icecore.repository.sealing import SALT_BYTES, TAG_BYTES, Keyring
from icecore.storage import Buffer

INDEX_MAGIC = b"ICEINDX1"
MAX_INDEX_BYTES = 64 << 20
FRESH_LIMIT = 65_536  # ids in a Python set before they move to a sorted array

_COUNTS = struct.Struct("<II")
_PACK = struct.Struct(f"<{BLOCK_ID_BYTES}s{SALT_BYTES}sQI")

U64 = NDArray[np.uint64]
U32 = NDArray[np.uint32]


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


def halves(ids: Buffer) -> tuple[U64, U64]:
    """The first and second eight bytes of each of the concatenated ids, as numbers."""
    columns = np.frombuffer(ids, dtype=">u8").reshape(-1, BLOCK_ID_BYTES // 8)
    return columns[:, 0].astype(np.uint64), columns[:, 1].astype(np.uint64)


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
    """Every block of some packs: sorted columns, 34 bytes a block, no Python object per block. Immutable."""

    def __init__(self, tables: Iterable[PackTable]) -> None:
        self.packs: list[PackFacts] = []
        kinds = (np.uint64, np.uint64, np.uint32, np.uint16, np.uint32, np.uint32, np.uint32)
        # 1 the packs' tables as columns; each grows in one piece, since thousands of small arrays would not be given
        #   back to the system
        columns = [bytearray() for _ in kinds]
        for number, table in enumerate(tables):
            self.packs.append(PackFacts(table.pack_id, table.salt, table.size_bytes))
            stored = np.array(table.stored, np.uint32)
            high, low = halves(table.ids)
            offsets = np.cumsum(stored, dtype=np.uint32) - stored + np.uint32(HEADER_BYTES)
            packs, positions = np.full(len(stored), number, np.uint32), np.arange(len(stored), dtype=np.uint16)
            rows: tuple[NDArray[Any], ...] = (high, low, packs, positions, offsets, stored, np.array(table.plain))
            for grown, part, kind in zip(columns, rows, kinds, strict=True):
                grown += part.astype(kind, copy=False).data
        # 2 sorted by the first half of the id; an unsorted column is let go before the next
        order = np.argsort(np.frombuffer(columns[0], np.uint64), kind="stable")
        joined: list[NDArray[Any]] = []
        for number, kind in enumerate(kinds):
            joined.append(np.frombuffer(columns[number], kind)[order])
            columns[number] = bytearray()
        self.high: U64 = joined[0]
        self.low: U64 = joined[1]
        self.pack: U32 = joined[2]
        self._position, self._offset, self._stored, self._plain = joined[3:]
        self._high_view = memoryview(self.high.data)

    def __len__(self) -> int:
        return len(self.high)

    def rows(self, block_id: bytes) -> Iterator[int]:
        """The rows of a block: none, one, or several if it was stored again after a loss."""
        high, low = int.from_bytes(block_id[:8], "big"), int.from_bytes(block_id[8:16], "big")
        row = bisect_left(self._high_view, high)
        while row < len(self.high) and self._high_view[row] == high:
            if int(self.low[row]) == low:
                yield row
            row += 1

    def first_rows(self, ids: Buffer) -> NDArray[np.int64]:
        """For each of the concatenated ids the first of its rows, or -1."""
        high, low = halves(ids)
        first, last = np.searchsorted(self.high, high, "left"), np.searchsorted(self.high, high, "right")
        found = np.full(len(high), -1, np.int64)
        for step in range(int((last - first).max(initial=0))):
            rows = first + step
            inside = np.flatnonzero((rows < last) & (found < 0))
            same = inside[self.low[rows[inside]] == low[inside]]
            found[same] = rows[same]
        return found

    def place(self, row: int) -> Place:
        return next(self.places(np.array([row])))

    def places(self, rows: NDArray[np.int64]) -> Iterator[Place]:
        columns = (self.pack, self._position, self._offset, self._stored, self._plain)
        return itertools.starmap(Place, zip(*(values[rows].tolist() for values in columns), strict=True))

    def stored_bytes(self, marks: NDArray[np.bool_]) -> int:
        """What the marked rows take in their packs."""
        return int(self._stored[marks].sum(dtype=np.uint64))

    def mark(self, ids: Buffer, marks: NDArray[np.bool_]) -> int:
        """Set ``marks`` at all rows of the concatenated ``ids``; returns how many of the ids have no row."""
        high, low = halves(ids)
        first, last = np.searchsorted(self.high, high, "left"), np.searchsorted(self.high, high, "right")
        found = np.zeros(len(high), np.bool_)
        for step in range(int((last - first).max(initial=0))):
            rows = first + step
            inside = np.flatnonzero(rows < last)
            same = inside[self.low[rows[inside]] == low[inside]]
            marks[rows[same]] = True
            found[same] = True
        return int(len(found) - found.sum())


class SeenIds:
    """A growing set of block ids at 16 bytes each: a small Python set before a few sorted arrays."""

    def __init__(self) -> None:
        self._fresh: set[bytes] = set()
        self._runs: list[tuple[U64, U64, memoryview]] = []

    def __contains__(self, block_id: bytes) -> bool:
        if block_id in self._fresh:
            return True
        if not self._runs:
            return False
        high, low = int.from_bytes(block_id[:8], "big"), int.from_bytes(block_id[8:16], "big")
        for run_high, run_low, view in self._runs:
            row = bisect_left(view, high)
            while row < len(run_high) and view[row] == high:
                if int(run_low[row]) == low:
                    return True
                row += 1
        return False

    def add(self, block_id: bytes) -> None:
        self._fresh.add(block_id)
        if len(self._fresh) >= FRESH_LIMIT:
            high, low = halves(b"".join(self._fresh))
            self._fresh.clear()
            # Runs double in length from the end, so their number is logarithmic.
            while self._runs and len(self._runs[-1][0]) <= len(high):
                older_high, older_low, _ = self._runs.pop()
                high, low = np.concatenate([older_high, high]), np.concatenate([older_low, low])
            order = np.argsort(high, kind="stable")
            high, low = high[order], low[order]
            self._runs.append((high, low, memoryview(high.data)))
