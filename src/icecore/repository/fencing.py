"""Who may still write, when a lock cannot be trusted: epochs, tombstones, and lists of what is about to go.

A storage's lease keeps two programs apart that behave. It cannot stop one that slept while its lock went to another (a
machine that was paused, a network file system, a bucket, where there are no locks). What it does when it wakes must be
refused or do no harm, and the only thing that every storage does atomically is to create a name once. So:

* Who takes a cluster takes the next *epoch*: it creates ``epochs/<n>``, which one alone can.
* A writer *announces* its backup (``history/<backup>.made``), then looks whether its epoch is the newest, then creates
  the manifest. A collection takes its epoch, then reads the announcements: of the two, one sees the other. It creates
  a *tombstone* under the manifest's name of every backup that was announced and is not there. Whichever of the two
  comes first, there is either a manifest whose blocks the collection counts, or never one (R4, R6).
* A collection *condemns* packs, in a durable list, then looks whether its epoch is the newest, then removes them. A
  writer takes its epoch, then reads the lists, and adopts nothing from a condemned pack, so a removal that comes late
  takes nothing it relies on. No pack is condemned before each used block of it lies elsewhere as well.

Names of packs and indexes never recur, so that removing one twice, or late, does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from blake3 import blake3

from icecore.errors import Damaged, LeaseHeld, ObjectExists, ObjectMissing, StorageFull
from icecore.repository.layout import ClusterLayout, below
from icecore.storage import Lease, Storage, StoredObject

TOMBSTONE = b"no backup\n"  # shorter than any manifest, so a listing's size tells them apart


class Epoch:
    """A cluster's lease with its place in the order of all that were ever taken. Ends with ``with``."""

    def __init__(self, storage: Storage, layout: ClusterLayout, lease: Lease, epoch: int) -> None:
        """``epoch`` 0: none could be written down (a full storage), the storage's lease is all there is."""
        self._storage, self._layout, self._lease, self.epoch = storage, layout, lease, epoch
        self.lists: list[str] = []  # names of what this holder has condemned

    def confirm(self) -> None:
        """Raise ``LeaseHeld`` if somebody has taken the cluster since."""
        self._lease.confirm()
        if self.epoch and max(_taken(self._storage, self._layout), default=0) != self.epoch:
            raise LeaseHeld(name=self._layout.lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lease.__exit__(kind, error, trace)


def take(storage: Storage, layout: ClusterLayout, *, also_when_full: bool = False) -> Epoch:
    """The cluster's lease and the next epoch, durable; ``LeaseHeld`` if somebody works on the cluster.

    ``also_when_full``: a storage without room for a mark of 20 bytes is no reason to refuse.
    """
    lease = storage.lease(layout.lease)
    try:
        try:
            return Epoch(storage, layout, lease, _next(storage, layout))
        except StorageFull:
            if not also_when_full:
                raise
            return Epoch(storage, layout, lease, 0)
    except BaseException as error:
        lease.__exit__(type(error), error, error.__traceback__)
        raise


def _next(storage: Storage, layout: ClusterLayout) -> int:
    number = 0
    while True:
        # 1 the next number, which one alone can take
        number = max(number, *_taken(storage, layout), 0) + 1
        try:
            storage.put(layout.epoch(number), [str(number).encode()])
        except ObjectExists:
            continue  # taken since, or left out by the listing
        # 2 it is the newest; else it was an old one that had been given up, and somebody is ahead
        taken = list(_taken(storage, layout))
        if max(taken, default=0) <= number:
            break
    # 3 older ones have said what they had to; the newest always stays
    for older in taken:
        if older < number:
            storage.delete(layout.epoch(older))
    return number


def _taken(storage: Storage, layout: ClusterLayout) -> Iterator[int]:
    return (int(last) for last, _ in below(storage, layout.epochs) if last.isdigit())


# ---------------------------------------------------------------- manifests and tombstones


def manifests(storage: Storage, layout: ClusterLayout) -> Iterator[tuple[str, StoredObject]]:
    """Ids of the backups that exist (R4), with their manifests as listed."""
    gone: set[str] | None = None
    for last, found in below(storage, layout.manifests):
        if found.size_bytes == len(TOMBSTONE):
            # Nearly all tombstones are of deleted backups: a mark says so without another look at each.
            if gone is None:
                gone = {mark for mark, _ in below(storage, layout.history)}
            if f"{last}.gone" in gone or absent(storage, found.name):
                continue
        yield last, found


def absent(storage: Storage, name: str) -> bool:
    """Whether no backup has its manifest under ``name``. One that was cut to a tombstone's size is a damaged one."""
    try:
        return storage.size_bytes(name) == len(TOMBSTONE) and storage.get(name) == TOMBSTONE
    except ObjectMissing:
        return True


def bury(storage: Storage, layout: ClusterLayout, backup_id: str) -> bool:
    """Give up the name of a manifest that is not there, for ever. False if there is one."""
    name = layout.manifest(backup_id)
    try:
        storage.put(name, [TOMBSTONE])
    except ObjectExists:
        return absent(storage, name)
    except StorageFull:
        return absent(storage, name)  # or nothing is there: the next collection finds room
    return True


# ---------------------------------------------------------------- condemned packs


def condemn(storage: Storage, layout: ClusterLayout, epoch: Epoch, packs: Iterable[str]) -> None:
    """Say durably that ``packs`` (full names) will go; from the return on they may be removed. ``LeaseHeld`` if
    somebody has taken the cluster since: then nothing may be."""
    lines = "".join(f"{name.rpartition('/')[2]}\n" for name in sorted(packs)).encode()
    if lines and epoch.epoch:
        name = f"{layout.condemned}{epoch.epoch:020d}-{len(epoch.lists)}"
        try:
            storage.put(name, [lines, blake3(lines).hexdigest().encode()])
            epoch.lists.append(name)
        except StorageFull:
            epoch.epoch = 0  # no room to say so: the storage's lease is all there is
    epoch.confirm()


def condemned_packs(storage: Storage, layout: ClusterLayout) -> dict[str, set[str]]:
    """For each list its packs, as hex of their hash. ``Damaged`` if one cannot be read."""
    lists = {}
    for _, found in below(storage, layout.condemned):
        try:
            lines, _, check = storage.get(found.name).rpartition(b"\n")
        except ObjectMissing:
            continue  # all its packs are gone
        if blake3(lines + b"\n").hexdigest().encode() != check:
            raise Damaged(name=found.name, reason="it is not what was written")
        lists[found.name] = set(lines.decode().split("\n"))
    return lists
