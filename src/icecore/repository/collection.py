"""Giving space back: which packs no backup uses, and their removal in an order that is safe at every step.

The theory (R6). While the cluster's lease is held no writer lives, so nothing is adopted under our hands. Then:

* A pack is *used* if a block of it is referred to by a manifest. All others may go.
* The list of manifests is believed only if the marks in ``history/`` agree: each backup that was made and is not
  gone must be listed, or be absent when asked for by name. A listing that shows packs but no history at all is short.
* Every block that a manifest refers to must be found in an index whose pack is listed, else some listing is short.
* References are gathered a second time before the first removal, and must be the same.
* First indexes, then packs, so that no index ever names a pack that is gone. An index that names used and unused
  packs is written anew, durably, before the old one goes.

A pack with some used blocks stays whole; ``dead_bytes_kept`` says what that costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icecore.errors import Damaged, ObjectMissing
from icecore.repository.index import BlockTable, decode_index, encode_index
from icecore.repository.layout import ClusterLayout, below
from icecore.repository.pack import PackTable
from icecore.repository.reader import Reader, indexes
from icecore.repository.sealing import Keyring
from icecore.storage import Lease, Storage


@dataclass(frozen=True)
class Collected:
    """What a collection removed, or with ``dry_run`` would remove."""

    bytes_freed: int
    objects_removed: int
    dead_bytes_kept: int  # unused blocks in packs that are used
    dry_run: bool


@dataclass
class Plan:
    """Indexes and packs to remove, each with its size."""

    used: set[str] = field(default_factory=set)  # packs that stay
    old_indexes: dict[str, int] = field(default_factory=dict)
    rewritten: list[str] = field(default_factory=list)  # those of old_indexes that also name packs that stay
    named_with_used: set[str] = field(default_factory=set)  # packs in those
    packs: dict[str, int] = field(default_factory=dict)
    dead_bytes_kept: int = 0


def collect(
    storage: Storage,
    keyring: Keyring,
    layout: ClusterLayout,
    lease: Lease,
    open_reader: Callable[[str, BlockTable], Reader],
    *,
    dry_run: bool,
) -> Collected:
    """Under the cluster's ``lease``. ``Damaged`` if any listing cannot be believed: then nothing was removed."""
    # 1 what is there
    packs = {found.name: found.size_bytes for _, found in below(storage, layout.packs)}
    index_sizes = {found.name: found.size_bytes for _, found in below(storage, layout.indexes)}
    contents: dict[str, list[str]] = {}  # index -> packs it names

    def present() -> Iterator[PackTable]:
        for name, tables in indexes(storage, keyring, layout):
            contents[name] = [layout.pack(table.pack_id) for table in tables]
            yield from (table for table in tables if layout.pack(table.pack_id) in packs)

    blocks = BlockTable(present())
    # 2 what is used, gathered twice
    first, second = (
        used_rows(layout, blocks, (open_reader(backup_id, blocks) for backup_id in backups))
        for backups in (believable_backups(storage, layout, anything_stored=bool(packs)) for _ in range(2))
    )
    if not np.array_equal(first, second):  # R6
        raise Damaged(name=layout.manifests, reason="two readings of the references differ; nothing was removed")
    # 3 what follows from it
    plan = make_plan(layout, packs, index_sizes, contents, blocks, first)
    if not dry_run:
        execute(plan, storage, keyring, layout, lease)
    return Collected(
        bytes_freed=sum(plan.packs.values()) + sum(plan.old_indexes.values()),
        objects_removed=len(plan.packs) + len(plan.old_indexes),
        dead_bytes_kept=plan.dead_bytes_kept,
        dry_run=dry_run,
    )


def believable_backups(storage: Storage, layout: ClusterLayout, *, anything_stored: bool) -> list[str]:
    """Ids of the cluster's backups, or ``Damaged`` if the listing of manifests contradicts the history."""
    listed = [last for last, _ in below(storage, layout.manifests)]
    marks = {last for last, _ in below(storage, layout.history)}
    if (anything_stored or listed) and not marks:
        raise Damaged(name=layout.history, reason="its listing is empty although the cluster has objects")
    for backup_id in listed:
        if f"{backup_id}.made" not in marks:
            raise Damaged(name=layout.history, reason=f"its listing is short: backup {backup_id} is not in it")
    made = {mark.removesuffix(".made") for mark in marks if mark.endswith(".made")}
    for backup_id in sorted(made.difference(listed)):
        # Made, or about to be when a crash came, and perhaps deleted: the manifest itself says which (R4).
        try:
            storage.size_bytes(layout.manifest(backup_id))
        except ObjectMissing:
            continue
        raise Damaged(name=layout.manifests, reason=f"its listing is short: backup {backup_id} exists")
    return listed


def used_rows(layout: ClusterLayout, blocks: BlockTable, readers: Iterable[Reader]) -> NDArray[np.bool_]:
    """Which rows of ``blocks`` some backup refers to; ``Damaged`` if a backup refers to a block that has no row."""
    marks = np.zeros(len(blocks), np.bool_)
    for reader in readers:
        for ids in reader.id_runs():
            missing = blocks.mark(ids, marks)
            if missing:
                name = layout.manifest(reader.facts.backup_id)
                raise Damaged(name=name, reason=f"{missing} of its blocks are in no listed pack; nothing was removed")
    return marks


def make_plan(
    layout: ClusterLayout,
    packs: dict[str, int],
    index_sizes: dict[str, int],
    contents: dict[str, list[str]],
    blocks: BlockTable,
    marks: NDArray[np.bool_],
) -> Plan:
    """Pure: from what is there and what is used to what goes."""
    # 1 a pack is used if one of its blocks is
    used_numbers = np.unique(blocks.pack[marks])
    used = {layout.pack(blocks.packs[int(number)].pack_id) for number in used_numbers}
    # 2 packs without a mark go, and with them their rows in indexes
    plan = Plan(used=used, packs={name: size for name, size in packs.items() if name not in used})
    for name, named in contents.items():
        staying = used.intersection(named)
        if len(staying) < len(named):
            plan.old_indexes[name] = index_sizes.get(name, 0)
            if staying:
                plan.rewritten.append(name)
                plan.named_with_used.update(named)
    # 3 what cannot go
    in_used = np.isin(blocks.pack, used_numbers)
    plan.dead_bytes_kept = blocks.stored_bytes(in_used & ~marks)
    return plan


def execute(plan: Plan, storage: Storage, keyring: Keyring, layout: ClusterLayout, lease: Lease) -> None:
    """Remove what ``plan`` names. A crash at any point leaves only more to collect.

    What needs no writing comes first, so that a full storage can be emptied.
    """

    def remove(names: Iterable[str]) -> None:
        for name in names:
            lease.confirm()
            storage.delete(name)

    # 1 indexes of nothing but packs that go
    remove(name for name in plan.old_indexes if name not in plan.rewritten)  # R6: index
    # 2 packs that nothing names any more
    remove(name for name in plan.packs if name not in plan.named_with_used)  # R6: pack
    # 3 for an index that also names packs that stay, one without the others; durable before the old one goes
    for name in plan.rewritten:
        tables = decode_index(storage.get(name), keyring, layout.cluster_id, name)
        staying = [table for table in tables if layout.pack(table.pack_id) in plan.used]
        digest, parts = encode_index(staying, keyring, layout.cluster_id)
        lease.confirm()
        storage.put(layout.indexes + digest, parts)  # R3
        remove([name])
    # 4 packs that only such an index named
    remove(name for name in plan.packs if name in plan.named_with_used)
