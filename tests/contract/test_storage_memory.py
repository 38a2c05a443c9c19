"""Memory: the contract, and that its failures are those it promises."""

from __future__ import annotations

import pytest
from storage import StorageContract

from icecore.errors import LeaseHeld, ObjectMissing, StorageFailed
from icecore.storage.memory import MemoryStorage


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage()


class TestContract(StorageContract):
    pass


@pytest.mark.parametrize("effect", [False, True])
def test_fails_at_the_nth_call_and_only_there(effect: bool) -> None:
    storage = MemoryStorage(fail_at=2, effect=effect)
    storage.put("a", [b"x"])
    with pytest.raises(StorageFailed, match="call 2"):
        storage.put("b", [b"x"])
    storage.put("c", [b"x"])
    assert ("b" in storage.objects) is effect


def test_a_machine_that_is_down_stays_down() -> None:
    storage = MemoryStorage(fail_at=2, stay_down=True)
    storage.put("a", [b"x"])
    for _ in range(3):
        with pytest.raises(StorageFailed):
            storage.get("a")
    assert storage.after_crash().get("a") == b"x"


def test_a_power_cut_loses_what_no_barrier_covered() -> None:
    storage = MemoryStorage(lose_unsynced=True)
    storage.put("covered", [b"x"], durable=False)
    storage.barrier()
    storage.put("durable", [b"x"])
    storage.put("late", [b"long"], durable=False)
    assert sorted(storage.after_crash().objects) == ["covered", "durable"]
    torn = storage.after_crash(lambda name, data: data[:2])
    assert torn.get("late") == b"lo"
    assert torn.get("durable") == b"x"
    with pytest.raises(ObjectMissing):
        storage.after_crash().get("late")


def test_a_lease_whose_answer_was_lost_is_free() -> None:
    storage = MemoryStorage(fail_at=1, effect=True)
    with pytest.raises(StorageFailed):
        storage.lease("x")
    with storage.lease("x") as lease:
        storage.usurp("x")
        with pytest.raises(LeaseHeld):
            lease.confirm()
