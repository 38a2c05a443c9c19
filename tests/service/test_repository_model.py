"""The repository against a dictionary: backups, deletions, collections, crashes, short listings and programs that
sleep in the middle of their work and go on when all has changed, in any order, on a storage without locks."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from restless_storage import Program, Sleeper
from small_repository import BLOCK_BYTES, CLUSTER, KEY, back_up, everything, made

from icecore.errors import Damaged, LeaseHeld, ObjectExists, StorageFailed
from icecore.repository import Repository
from icecore.repository.index import BlockTable
from icecore.repository.layout import ClusterLayout
from icecore.repository.reader import indexes
from icecore.repository.repacking import DEAD_SHARE_OF_ALL
from icecore.storage.memory import MemoryStorage

CONTENTS = st.builds(
    lambda byte, size: bytes([byte]) * size, st.integers(0, 9), st.sampled_from([0, 1, 4096, 9000, 16384])
)
TREES = st.dictionaries(st.sampled_from("abcdef"), CONTENTS, max_size=5)
HIDDEN = ("/manifests/", "/history/", "/indexes/", "/packs/", "/epochs/", "/condemned/", "1", "5", "e")


class RepositoryAgainstOracle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = MemoryStorage(lose_unsynced=True)
        made(self.world)
        self.there: dict[str, dict[str, bytes]] = {}  # must be there
        self.perhaps: dict[str, dict[str, bytes]] = {}  # nobody was told how it ended
        self.sleepers: list[tuple[Sleeper, str, str]] = []  # what it does, to which backup
        self.slept = False
        self.count = 0

    def repo(self, **faults: Any) -> Repository:
        return Repository.open(Program(self.world, **faults), KEY)

    def settle(self, backup_id: str) -> None:
        """Nobody works on it any more: it is there or it is not."""
        if backup_id in self.perhaps:
            tree = self.perhaps.pop(backup_id)
            if self.repo().has(CLUSTER, backup_id) is not None:
                self.there[backup_id] = tree

    # ------------------------------------------------------------ as it should go

    @rule(tree=TREES)
    def back_up(self, tree: dict[str, bytes]) -> None:
        self.count += 1
        back_up(self.repo(), str(self.count), tree)
        self.there[str(self.count)] = tree

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        backup_id = data.draw(st.sampled_from(sorted(self.there)))
        self.repo().delete_backup(CLUSTER, backup_id)
        del self.there[backup_id]

    @rule()
    def collect(self) -> None:
        said = self.repo().collect(CLUSTER, dry_run=True)
        done = self.repo().collect(CLUSTER)
        assert (said.bytes_freed, said.objects_removed, said.packs_repacked, said.moved_bytes) == (
            (done.bytes_freed, done.objects_removed, done.packs_repacked, done.moved_bytes)
        )
        if not self.sleepers:
            assert self.repo().collect(CLUSTER).objects_removed == 0

    # ------------------------------------------------------------ with a crash, and a listing that leaves things out

    @rule(tree=TREES, calls=st.integers(1, 45), effect=st.booleans())
    def crash_while_backing_up(self, tree: dict[str, bytes], calls: int, effect: bool) -> None:
        self.count += 1
        backup_id = str(self.count)
        self.perhaps[backup_id] = tree
        with suppress(StorageFailed):
            back_up(self.repo(fail_at=calls + 2, effect=effect), backup_id, tree)
        self.settle(backup_id)
        if backup_id not in self.there:
            # the job runs again; a collection in between may have given its number up
            with suppress(ObjectExists):
                back_up(self.repo(), backup_id, tree)
                self.there[backup_id] = tree

    @precondition(lambda self: self.there)
    @rule(data=st.data(), calls=st.integers(1, 8), effect=st.booleans())
    def crash_while_deleting(self, data: Any, calls: int, effect: bool) -> None:
        backup_id = data.draw(st.sampled_from(sorted(self.there)))
        self.perhaps[backup_id] = self.there.pop(backup_id)
        with suppress(StorageFailed):
            self.repo(fail_at=calls + 2, effect=effect).delete_backup(CLUSTER, backup_id)
            del self.perhaps[backup_id]
        self.settle(backup_id)

    @rule(calls=st.integers(1, 90), effect=st.booleans())
    def crash_while_collecting(self, calls: int, effect: bool) -> None:
        with suppress(StorageFailed):
            self.repo(fail_at=calls + 2, effect=effect).collect(CLUSTER)

    @rule(hidden=st.sampled_from(HIDDEN))
    def collect_by_a_short_listing(self, hidden: str) -> None:
        if hidden == "/condemned/" and self.sleepers:
            return  # a listing that lies and a collection that sleeps are two faults at once
        self.slept = True  # an index that it did not see stays, also of packs that nobody uses and that go
        with suppress(Damaged, LeaseHeld):
            self.repo(hidden=lambda name: hidden in name).collect(CLUSTER)

    @rule(left=st.integers(0, 2))
    def lose_power(self, left: int) -> None:
        for sleeper, _, backup_id in self.sleepers:
            sleeper.end(dead=True)
            self.settle(backup_id)
        self.sleepers = []
        self.world = self.world.after_crash(lambda name, data: (None, data, data[: len(data) // 2])[left])

    # ------------------------------------------------------------ with programs that sleep

    def sleep(self, what: str, backup_id: str, at: int, work: Any) -> None:
        sleeper = Sleeper(Program(self.world, sleep_at=at), work)
        self.slept = True
        if sleeper.sleeping:
            self.sleepers.append((sleeper, what, backup_id))
        else:
            self.ended(sleeper, what, backup_id)

    def ended(self, sleeper: Sleeper, what: str, backup_id: str) -> None:
        assert sleeper.error is None or isinstance(sleeper.error, LeaseHeld | ObjectExists | Damaged)
        if any(other == backup_id for _, _, other in self.sleepers):
            return
        if what == "delete" and sleeper.done:
            self.perhaps.pop(backup_id, None)
        self.settle(backup_id)

    @precondition(lambda self: len(self.sleepers) < 3)
    @rule(tree=TREES, at=st.integers(3, 50), from_end=st.booleans())
    def sleep_while_backing_up(self, tree: dict[str, bytes], at: int, from_end: bool) -> None:
        self.count += 1
        backup_id = str(self.count)
        self.perhaps[backup_id] = tree
        if from_end:
            # the last calls matter most: how many it takes is known from a world that is thrown away
            counted = Program(self.world.after_crash(lambda name, data: data))
            back_up(Repository.open(counted, KEY), backup_id, tree)
            at = max(3, counted.calls - at % 6)
        self.sleep("back up", backup_id, at, lambda program: back_up(Repository.open(program, KEY), backup_id, tree))

    @precondition(lambda self: len(self.sleepers) < 3)
    @rule(at=st.integers(3, 90))
    def sleep_while_collecting(self, at: int) -> None:
        self.sleep("collect", "", at, lambda program: Repository.open(program, KEY).collect(CLUSTER))

    @precondition(lambda self: len(self.sleepers) < 3 and self.there)
    @rule(data=st.data(), at=st.integers(3, 10))
    def sleep_while_deleting(self, data: Any, at: int) -> None:
        backup_id = data.draw(st.sampled_from(sorted(self.there)))
        self.perhaps[backup_id] = self.there.pop(backup_id)
        self.sleep("delete", backup_id, at, lambda p: Repository.open(p, KEY).delete_backup(CLUSTER, backup_id))

    @precondition(lambda self: self.sleepers)
    @rule(data=st.data())
    def back_up_again_what_a_sleeper_began(self, data: Any) -> None:
        """The job was given to another worker."""
        _, what, backup_id = data.draw(st.sampled_from(self.sleepers))
        if what == "back up" and self.repo().has(CLUSTER, backup_id) is None:
            given_up = backup_id not in self.perhaps
            with suppress(ObjectExists):
                back_up(self.repo(), backup_id, self.perhaps.get(backup_id, {}))
                assert not given_up

    @precondition(lambda self: self.sleepers)
    @rule(data=st.data())
    def give_up_what_a_sleeper_began(self, data: Any) -> None:
        """The job failed at another worker: whatever the sleeper does, there will be no such backup."""
        _, what, backup_id = data.draw(st.sampled_from(self.sleepers))
        if what != "collect":
            self.repo().delete_backup(CLUSTER, backup_id)
            self.perhaps.pop(backup_id, None)

    @precondition(lambda self: self.sleepers)
    @rule(data=st.data())
    def awaken(self, data: Any) -> None:
        number = data.draw(st.integers(0, len(self.sleepers) - 1))
        sleeper, what, backup_id = self.sleepers.pop(number)
        sleeper.end()
        self.ended(sleeper, what, backup_id)

    # ------------------------------------------------------------ what holds after each of them

    @invariant()
    def R4_R6_what_exists_restores_and_is_what_the_oracle_says(self) -> None:
        found = everything(self.repo())
        assert {backup_id: found.get(backup_id) for backup_id in self.there} == self.there
        assert all(self.perhaps[backup_id] == found[backup_id] for backup_id in found.keys() - self.there.keys())
        assert self.repo().check(CLUSTER).faults == ()

    @invariant()
    def R2_every_index_names_packs_that_are_there(self) -> None:
        if self.slept:
            return  # a collection that was overtaken may leave an index of packs that are gone
        repo, layout = self.repo(), ClusterLayout(CLUSTER)
        for _, tables in indexes(self.world, repo._keyring, layout):
            for table in tables:
                assert len(self.world.objects[layout.pack(table.pack_id)]) == table.size_bytes

    def teardown(self) -> None:
        while self.sleepers:
            sleeper, what, backup_id = self.sleepers.pop()
            sleeper.end()
            self.ended(sleeper, what, backup_id)
        self.repo().collect(CLUSTER)
        self.R4_R6_what_exists_restores_and_is_what_the_oracle_says()
        self.what_is_stored_is_what_is_needed()

    def what_is_stored_is_what_is_needed(self) -> None:
        repo, layout = self.repo(), ClusterLayout(CLUSTER)
        tables = [table for _, some in indexes(self.world, repo._keyring, layout) for table in some]
        blocks = BlockTable(tables)
        # 1 the oracle's own count of blocks, and the file tables'
        contents = {file[at : at + BLOCK_BYTES] for tree in self.there.values() for file in tree.values()
                    for at in range(0, len(file), BLOCK_BYTES)}  # fmt: skip
        readers = [repo.reader(CLUSTER, backup_id) for backup_id in self.there]
        sections = {each for reader in readers for each in (*reader._root.file_sections, *reader._root.id_sections)}
        needed = {repo._codec.block_id(content) for content in contents} | sections
        places = {block_id: blocks.place(next(blocks.rows(block_id))) for block_id in needed}
        needed_bytes = sum(place.stored for place in places.values())
        # 2 against the packs
        stored_bytes = sum(sum(table.stored) for table in tables)
        assert needed_bytes <= stored_bytes <= needed_bytes / (1 - DEAD_SHARE_OF_ALL) + 1
        packs = {name for name in self.world.objects if "/packs/" in name}
        assert packs == {layout.pack(table.pack_id) for table in tables}
        assert not [name for name in self.world.objects if "/condemned/" in name]
        marks = [name for name in self.world.objects if "/epochs/" in name]
        assert len(marks) <= 2


EXAMPLES = int(os.environ.get("ICECORE_EXAMPLES", "30"))  # `make soak` asks for more


class TestRepositoryAgainstOracle_R2_R4_R6(RepositoryAgainstOracle.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        max_examples=EXAMPLES,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
