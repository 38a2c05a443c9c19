"""Backups by image, on real file systems that share blocks. The verdict is the same as ever: restore and compare."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import world
from filesystems import SHARING, mounted
from icecore import backup, images, parts
from icecore.app import open_app
from icecore.images import PLACE
from icecore.images.extents import own_bytes
from icecore.model import Phase
from icecore.repository import Repository
from icecore.storage.local import LocalStorage
from station import Station, until
from world import Ledger, PostgresWorld, fingerprint, inspect


class QuietWatch:
    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...
    def step(self, name: str) -> None: ...


DISTURBANCE = (
    "CREATE TABLE IF NOT EXISTS moving AS SELECT g, repeat('m', 300) FROM generate_series(1, 300) g",
    "VACUUM FULL moving",
    "UPDATE items SET word = word || 'x' WHERE id BETWEEN 1000 AND 1020",
    "ALTER TABLE moving SET TABLESPACE side",
    "TRUNCATE moving",
    "ALTER TABLE moving SET TABLESPACE pg_default",
    "DROP TABLE moving",
)


def furnished(point: Path) -> PostgresWorld:
    """A running server below ``point`` with a tablespace there and 80 MB of rows."""
    server = PostgresWorld("15", point / "source").create().start()
    server.tablespace("side")
    server.sql(
        """CREATE TABLE items AS SELECT g AS id, md5(g::text) AS word, repeat(md5((g * 7)::text), 20) AS pad
             FROM generate_series(1, 90000) g;
           ALTER TABLE items ADD PRIMARY KEY (id);
           CREATE TABLE aside TABLESPACE side AS SELECT * FROM items WHERE id < 5000"""
    )
    for statement in ("VACUUM FREEZE items", "VACUUM FREEZE aside", "CHECKPOINT"):  # nobody comes back to mark rows
        server.sql(statement)
    return server


@pytest.fixture(scope="module")
def shared() -> Iterator[PostgresWorld]:
    with mounted("xfs") as point:
        server = furnished(point)
        yield server
        server.stop("immediate")


def image_facts(station: Station, backup_id: str) -> dict[str, Any]:
    """How the backup was made, from its manifest."""
    app = open_app(station.home)
    try:
        facts = parts.open_repository(app.config).find(backup_id)
    finally:
        app.close()
    return dict(facts.engine_facts.get("image", {}))


def images_of(server: PostgresWorld, cluster_id: str) -> list[str]:
    return sorted(path.name for path in (server.place / PLACE / cluster_id).glob("*") if path.is_dir())


@pytest.mark.parametrize("kind", SHARING)
def test_images_under_writes_restore_to_the_ledger(place: Path, kind: str) -> None:
    """Full backups one after the other while rows, tables and files change; each is restored and compared."""
    with mounted(kind) as point:
        _under_writes(place, furnished(point))


def _under_writes(place: Path, shared: PostgresWorld) -> None:
    with Station(place) as station:
        cluster_id = station.add(shared)
        made = []
        with Ledger(shared.dsn(), disturb=DISTURBANCE) as ledger:
            for _ in range(3):
                ledger.wait_for(len(ledger.acknowledged) + 200)
                time.sleep(1.1)  # what was acknowledged in an earlier second was promised
                made.append(station.backup(cluster_id))
        first, *later = [image_facts(station, backup["backup_id"]) for backup in made]
        assert first["cloned_files"] > 900 and first["read_bytes"] > 60_000_000
        assert all(facts["read_bytes"] < first["read_bytes"] - 40_000_000 for facts in later), (first, later)
        assert images_of(shared, cluster_id) == [made[-1]["backup_id"]]  # one is kept: the newest
        levels = [backup["backups_level"] for backup in station.backups(cluster_id)]  # newest first
        assert levels == ["Level-1", "Level-2", "Level-2"]
        for backup in (made[0], made[-1]):
            restored_id, dsn = station.restore(cluster_id, backup["backup_id"])
            ledger.check(dsn, backup["consistent_time"])
            assert inspect(dsn) > 0
            station.call("DeleteDBCluster", db_cluster_id=restored_id)
        station.call("DeleteBackup", db_cluster_id=cluster_id, backup_id=made[-1]["backup_id"])
        until(lambda: images_of(shared, cluster_id) == [])  # the image goes with its backup
        assert [backup["backups_level"] for backup in station.backups(cluster_id)] == ["Level-2", "Level-2"]


def test_an_unchanged_cluster_is_not_read_again(place: Path, shared: PostgresWorld) -> None:
    with Station(place) as station:
        cluster_id = station.add(shared)
        shared.sql("CHECKPOINT")
        before = fingerprint(shared.dsn())
        station.backup(cluster_id)
        second = station.backup(cluster_id)
        facts = image_facts(station, second["backup_id"])
        assert facts["read_bytes"] < 40_000_000, facts  # small files, and one block in 128 as a probe
        assert second["new_bytes"] < 3_000_000
        _, dsn = station.restore(cluster_id, second["backup_id"])
        assert fingerprint(dsn) == before


def test_a_block_that_was_called_unchanged_and_is_not_ends_the_trust(
    place: Path, shared: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that lies: everything is "unchanged". The probe finds it, the backup reads all and says so."""
    (place / "repository").mkdir()
    repository = Repository.create(LocalStorage(place / "repository"), None)
    engine = parts.engine_for_dsn("postgresql", shared.dsn(), None, name="orders")

    def back_up(number: int) -> backup.BackupDone:
        order = backup.BackupOrder(str(number), "pc-lie", "orders", f"uuid-{number}")
        scratch = place / f"scratch-{number}"
        scratch.mkdir()
        return backup.run(engine, repository, order, QuietWatch(), scratch=scratch, threads=2)

    assert back_up(1).imaged
    shared.sql("UPDATE items SET pad = repeat('lie', 200)")
    shared.sql("CHECKPOINT")
    monkeypatch.setattr(images, "unchanged_blocks", _everything)
    lied_to = back_up(2)
    assert any("called changed bytes unchanged" in line for line in lied_to.facts.warnings), lied_to
    assert not lied_to.imaged and images_of(shared, "pc-lie") == []
    monkeypatch.undo()
    third = back_up(3)  # and no conclusion is drawn from maps any more
    assert third.facts.engine_facts["image"]["read_bytes"] > 60_000_000 and not third.imaged
    for number in (2, 3):  # what was stored is what was there: both read everything, so both hold the same
        stored = {f.meta.path: f.blocks for f in repository.reader("pc-lie", str(number)).files()}
        table = shared.sql("SELECT pg_relation_filepath('items')")[0][0]
        assert (
            b"".join(map(repository.reader("pc-lie", str(number)).block, _ids(stored[table])))
            == (shared.data / table).read_bytes()
        )


