"""A storage that fails at its n-th call, for every n: what exists restores equal, and trying again succeeds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import pytest
from small_repository import CLUSTER, KEY, Tree, back_up, everything, lasting, made

from icecore.errors import BackupNotFound, Damaged, NotARepository, ObjectExists, StorageFailed, StorageFull
from icecore.repository import Repository, collection
from icecore.repository.fencing import TOMBSTONE
from icecore.repository.layout import ClusterLayout
from icecore.repository.reader import indexes
from icecore.storage import Buffer, StoredObject
from icecore.storage.memory import MemoryStorage

CHANCE = random.Random(4)
FIRST: Tree = {"a": CHANCE.randbytes(9000), "b": b"b" * 5000, "only first": CHANCE.randbytes(5000)}
SECOND: Tree = {"a": FIRST["a"], "b": b"c" * 5000, "new": CHANCE.randbytes(100)}


class Life:
    """The life of a small repository: made, two backups, one deleted, collected. Knows what was acknowledged."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, Tree] = {}
        self.deleted: set[str] = set()
        self.attempted: dict[str, Tree] = {}

    def run(self, storage: MemoryStorage) -> None:
        """Every step may have been done already by an earlier run."""
        try:
            repo = Repository.open(storage, KEY)
        except NotARepository:
            repo = made(storage)
        self.back_up(repo, "1", FIRST)
        self.back_up(repo, "2", SECOND)
        repo.delete_backup(CLUSTER, "1")
        self.deleted.add("1")
        repo.collect(CLUSTER)

    def back_up(self, repo: Repository, backup_id: str, tree: Tree) -> None:
        self.attempted[backup_id] = tree
        if backup_id in self.deleted:
            return
        if repo.has(CLUSTER, backup_id) is None:
            try:
                back_up(repo, backup_id, tree)
            except ObjectExists:
                # Only an id whose deletion had begun is refused here.
                assert backup_id == "1" and repo.has(CLUSTER, "2") is not None
                return
        self.acknowledged[backup_id] = tree


def laws_hold(storage: MemoryStorage, life: Life) -> None:
    try:
        repo = Repository.open(storage, KEY)
    except NotARepository:
        assert not life.attempted  # creation itself was cut off
        return
    found = everything(repo)
    for backup_id, tree in found.items():
        assert tree == life.attempted[backup_id]  # never wrong bytes
    for backup_id in set(life.acknowledged) - {"1"}:
        assert backup_id in found  # R4: what was acknowledged exists
    assert not life.deleted & set(found)
    # R2, R3: an index names packs that are there in full
    layout = ClusterLayout(CLUSTER)
    for _, tables in indexes(storage, repo._keyring, layout):
        for table in tables:
            assert len(storage.objects[layout.pack(table.pack_id)]) == table.size_bytes


