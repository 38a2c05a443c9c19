"""Packs of which little is used: which of them are worth writing anew, and their used blocks into new packs.

A block is moved as it was stored: opened, decoded once for proof (R5), sealed for its new place. Nothing is removed
here; that follows when the new packs and the index that names them are durable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icecore import directio
from icecore.errors import Damaged, ObjectMissing
from icecore.repository.blocks import BLOCK_ID_BYTES, BlockCodec
from icecore.repository.index import BlockTable, encode_index
from icecore.repository.layout import ClusterLayout
from icecore.repository.pack import (
    DEFAULT_PACK_BYTES,
    MAX_PACK_BYTES,
    OpenPack,
    PackTable,
    block_bound,
    check_pack,
    read_table,
)
from icecore.repository.reader import BlockSource, get_whole, indexes
from icecore.repository.sealing import Keyring
from icecore.repository.writer import INDEX_AFTER_BLOCKS, INDEX_AFTER_PACKS
from icecore.storage import Storage

DEAD_SHARE_OF_PACK = 0.5  # above it, writing a pack anew frees more than it writes
DEAD_SHARE_OF_ALL = 0.2  # above it, so many more packs are written anew that it is kept
MOVED_BYTES_LIMIT = 4 << 30  # a run's work; the next one goes on


@dataclass(frozen=True)
class Usage:
    """By number of the pack in the ``BlockTable``: bytes of its blocks, and of those that are needed."""

    stored: NDArray[np.int64]
    needed: NDArray[np.int64]

    @classmethod
    def of(cls, blocks: BlockTable, needed: NDArray[np.bool_]) -> Usage:
        return cls(blocks.stored_by_pack(), blocks.stored_by_pack(needed))


def victims(usage: Usage, limit_bytes: int) -> list[int]:
    """Numbers of the used packs to write anew, the emptiest first, moving at most ``limit_bytes``. Pure."""
    used = np.flatnonzero(usage.needed)
    dead = usage.stored[used] - usage.needed[used]
    left_dead, live = int(dead.sum()), int(usage.needed[used].sum())
    chosen, moved = [], 0
    share = dead / usage.stored[used]
    for at in np.argsort(-share, kind="stable"):
        too_many = left_dead > DEAD_SHARE_OF_ALL * (live + left_dead)
        if not dead[at] or not (share[at] > DEAD_SHARE_OF_PACK or too_many):
            break
        moved += int(usage.needed[used[at]])
        if moved > limit_bytes:
            break
        left_dead -= int(dead[at])
        chosen.append(int(used[at]))
    return chosen


def needed_rows(
    blocks: BlockTable,
    marks: NDArray[np.bool_],
    leaving: list[int],
    source: BlockSource,
    storage: Storage,
    keyring: Keyring,
    layout: ClusterLayout,
) -> NDArray[np.bool_]:
    """Of the used rows one for each block: of a block that lies in several packs a copy that decodes, rather not in
    one that is ``leaving``, in the pack of which most is used. Where none does, or it is too much to read, all stay."""
    needed = marks.copy()
    groups = list(blocks.twins(marks))
    if not groups:
        return needed
    # 1 their ids in full, which only indexes and packs have
    places = {row: blocks.place(row) for group in groups for row in group}
    by_pack: dict[bytes, list[tuple[int, int]]] = {}
    for row, place in places.items():
        by_pack.setdefault(blocks.packs[place.pack].pack_id, []).append((row, place.position))
    ids: dict[int, bytes] = {}
    for _, tables in indexes(storage, keyring, layout):
        for table in tables:
            for row, position in by_pack.get(table.pack_id, ()):
                ids[row] = table.ids[position * BLOCK_ID_BYTES : (position + 1) * BLOCK_ID_BYTES]
    # 2 the copy that is kept proves itself before another is called superfluous
    usage = Usage.of(blocks, marks)
    read_bytes = 0
    for group in groups:
        group.sort(
            key=lambda row: (
                places[row].pack in leaving,
                -int(usage.needed[places[row].pack]),
                blocks.packs[places[row].pack].pack_id,
            )
        )
        for row in group:
            place = places[row]
            read_bytes += place.stored
            if read_bytes > MOVED_BYTES_LIMIT:
                return needed
            try:
                pack = blocks.packs[place.pack]
                source.read(pack.pack_id, pack.salt, place, ids[row])
            except Damaged:
                continue
            needed[group] = False
            needed[row] = True
            break
    return needed


class Repacker:
    """New packs being filled. ``move`` for each victim, then ``finish``."""

    def __init__(self, storage: Storage, keyring: Keyring, codec: BlockCodec, layout: ClusterLayout) -> None:
        self._storage, self._keyring, self._codec, self._layout = storage, keyring, codec, layout
        self._buffer = directio.aligned_buffer(DEFAULT_PACK_BYTES + OpenPack.table_room())
        self._pack = self._open()
        self._empty = True
        self._unindexed: list[PackTable] = []

    def move(self, pack_id: bytes, size_bytes: int, positions: set[int]) -> bool:
        """Take the blocks at these positions over. False, and none of them counts, if one does not decode."""
        name = self._layout.pack(pack_id)
        try:
            view = memoryview(get_whole(self._storage, name, size_bytes, MAX_PACK_BYTES))
            blocks = list(self._opened(view, name, positions))
        except (Damaged, ObjectMissing):
            return False
        for block_id, payload, plain_word in blocks:
            self._add(block_id, payload, plain_word)
        return True

    def finish(self) -> None:
        """All that was moved is durable and indexed when this returns."""
        if not self._empty:
            self._store()
        self._write_index()

    def abandon(self) -> None:
        """The storage is full: give back what no index names yet. What one names stays; its blocks are in it twice."""
        for table in self._unindexed:
            self._storage.delete(self._layout.pack(table.pack_id))
        self._unindexed = []

    def _opened(self, view: memoryview, name: str, positions: set[int]) -> Iterator[tuple[bytes, bytes, int]]:
        table = read_table(view, self._keyring, self._layout.cluster_id, name)
        sealer = self._keyring.sealer("pack", self._layout.cluster_id, table.salt)
        for position, block_id, offset, stored, plain_word in table.entries():
            if position in positions:
                sealed = view[offset : offset + stored]
                payload = sealer.open(position, sealed, block_bound(block_id, plain_word), name)
                self._codec.unpack(payload, plain_word, block_id, name)  # R5
                yield block_id, payload, plain_word

    def _open(self) -> OpenPack:
        return OpenPack(self._keyring, self._layout.cluster_id, self._buffer, DEFAULT_PACK_BYTES)

    def _add(self, block_id: bytes, payload: bytes, plain_word: int) -> None:
        slot = self._pack.take(block_id, len(payload), plain_word)
        if slot is None:
            self._store()
            slot = self._pack.take(block_id, len(payload), plain_word)
            assert slot is not None, "a block fits into an empty pack"
        self._pack.fill(slot, payload, block_id, plain_word)
        self._empty = False

    def _store(self) -> None:
        table, whole = self._pack.finish()
        name = self._layout.pack(table.pack_id)
        if check_pack(whole, self._keyring, self._layout.cluster_id, self._codec, name) != table:  # R7
            raise Damaged(name=name, reason="it does not decode to what was written")
        self._storage.put(name, [whole], durable=False)
        self._unindexed.append(table)
        self._pack, self._empty = self._open(), True
        blocks = sum(len(waiting.stored) for waiting in self._unindexed)
        if len(self._unindexed) >= INDEX_AFTER_PACKS or blocks >= INDEX_AFTER_BLOCKS:
            self._write_index()

    def _write_index(self) -> None:
        if not self._unindexed:
            return
        self._storage.barrier()  # R2
        digest, parts = encode_index(self._unindexed, self._keyring, self._layout.cluster_id)
        self._storage.put(self._layout.indexes + digest, parts)  # R3
        self._unindexed = []
