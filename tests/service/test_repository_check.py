"""``check``: what is damaged or missing is found, with the backups that need it; what is whole is called whole."""

from __future__ import annotations

import functools
import random
import threading

import pytest
from small_repository import BLOCK_BYTES, CLUSTER, KEY, back_up, content

from icecore.errors import Damaged
from icecore.repository import Repository
from icecore.storage.memory import MemoryStorage

CHANCE = random.Random(11)
SHARED = CHANCE.randbytes(3 * BLOCK_BYTES)
TREES = {
    "1": {"d/": b"", "d/first": CHANCE.randbytes(5000), "d/both": SHARED},
    "2": {"d/": b"", "d/second": CHANCE.randbytes(9000), "d/both": SHARED},
}


@functools.cache
def first() -> MemoryStorage:
    storage = MemoryStorage()
    repository = Repository.create(storage, KEY, block_bytes=BLOCK_BYTES)
    for backup_id, tree in TREES.items():
        back_up(repository, backup_id, tree)
    return storage


def two_backups() -> MemoryStorage:
    """The same objects each time; names are drawn with the salts in them."""
    storage = MemoryStorage()
    storage.objects.update(first().objects)
    return storage


def readable(storage: MemoryStorage) -> set[str]:
    """The backups that a restore would really give back: what check must agree with."""
    whole = set()
    for backup_id, tree in TREES.items():
        try:
            if content(Repository.open(storage, KEY).reader(CLUSTER, backup_id)) == tree:
                whole.add(backup_id)
        except Damaged:
            pass
    return whole


def test_a_whole_repository_is_whole() -> None:
    storage = two_backups()
    told = []
    found = Repository.open(storage, KEY).check(CLUSTER, advance=told.append)
    assert (found.backup_count, found.faults) == (2, ())
    packs = [len(data) for name, data in storage.objects.items() if "/packs/" in name]
    assert found.pack_count == found.pack_total == len(packs) and found.read_bytes == sum(packs) == sum(told)


def test_every_flipped_byte_is_found_and_its_backups_named() -> None:
    """Each object of a cluster in turn, at some places in it: check's verdict is that of reading everything back."""
    named = 0
    for name in [name for name in two_backups().objects if name.startswith("clusters/")]:
        size = len(two_backups().objects[name])
        for at in {0, size - 1, *(CHANCE.randrange(size) for _ in range(12))} if size else ():
            storage = two_backups()
            broken = bytearray(storage.objects[name])
            broken[at] ^= 1 << CHANCE.randrange(8)
            storage.objects[name] = bytes(broken)
            found = Repository.open(storage, KEY).check(CLUSTER)
            lost = set(TREES) - readable(storage)
            assert lost <= set(found.damaged_backups), (name, at)
            if any(part in name for part in ("/packs/", "/index", "/manifests/")):
                assert found.faults, (name, at)
                named += len(found.damaged_backups)
    assert named


@pytest.mark.parametrize("part", ["/packs/", "/manifests/", "/index"])
def test_every_missing_object_is_found(part: str) -> None:
    for name in [name for name in two_backups().objects if part in name]:
        storage = two_backups()
        del storage.objects[name]
        found = Repository.open(storage, KEY).check(CLUSTER)
        if part == "/manifests/":
            assert found.backup_count == 1 and not found.faults  # a backup exists exactly if its manifest does
        else:
            assert found.damaged_backups, name


def test_a_sample_reads_a_share_and_checks_all_names() -> None:
    storage = MemoryStorage()
    repository = Repository.create(storage, KEY, block_bytes=BLOCK_BYTES)
    for number in range(30):
        back_up(repository, str(number), {"d/": b"", "d/file": CHANCE.randbytes(2000)})
    read = [repository.check(CLUSTER, share=0.2).pack_count for _ in range(20)]
    assert 0 < sum(read) / 20 < 15 and len(set(read)) > 1
    gone = next(name for name in storage.objects if "/packs/" in name)
    del storage.objects[gone]
    found = [repository.check(CLUSTER, share=0.5) for _ in range(12)]
    assert any(one.damaged_backups for one in found)


def test_beside_backups_and_deletions_nothing_is_called_damaged() -> None:
    storage = two_backups()
    repository, ended, faults = Repository.open(storage, KEY), threading.Event(), []

    def look() -> None:
        while not ended.is_set():
            faults.extend(repository.check(CLUSTER).faults)

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(10, 30):
        back_up(repository, str(number), {"d/": b"", "d/file": CHANCE.randbytes(6000), "d/both": SHARED})
        repository.delete_backup(CLUSTER, str(number))
        repository.collect(CLUSTER)
    ended.set()
    looking.join()
    assert faults == []
