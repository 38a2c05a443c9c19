"""The repository against a dictionary: backups, deletions, collections and crashes in any order."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from small_repository import CLUSTER, KEY, back_up, everything, made

from icecore.errors import StorageFailed
from icecore.repository import Repository
from icecore.repository.layout import ClusterLayout
from icecore.repository.reader import indexes
from icecore.storage.memory import MemoryStorage

CONTENTS = st.builds(lambda byte, size: bytes([byte]) * size, st.integers(0, 3), st.sampled_from([0, 1, 4096, 9000]))
TREES = st.dictionaries(st.sampled_from("abcdef"), CONTENTS, max_size=5)


class RepositoryAgainstOracle(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.storage = MemoryStorage(lose_unsynced=True)
        made(self.storage)
        self.oracle: dict[str, dict[str, bytes]] = {}
        self.count = 0

    def repo(self) -> Repository:
        return Repository.open(self.storage, KEY)

    def crash(self, after_calls: int, effect: bool) -> None:
        """The storage goes down with its so-manieth call from now."""
        self.storage.fail_at = self.storage.calls + after_calls
        self.storage.effect, self.storage.stay_down = effect, True

    def come_back(self, left: int) -> None:
        self.storage = self.storage.after_crash(lambda name, data: (None, data, data[: len(data) // 2])[left])

    @rule(tree=TREES)
    def back_up(self, tree: dict[str, bytes]) -> None:
        self.count += 1
        back_up(self.repo(), str(self.count), tree)
        self.oracle[str(self.count)] = tree

    @rule(tree=TREES, calls=st.integers(1, 40), effect=st.booleans(), left=st.integers(0, 2))
    def crash_while_backing_up(self, tree: dict[str, bytes], calls: int, effect: bool, left: int) -> None:
        self.count += 1
        self.crash(calls, effect)
        with suppress(StorageFailed):
            back_up(self.repo(), str(self.count), tree)
            self.oracle[str(self.count)] = tree
        self.come_back(left)
        if self.repo().has(CLUSTER, str(self.count)) is not None:
            self.oracle[str(self.count)] = tree  # R4: and then it must restore, which the invariant looks at

    @precondition(lambda self: self.oracle)
    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        backup_id = data.draw(st.sampled_from(sorted(self.oracle)))
        self.repo().delete_backup(CLUSTER, backup_id)
        del self.oracle[backup_id]

    @precondition(lambda self: self.oracle)
    @rule(data=st.data(), calls=st.integers(1, 10), effect=st.booleans(), left=st.integers(0, 2))
    def crash_while_deleting(self, data: Any, calls: int, effect: bool, left: int) -> None:
        backup_id = data.draw(st.sampled_from(sorted(self.oracle)))
        self.crash(calls, effect)
        with suppress(StorageFailed):
            self.repo().delete_backup(CLUSTER, backup_id)
        self.come_back(left)
        if self.repo().has(CLUSTER, backup_id) is None:
            del self.oracle[backup_id]

    @rule()
    def collect(self) -> None:
        self.repo().collect(CLUSTER)
        assert self.repo().collect(CLUSTER).objects_removed == 0

    @rule(calls=st.integers(1, 60), effect=st.booleans(), left=st.integers(0, 2))
    def crash_while_collecting(self, calls: int, effect: bool, left: int) -> None:
        self.crash(calls, effect)
        with suppress(StorageFailed):
            self.repo().collect(CLUSTER)
        self.come_back(left)

    @rule(left=st.integers(0, 2))
    def lose_power(self, left: int) -> None:
        self.come_back(left)

    @invariant()
    def R4_what_exists_is_what_the_oracle_says(self) -> None:
        assert everything(self.repo()) == self.oracle

    @invariant()
    def R2_every_index_names_packs_that_are_there(self) -> None:
        repo, layout = self.repo(), ClusterLayout(CLUSTER)
        for _, tables in indexes(self.storage, repo._keyring, layout):
            for table in tables:
                assert len(self.storage.objects[layout.pack(table.pack_id)]) == table.size_bytes


class TestRepositoryAgainstOracle_R2_R4_R6(RepositoryAgainstOracle.TestCase):  # type: ignore[name-defined,misc]
    settings = settings(
        max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
    )
