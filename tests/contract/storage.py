"""What every storage must do. A test module subclasses ``StorageContract`` and gives the fixture ``storage``."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from icecore.errors import Damaged, LeaseHeld, ObjectExists, ObjectMissing, StorageFailed
from icecore.storage import Storage

BAD_NAMES = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    "..",
    "a/../b",
    "a/.",
    "A",
    "a b",
    "a\0b",
    "a\nb",
    "é",
    "x" * 256,
    "tmp/a",
    "leases/a",
]


class StorageContract:
    def test_gives_back_the_joined_parts(self, storage: Storage) -> None:
        storage.put("a/b", [b"one", bytearray(b"two"), memoryview(b"three")])
        assert storage.get("a/b") == b"onetwothree"
        assert storage.size_bytes("a/b") == 11
        storage.put("empty", [])
        assert storage.get("empty") == b""

    def test_R1_a_taken_name_is_refused_and_keeps_its_bytes(self, storage: Storage) -> None:
        for durable in (True, False):
            name = f"a/{durable}".lower()
            storage.put(name, [b"first"], durable=durable)
            for again in (True, False):
                with pytest.raises(ObjectExists):
                    storage.put(name, [b"second"], durable=again)
            assert storage.get(name) == b"first"

    def test_R1_of_many_at_once_one_wins(self, storage: Storage) -> None:
        gate = threading.Barrier(8)

        def put(number: int) -> int | None:
            gate.wait()
            try:
                storage.put("contended", [str(number).encode() * 10_000])
            except ObjectExists:
                return None
            return number

        with ThreadPoolExecutor(8) as pool:
            winners = [number for number in pool.map(put, range(8)) if number is not None]
        assert len(winners) == 1
        assert storage.get("contended") == str(winners[0]).encode() * 10_000

    def test_an_absent_object_is_named(self, storage: Storage) -> None:
        storage.put("a/b", [b"x"])
        for name in ("c", "a", "a/b/c", "a/c"):
            for read in (storage.get, storage.size_bytes, lambda name: storage.get_ranges(name, [(0, 1)])):
                with pytest.raises(ObjectMissing, match=name):
                    read(name)

    def test_a_range_is_exact_or_refused(self, storage: Storage) -> None:
        storage.put("a", [b"0123456789"])
        assert list(storage.get_ranges("a", [(0, 10), (10, 0)])) == [b"0123456789", b""]
        assert list(storage.get_ranges("a", [(8, 2), (0, 3), (0, 3)])) == [b"89", b"012", b"012"]
        for offset, length in ((0, 11), (9, 2), (10, 1), (11, 0), (-1, 1)):
            with pytest.raises(Damaged, match="a is damaged"):
                storage.get_ranges("a", [(0, 1), (offset, length)])
        with pytest.raises(ObjectMissing):
            storage.get_ranges("b", [(0, 1)])

    def test_lists_below_a_prefix_in_name_order(self, storage: Storage) -> None:
        names = ["a-b/x", "a.b", "a/b/c", "a/b-c", "a/bb", "ab", "b/a", "clusters/x/packs/0f"]
        for name in reversed(names):
            storage.put(name, [name.encode()])
        assert [found.name for found in storage.list("")] == sorted(names)
        assert all(found.size_bytes == len(found.name) for found in storage.list(""))
        assert [found.name for found in storage.list("a/")] == ["a/b-c", "a/b/c", "a/bb"]
        assert [found.name for found in storage.list("a/b/")] == ["a/b/c"]
        assert list(storage.list("nothing/")) == []

    def test_names_the_folders_below_a_prefix(self, storage: Storage) -> None:
        assert list(storage.folders("")) == list(storage.folders("a/")) == []
        for name in ("a/x/1", "a/x/2", "a/b-c/1/deep", "a/direct", "z"):
            storage.put(name, [b"x"])
        with storage.lease("l"):
            assert list(storage.folders("")) == ["a"]
        assert list(storage.folders("a/")) == ["b-c", "x"]
        assert list(storage.folders("a/x/")) == []

    def test_a_prefix_ends_with_a_slash(self, storage: Storage) -> None:
        for prefix in ("a", "../", "/", "a/../", "a//"):
            with pytest.raises(StorageFailed):
                list(storage.list(prefix))
            with pytest.raises(StorageFailed):
                list(storage.folders(prefix))

    def test_leases_and_half_written_objects_are_not_listed(self, storage: Storage) -> None:
        storage.put("a", [b"x"])
        with storage.lease("clusters/x"):
            assert [found.name for found in storage.list("")] == ["a"]

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_a_name_that_leads_elsewhere_is_refused(self, storage: Storage, name: str) -> None:
        for call in (
            lambda: storage.put(name, [b"x"]),
            lambda: storage.replace(name, b"x"),
            lambda: storage.get(name),
            lambda: storage.get_ranges(name, [(0, 0)]),
            lambda: storage.size_bytes(name),
            lambda: storage.delete(name),
            lambda: storage.lease(name),
        ):
            with pytest.raises(StorageFailed):
                call()
        assert list(storage.list("")) == []

    def test_deletes_and_does_not_mind_absence(self, storage: Storage) -> None:
        storage.put("a/b", [b"x"])
        storage.delete("a/b")
        storage.delete("a/b")
        storage.delete("a/b/c")
        with pytest.raises(ObjectMissing):
            storage.get("a/b")
        storage.put("a/b", [b"again"])
        assert storage.get("a/b") == b"again"

    def test_replaces_whole(self, storage: Storage) -> None:
        storage.replace("key", b"a long first content")
        storage.replace("key", b"short")
        assert storage.get("key") == b"short"
        assert [found.name for found in storage.list("")] == ["key"]

    def test_what_is_not_durable_yet_is_seen_already(self, storage: Storage) -> None:
        storage.barrier()
        storage.put("a", [b"x"], durable=False)
        assert storage.get("a") == b"x"
        storage.barrier()
        assert storage.get("a") == b"x"

    def test_a_lease_has_one_holder(self, storage: Storage) -> None:
        with storage.lease("clusters/x") as first:
            with pytest.raises(LeaseHeld, match="clusters/x"):
                storage.lease("clusters/x")
            with storage.lease("clusters/y"):
                pass
            first.confirm()
        with pytest.raises(LeaseHeld):
            first.confirm()
        with storage.lease("clusters/x") as second:
            assert second.epoch > first.epoch
            second.confirm()
            with pytest.raises(LeaseHeld):
                first.confirm()

    def test_of_many_that_ask_one_gets_the_lease(self, storage: Storage) -> None:
        gate = threading.Barrier(6)

        def ask(_: int) -> object:
            gate.wait()
            try:
                return storage.lease("clusters/x")
            except LeaseHeld:
                return None

        with ThreadPoolExecutor(6) as pool:
            leases = list(pool.map(ask, range(6)))
        assert len([lease for lease in leases if lease is not None]) == 1
