"""Collections that move blocks, beside readers, other copies, damage and a storage that fills up."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from restless_storage import Program, Sleeper
from small_repository import CLUSTER, KEY, back_up, content, everything, lasting, made

from icecore.errors import Damaged, LeaseHeld, ObjectExists, Refused, StorageFull
from icecore.repository import Repository
from icecore.repository.fencing import condemn, take
from icecore.repository.layout import ClusterLayout
from icecore.storage import Buffer
from icecore.storage.memory import MemoryStorage

CHANCE = random.Random(8)
LEFT = {"left": CHANCE.randbytes(6000)}
MOST = {"most": CHANCE.randbytes(30_000)}
LAYOUT = ClusterLayout(CLUSTER)


def packs(storage: MemoryStorage) -> set[str]:
    return {name for name in storage.objects if "/packs/" in name}


def nearly_empty(storage: MemoryStorage) -> Repository:
    """One pack of which a backup uses a sixth."""
    repo = made(storage)
    back_up(repo, "1", LEFT | MOST)
    back_up(repo, "2", LEFT)
    repo.delete_backup(CLUSTER, "1")
    return repo


def test_R6_a_reader_finds_what_was_moved_under_it_and_a_check_calls_nothing_missing() -> None:
    storage = MemoryStorage()
    repo = nearly_empty(storage)
    reader = repo.reader(CLUSTER, "2")
    assert content(reader) == LEFT  # its table is loaded
    before = packs(storage)
    done = repo.collect(CLUSTER)
    assert done.packs_repacked == 1 and 6000 < done.moved_bytes < 7000
    assert len(before - packs(storage)) == 2 and content(reader) == LEFT
    assert repo.check(CLUSTER).faults == ()
    assert Repository.open(storage, KEY).collect(CLUSTER).objects_removed == 0


def test_R6_a_collection_leaves_alone_what_it_does_not_know() -> None:
    storage = MemoryStorage()
    repo = nearly_empty(storage)
    others = {f"{LAYOUT.root}{name}": b"x" for name in ("log/1-2-3", "new/thing", "packs/below/it")}
    storage.objects |= others
    repo.collect(CLUSTER)
    assert storage.objects.items() >= others.items()


def test_R6_a_damaged_pack_is_not_written_anew_nor_removed() -> None:
    storage = MemoryStorage()
    repo = nearly_empty(storage)
    (name,) = [name for name in packs(storage) if len(storage.objects[name]) > 30_000]
    data = storage.objects[name]
    used = 64 + 50  # of the first file, which is what is left
    storage.objects[name] = data[:used] + bytes([data[used] ^ 1]) + data[used + 1 :]
    done = repo.collect(CLUSTER)
    assert done.packs_repacked == 0 and name in storage.objects
    with pytest.raises(Damaged, match=name):
        everything(repo)
    storage.objects[name] = data
    assert everything(repo) == {"2": LEFT}


@pytest.mark.parametrize("rotten", [0, 1])
def test_R6_of_two_copies_of_a_block_one_that_decodes_is_kept(rotten: int) -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", LEFT)
    alone = packs(storage)
    hidden = {name: storage.objects.pop(name) for name in list(storage.objects) if "/indexes/" in name}
    back_up(repo, "2", LEFT)  # it knows of no block, and stores all again
    storage.objects |= hidden
    for which, names in enumerate((alone, packs(storage) - alone)):
        for name in names if which == rotten else ():
            data = storage.objects[name]
            storage.objects[name] = data[:70] + bytes([data[70] ^ 1]) + data[71:]
    # A later run may choose better among what the one before left; it comes to an end, and the rotten copies are gone.
    removed = [repo.collect(CLUSTER).objects_removed for _ in range(4)]
    assert removed[0] > 0 and removed[-1] == 0
    assert everything(repo) == {"1": LEFT, "2": LEFT}
    assert repo.check(CLUSTER).faults == ()


def test_R6_a_storage_too_full_to_move_blocks_is_emptied_all_the_same() -> None:
    class Full(MemoryStorage):
        room = True

        def put(self, name: str, parts: Sequence[Buffer], *, durable: bool = True) -> None:
            if not self.room and "/packs/" in name:
                raise StorageFull(doing="write", name=name, reason="simulated")
            super().put(name, parts, durable=durable)

    storage = Full()
    repo = nearly_empty(storage)
    back_up(repo, "3", {"other": CHANCE.randbytes(9000)})
    repo.delete_backup(CLUSTER, "3")
    storage.room = False
    done = repo.collect(CLUSTER)
    assert done.bytes_freed > 9000 and (done.packs_repacked, done.moved_bytes) == (0, 0)
    storage.room = True
    assert repo.collect(CLUSTER).packs_repacked == 1 and everything(repo) == {"2": LEFT}


def test_R6_a_cut_manifest_of_a_tombstones_size_is_damage_and_no_deletion() -> None:
    storage = MemoryStorage()
    repo = nearly_empty(storage)
    name = LAYOUT.manifest("2")
    storage.objects[name] = storage.objects[name][:10]
    before = lasting(storage.objects)
    for call in (lambda: list(repo.backups(CLUSTER)), lambda: repo.has(CLUSTER, "2"), lambda: repo.collect(CLUSTER)):
        with pytest.raises(Damaged, match=name):
            call()
    assert lasting(storage.objects) == before


def test_R6_what_a_list_condemned_too_late_is_moved_and_the_list_goes() -> None:
    """A collection slept before its list; the packs on it were adopted meanwhile, and it saw that it was overtaken."""
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", LEFT)
    with take(storage, LAYOUT) as stale:
        storage.usurp(LAYOUT.lease)
        back_up(repo, "2", LEFT)
        with pytest.raises(LeaseHeld):
            condemn(storage, LAYOUT, stale, packs(storage))
    before = packs(storage)
    done = repo.collect(CLUSTER)
    assert done.packs_repacked == len(before) and not before & packs(storage)
    assert everything(repo) == {"1": LEFT, "2": LEFT}
    assert not [name for name in storage.objects if "/condemned/" in name]


def test_R6_a_collection_that_slept_before_any_of_its_calls_costs_a_younger_backup_nothing() -> None:
    slept = True
    at = 5  # after opening
    while slept:
        world = MemoryStorage()
        nearly_empty(world)
        sleeper = Sleeper(Program(world, sleep_at=at), lambda p: Repository.open(p, KEY).collect(CLUSTER))
        slept = sleeper.sleeping
        repo = Repository.open(Program(world), KEY)
        back_up(repo, "3", LEFT | MOST)  # of which all lies in the pack that goes
        sleeper.end()
        assert everything(repo) == {"2": LEFT, "3": LEFT | MOST}, at
        assert repo.check(CLUSTER).faults == (), at
        at += 1
    assert at > 40


def test_R6_a_list_of_condemned_packs_that_cannot_be_read_stops_adoption_and_collection() -> None:
    storage = MemoryStorage()
    repo = nearly_empty(storage)
    storage.objects[f"{LAYOUT.condemned}{1:020d}-0"] = b"what was this"
    with pytest.raises(Damaged, match="condemned"):
        repo.collect(CLUSTER)
    with repo.writer(CLUSTER) as writer:
        writer.add_block(LEFT["left"][:4096])
        assert writer.adopted_blocks == 0


def test_an_index_of_packs_that_are_gone_is_no_damage_where_other_copies_are() -> None:
    """A writer slept before its index, and its packs were collected meanwhile."""
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", LEFT)
    late = {name: storage.objects.pop(name) for name in list(storage.objects) if "/indexes/" in name}
    gone = packs(storage)
    back_up(repo, "2", LEFT)
    repo.delete_backup(CLUSTER, "1")
    for name in gone:
        del storage.objects[name]
    storage.objects |= late
    assert repo.check(CLUSTER).faults == () and everything(repo) == {"2": LEFT}
    del storage.objects[packs(storage).pop()]
    assert repo.check(CLUSTER).damaged_backups == ["2"]


def test_R4_a_writer_that_slept_before_its_manifest_does_not_bring_a_deleted_backup_back() -> None:
    counted = Program(MemoryStorage())
    back_up(made(counted), "1", LEFT)
    world = MemoryStorage()
    made(world)
    last = counted.calls - 3 + 4  # made in three calls there, opened in four here
    sleeper = Sleeper(Program(world, sleep_at=last), lambda program: back_up(Repository.open(program, KEY), "1", LEFT))
    assert sleeper.sleeping and f"{LAYOUT.history}1.made" in world.objects and LAYOUT.manifest("1") not in world.objects
    repo = Repository.open(Program(world), KEY)
    back_up(repo, "1", LEFT)  # the job went on elsewhere
    repo.delete_backup(CLUSTER, "1")
    sleeper.end()
    assert isinstance(sleeper.error, ObjectExists)
    assert list(repo.backups(CLUSTER)) == []


def test_R4_a_deleted_number_makes_no_backup_any_more() -> None:
    storage = MemoryStorage()
    repo = nearly_empty(storage)
    for spent in ("1", "77"):
        repo.delete_backup(CLUSTER, spent)
        with pytest.raises(ObjectExists):
            back_up(repo, spent, LEFT)
        with pytest.raises(Refused, match="given up"):
            repo.refuse_spent(CLUSTER, spent)
    repo.refuse_spent(CLUSTER, "78")


def test_R6_an_epoch_is_the_newest_or_lost() -> None:
    storage = MemoryStorage()
    made(storage)
    with take(storage, LAYOUT) as first:
        first.confirm()
        storage.usurp(LAYOUT.lease)
        with take(storage, LAYOUT) as second:
            second.confirm()
            assert second.epoch == first.epoch + 1
            with pytest.raises(LeaseHeld):
                first.confirm()
    # Whoever looked long ago takes a number that was given up meanwhile, sees that it is old, and takes a newer one
    listed = storage.list
    answers = iter([[]])
    storage.list = lambda prefix: iter(seen) if (seen := next(answers, None)) is not None else listed(prefix)  # type: ignore[method-assign]
    with take(storage, LAYOUT) as third:
        assert third.epoch == second.epoch + 1
