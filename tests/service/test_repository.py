"""What goes in comes out; who may open it; one writer; one use of an id."""

from __future__ import annotations

import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from small_repository import BLOCK_BYTES, CLUSTER, KEY, back_up, content, everything, facts_of, made

from icecore.errors import (
    BackupNotFound,
    Damaged,
    LeaseHeld,
    NotARepository,
    ObjectExists,
    Refused,
    StorageFailed,
    Usage,
    WrongKey,
)
from icecore.model import FileKind, FileMeta
from icecore.repository import KeyFile, Passphrase, Repository, StoredFile
from icecore.repository.layout import ClusterLayout
from icecore.repository.sealing import checked_line, read_line
from icecore.repository.writer import Writer
from icecore.storage.local import LocalStorage
from icecore.storage.memory import MemoryStorage

TREE = {
    "base/": b"",
    "base/empty": b"",
    "base/one": b"x",
    "base/exact": b"y" * BLOCK_BYTES,
    "base/zeros": bytes(10 * BLOCK_BYTES + 7),
    "base/random": random.Random(1).randbytes(3 * BLOCK_BYTES + 1),
    "base/odd \udcff name\n": b"z" * 100,
}


@pytest.mark.parametrize(
    "secret", [KEY, Passphrase("très secret", scrypt_n=1024), None], ids=["file", "phrase", "none"]
)
def test_a_backup_comes_back_from_nothing_but_repository_and_key(
    tmp_path: Path, secret: KeyFile | Passphrase | None
) -> None:
    back_up(Repository.create(LocalStorage(tmp_path), secret, block_bytes=BLOCK_BYTES), "1", TREE)
    repo = Repository.open(LocalStorage(tmp_path), secret)
    assert repo.encrypted is (secret is not None)
    assert repo.block_bytes == BLOCK_BYTES
    assert everything(repo) == {"1": TREE}
    found = repo.find("1")
    assert found == facts_of("1", TREE) == repo.has(CLUSTER, "1") == repo.reader(CLUSTER, "1").facts
    metas = [file.meta for file in repo.reader(CLUSTER, "1").files()]
    assert metas[0] == FileMeta("base", FileKind.DIRECTORY, 0o700)
    assert metas[2] == FileMeta("base/one", FileKind.FILE, 0o600, 1_700_000_000, 1)


def test_links_and_modes_come_back() -> None:
    repo = made(MemoryStorage())
    metas = [
        FileMeta("pg_tblspc/16384", FileKind.SYMLINK, 0o777, 5, 0, "/srv/space one"),
        FileMeta("run", FileKind.FILE, 0o4755, -1, 0),
    ]
    with repo.writer(CLUSTER) as writer:
        writer.commit(facts_of("1", {}), [StoredFile(meta, b"") for meta in metas])
    assert [file.meta for file in repo.reader(CLUSTER, "1").files()] == metas


def test_many_threads_and_many_packs_store_what_one_would(tmp_path: Path) -> None:
    repo = Repository.create(LocalStorage(tmp_path), KEY, block_bytes=BLOCK_BYTES)
    chance = random.Random(2)
    blocks = [chance.randbytes(chance.randrange(1, BLOCK_BYTES + 1)) for _ in range(3000)]
    blocks[1000:2000] = blocks[:1000]  # adopted, some while the first is still under way
    lease = repo.storage.lease(f"clusters/{CLUSTER}")
    layout = ClusterLayout(CLUSTER)
    writer = Writer(repo.storage, repo._keyring, repo._codec, layout, lease, BLOCK_BYTES, pack_bytes=64 * 1024)
    with writer:
        repo.storage.put(f"clusters/{CLUSTER}/history/began", [b"began"])
        with ThreadPoolExecutor(4) as pool:
            ids = list(pool.map(writer.add_block, blocks))
        writer.finish_blocks()
        writer.check()
        assert writer.adopted_blocks == 1000
        size = len(b"".join(blocks))
        files = [
            StoredFile(FileMeta(str(n), FileKind.FILE, 0o600, 0, len(b)), i)
            for n, (b, i) in enumerate(zip(blocks, ids, strict=True))
        ]
        writer.commit(facts_of("1", {"all": bytes(size)}), files)
    assert len(set(ids)) == 2000
    packs = list(repo.storage.list(f"clusters/{CLUSTER}/packs/"))
    assert len(packs) > 50
    reader = repo.reader(CLUSTER, "1")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(reader.block, ids)) == blocks
    stored = sum(pack.size_bytes for pack in packs)
    assert 0.9 * stored < reader.stored_bytes() < stored
    assert repo.collect(CLUSTER).objects_removed == 0
    assert content(reader)["2999"] == blocks[2999]


