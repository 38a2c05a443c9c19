"""Writing a backup: blocks into packs from several threads, then index, then the manifest, in the order of the laws.

Several threads call ``add_blocks``. Each hashes, compresses and seals its own blocks, straight into their places in the
pack's buffer; the lock is held only to give out places. Whoever fills the last place of a full pack stores it.
Three pack buffers go round, so a writer's memory is bounded (about 100 MB and the index) and a slow storage slows the
threads down.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from icecore import directio
from icecore.binding import Part
from icecore.errors import Damaged, ObjectExists, ObjectMissing
from icecore.laps import lap
from icecore.model import BackupFacts
from icecore.repository.blocks import BLOCK_ID_BYTES, BlockCodec
from icecore.repository.fencing import condemned_packs
from icecore.repository.index import BlockTable, Place, SeenIds, decode_index, encode_index
from icecore.repository.layout import ClusterLayout, below
from icecore.repository.manifest import StoredFile, decode_manifest, encode_manifest, store_table
from icecore.repository.pack import DEFAULT_PACK_BYTES, OpenPack, PackTable, Slot, check_pack
from icecore.repository.reader import BlockSource, indexes
from icecore.repository.sealing import Keyring
from icecore.storage import Buffer, Lease, Storage

PACK_BUFFERS = 3  # one filling, one being stored, one so that neither waits; 33 MB each
INDEX_AFTER_PACKS = 32  # 1 GiB stored: what a crash makes the rerun store again
INDEX_AFTER_BLOCKS = 131_072
CHECK_SAMPLE = 64  # blocks read back from storage, of the adopted and of the new ones each


class Writer:
    """The one writer of a cluster while its lease is held. Not reusable after ``commit`` or a failure."""

    def __init__(
        self,
        storage: Storage,
        keyring: Keyring,
        codec: BlockCodec,
        layout: ClusterLayout,
        lease: Lease,
        block_bytes: int,
        pack_bytes: int = DEFAULT_PACK_BYTES,
    ) -> None:
        self.block_bytes = block_bytes
        self.new_bytes = 0  # stored so far, packs and indexes
        self.adopted_blocks = 0
        self._storage, self._keyring, self._codec, self._layout, self._lease = storage, keyring, codec, layout, lease
        self._pack_bytes = pack_bytes
        self._changed = threading.Condition()
        self._indexing = threading.Lock()
        self._failure: BaseException | None = None
        # blocks of this session
        self._seen = SeenIds()
        self._pack: OpenPack | None = None
        self._free_buffers: list[memoryview | None] = [None] * PACK_BUFFERS  # made when first used
        self._putting = 0  # packs on their way into storage right now
        self._unindexed: list[PackTable] = []
        self._new_packs: dict[bytes, int] = {}  # pack id -> size
        self._new_sample: list[tuple[bytes, bytes, Place, bytes]] = []  # pack id, salt, place, block id
        # blocks of earlier sessions
        self._source = BlockSource(storage, keyring, codec, layout)
        self._distrusted: set[int] = set()  # rows of table sections that no longer decode
        self._known = self._load_known()
        self._adopted_packs = bytearray(len(self._known.packs))
        self._adopted_sample: list[tuple[int, bytes]] = []  # row, block id
        self._adopted_total = 0
        self._chance = np.random.default_rng()

    @property
    def known(self) -> BlockTable:
        """The blocks of earlier sessions that are there in full."""
        return self._known

    # ------------------------------------------------------------ blocks

    def add_block(self, data: Buffer) -> bytes:
        """One block's id; see ``add_blocks``."""
        if not 0 < memoryview(data).nbytes <= self.block_bytes:
            raise ValueError(f"a block has 1 to {self.block_bytes} bytes, not {memoryview(data).nbytes}")
        return self.add_blocks(data)

    def add_blocks(self, data: Buffer) -> bytes:
        """The concatenated ids of the blocks that ``data`` is cut into; when this returns, ``data`` may be reused. From
        any thread, until ``finish_blocks``. Some at once cost less than one after the other: looked up together, and
        given their places together."""
        view = memoryview(data).cast("B")
        blocks = [view[at : at + self.block_bytes] for at in range(0, len(view), self.block_bytes)]
        ids = [self._codec.block_id(block) for block in blocks]
        joined = b"".join(ids)
        found = self.adopt(joined).tolist()
        with self._changed:
            new = [number for number, known in enumerate(found) if not known and self._is_first(ids[number])]
            self.adopted_blocks += found.count(False) - len(new)
        self._store([(ids[number], blocks[number]) for number in new])
        return joined

    def adopt(self, ids: Buffer) -> NDArray[np.bool_]:
        """For each of the concatenated ids of an earlier backup: True where its block is there, and from now on
        relied on; the others must be added. From any thread, until ``finish_blocks``."""
        if len(ids) == BLOCK_ID_BYTES:  # a small file's: without arrays
            with self._changed:
                self._raise_failure()
                found_one = self._known_block(bytes(ids))
                self.adopted_blocks += found_one
            return np.array([found_one])
        rows = self._known.rows_of(ids)
        found = rows >= 0
        rows = rows[found]
        if not len(rows):
            return found
        with self._changed:
            self._raise_failure()
            np.frombuffer(self._adopted_packs, np.uint8)[self._known.packs_of(rows)] = 1
            self._sample_adopted(rows, np.frombuffer(ids, "V32")[found])
            self.adopted_blocks += len(rows)
        return found

    def finish_blocks(self) -> None:
        """Everything added is durable and indexed when this returns. No ``add_block`` may be under way."""
        # 1 the last pack
        with self._changed:
            self._raise_failure()
            pack, self._pack = self._pack, None
            if pack is not None and pack.pending:
                raise RuntimeError("finish_blocks while a block is being added")
        if pack is not None:
            self._guarded_store_pack(pack)
        # 2 barrier, then the index that names the new packs
        self._write_index()

    def check(self) -> None:
        """R7's second half. Every new pack was decoded from its buffer before it got its name: that finds faults of
        compression, encryption and memory. To read all of it back would take as long as to write it, so here only
        sizes are compared for all, and a sample is read through storage, past the page cache or not: blocks of earlier
        sessions that this one relies on (a pack may have gone or rotted since), and some of the new ones.
        """
        self._raise_failure()
        # 1 every pack relied on exists with its right size
        sizes = {last: found.size_bytes for last, found in below(self._storage, self._layout.packs)}
        relied_on = dict(self._new_packs)
        relied_on |= {
            p.pack_id: p.size_bytes for p, used in zip(self._known.packs, self._adopted_packs, strict=True) if used
        }
        for pack_id, size_bytes in relied_on.items():
            if sizes.get(pack_id.hex()) != size_bytes:
                raise Damaged(name=self._layout.pack(pack_id), reason="it is missing or has another size")
        # 2 a sample of blocks decodes
        for pack_id, salt, place, block_id in self._new_sample:
            self._source.read(pack_id, salt, place, block_id)
        for row, block_id in self._adopted_sample:
            place = self._known.place(row)
            pack = self._known.packs[place.pack]
            self._source.read(pack.pack_id, pack.salt, place, block_id)

    # ------------------------------------------------------------ the backup

    def commit(self, facts: BackupFacts, files: Iterable[StoredFile]) -> None:
        """Make the backup exist. ``ObjectExists`` if its id was ever used, ``LeaseHeld`` if the lease was lost."""
        if facts.cluster_id != self._layout.cluster_id:
            raise ValueError(f"facts of cluster {facts.cluster_id!r} given to a writer of {self._layout.cluster_id!r}")
        name = self._layout.manifest(facts.backup_id)
        # 1 an id is used once, also when its backup was deleted
        for taken in (name, self._layout.gone(facts.backup_id)):
            if exists(self._storage, taken):
                raise ObjectExists(name=name)
        # 2 the file table, as blocks
        root = store_table(files, self.block_bytes, self._store_section)
        # 3 all packs durable, then their index durable
        self.finish_blocks()
        # 4 the manifest decodes to what it was made from
        parts = encode_manifest(facts, root, self._keyring, name)
        if decode_manifest(b"".join(parts), self._keyring, facts.cluster_id, name) != (facts, root):  # R7
            raise Damaged(name=name, reason="it does not decode to what was written")
        # 5 a mark that outlives it, for collection to count by; durable before we ask whether we are still the newest
        put_once(self._storage, self._layout.made(facts.backup_id))  # R6
        # 6 still ours; then, last of all, the manifest: its name is taken if a collection gave it up
        self._lease.confirm()
        self._storage.put(name, parts)  # R4

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._failure = self._failure or RuntimeError("the writer was closed")
            self._changed.notify_all()
        self._lease.__exit__(kind, error, trace)

    # ------------------------------------------------------------ inside

    def _load_known(self) -> BlockTable:
        """Blocks that may be adopted: those whose pack is there in full and is not condemned. What an unreadable index
        named is stored again, which brings damaged repositories back to health."""
        try:
            condemned = set().union(*condemned_packs(self._storage, self._layout).values())
        except Damaged:
            return BlockTable(())  # any pack may go
        sizes = {last: found.size_bytes for last, found in below(self._storage, self._layout.packs)}
        for last in condemned:
            sizes.pop(last, None)  # R6
        found = indexes(self._storage, self._keyring, self._layout, damaged=[])
        tables = (table for _, some in found for table in some)
        return BlockTable(table for table in tables if sizes.get(table.pack_id.hex()) == table.size_bytes)

    def _is_first(self, block_id: bytes) -> bool:
        """Whether nobody has met this block in this session; from now on somebody has."""
        self._raise_failure()
        if block_id in self._seen:
            return False
        self._seen.add(block_id)
        return True

    def _store(self, blocks: Sequence[tuple[bytes, Buffer]]) -> None:
        """Blocks with their ids: compressed, sealed, in a pack."""
        try:
            packed = deque((block_id, *self._codec.pack(block)) for block_id, block in blocks)
            while packed:
                pack, slots = self._take(packed)
                for slot in slots:
                    block_id, payload, plain_word = packed.popleft()
                    pack.fill(slot, payload, block_id, plain_word)
                with self._changed:
                    pack.pending -= len(slots)
                    last = pack.closed and not pack.pending
                if last:
                    self._store_pack(pack)
        except BaseException as error:
            self._fail(error)
            raise

    def _store_section(self, section: Buffer) -> bytes:
        """Like ``_store``, but an earlier copy is adopted only if it still decodes: without its table a backup is
        nothing, and there is one section for thousands of blocks."""
        view = memoryview(section)
        block_id = self._codec.block_id(view)
        for row in self._known.rows(block_id):
            place = self._known.place(row)
            pack = self._known.packs[place.pack]
            try:
                self._source.read(pack.pack_id, pack.salt, place, block_id)  # R7
            except Damaged:
                self._distrusted.add(row)
        with self._changed:
            first = not self._known_block(block_id) and self._is_first(block_id)
        if first:
            self._store([(block_id, view)])
        return block_id

    def _known_block(self, block_id: bytes) -> bool:
        for row in self._known.rows(block_id):
            if row in self._distrusted:
                continue
            self._adopted_packs[self._known.pack_of(row)] = 1
            # Reservoir sampling: every adopted block has the same chance to be looked at by check().
            self._adopted_total += 1
            if len(self._adopted_sample) < CHECK_SAMPLE:
                self._adopted_sample.append((row, block_id))
            elif (chosen := random.randrange(self._adopted_total)) < CHECK_SAMPLE:
                self._adopted_sample[chosen] = (row, block_id)
            return True
        return False

    def _sample_adopted(self, rows: NDArray[np.int64], ids: NDArray[np.void]) -> None:
        """The same reservoir for many at once: few draws hit it."""
        totals = self._adopted_total + np.arange(1, len(rows) + 1)
        self._adopted_total += len(rows)
        draws = (self._chance.random(len(rows)) * totals).astype(np.int64)
        draws[totals <= CHECK_SAMPLE] = totals[totals <= CHECK_SAMPLE] - 1
        for at in np.flatnonzero(draws < CHECK_SAMPLE):
            entry = (int(rows[at]), bytes(ids[at]))
            if draws[at] < len(self._adopted_sample):
                self._adopted_sample[int(draws[at])] = entry
            else:
                self._adopted_sample.append(entry)

    def _take(self, packed: Iterable[tuple[bytes, Buffer, int]]) -> tuple[OpenPack, list[Slot]]:
        """Places in one pack for the first of the blocks, as many as it has room for; stores the full one or waits for
        a buffer where there is none."""
        while True:
            full = None
            with self._changed:
                self._raise_failure()
                if self._pack is not None:
                    slots = self._pack.take_some(packed)
                    if slots:
                        return self._pack, slots
                    full, self._pack = self._pack, None
                    full.closed = True
                    if full.pending:
                        full = None  # whoever fills its last place stores it
                elif self._free_buffers:
                    buffer = self._free_buffers.pop()
                    if buffer is None:
                        # Pages that a small backup never touches cost nothing.
                        buffer = directio.aligned_buffer(self._pack_bytes + OpenPack.table_room())
                    self._pack = OpenPack(self._keyring, self._layout.cluster_id, buffer, self._pack_bytes)
                else:
                    # whatever keeps those who have the buffers
                    waiting_for = Part.WRITE if self._putting else Part.CPU
                    lap(Part.CPU)
                    self._changed.wait()
                    lap(waiting_for)
            if full is not None:
                self._store_pack(full)

    def _store_pack(self, pack: OpenPack) -> None:
        """Table, proof, and into storage; durable only with the next barrier."""
        table, whole = pack.finish()
        name = self._layout.pack(table.pack_id)
        if check_pack(whole, self._keyring, self._layout.cluster_id, self._codec, name, table.pack_id) != table:  # R7
            raise Damaged(name=name, reason="it does not decode to what was written")
        self._put(name, whole)
        with self._changed:
            self.new_bytes += table.size_bytes
            self._unindexed.append(table)
            self._new_packs[table.pack_id] = table.size_bytes
            if len(self._new_sample) < CHECK_SAMPLE:
                self._new_sample.append(sample_of(table))
            self._free_buffers.append(pack.buffer)
            self._changed.notify_all()
            blocks = sum(len(waiting.stored) for waiting in self._unindexed)
            due = len(self._unindexed) >= INDEX_AFTER_PACKS or blocks >= INDEX_AFTER_BLOCKS
        if due:
            self._write_index()

    def _put(self, name: str, pack: memoryview) -> None:
        lap(Part.CPU)
        with self._changed:
            self._putting += 1
        try:
            self._storage.put(name, [pack], durable=False)
        finally:
            with self._changed:
                self._putting -= 1
            lap(Part.WRITE)

    def _guarded_store_pack(self, pack: OpenPack) -> None:
        try:
            self._store_pack(pack)
        except BaseException as error:
            self._fail(error)
            raise

    def _write_index(self) -> None:
        with self._indexing:
            with self._changed:
                self._raise_failure()
                tables, self._unindexed = self._unindexed, []
            if not tables:
                return
            try:
                # 1 the packs are durable before an index names them
                lap(Part.CPU)
                self._storage.barrier()  # R2
                lap(Part.WRITE)
                # 2 the index itself, at once: a torn one would be found by listing
                digest, parts = encode_index(tables, self._keyring, self._layout.cluster_id)
                name = self._layout.indexes + digest
                read_back = decode_index(b"".join(parts), self._keyring, self._layout.cluster_id, name)
                if [(t.pack_id, t.ids) for t in read_back] != [(t.pack_id, bytes(t.ids)) for t in tables]:  # R7
                    raise Damaged(name=name, reason="it does not decode to what was written")
                self._storage.put(name, parts)  # R3
            except BaseException as error:
                self._fail(error)
                raise
            with self._changed:
                self.new_bytes += sum(len(part) for part in parts)

    def _fail(self, error: BaseException) -> None:
        """One lost block spoils the session: every other thread stops as well."""
        with self._changed:
            self._failure = self._failure or error
            self._changed.notify_all()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


def sample_of(table: PackTable) -> tuple[bytes, bytes, Place, bytes]:
    """One block of a pack, by chance: pack id, salt, place, block id."""
    entries = list(table.entries())
    position, block_id, offset, stored, plain_word = random.choice(entries)
    return table.pack_id, table.salt, Place(0, position, offset, stored, plain_word), block_id


def exists(storage: Storage, name: str) -> bool:
    try:
        storage.size_bytes(name)
    except ObjectMissing:
        return False
    return True


def put_once(storage: Storage, name: str) -> None:
    """Leave a mark; it may be there already."""
    if not exists(storage, name):
        with suppress(ObjectExists):
            storage.put(name, [name.rpartition("/")[2].encode()])