def _everything(_old: int, new: int, _seal: Any, block_bytes: int) -> Any:
    return np.ones(-(-os.fstat(new).st_size // block_bytes), np.bool_)


def _ids(blocks: bytes) -> list[bytes]:
    return [blocks[at : at + 32] for at in range(0, len(blocks), 32)]


def test_what_a_killed_and_cancelled_backup_left_goes_with_its_job(place: Path, shared: PostgresWorld) -> None:
    with Station(place) as station:
        cluster_id = station.add(shared)
        last = station.backup(cluster_id)
        for step in ("committed", "imaged"):
            station.stop()
            station.start(env={"ICECORE_FAIL_AT": step})
            job_id = station.create(cluster_id)
            station.wait_for_death()
            assert f"{job_id}.partial" in images_of(shared, cluster_id)
            if step == "committed":  # the backup exists, and never has an image
                station.start()
                station.wait(job_id)
                until(lambda: images_of(shared, cluster_id) == [last["backup_id"]])
        station.start("--no-worker")
        station.call("CancelJob", job_id=job_id)
        station.stop()
        station.start()
        station.wait(job_id, state="cancelled")
        assert images_of(shared, cluster_id) == [last["backup_id"]]
        station.call("DeleteDBCluster", db_cluster_id=cluster_id)
        until(lambda: images_of(shared, cluster_id) == [])


def test_a_damaged_earlier_backup_does_not_stand_in_the_way(place: Path, shared: PostgresWorld) -> None:
    with Station(place) as station:
        cluster_id = station.add(shared)
        first = station.backup(cluster_id)
        manifest = station.home / "repository" / "clusters" / cluster_id / "manifests" / first["backup_id"]
        broken = bytearray(manifest.read_bytes())
        broken[len(broken) // 2] ^= 1
        manifest.chmod(0o600)
        manifest.write_bytes(broken)
        second = station.backup(cluster_id)
        assert image_facts(station, second["backup_id"])["read_bytes"] > 60_000_000
        assert images_of(shared, cluster_id) == [second["backup_id"]]


def test_what_the_servers_user_plants_beside_its_data_leads_nowhere(place: Path, shared: PostgresWorld) -> None:
    elsewhere = place / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    beside = shared.place / PLACE
    kept = beside.with_name("kept")
    if beside.exists():
        beside.rename(kept)
    beside.symlink_to(elsewhere)
    try:
        with Station(place) as station:
            cluster_id = station.add(shared)
            backup = station.backup(cluster_id)
            assert image_facts(station, backup["backup_id"]) == {}  # read as ever
            assert list(elsewhere.iterdir()) == []
            beside.unlink()
            beside.mkdir(mode=0o700)
            os.chown(beside, *world.database_user()[1:])  # the servers' user's own: not ours, so not used
            backup = station.backup(cluster_id)
            assert image_facts(station, backup["backup_id"]) == {} and list(beside.iterdir()) == []
    finally:
        beside.unlink() if beside.is_symlink() else beside.rmdir()
        if kept.exists():
            kept.rename(beside)


def test_no_image_where_the_file_system_is_nearly_full(place: Path) -> None:
    """The living come first: with less than a tenth free everything is read as ever."""
    with mounted("xfs", 512 << 20) as point:
        server = PostgresWorld("15", point / "source").create().start()
        free = os.statvfs(point)
        filler = point / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(
                file.fileno(), 0, int(free.f_bavail * free.f_frsize - free.f_blocks * free.f_frsize * 0.08)
            )
        with Station(place) as station:
            cluster_id = station.add(server)
            backup = station.backup(cluster_id)
            assert image_facts(station, backup["backup_id"]) == {}
            filler.unlink()
            backup = station.backup(cluster_id)
            assert image_facts(station, backup["backup_id"])["cloned_files"] > 900
            assert images_of(server, cluster_id) == [backup["backup_id"]]
            with filler.open("wb") as file:
                free = os.statvfs(point)
                os.posix_fallocate(file.fileno(), 0, int(free.f_bavail * free.f_frsize * 0.9))
            until(lambda: images_of(server, cluster_id) == [], timeout_s=20)  # let go before the server feels it
            until(lambda: [b["backups_level"] for b in station.backups(cluster_id)] == ["Level-2"] * 2)
        server.stop("immediate")


NAMED_SPACES = "SELECT oid::text FROM pg_tablespace WHERE spcname NOT LIKE 'pg\\_%'"


def test_a_restore_beside_the_image_shares_its_blocks_and_stays_apart() -> None:
    """Home and data on one file system: the copy is there at once, and neither side sees what the other writes."""
    with mounted("xfs") as point:
        source = furnished(point)
        table = source.sql("SELECT pg_relation_filepath('items')")[0][0]
        with Station(point) as station:
            cluster_id = station.add(source)
            before = fingerprint(source.dsn())
            made = station.backup(cluster_id)
            source.sql("DELETE FROM items WHERE id % 2 = 0")
            copy_id, copy = station.restore(cluster_id, made["backup_id"])
            assert fingerprint(copy) == before
            laid = station.home / "clusters" / copy_id / "data" / table
            with laid.open("rb") as file:
                assert own_bytes(file.fileno()) < laid.stat().st_size / 10  # shared, not written
            world.sql(copy, "UPDATE items SET word = 'copy'")
            world.sql(copy, "CHECKPOINT")
            assert source.sql("SELECT count(*) FROM items WHERE word = 'copy'") == [(0,)]
            # into a directory as well, without a job
            flat = point / "flat"
            spaces = [f"{oid}={point / 'spaces' / oid}" for (oid,) in source.sql(NAMED_SPACES)]
            told = [word for space in spaces for word in ("--tablespace", space)]
            station.icecore("restore", made["backup_id"], "--to", f"{flat}/", *told)
            with (flat / table).open("rb") as file:
                assert own_bytes(file.fileno()) < laid.stat().st_size / 10
            kept = source.place / PLACE / cluster_id / made["backup_id"] / table
            assert (flat / table).read_bytes() == kept.read_bytes()
            # the image did not change under it: another copy is the backup again, by image and from the repository
            second_id, second = station.restore(cluster_id, made["backup_id"])
            assert fingerprint(second) == before
            for directory in (source.place / PLACE / cluster_id).iterdir():
                shutil.rmtree(directory) if directory.is_dir() else directory.unlink()
            third_id, third = station.restore(cluster_id, made["backup_id"])
            assert fingerprint(third) == before
            for restored_id in (copy_id, second_id, third_id):
                station.call("DeleteDBCluster", db_cluster_id=restored_id)
                until(lambda restored_id=restored_id: not (station.home / "clusters" / restored_id).exists())
        source.stop("immediate")
