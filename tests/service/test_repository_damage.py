"""Every byte of a small repository flipped, every object cut at every length: the right bytes or a refusal by name."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from small_repository import BLOCK_BYTES, CLUSTER, KEY, Tree, back_up, content, lasting

from icecore.errors import BackupNotFound, BrokenLaw, Damaged, NotARepository, WrongKey
from icecore.repository import KeyFile, Repository
from icecore.storage.memory import MemoryStorage

CHANCE = random.Random(5)
TREES: dict[str, Tree] = {
    "1": {
        "d/": b"",
        "d/random": CHANCE.randbytes(700),
        "d/text": b"compressible " * 400,
        "zeros": bytes(BLOCK_BYTES + 1),
    },
    "2": {"d/": b"", "d/random": CHANCE.randbytes(300), "d/text": b"compressible " * 400},
}


def small(secret: KeyFile | None) -> MemoryStorage:
    storage = MemoryStorage()
    repo = Repository.create(storage, secret, block_bytes=BLOCK_BYTES)
    for backup_id, tree in TREES.items():
        back_up(repo, backup_id, tree)
    assert sum(map(len, storage.objects.values())) < 64 * 1024
    return storage


def refused_or_right(storage: MemoryStorage, secret: KeyFile | None, name: str) -> str:
    """What became of the backups: "right", "key", or the name of the refused object. Anything else fails the test."""
    try:
        repo = Repository.open(storage, secret)
    except (NotARepository, WrongKey):
        assert name in ("repository", "key")
        return "key"
    except Damaged as error:
        assert error.fields["name"] == "key" == name
        return "key"
    verdict = "right"
    damaged: list[Damaged] = []
    listed = {facts.backup_id for facts in repo.backups(damaged=damaged)}
    for error in damaged:
        assert error.fields["name"] == name
        verdict = name
    for backup_id, tree in TREES.items():
        try:
            assert content(repo.reader(CLUSTER, backup_id)) == tree
            assert backup_id in listed
        except Damaged as error:
            assert error.fields["name"] == name
            verdict = name
    return verdict


def flips(data: bytes) -> Iterator[bytes]:
    for at in range(len(data)):
        yield data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :]


def cuts(data: bytes) -> Iterator[bytes]:
    for length in range(len(data)):
        yield data[:length]


@pytest.mark.parametrize("secret", [KEY, None], ids=["encrypted", "plain"])
@pytest.mark.parametrize("harm", [flips, cuts])
def test_R5_any_byte_changed_gives_the_right_bytes_or_a_refusal_by_name(harm: object, secret: KeyFile | None) -> None:
    storage = small(secret)
    pristine = dict(storage.objects)
    assert refused_or_right(storage, secret, "") == "right"
    for name, data in pristine.items():
        verdicts: set[str] = set()
        for harmed in harm(data):
            storage.objects[name] = harmed
            verdicts.add(refused_or_right(storage, secret, name))
        storage.objects[name] = data
        # Each kind of object is really looked at.
        if name in ("repository", "key"):
            assert verdicts == {"key"}, name
        elif "/manifests/" in name:
            assert verdicts == {name}, name
        elif "/packs/" in name:
            assert name in verdicts, name
        else:
            assert verdicts == {"right"}, name  # an index is replaced by the packs; marks are for collection


@pytest.mark.parametrize("secret", [KEY, None], ids=["encrypted", "plain"])
def test_R6_collection_in_a_damaged_repository_removes_nothing_that_is_used(secret: KeyFile | None) -> None:
    storage = small(secret)
    Repository.open(storage, secret).delete_backup(CLUSTER, "2")
    pristine = dict(storage.objects)
    for name, data in pristine.items():
        if name in ("repository", "key"):
            continue
        for at in range(0, len(data), 29):
            storage.objects[name] = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
            repo = Repository.open(storage, secret)
            try:
                repo.collect(CLUSTER)
            except BrokenLaw as error:
                assert error.fields["name"] == name
                assert lasting(storage.objects).keys() == lasting(pristine).keys()
            # The damaged object brought back from a copy, if it is one that was needed: all is well again.
            storage.objects[name] = data
            assert content(Repository.open(storage, secret).reader(CLUSTER, "1")) == TREES["1"]
            storage.objects = dict(pristine)


@pytest.mark.parametrize("secret", [KEY, None], ids=["encrypted", "plain"])
def test_R5_any_object_gone_gives_the_right_bytes_or_a_refusal_by_name(secret: KeyFile | None) -> None:
    storage = small(secret)
    pristine = dict(storage.objects)
    for name in pristine:
        storage.objects = {other: data for other, data in pristine.items() if other != name}
        if "/manifests/" in name:
            with pytest.raises(BackupNotFound):
                Repository.open(storage, secret).reader(CLUSTER, name[-1])
        else:
            verdict = refused_or_right(storage, secret, name)
            assert verdict == ("key" if name in ("repository", "key") else name if "/packs/" in name else "right")


@pytest.mark.parametrize("secret", [KEY, None], ids=["encrypted", "plain"])
def test_R5_garbage_of_any_length_in_place_of_an_object_is_refused(secret: KeyFile | None) -> None:
    storage = small(secret)
    pristine = dict(storage.objects)
    for name, data in pristine.items():
        for length in (0, 1, 63, 64, 80, 96, 97, len(data), len(data) + 1, 5000):
            # Also with a believable beginning.
            for kept in (0, 64, len(data)):
                storage.objects[name] = data[:kept] + CHANCE.randbytes(length)
                refused_or_right(storage, secret, name)
        storage.objects[name] = data