def torn(name: str, data: bytes) -> bytes | None:
    """ext4 after a power cut: a name may be there before its bytes are."""
    return (data[: len(data) // 2], bytes(len(data)), b"", data, None)[len(name + data.hex()) % 5]


MODES: dict[str, dict[str, bool]] = {
    "one call fails": {},
    "one call fails after its effect": {"effect": True},
    "the machine stops": {"stay_down": True, "lose_unsynced": True},
    "the machine stops after an effect": {"stay_down": True, "lose_unsynced": True, "effect": True},
}


@pytest.mark.parametrize("survives", [None, torn], ids=["lost", "torn"])
@pytest.mark.parametrize("mode", MODES)
def test_R2_R3_R4_R6_hold_when_any_call_fails(mode: str, survives: Callable[[str, bytes], bytes | None] | None) -> None:
    whole = MemoryStorage()
    Life().run(whole)
    clean = {name.rpartition("/")[0] for name in whole.objects}
    packs = sum("/packs/" in name for name in whole.objects)
    assert whole.calls > 60
    for n in range(1, whole.calls + 1):
        storage, life = MemoryStorage(fail_at=n, **MODES[mode]), Life()
        with pytest.raises(StorageFailed, match=f"call {n}"):
            life.run(storage)
        # 1 as it was left
        left = storage.after_crash(survives) if survives else storage.after_crash()
        laws_hold(left, life)
        # 2 trying again succeeds, and no debris stays
        life.run(left)
        laws_hold(left, life)
        assert everything(Repository.open(left, KEY)) == {"2": SECOND}
        assert {name.rpartition("/")[0] for name in left.objects} == clean
        assert sum("/packs/" in name for name in left.objects) <= packs + 2
        again = Repository.open(left, KEY).collect(CLUSTER)
        assert (again.bytes_freed, again.objects_removed) == (0, 0)


@pytest.mark.parametrize("survives", [None, torn], ids=["lost", "torn"])
def test_R2_nothing_names_a_pack_that_a_power_cut_can_take(
    survives: Callable[[str, bytes], bytes | None] | None,
) -> None:
    """After every single call, were the power cut now: each visible index and manifest has all it relies on."""
    whole = MemoryStorage()
    Life().run(whole)
    for n in range(2, whole.calls + 1):
        storage, life = MemoryStorage(fail_at=n, stay_down=True, lose_unsynced=True), Life()
        with pytest.raises(StorageFailed):
            life.run(storage)
        laws_hold(storage.after_crash(survives) if survives else storage.after_crash(), life)


# ---------------------------------------------------------------- listings that do not tell the truth


class Listing(MemoryStorage):
    """A storage whose listings leave out what ``hidden`` says, or show an earlier day."""

    hidden: Callable[[str], bool] = staticmethod(lambda name: False)
    earlier: dict[str, bytes] | None = None

    def list(self, prefix: str) -> Iterator[StoredObject]:
        shown = self.objects if self.earlier is None else self.earlier
        for name in sorted(shown):
            if name.startswith(prefix) and not self.hidden(name):
                yield StoredObject(name, len(shown[name]))


def three_backups(storage: MemoryStorage) -> Repository:
    repo = made(storage)
    back_up(repo, "1", FIRST)
    back_up(repo, "2", SECOND)
    back_up(repo, "3", {"third": CHANCE.randbytes(5000)})
    repo.delete_backup(CLUSTER, "1")
    return repo


HIDDEN: dict[str, Callable[[str], bool]] = {
    "all manifests": lambda name: "/manifests/" in name,
    "one manifest": lambda name: name.endswith("/manifests/2"),
    "the last manifest": lambda name: name.endswith("/manifests/3"),
    "history": lambda name: "/history/" in name,
    "history's end": lambda name: "/history/" in name and name > f"clusters/{CLUSTER}/history/3",
    "manifests and history": lambda name: "/manifests/" in name or "/history/" in name,
    "all indexes": lambda name: "/indexes/" in name,
    "all packs": lambda name: "/packs/" in name,
}


@pytest.mark.parametrize("what", HIDDEN)
def test_R6_a_short_listing_deletes_nothing(what: str) -> None:
    storage = Listing()
    repo = three_backups(storage)
    before = lasting(storage.objects)
    storage.hidden = HIDDEN[what]
    if what == "history's end":
        # `3.made` is hidden and so is nothing else that counts: the manifest of 3 betrays it.
        assert [name for name in before if storage.hidden(name)]
    with pytest.raises(Damaged):
        repo.collect(CLUSTER)
    assert lasting(storage.objects) == before
    storage.hidden = lambda name: False
    assert repo.collect(CLUSTER).objects_removed > 0
    assert set(everything(repo)) == {"2", "3"}


def test_R6_any_one_object_missing_from_every_listing_costs_no_backup() -> None:
    storage = Listing()
    repo = three_backups(storage)
    expected = everything(repo)
    before = lasting(storage.objects)
    for name in before:
        storage.hidden = lambda candidate, name=name: candidate == name
        try:
            repo.collect(CLUSTER)
        except Damaged:
            assert lasting(storage.objects) == before
        storage.hidden = lambda candidate: False
        assert everything(repo) == expected, name
        storage.objects = dict(before)


def test_R6_a_listing_of_an_earlier_day_costs_no_backup() -> None:
    storage = Listing()
    days = []
    repo = made(storage)
    for backup_id, tree in (("1", FIRST), ("2", SECOND), ("3", FIRST)):
        back_up(repo, backup_id, tree)
        days.append(dict(storage.objects))
    repo.delete_backup(CLUSTER, "1")
    repo.collect(CLUSTER)
    expected = everything(repo)
    before = lasting(storage.objects)
    for day in days:
        storage.earlier = day
        with suppress(Damaged, StorageFailed):
            repo.collect(CLUSTER)
        storage.earlier = None
        assert everything(repo) == expected
        assert storage.objects.keys() >= {name for name in before if "/packs/" in name or "/manifests/" in name}


def test_R6_two_gatherings_that_differ_delete_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    repo = three_backups(storage)
    before = lasting(storage.objects)
    believable = collection.believable_backups
    answers = iter([["2"], ["2", "3"]])

    def forgetful(*_: object, **__: object) -> list[str]:
        return next(answers)

    monkeypatch.setattr(collection, "believable_backups", forgetful)
    with pytest.raises(Damaged, match="two readings"):
        repo.collect(CLUSTER)
    assert lasting(storage.objects) == before
    monkeypatch.setattr(collection, "believable_backups", believable)
    assert repo.collect(CLUSTER).objects_removed > 0


def test_R6_a_damaged_object_stops_collection() -> None:
    storage = MemoryStorage()
    repo = three_backups(storage)
    before = lasting(storage.objects)
    for name in [
        name for name in before if ("/manifests/" in name and before[name] != TOMBSTONE) or "/indexes/" in name
    ]:
        storage.objects[name] = before[name][:-1] + bytes([before[name][-1] ^ 1])
        damaged = dict(storage.objects)
        with pytest.raises(Damaged, match=name):
            repo.collect(CLUSTER)
        assert lasting(storage.objects) == lasting(damaged)
        storage.objects = dict(before)


def test_R6_a_dry_run_says_what_the_real_run_does() -> None:
    storage = MemoryStorage()
    repo = three_backups(storage)
    before = lasting(storage.objects)
    said = repo.collect(CLUSTER, dry_run=True)
    assert lasting(storage.objects) == before
    done = repo.collect(CLUSTER)
    assert said.dry_run and not done.dry_run
    assert (said.bytes_freed, said.objects_removed, said.dead_bytes_kept) == (
        done.bytes_freed,
        done.objects_removed,
        done.dead_bytes_kept,
    )
    gone = sum(len(before[name]) for name in before.keys() - storage.objects.keys())
    assert done.bytes_freed == gone > 0
    assert (said.packs_repacked, said.moved_bytes) == (done.packs_repacked, done.moved_bytes)
    # "only first" lies in a pack that backup 2 uses: the rest of it, "a", was written anew
    assert (done.packs_repacked, done.dead_bytes_kept) == (1, 0) and 9000 < done.moved_bytes < 9100


def test_R6_after_the_last_backup_all_space_comes_back() -> None:
    storage = MemoryStorage()
    repo = three_backups(storage)
    for backup_id in ("2", "3"):
        repo.delete_backup(CLUSTER, backup_id)
    repo.collect(CLUSTER)
    assert not [name for name in storage.objects if "/packs/" in name or "/indexes/" in name]
    assert {data for name, data in storage.objects.items() if "/manifests/" in name} == {TOMBSTONE}
    with pytest.raises(BackupNotFound):
        repo.find("2")
    back_up(repo, "4", FIRST)
    assert everything(repo) == {"4": FIRST}


class Full(MemoryStorage):
    full = False

    def put(self, name: str, parts: Sequence[Buffer], *, durable: bool = True) -> None:
        if self.full:
            raise StorageFull(doing="write", name=name, reason="simulated")
        super().put(name, parts, durable=durable)


def test_a_full_storage_can_be_emptied() -> None:
    storage = Full()
    repo = made(storage)
    back_up(repo, "1", FIRST)
    back_up(repo, "2", {"third": CHANCE.randbytes(5000)})
    storage.full = True
    with pytest.raises(StorageFull):
        back_up(repo, "3", SECOND)
    repo.delete_backup(CLUSTER, "1")
    assert repo.collect(CLUSTER).bytes_freed > 9000
    storage.full = False
    back_up(repo, "3", SECOND)
    assert set(everything(repo)) == {"2", "3"}
    assert repo.collect(CLUSTER).objects_removed == 0


def test_R6_debris_of_a_first_backup_that_failed_is_collected() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    with repo.writer(CLUSTER) as writer:
        writer.add_block(b"x")
        writer.finish_blocks()
    assert repo.collect(CLUSTER).objects_removed == 2
    assert not [name for name in storage.objects if "/packs/" in name or "/indexes/" in name]


def test_R6_an_index_of_used_and_unused_packs_is_written_anew() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    used, unused = ({"f": CHANCE.randbytes(4 * 4096)} for _ in range(2))
    with repo.writer(CLUSTER) as writer:
        writer._pack_bytes = 64 + 4 * (4096 + 16)  # four blocks a pack
        for at in range(0, 4 * 4096, 4096):
            writer.add_block(used["f"][at : at + 4096])
        for at in range(0, 4 * 4096, 4096):
            writer.add_block(unused["f"][at : at + 4096])
        writer.finish_blocks()
    (old,) = [name for name in storage.objects if "/indexes/" in name]
    assert sum("/packs/" in name for name in storage.objects) == 2
    back_up(repo, "2", used)
    assert repo.collect(CLUSTER).objects_removed == 2
    assert old not in storage.objects
    assert sum("/packs/" in name for name in storage.objects) == 2  # the used one and the file table's
    assert everything(repo) == {"2": used}
    laws_hold(storage, _life_with("2", used))


def _life_with(backup_id: str, tree: Tree) -> Life:
    life = Life()
    life.attempted[backup_id] = life.acknowledged[backup_id] = tree
    return life
