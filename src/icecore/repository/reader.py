"""Reading a backup: find a block, read its range of a pack, prove it.

Exactly the range of each block is read: a restore reads every byte of a backup once, in the order in which it was
written, and keeps nothing. On a local disk the kernel reads ahead.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import numpy as np

from icecore.binding import Part
from icecore.errors import Damaged, ObjectMissing, StorageFailed
from icecore.laps import lap
from icecore.model import BackupFacts
from icecore.repository.blocks import BLOCK_ID_BYTES, BlockCodec
from icecore.repository.index import MAX_INDEX_BYTES, BlockTable, Place, decode_index
from icecore.repository.layout import ClusterLayout, below
from icecore.repository.manifest import Root, StoredFile, read_table
from icecore.repository.pack import MAX_PACK_BYTES, PackTable, block_bound
from icecore.repository.pack import read_table as read_pack_table
from icecore.repository.sealing import Keyring, Sealer
from icecore.storage import Buffer, Storage

BLOCKS_AT_ONCE = 64  # 8 MiB a thread at the default block size


def get_whole(storage: Storage, name: str, size_bytes: int, limit_bytes: int) -> bytes:
    """An object that a listing or a manifest speaks of: its absence or size is damage."""
    if size_bytes > limit_bytes:
        raise Damaged(name=name, reason=f"it has {size_bytes} bytes, more than such an object can have")
    try:
        return storage.get(name)
    except ObjectMissing as error:
        raise Damaged(name=name, reason="it is missing") from error


def indexes(
    storage: Storage, keyring: Keyring, layout: ClusterLayout, damaged: list[Damaged] | None = None
) -> Iterator[tuple[str, list[PackTable]]]:
    """A cluster's indexes, name and content, one in memory at a time. With ``damaged``, unreadable ones are put there
    instead of raised. One that a collection removes meanwhile is missed, but not what it said of packs that stay."""
    done: set[str] = set()
    vanished: set[str] = set()
    again = True
    while again:
        again = False
        for _, found in below(storage, layout.indexes):
            if found.name in done:
                continue
            try:
                data = get_whole(storage, found.name, found.size_bytes, MAX_INDEX_BYTES)
                tables = decode_index(data, keyring, layout.cluster_id, found.name)
            except Damaged as error:
                if isinstance(error.__cause__, ObjectMissing) and found.name not in vanished:
                    vanished.add(found.name)  # then the listing that follows has what came in its place
                    again = True
                    continue
                done.add(found.name)
                if damaged is None:
                    raise
                damaged.append(error)
                continue
            done.add(found.name)
            yield found.name, tables


def unindexed_packs(
    storage: Storage, keyring: Keyring, layout: ClusterLayout, known: set[bytes]
) -> Iterator[PackTable]:
    """Tables of packs that no readable index names, from the packs themselves. Unreadable ones are passed over."""
    names = {pack_id.hex() for pack_id in known}
    for last, found in below(storage, layout.packs):
        if last in names:
            continue
        try:
            data = get_whole(storage, found.name, found.size_bytes, MAX_PACK_BYTES)
            table = read_pack_table(data, keyring, layout.cluster_id, found.name)
        except Damaged:
            continue  # torn by a crash before an index named it (R2)
        if table.pack_id.hex() == last:
            yield table


class BlockSource:
    """Blocks of a cluster by place. Safe for threads."""

    def __init__(self, storage: Storage, keyring: Keyring, codec: BlockCodec, layout: ClusterLayout) -> None:
        self._storage, self._keyring, self._codec, self._layout = storage, keyring, codec, layout
        self._sealers: dict[bytes, Sealer] = {}

    def read(self, pack_id: bytes, salt: bytes, place: Place, block_id: bytes) -> bytes:
        """The block, proven (R5); ``Damaged`` naming the pack otherwise."""
        return self.read_some(pack_id, salt, [(place, block_id)])[0]

    def read_some(self, pack_id: bytes, salt: bytes, wanted: Sequence[tuple[Place, bytes]]) -> list[bytes]:
        """The same for several blocks of one pack, which is opened once."""
        name = self._layout.pack(pack_id)
        sealer = self._sealers.get(salt)
        if sealer is None:
            sealer = self._sealers[salt] = self._keyring.sealer("pack", self._layout.cluster_id, salt)
        try:
            parts = self._storage.get_ranges(name, [(place.offset, place.stored) for place, _ in wanted])
        except ObjectMissing as error:
            raise Damaged(name=name, reason="it is missing") from error
        lap(Part.READ)
        blocks = []
        for (place, block_id), sealed in zip(wanted, parts, strict=True):
            payload = sealer.open(place.position, sealed, block_bound(block_id, place.plain_word), name)
            blocks.append(self._codec.unpack(payload, place.plain_word, block_id, name))  # R5
        lap(Part.CPU)
        return blocks


class Reader:
    """One backup. ``block`` may be called from several threads."""

    def __init__(
        self,
        storage: Storage,
        keyring: Keyring,
        codec: BlockCodec,
        layout: ClusterLayout,
        facts: BackupFacts,
        root: Root,
        block_bytes: int,
        table: BlockTable | None = None,
    ) -> None:
        """``table``: the cluster's, where the caller has it; else it is loaded when first needed."""
        self.facts, self.block_bytes = facts, block_bytes
        self._root, self._storage, self._keyring, self._layout = root, storage, keyring, layout
        self._codec = codec
        self._source = BlockSource(storage, keyring, codec, layout)
        self._loading = threading.Lock()
        self._loaded = table
        self._loaded_from: set[str] = set()  # names of indexes
        self._searched_packs = False

    def files(self) -> Iterator[StoredFile]:
        """Every file of the backup in the order it was stored; holds one section of the table at a time."""
        return read_table(self._root, self.block_bytes, self.block, self._layout.manifest(self.facts.backup_id))

    def blocks(self, ids: bytes) -> Iterator[bytes]:
        """The blocks with the concatenated ``ids``, in order, each proven like ``block``'s; holds a few of them."""
        for at in range(0, len(ids), BLOCKS_AT_ONCE * BLOCK_ID_BYTES):
            yield from self._some(ids[at : at + BLOCKS_AT_ONCE * BLOCK_ID_BYTES])

    def _some(self, ids: bytes) -> list[bytes]:
        table = self._table()
        wanted = [ids[at : at + BLOCK_ID_BYTES] for at in range(0, len(ids), BLOCK_ID_BYTES)]
        # 1 a place of each, pack by pack
        rows = table.rows_of(ids)
        known = np.flatnonzero(rows >= 0)
        in_packs: dict[int, list[tuple[int, Place]]] = {}
        for number, place in zip(known.tolist(), table.places(rows[known]), strict=True):
            in_packs.setdefault(place.pack, []).append((number, place))
        found: dict[int, bytes] = {}
        for pack_number, some in in_packs.items():
            pack = table.packs[pack_number]
            # a fault is looked at block by block, below
            with suppress(Damaged, StorageFailed):
                blocks = self._source.read_some(pack.pack_id, pack.salt, [(place, wanted[n]) for n, place in some])
                found.update(zip((number for number, _ in some), blocks, strict=True))
        # 2 the others one by one: wherever else they lie
        return [found[number] if number in found else self.block(each) for number, each in enumerate(wanted)]

    def block(self, block_id: bytes) -> bytes:
        """The bytes with this id, proven (R5), or ``Damaged``."""
        table: BlockTable | None = self._table()
        failure: StorageFailed | Damaged = Damaged(
            name=self._layout.manifest(self.facts.backup_id), reason=f"no pack holds its block {block_id.hex()[:16]}"
        )
        while table is not None:
            rows = list(table.rows(block_id))
            moved = not rows
            for row in rows:
                place = table.place(row)
                pack = table.packs[place.pack]
                try:
                    return self._source.read(pack.pack_id, pack.salt, place, block_id)
                except (Damaged, StorageFailed) as error:
                    failure = error  # a block that was stored again after a loss lies in another pack too
                    moved |= isinstance(error.__cause__, ObjectMissing)
            # A collection may have moved it since; and where no index names it, the packs say what they hold
            newer = self._newer_table(table) if moved else None
            table = newer if newer is not None or rows else self._table_from_packs(table)
        raise failure

    def is_block(self, data: Buffer, block_id: bytes) -> bool:
        """Whether ``data`` are the bytes with this id."""
        return self._codec.block_id(data) == block_id

    def stored_bytes(self, id_runs: Iterable[bytes] | None = None) -> int:
        """What blocks take in the packs, each once: this backup's, or those with the concatenated ids of the runs."""
        table = self._table()
        marks = np.zeros(len(table), np.bool_)
        for ids in self.id_runs() if id_runs is None else id_runs:
            table.mark(ids, marks)
        return int(table.stored_by_pack(marks).sum())

    def id_runs(self) -> Iterator[bytes]:
        """All block ids the backup refers to, in concatenated runs: the sections' own, then those of the files."""
        yield b"".join((*self._root.file_sections, *self._root.id_sections))
        for section in self._root.id_sections:
            ids = self.block(section)
            if len(ids) % BLOCK_ID_BYTES:
                raise Damaged(name=self._layout.manifest(self.facts.backup_id), reason="an id section is malformed")
            yield ids

    def _table(self) -> BlockTable:
        with self._loading:
            if self._loaded is None:
                self._loaded = BlockTable(self._indexed())
            return self._loaded

    def _newer_table(self, failed: BlockTable) -> BlockTable | None:
        """The table, if the indexes are others than when ``failed`` was loaded."""
        with self._loading:
            if self._loaded is not failed:
                return self._loaded
            if {found.name for _, found in below(self._storage, self._layout.indexes)} == self._loaded_from:
                return None
            self._searched_packs = False
            self._loaded = BlockTable(self._indexed())
            return self._loaded

    def _table_from_packs(self, failed: BlockTable) -> BlockTable | None:
        """The table of all packs, unless that is what ``failed`` is."""
        with self._loading:
            if self._searched_packs:
                return self._loaded if self._loaded is not failed else None
            self._loaded = BlockTable(self._indexed_and_found())
            self._searched_packs = True
            return self._loaded

    def _indexed(self) -> Iterator[PackTable]:
        damaged: list[Damaged] = []
        names = set()
        for name, tables in indexes(self._storage, self._keyring, self._layout, damaged=damaged):
            names.add(name)
            yield from tables
        self._loaded_from = names | {str(error.fields["name"]) for error in damaged}

    def _indexed_and_found(self) -> Iterator[PackTable]:
        known = set()
        for table in self._indexed():
            known.add(table.pack_id)
            yield table
        yield from unindexed_packs(self._storage, self._keyring, self._layout, known)