def test_a_second_backup_stores_only_what_changed() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    before = {str(n): random.Random(n).randbytes(BLOCK_BYTES) for n in range(50)}
    back_up(repo, "1", before)
    first = repo.stat().stored_bytes
    after = before | {"7": b"changed" * 100}
    back_up(repo, "2", after)
    assert repo.stat().stored_bytes - first < 8000  # one block, one file table, one manifest
    assert everything(repo) == {"2": after, "1": before}
    assert [facts.backup_id for facts in repo.backups()] == ["2", "1"]
    assert repo.stat().backup_count == 2
    assert repo.stat().logical_bytes == sum(facts.size_bytes for facts in repo.backups())


def test_a_cluster_shares_nothing_with_another() -> None:
    repo = made(MemoryStorage())
    back_up(repo, "1", TREE, "pc-a")
    back_up(repo, "2", TREE, "pc-b")
    assert repo.clusters() == ["pc-a", "pc-b"]
    assert repo.stat("pc-a").stored_bytes > 0
    repo.delete_backup("pc-a", "1")
    repo.collect("pc-a")
    assert everything(repo, "pc-b") == {"2": TREE}
    assert [facts.backup_id for facts in repo.backups()] == ["2"]


def test_a_place_that_holds_something_is_not_made_a_repository(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(Refused, match="letter"):
        Repository.create(LocalStorage(tmp_path), KEY)
    storage = MemoryStorage()
    made(storage)
    with pytest.raises(Refused):
        made(storage)


def test_what_is_no_repository_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(NotARepository, match=r"missing is not .* no object `repository`"):
        Repository.open(LocalStorage(tmp_path / "missing"), KEY)
    assert not (tmp_path / "missing").exists()
    later = MemoryStorage()
    made(later)
    facts = read_line(later.objects["repository"], "repository")
    later.objects["repository"] = checked_line(facts | {"version": 2})
    with pytest.raises(NotARepository, match="version is 2"):
        Repository.open(later, KEY)
    later.objects["repository"] = bytes(10_000_000)
    with pytest.raises(NotARepository, match="too large"):
        Repository.open(later, KEY)


def test_a_wrong_key_opens_nothing() -> None:
    storage = MemoryStorage()
    made(storage)
    for wrong in (KeyFile(bytes(32)), Passphrase("x", scrypt_n=1024), None):
        with pytest.raises(WrongKey):
            Repository.open(storage, wrong)
    plain = MemoryStorage()
    Repository.create(plain, None)
    with pytest.raises(WrongKey, match="not encrypted"):
        Repository.open(plain, KEY)


def test_changing_the_secret_rewrites_one_object() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", TREE)
    before = dict(storage.objects)
    phrase = Passphrase("new", scrypt_n=1024)
    repo.change_secret(phrase)
    assert {name for name in storage.objects if storage.objects[name] != before.get(name)} == {"key"}
    assert everything(Repository.open(storage, phrase)) == {"1": TREE}
    with pytest.raises(WrongKey):
        Repository.open(storage, KEY)
    with pytest.raises(WrongKey):
        Repository.open(storage, Passphrase("New", scrypt_n=1024))


def test_secrets_are_not_in_their_own_text() -> None:
    assert "range" not in repr(Passphrase("range")) and KEY.key.hex()[:8] not in repr(KEY)
    with pytest.raises(Usage):
        Passphrase("")
    with pytest.raises(Usage):
        KeyFile(b"short")


def test_nothing_of_the_content_lies_open_when_encrypted() -> None:
    storage = MemoryStorage()
    back_up(made(storage), "1", {"secret-path": b"secret-content" * 500})
    for name, data in storage.objects.items():
        assert b"secret" not in data and b"orders" not in data, name


def test_R1_an_id_is_used_once_even_after_its_backup_was_deleted() -> None:
    repo = made(MemoryStorage())
    back_up(repo, "1", TREE)
    with pytest.raises(ObjectExists):
        back_up(repo, "1", {})
    assert everything(repo) == {"1": TREE}
    repo.delete_backup(CLUSTER, "1")
    with pytest.raises(ObjectExists):
        back_up(repo, "1", {})


def test_R4_before_its_manifest_a_backup_is_not_there() -> None:
    repo = made(MemoryStorage())
    with repo.writer(CLUSTER) as writer:
        writer.add_block(b"x")
        writer.finish_blocks()
        writer.check()
        assert repo.has(CLUSTER, "1") is None
        with pytest.raises(BackupNotFound):
            repo.reader(CLUSTER, "1")
        writer.commit(facts_of("1", {}), [])
        assert repo.has(CLUSTER, "1") is not None


def test_R4_deleting_removes_the_manifest_and_is_idempotent() -> None:
    repo = made(MemoryStorage())
    back_up(repo, "1", TREE)
    for _ in range(2):
        repo.delete_backup(CLUSTER, "1")
        assert repo.has(CLUSTER, "1") is None
    repo.delete_backup("pc-unknown", "1")


def test_R8_every_fact_is_read_back_from_the_manifest_alone() -> None:
    storage = MemoryStorage()
    back_up(made(storage), "1", TREE)
    for name in [name for name in storage.objects if "/packs/" in name or "/indexes/" in name]:
        del storage.objects[name]
    assert Repository.open(storage, KEY).find("1") == facts_of("1", TREE)


def test_a_backup_is_found_by_a_unique_beginning() -> None:
    repo = made(MemoryStorage())
    for backup_id in ("100", "101", "10"):
        back_up(repo, backup_id, {})
    assert repo.find("101").backup_id == "101"
    assert repo.find("10").backup_id == "10"
    for missing in ("2", ""):
        with pytest.raises(BackupNotFound):
            repo.find(missing)
    with pytest.raises(Usage, match="3 backup ids"):
        repo.find("1")


@pytest.mark.parametrize("bad", ["", "..", "a/b", "A", "../../x", "x" * 300])
def test_an_id_that_is_no_name_is_refused(bad: str) -> None:
    repo = made(MemoryStorage())
    with pytest.raises(Usage):
        repo.writer(bad)
    with pytest.raises(Usage):
        repo.has(CLUSTER, bad)


def test_a_cluster_has_one_writer_and_no_collection_beside_it() -> None:
    repo = made(MemoryStorage())
    with repo.writer(CLUSTER):
        for other in (lambda: repo.writer(CLUSTER), lambda: repo.collect(CLUSTER)):
            with pytest.raises(LeaseHeld):
                other()
        with repo.writer("pc-other"):
            pass
    with repo.writer(CLUSTER):
        pass


def test_R6_a_writer_whose_lease_was_lost_cannot_commit() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    with repo.writer(CLUSTER) as writer:
        block = writer.add_block(b"x")
        writer.finish_blocks()
        writer.check()
        storage.usurp(f"clusters/{CLUSTER}")
        repo.collect(CLUSTER)  # another holder takes what looks unused
        with pytest.raises(LeaseHeld):
            writer.commit(facts_of("1", {"a": b"x"}), [StoredFile(FileMeta("a", FileKind.FILE, 0o600, 0, 1), block)])
    assert repo.has(CLUSTER, "1") is None


def test_one_failed_block_spoils_the_session_for_every_thread() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    chance = random.Random(3)
    with repo.writer(CLUSTER) as writer:
        writer._pack_bytes = 64 * 1024
        storage.fail_at = storage.calls + 3
        failed = threading.Event()

        def add(_: int) -> None:
            try:
                for _ in range(300):
                    writer.add_block(chance.randbytes(BLOCK_BYTES))
            except StorageFailed:
                failed.set()

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(add, range(3)))
        assert failed.is_set()
        for call in (lambda: writer.add_block(b"x"), writer.finish_blocks, writer.check):
            with pytest.raises(StorageFailed, match="simulated"):
                call()
        with pytest.raises(StorageFailed, match="simulated"):
            writer.commit(facts_of("1", {}), [])
    assert repo.has(CLUSTER, "1") is None


