"""The local folder: the contract, and what only a file system can show."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storage import StorageContract

from icecore.errors import Damaged, LeaseHeld, ObjectMissing, StorageFailed, StorageFull
from icecore.storage.local import STALE_TEMPORARY_S, LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "deep" / "root")


class TestContract(StorageContract):
    pass


class TestContractWithoutHardLinks(StorageContract):
    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*_: object) -> None:
            raise PermissionError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refused)


def test_another_instance_sees_the_same(storage: LocalStorage) -> None:
    storage.put("a/b", [b"x"])
    assert LocalStorage(storage.root).get("a/b") == b"x"


def test_reading_makes_no_directory(storage: LocalStorage) -> None:
    with pytest.raises(ObjectMissing):
        storage.get("repository")
    assert list(storage.list("")) == []
    assert not storage.root.exists()


def test_only_the_owner_can_read(storage: LocalStorage) -> None:
    previous = os.umask(0)
    try:
        storage.put("a/b/c", [b"x"])
        storage.replace("key", b"x")
        with storage.lease("clusters/x"):
            modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in storage.root.rglob("*")}
    finally:
        os.umask(previous)
    assert modes == {True: 0o700, False: 0o600}
    assert storage.root.stat().st_mode & 0o777 == 0o700


def test_bytes_are_flushed_before_the_name_and_the_name_before_the_return(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("warm/up", [b"x"])
    events: list[str] = []
    fsync, link, replace = os.fsync, os.link, Path.replace

    def seen_fsync(fd: int) -> None:
        target = Path(f"/proc/self/fd/{fd}").resolve()
        events.append(
            "fsync " + ("temporary" if target.parent.name == "tmp" else str(target.relative_to(storage.root)))
        )
        fsync(fd)

    def seen_link(source: Path, target: Path) -> None:
        events.append(f"name {target.relative_to(storage.root)}")
        link(source, target)

    def seen_replace(self: Path, target: Path) -> Path:
        events.append(f"name {target.relative_to(storage.root)}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "link", seen_link)
    monkeypatch.setattr(Path, "replace", seen_replace)

    storage.put("warm/second", [b"x"])
    assert events == ["fsync temporary", "name warm/second", "fsync warm"]
    events.clear()
    storage.replace("warm/key", b"x")
    assert events == ["fsync temporary", "name warm/key", "fsync warm"]
    events.clear()
    storage.put("new/deep/third", [b"x"])
    assert events == ["fsync .", "fsync new", "fsync temporary", "name new/deep/third", "fsync new/deep"]
    events.clear()
    storage.put("warm/fourth", [b"x"], durable=False)
    assert events == ["name warm/fourth"]
    events.clear()
    storage.delete("warm/fourth")
    assert events == ["fsync warm"]
    # What another instance made is not taken for durable: it may have crashed before it flushed.
    events.clear()
    LocalStorage(storage.root).put("new/deep/fifth", [b"x"])
    assert events == ["fsync .", "fsync new", "fsync temporary", "name new/deep/fifth", "fsync new/deep"]


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StorageFailed)]
)
def test_a_failed_write_leaves_nothing_and_keeps_its_cause(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StorageFailed]
) -> None:
    storage.put("a/b", [b"x"])
    write = os.pwrite
    written = []

    def failing(fd: int, data: bytes, offset: int) -> int:
        if written:
            raise OSError(code, os.strerror(code))
        written.append(1)
        return write(fd, data[:1], offset)  # a short write comes before many a failure

    monkeypatch.setattr(os, "pwrite", failing)
    with pytest.raises(kind) as caught:
        storage.put("a/c", [b"some bytes"])
    monkeypatch.undo()
    assert type(caught.value) is kind
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == code
    assert list((storage.root / "tmp").iterdir()) == []
    assert [found.name for found in storage.list("")] == ["a/b"]


def test_a_failed_fsync_is_a_failed_put(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put("a/b", [b"x"])

    def failing(fd: int) -> None:
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(StorageFailed):
        storage.put("a/c", [b"x"])
    monkeypatch.undo()
    with pytest.raises(ObjectMissing):
        storage.get("a/c")
    assert list((storage.root / "tmp").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_file_system_is_reported_as_full(tmp_path: Path) -> None:
    root = tmp_path / "small"
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", root], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        storage = LocalStorage(root)
        storage.put("a", [bytes(100_000)])
        with pytest.raises(StorageFull):
            storage.put("b", [bytes(300_000)])
        assert [found.name for found in storage.list("")] == ["a"]
        storage.put("c", [bytes(100_000)])  # what the failed one took is free again
        storage.barrier()
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


def test_R6_a_directory_that_cannot_be_read_is_no_empty_directory(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.put("a/b", [b"x"])
    scandir = os.scandir

    def failing(path: Path) -> object:
        if Path(path).name == "a":
            raise PermissionError(errno.EACCES, "no")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", failing)
    for prefix in ("", "a/"):
        with pytest.raises(StorageFailed):
            list(storage.list(prefix))
    with pytest.raises(StorageFailed):
        list(storage.folders("a/"))


def test_R6_a_root_that_went_away_is_no_empty_root(storage: LocalStorage, tmp_path: Path) -> None:
    storage.put("a/b", [b"x"])
    storage.root.rename(tmp_path / "elsewhere")
    for prefix in ("", "a/"):
        with pytest.raises(StorageFailed):
            list(storage.list(prefix))


def test_a_link_in_the_place_of_an_object_is_refused(storage: LocalStorage, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    storage.put("a/b", [b"x"])
    (storage.root / "a" / "c").symlink_to(tmp_path / "secret")
    with pytest.raises(StorageFailed):
        storage.get("a/c")
    with pytest.raises(StorageFailed):
        list(storage.list("a/"))


def test_old_temporary_files_are_swept_and_young_ones_are_not(storage: LocalStorage) -> None:
    storage.put("a", [b"x"])
    old, young = storage.root / "tmp" / "old", storage.root / "tmp" / "young"
    for path in (old, young):
        path.write_bytes(b"half")
    past = time.time() - STALE_TEMPORARY_S - 60
    os.utime(old, (past, past))
    LocalStorage(storage.root)
    assert not old.exists()
    assert young.exists()


def test_a_killed_holder_frees_its_lease(storage: LocalStorage) -> None:
    program = (
        "import sys, time\n"
        "from icecore.storage.local import LocalStorage\n"
        "lease = LocalStorage(sys.argv[1]).lease('clusters/x')\n"
        "print(lease.epoch, flush=True)\n"
        "time.sleep(60)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, storage.root], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        epoch = int(holder.stdout.readline())
        with pytest.raises(LeaseHeld):
            storage.lease("clusters/x")
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with storage.lease("clusters/x") as lease:
        assert lease.epoch == epoch + 1


def test_a_holder_whose_lock_was_lost_is_fenced_by_the_epoch(storage: LocalStorage) -> None:
    with storage.lease("clusters/x") as lease:
        path = storage.root / "leases" / "clusters" / "x"
        path.write_text(f"{lease.epoch + 1:020d}\n")
        with pytest.raises(LeaseHeld):
            lease.confirm()
        path.unlink()
        with pytest.raises(LeaseHeld):
            lease.confirm()


def test_an_epoch_that_is_none_is_refused(storage: LocalStorage) -> None:
    with storage.lease("x"):
        pass
    (storage.root / "leases" / "x").write_text("seven\n")
    with pytest.raises(Damaged, match="leases/x"):
        storage.lease("x")
