"""Giving space back: which packs no backup uses, and their removal in an order that is safe at every step.

The theory (R6). A collection has the cluster's newest epoch, and no writer of an older one can make a backup any more,
nor a younger one adopt what is removed here: ``fencing`` says why. Then:

* A pack is *used* if a block of it is referred to by a manifest. All others may go.
* The list of manifests is believed only if the marks in ``history/`` agree: each backup that was made and is not
  gone must be listed, or be absent when asked for by name. A listing that shows packs but no history at all is short.
* Every block that a manifest refers to must be found in an index whose pack is listed, else some listing is short.
* References are gathered a second time before the first removal, and must be the same.
* First indexes, then packs, so that no index ever names a pack that is gone. An index that names used and unused
  packs is written anew, durably, before the old one goes.
* A pack of which little is used is written anew (``repacking``): its used blocks are durable in another pack, and an
  index names that, before it is removed like an unused one.

Deletions may happen beside a collection: they only make less used. What it does not know by name it leaves alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from icecore.errors import Damaged, ObjectMissing, StorageFull
from icecore.repository.blocks import BlockCodec
from icecore.repository.fencing import Epoch, absent, bury, condemn, condemned_packs, manifests
from icecore.repository.index import BlockTable, decode_index, encode_index
from icecore.repository.layout import ClusterLayout, below
from icecore.repository.pack import PackTable
from icecore.repository.reader import BlockSource, Reader, indexes
from icecore.repository.repacking import MOVED_BYTES_LIMIT, Repacker, Usage, needed_rows, victims
from icecore.repository.sealing import Keyring
from icecore.storage import Lease, Storage

GATHERINGS = 6  # deletions beside a collection change what is used; one that never holds still is a fault


@dataclass(frozen=True)
class Collected:
    """What a collection removed, or with ``dry_run`` would remove."""

    bytes_freed: int  # of the objects removed; ``moved_bytes`` of them were stored anew
    objects_removed: int
    dead_bytes_kept: int  # unused blocks in packs that are used
    dry_run: bool
    packs_repacked: int = 0  # of the packs removed, those with used blocks
    moved_bytes: int = 0


@dataclass
class Plan:
    """What is there, and what of it goes."""

    packs: dict[str, int]  # all, with their sizes
    indexes: dict[str, list[str]]  # all, with the packs each names
    dead: set[str]  # packs that nothing uses
    repacked: dict[str, set[int]] = field(default_factory=dict)  # packs to write anew, with the positions in use
    moved_bytes: dict[str, int] = field(default_factory=dict)  # what is used of those
    dead_bytes_kept: int = 0

    def going(self) -> set[str]:
        return self.dead | self.repacked.keys()

    def old_indexes(self, going: set[str]) -> dict[str, bool]:
        """Indexes to remove when these packs go, and whether a shorter one takes the place."""
        found = {}
        for name, named in self.indexes.items():
            staying = [pack for pack in named if pack in self.packs and pack not in going]
            if len(staying) < len(named):
                found[name] = bool(staying)
        return found


def collect(
    storage: Storage,
    keyring: Keyring,
    codec: BlockCodec,
    layout: ClusterLayout,
    lease: Lease,
    open_reader: Callable[[str, BlockTable], Reader],
    *,
    dry_run: bool,
    limit_bytes: int = MOVED_BYTES_LIMIT,
) -> Collected:
    """Under the cluster's ``lease``; an ``Epoch`` unless it is a dry run. ``limit_bytes``: of used blocks to move.
    ``Damaged`` if any listing cannot be believed: then nothing was removed."""
    # 1 what is there; a condemned pack may go at any moment, so what is used of it must lie elsewhere
    condemned = condemned_packs(storage, layout)
    doomed = {layout.packs + pack for packs in condemned.values() for pack in packs}
    packs = {found.name: found.size_bytes for _, found in below(storage, layout.packs)}
    index_sizes = {found.name: found.size_bytes for _, found in below(storage, layout.indexes)}
    contents: dict[str, list[str]] = {}

    def present() -> Iterator[PackTable]:
        for name, tables in indexes(storage, keyring, layout):
            contents[name] = [layout.pack(table.pack_id) for table in tables]
            for table in tables:
                if layout.pack(table.pack_id) in packs:
                    yield table

    blocks = BlockTable(present())
    # 2 what is used, gathered twice; from the first time on no older writer can make a backup
    marks = _agreed(storage, layout, blocks, open_reader, anything_stored=bool(packs), dry_run=dry_run)
    # 3 what follows from it
    source = BlockSource(storage, keyring, codec, layout)
    leaving = [number for number, pack in enumerate(blocks.packs) if layout.pack(pack.pack_id) in doomed]
    needed = needed_rows(blocks, marks, leaving, source, storage, keyring, layout)
    plan = make_plan(layout, packs, contents, blocks, needed, leaving, limit_bytes)
    going, old = plan.going(), list(plan.old_indexes(plan.going()))
    if not dry_run:
        assert isinstance(lease, Epoch)
        going, old = execute(plan, storage, keyring, codec, layout, lease)
        for name, some in condemned.items():
            if all(layout.packs + pack in going or layout.packs + pack not in packs for pack in some):
                storage.delete(name)  # all that it names is gone
    return Collected(
        bytes_freed=sum(packs[name] for name in going) + sum(index_sizes.get(name, 0) for name in old),
        objects_removed=len(going) + len(old),
        dead_bytes_kept=plan.dead_bytes_kept,
        dry_run=dry_run,
        packs_repacked=len(going - plan.dead),
        moved_bytes=sum(plan.moved_bytes[name] for name in going - plan.dead),
    )


def _agreed(
    storage: Storage,
    layout: ClusterLayout,
    blocks: BlockTable,
    open_reader: Callable[[str, BlockTable], Reader],
    *,
    anything_stored: bool,
    dry_run: bool,
) -> NDArray[np.bool_]:
    """The used rows, as two gatherings in a row found them for the same backups."""
    before: tuple[list[str], NDArray[np.bool_]] | None = None
    for _ in range(GATHERINGS):
        backups = believable_backups(storage, layout, anything_stored=anything_stored, bury_absent=not dry_run)
        try:
            marks = used_rows(layout, blocks, (open_reader(backup_id, blocks) for backup_id in backups))
        except ObjectMissing:
            before = None  # deleted since it was listed, or the listing lies: look again
            continue
        if before is not None and before[0] == backups:
            if np.array_equal(before[1], marks):  # R6
                return marks
            raise Damaged(name=layout.manifests, reason="two readings of the references differ; nothing was removed")
        if before is not None and not set(backups) < set(before[0]):
            raise Damaged(name=layout.manifests, reason="two readings of the backups differ; nothing was removed")
        before = backups, marks
    raise Damaged(name=layout.manifests, reason="its listing changes with each reading; nothing was removed")


def believable_backups(
    storage: Storage, layout: ClusterLayout, *, anything_stored: bool, bury_absent: bool
) -> list[str]:
    """Ids of the cluster's backups, or ``Damaged`` if the listing of manifests contradicts the history.
    ``bury_absent``: see to it that what was announced and is not there never will be."""
    listed = {last for last, _ in below(storage, layout.manifests)}
    backups = [last for last, _ in manifests(storage, layout)]
    marks = {last for last, _ in below(storage, layout.history)}
    if (anything_stored or listed) and not marks:
        raise Damaged(name=layout.history, reason="its listing is empty although the cluster has objects")
    for backup_id in backups:
        if f"{backup_id}.made" not in marks:
            raise Damaged(name=layout.history, reason=f"its listing is short: backup {backup_id} is not in it")
    made = {mark.removesuffix(".made") for mark in marks if mark.endswith(".made")}
    for backup_id in sorted(made.difference(listed, backups)):
        # Made, or about to be when a crash came, and perhaps deleted: the manifest itself says which (R4).
        if not (bury(storage, layout, backup_id) if bury_absent else absent(storage, layout.manifest(backup_id))):
            raise Damaged(name=layout.manifests, reason=f"its listing is short: backup {backup_id} exists")
    return backups


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
    contents: dict[str, list[str]],
    blocks: BlockTable,
    needed: NDArray[np.bool_],
    leaving: list[int],
    limit_bytes: int,
) -> Plan:
    """Pure: from what is there and what is needed to what goes."""
    # 1 a pack is used if one of its blocks is; the others go
    usage = Usage.of(blocks, needed)
    used = {layout.pack(blocks.packs[int(number)].pack_id) for number in np.flatnonzero(usage.needed)}
    plan = Plan(packs, contents, {name for name in packs if name not in used})
    # 2 so do those of which little is used, once that lies elsewhere
    repacked = victims(usage, limit_bytes)
    #   and condemned ones of which something is needed: their list came too late to be acted on
    repacked += [number for number in leaving if usage.needed[number] and number not in repacked]
    for number in repacked:
        rows = blocks.rows_in(number)
        positions = set(np.flatnonzero(needed[rows.start : rows.stop]).tolist())
        name = layout.pack(blocks.packs[number].pack_id)
        plan.repacked[name], plan.moved_bytes[name] = positions, int(usage.needed[number])
    # 3 what stays of the unused
    staying = np.flatnonzero(usage.needed)
    staying = staying[~np.isin(staying, repacked)]
    plan.dead_bytes_kept = int((usage.stored - usage.needed)[staying].sum())
    return plan


def execute(
    plan: Plan, storage: Storage, keyring: Keyring, codec: BlockCodec, layout: ClusterLayout, epoch: Epoch
) -> tuple[set[str], list[str]]:
    """Remove what ``plan`` names; gives the packs and indexes that are gone. A crash at any point leaves only more to
    collect.

    What needs no writing comes first, so that a full storage can be emptied.
    """
    gone: list[str] = []

    def remove(names: Iterable[str]) -> None:
        for name in names:
            epoch.confirm()
            storage.delete(name)

    # 1 from here on no writer adopts a block of these
    condemn(storage, layout, epoch, plan.dead)
    # 2 indexes of nothing but them, and what only those named
    only_dead = [name for name, shorter in plan.old_indexes(plan.dead).items() if not shorter]
    remove(only_dead)  # R6: index
    gone += only_dead
    left = {name: named for name, named in plan.indexes.items() if name not in only_dead}
    still_named = {pack for named in left.values() for pack in named}
    remove(sorted(plan.dead - still_named))  # R6: pack
    # 3 used blocks out of packs that are nearly empty; durable and indexed elsewhere, those are like unused ones
    moved = _repack(plan, storage, keyring, codec, layout)
    condemn(storage, layout, epoch, moved)
    going = plan.dead | moved
    # 4 for an index that also names packs that stay, one without the others; durable before the old one goes
    for name, shorter in Plan(plan.packs, left, plan.dead).old_indexes(going).items():
        if shorter:
            tables = decode_index(storage.get(name), keyring, layout.cluster_id, name)
            staying = [table for table in tables if _stays(layout.pack(table.pack_id), plan.packs, going)]
            digest, parts = encode_index(staying, keyring, layout.cluster_id)
            epoch.confirm()
            storage.put(layout.indexes + digest, parts)  # R3
        remove([name])
        gone.append(name)
    # 5 packs that only such an index named
    remove(sorted((plan.dead & still_named) | moved))
    # 6 all that was condemned is gone
    for name in epoch.lists:
        storage.delete(name)
    return going, gone


def _stays(pack: str, packs: dict[str, int], going: set[str]) -> bool:
    return pack in packs and pack not in going


def _repack(plan: Plan, storage: Storage, keyring: Keyring, codec: BlockCodec, layout: ClusterLayout) -> set[str]:
    """The packs of ``plan.repacked`` whose used blocks are durable elsewhere now. A damaged one stays as it is."""
    if not plan.repacked:
        return set()
    repacker = Repacker(storage, keyring, codec, layout)
    try:
        moved = set()
        for name, positions in plan.repacked.items():
            pack_id = bytes.fromhex(name.removeprefix(layout.packs))
            if repacker.move(pack_id, plan.packs[name], positions):
                moved.add(name)
        repacker.finish()
    except StorageFull:
        repacker.abandon()  # no room for what would free more: removing comes first, another run goes on
        return set()
    return moved