def test_a_writer_is_of_no_use_after_it_was_left() -> None:
    repo = made(MemoryStorage())
    with repo.writer(CLUSTER) as writer:
        pass
    with pytest.raises(RuntimeError):
        writer.add_block(b"x")


def test_ids_and_size_of_a_file_must_agree() -> None:
    repo = made(MemoryStorage())
    with repo.writer(CLUSTER) as writer:
        block = writer.add_block(b"x" * BLOCK_BYTES)
        for size in (BLOCK_BYTES + 1, 0):
            with pytest.raises(ValueError, match="bytes of ids"):
                writer.commit(facts_of("1", {}), [StoredFile(FileMeta("a", FileKind.FILE, 0, 0, size), block)])
        for bad in (b"", bytes(BLOCK_BYTES + 1)):
            with pytest.raises(ValueError, match="a block has"):
                writer.add_block(bad)


def test_R7_a_pack_that_does_not_decode_is_never_named(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    repo = made(storage)
    with repo.writer(CLUSTER) as writer:
        pack = writer._codec.pack
        # A compressor that is wrong about one byte, as faulty memory would make it.
        monkeypatch.setattr(writer._codec, "pack", lambda data: pack(bytes(data[:-1]) + b"!"))
        writer.add_block(bytes(1000))
        with pytest.raises(Damaged, match="is not block"):
            writer.finish_blocks()
        with pytest.raises(Damaged):
            writer.commit(facts_of("1", {}), [])
    assert not [name for name in storage.objects if "/packs/" in name or "/indexes/" in name]


def test_R7_a_relied_on_pack_that_changed_is_found_before_the_manifest() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", TREE)
    pack, _ = [name for name in storage.objects if "/packs/" in name]  # of the files; of the file table
    good = storage.objects[pack]
    changes = {"gone": None, "short": good[:-1], "rotten": bytes([good[0], *good[1:64], *bytes(len(good) - 64)])}
    for change in changes.values():
        with repo.writer(CLUSTER) as writer:
            writer.add_block(TREE["base/exact"])
            assert writer.adopted_blocks == 1
            if change is None:
                del storage.objects[pack]
            else:
                storage.objects[pack] = change
            writer.finish_blocks()
            with pytest.raises(Damaged, match=pack):
                writer.check()
        storage.objects[pack] = good


def test_a_lost_pack_is_stored_again_by_the_next_backup() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", TREE)
    for pack in [name for name in storage.objects if "/packs/" in name]:
        del storage.objects[pack]
        with pytest.raises(Damaged, match=pack):
            everything(repo)
    back_up(repo, "2", TREE)
    assert everything(repo) == {"2": TREE, "1": TREE}


def test_R7_a_rotten_file_table_is_stored_again_instead_of_adopted() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", TREE)
    _, pack = [name for name in storage.objects if "/packs/" in name]  # of the files; of the file table
    data = storage.objects[pack]
    storage.objects[pack] = data[:64] + bytes(len(data) - 64)
    with pytest.raises(Damaged, match=pack):
        everything(repo)
    back_up(repo, "2", TREE)
    assert everything(repo) == {"2": TREE, "1": TREE}


def test_a_lost_index_is_replaced_by_what_the_packs_say() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", TREE)
    for index in [name for name in storage.objects if "/indexes/" in name]:
        storage.objects[index] = bytes(len(storage.objects[index]))
        assert everything(repo) == {"1": TREE}
        del storage.objects[index]
        assert everything(repo) == {"1": TREE}


def test_a_damaged_manifest_hides_no_other_backup() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", TREE)
    back_up(repo, "2", TREE)
    name = f"clusters/{CLUSTER}/manifests/2"
    storage.objects[name] = storage.objects[name][:-1]
    with pytest.raises(Damaged, match=name):
        list(repo.backups())
    damaged: list[Damaged] = []
    assert [facts.backup_id for facts in repo.backups(damaged=damaged)] == ["1"]
    assert [error.fields["name"] for error in damaged] == [name]
    assert content(repo.reader(CLUSTER, repo.find("1").backup_id)) == TREE


def test_R5_objects_in_each_others_places_do_not_open() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    for cluster in ("pc-a", "pc-b"):
        for backup_id in ("1", "2"):
            back_up(repo, backup_id, {"f": os.urandom(100)}, cluster)
    names = sorted(storage.objects)
    pristine = dict(storage.objects)
    for kind in ("packs", "indexes", "manifests"):
        of_kind = [name for name in names if f"/{kind}/" in name]
        assert len(of_kind) >= 4
        for taken in of_kind[1:]:
            storage.objects[of_kind[0]] = pristine[taken]
            cluster = of_kind[0].split("/")[1]
            try:
                found = everything(repo, cluster)
            except Damaged as error:
                assert error.fields["name"] in names
            else:
                # An index is not needed while its packs can be read.
                assert kind == "indexes"
                storage.objects = dict(pristine)
                assert found == everything(repo, cluster)
            storage.objects = dict(pristine)
