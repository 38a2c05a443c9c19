"""Checking: is everything that the backups need there, and does it decode? Reads only; safe beside a running backup.

*Check* says that stored bytes are intact. That a backup also starts and answers is another question, and only a
restore answers it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from icecore.errors import Damaged, ObjectMissing
from icecore.repository.blocks import BlockCodec
from icecore.repository.fencing import manifests
from icecore.repository.index import BlockTable
from icecore.repository.layout import ClusterLayout, below
from icecore.repository.pack import MAX_PACK_BYTES, check_pack
from icecore.repository.reader import Reader, get_whole, indexes
from icecore.repository.sealing import Keyring
from icecore.storage import Storage

PACKS_AT_ONCE = 4  # 33 MB each in memory
MISSING = "it is missing"


@dataclass(frozen=True)
class Fault:
    """An object that is missing or does not decode, and the backups that need it; none: only an unused object."""

    name: str
    reason: str
    backup_ids: tuple[str, ...]


@dataclass(frozen=True)
class Checked:
    backup_count: int
    pack_count: int  # that were read
    read_bytes: int
    pack_total: int  # that are there
    faults: tuple[Fault, ...]
    backup_ids: tuple[str, ...] = ()  # that were looked at

    @property
    def damaged_backups(self) -> list[str]:
        return sorted({backup_id for fault in self.faults for backup_id in fault.backup_ids})


def check(
    storage: Storage,
    keyring: Keyring,
    codec: BlockCodec,
    layout: ClusterLayout,
    open_reader: Callable[[str, BlockTable], Reader],
    *,
    only: str = "",
    share: float = 1.0,
    advance: Callable[[int], None] = lambda read_bytes: None,
) -> Checked:
    """One cluster, or of it the backup ``only`` with the packs that it uses. ``share``: of the packs, drawn anew each
    time; the rest is only looked up. ``advance`` is told the bytes of each pack that was read."""
    # 1 the backups first, so that all they need is named by what is read after; then what the indexes name
    faults: list[Fault] = []
    damaged_indexes: list[Damaged] = []
    backup_ids = [backup_id for backup_id, _ in manifests(storage, layout)]
    found = indexes(storage, keyring, layout, damaged=damaged_indexes)
    blocks = BlockTable(table for _, some in found for table in some)
    sizes = {last: found.size_bytes for last, found in below(storage, layout.packs)}
    faults += [Fault(str(e.fields["name"]), str(e.fields["reason"]), ()) for e in damaged_indexes]

    # 2 each backup's manifest, its file table, and that each of its blocks has a place
    absent = np.array([pack.pack_id.hex() not in sizes for pack in blocks.packs], np.bool_)
    uses: dict[str, NDArray[np.bool_]] = {}  # by the packs' numbers: which of them it needs
    looked_at: list[str] = []
    for backup_id in backup_ids:
        if only and backup_id != only:
            continue
        try:
            uses[backup_id], missing = _packs_of(open_reader(backup_id, blocks), blocks, absent)
            looked_at.append(backup_id)
            if missing:
                reason = f"{missing} of its blocks are in no pack that an index names"
                faults.append(Fault(layout.manifest(backup_id), reason, (backup_id,)))
        except ObjectMissing:
            continue  # deleted since it was listed
        except Damaged as error:
            looked_at.append(backup_id)
            faults.append(Fault(str(error.fields["name"]), str(error.fields["reason"]), (backup_id,)))

    # 3 every byte of the packs, or of a share of them
    numbers = np.flatnonzero(uses[only]).tolist() if only in uses else [] if only else range(len(blocks.packs))
    chosen = [number for number in numbers if share >= 1.0 or random.random() < share]

    def read(number: int) -> tuple[int, int, str]:
        pack = blocks.packs[number]
        name = layout.pack(pack.pack_id)
        try:
            size_bytes = sizes.get(pack.pack_id.hex())
            if size_bytes is None:
                return number, 0, MISSING
            whole = get_whole(storage, name, size_bytes, MAX_PACK_BYTES)
            if check_pack(whole, keyring, layout.cluster_id, codec, name).pack_id != pack.pack_id:
                return number, len(whole), "its content does not match its name"
            return number, len(whole), ""
        except ObjectMissing:
            return number, 0, MISSING
        except Damaged as error:
            return number, sizes.get(pack.pack_id.hex(), 0), str(error.fields["reason"])

    read_bytes = 0
    with ThreadPoolExecutor(PACKS_AT_ONCE, thread_name_prefix="check") as pool:
        try:
            for number, size_bytes, reason in pool.map(read, chosen):
                read_bytes += size_bytes
                advance(size_bytes)
                if reason:
                    needed_by = [backup_id for backup_id, needs in uses.items() if needs[number]]
                    faults.append(Fault(layout.pack(blocks.packs[number].pack_id), reason, tuple(sorted(needed_by))))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # a cancel does not wait for the packs still to come
            raise
    left = tuple(_still_there(storage, keyring, layout, faults))
    if only:
        left = tuple(fault for fault in left if only in fault.backup_ids)
    return Checked(len(uses), len(chosen), read_bytes, len(sizes), left, tuple(looked_at))


def _packs_of(reader: Reader, blocks: BlockTable, absent: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], int]:
    """Which packs a backup needs, and how many of its blocks are in none. Reads its file table.

    An ``absent`` pack is needed for a block of which no copy lies elsewhere. An index may name packs that are gone: a
    program that slept while its cluster was collected wrote it."""
    marks = np.zeros(len(blocks), np.bool_)
    missing = sum(blocks.mark(ids, marks) for ids in reader.id_runs())
    for _ in reader.files():
        pass  # decodes every section
    if absent.any():
        for group in blocks.twins(marks):
            gone = absent[blocks.packs_of(np.array(group))]
            if not gone.all():
                marks[np.array(group)[gone]] = False
    return blocks.packs_marked(marks), missing


def _still_there(storage: Storage, keyring: Keyring, layout: ClusterLayout, faults: list[Fault]) -> Iterator[Fault]:
    """A pack that went because its backups were deleted meanwhile is no fault, nor is one whose blocks a collection
    moved: it proved them (R7), and no index names the pack any more."""
    if not faults:
        return
    now = {backup_id for backup_id, _ in manifests(storage, layout)}
    tables = (table for _, some in indexes(storage, keyring, layout, damaged=[]) for table in some)
    named = {layout.pack(table.pack_id) for table in tables}
    for fault in faults:
        left = tuple(backup_id for backup_id in fault.backup_ids if backup_id in now)
        if fault.reason == MISSING and fault.name not in named and fault.name.startswith(layout.packs):
            continue
        if left or (not fault.backup_ids and fault.reason != MISSING):
            yield Fault(fault.name, fault.reason, left)
