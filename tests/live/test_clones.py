"""Instant clones on file systems that share blocks: at once there, apart from their source, and gone when their time
is up."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import world
from filesystems import mounted
from icecore.errors import IcecoreError
from icecore.images.extents import own_bytes
from icecore.images.standing import PLACE
from station import Station, until
from world import PostgresWorld, fingerprint


@dataclass
class Scene:
    station: Station
    source: PostgresWorld
    cluster: str
    backup: str
    table: str
    rows: dict[str, Any]

    @property
    def beside(self) -> Path:
        return self.source.place / PLACE

    def standing(self) -> list[str]:
        return sorted(path.name for path in self.beside.iterdir()) if self.beside.exists() else []

    def clone(self, **more: Any) -> str:
        return str(self.station.call("CreateClone", backup_id=self.backup, **more)["db_cluster_id"])

    def shown(self, clone_id: str) -> dict[str, Any]:
        (found,) = self.station.call("DescribeClones", db_cluster_id=clone_id)["items"]["clone"]
        return dict(found)

    def gone(self, clone_id: str) -> bool:
        left = self.station.call("DescribeClones", db_cluster_id=clone_id)["items"].get("clone", [])
        return not left and not (self.beside / clone_id).exists()


@pytest.fixture(scope="module")
def scene(ground: Path) -> Iterator[Scene]:
    """Data and a tablespace on XFS, the home elsewhere; the source archives, schedules and listens."""
    with mounted("xfs") as point:
        options = {
            "archive_mode": "on",
            "archive_command": f"'touch {point}/archived-%f'",
            "wal_level": "logical",
            "shared_buffers": "'40MB'",
        }
        source = PostgresWorld("15", point / "source", options).create().start()
        source.tablespace("side")
        source.sql(
            """CREATE TABLE items AS SELECT g AS id, repeat(md5(g::text), 20) AS pad FROM generate_series(1, 30000) g;
               ALTER TABLE items ADD PRIMARY KEY (id);
               CREATE TABLE aside TABLESPACE side AS SELECT * FROM items WHERE id < 5000"""
        )
        source.sql("SELECT pg_create_logical_replication_slot('listener', 'pgoutput')")
        source.sql(
            "CREATE SUBSCRIPTION taps CONNECTION 'host=127.0.0.1 port=1 dbname=x' PUBLICATION p WITH (connect=off)"
        )
        table = source.sql("SELECT pg_relation_filepath('items')")[0][0]
        with Station(ground) as station:
            cluster = station.add(source)
            backup = station.backup(cluster)
            assert backup["backups_level"] == "Level-1"
            yield Scene(station, source, cluster, backup["backup_id"], table, fingerprint(source.dsn()))
        source.stop("immediate")


def _bytes_below(top: Path) -> dict[str, str]:
    """Of files, by name: a hash of what is in them."""
    return {str(path): hashlib.sha1(path.read_bytes()).hexdigest() for path in top.rglob("*") if path.is_file()}


def test_a_clone_shares_its_blocks_and_stays_apart(scene: Scene) -> None:
    source, station = scene.source, scene.station
    image = source.place / ".icecore-images" / scene.cluster / scene.backup
    sealed = _bytes_below(image)
    # asked for as a person would; there, and the backup again
    told = station.icecore("clone", "orders", "--name", "look", "--for", "2h", "--purpose", "a test", "--json")
    shown = json.loads(told.splitlines()[-1])
    clone_id = shown["DBClusterId"]
    dsn = station.wait_running(clone_id)
    assert fingerprint(dsn) == scene.rows
    data = scene.beside / clone_id / "data"
    with (data / scene.table).open("rb") as file:
        assert own_bytes(file.fileno()) < (data / scene.table).stat().st_size / 10
    assert shown["Owner"] == station.access_key_id and shown["Purpose"] == "a test" and not shown["EndsSoon"]
    assert "look" in station.icecore("clone", "list")
    # nothing of the source's work goes on in it
    active = dict(world.sql(dsn, "SELECT name, setting FROM pg_settings"))
    assert active["archive_mode"] == "off" and active["primary_conninfo"] == "" and active["fsync"] == "off"
    assert active["listen_addresses"] == "127.0.0.1" and active["max_logical_replication_workers"] == "0"
    assert world.sql(dsn, "SELECT count(*) FROM pg_replication_slots") == [(0,)]
    assert world.sql(dsn, "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'logical|archiver'") == [(0,)]
    # what either writes the other does not see; not a byte of the source or of the image changes by the clone
    source.sql("CHECKPOINT")
    table = source.data / scene.table
    before = table.read_bytes()
    world.sql(dsn, "UPDATE items SET pad = 'clone'")
    world.sql(dsn, "UPDATE aside SET pad = 'clone'")
    world.sql(dsn, "CHECKPOINT")
    assert table.read_bytes() == before and fingerprint(source.dsn()) == scene.rows
    assert _bytes_below(image) == sealed
    source.sql("UPDATE items SET pad = 'source' WHERE id < 100")
    source.sql("CHECKPOINT")
    assert world.sql(dsn, "SELECT count(*) FROM items WHERE pad = 'clone'") == [(30000,)]
    source.sql("UPDATE items SET pad = repeat(md5(id::text), 20) WHERE id < 100")
    # a clone is no place for backups, and no copy to be kept
    refused_calls: dict[str, dict[str, Any]] = {
        "CreateBackup": {},
        "ModifyBackupPolicy": {"preferred_backup_period": "Monday,Thursday", "preferred_backup_time": "02:00Z-03:00Z"},
        "ModifyClone": {"lifetime_seconds": 0},
    }
    for action, more in refused_calls.items():
        with pytest.raises(IcecoreError) as refused:
            station.call(action, db_cluster_id=clone_id, **more)
        assert refused.value.wire_code() == "OperationDenied", action
    # its image may go while it lives
    for directory in image.parent.iterdir():
        if directory.is_file():
            directory.rename(directory.with_name(f"away-{directory.name}"))
    with pytest.raises(AssertionError, match="NoImage"):
        station.wait_running(scene.clone())
    for directory in image.parent.iterdir():
        if directory.name.startswith("away-"):
            directory.rename(directory.with_name(directory.name.removeprefix("away-")))
    station.icecore("clone", "extend", "look", "--for", "3h")
    assert scene.shown(clone_id)["expire_time"] - time.time() > 10700
    station.icecore("clone", "delete", "look", "--yes")
    assert scene.gone(clone_id) and not (station.home / "clusters" / clone_id).exists()
    assert _bytes_below(image) == sealed and fingerprint(source.dsn())["public.items"] == scene.rows["public.items"]


def test_time_is_up_also_for_one_that_was_killed_and_came_back(scene: Scene) -> None:
    station = scene.station
    clone_id = scene.clone(lifetime_seconds=3000)
    dsn = station.wait_running(clone_id)
    assert scene.shown(clone_id)["ends_soon"]
    world.sql(dsn, "CREATE TABLE mine AS SELECT 1 AS one")
    pid = int((scene.beside / clone_id / "data" / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, 9)

    def answers() -> bool:
        try:
            return world.sql(dsn, "SELECT one FROM mine") == [(1,)]
        except Exception:
            return False

    until(answers, timeout_s=30)
    station.call("ModifyClone", db_cluster_id=clone_id, lifetime_seconds=1)
    until(lambda: scene.gone(clone_id), timeout_s=30)
    assert not world.end_servers_below(scene.beside)


def test_after_a_restart_of_the_machine_it_is_called_stopped(scene: Scene) -> None:
    """Simulated where the product looks: the note of another start, and a server that is down."""
    station = scene.station
    clone_id = scene.clone(lifetime_seconds=3000)
    station.wait_running(clone_id)
    note = station.home / "servers" / f"{clone_id}.json"
    written = json.loads(note.read_text())
    written["clone"]["boot"] = "another"
    note.write_text(json.dumps(written))
    os.kill(int((scene.beside / clone_id / "data" / "postmaster.pid").read_text().splitlines()[0]), 3)
    until(lambda: scene.shown(clone_id)["db_cluster_status"] == "Stopped", timeout_s=30)
    assert "not durable" in scene.shown(clone_id)["status_reason"]
    station.call("DeleteClone", db_cluster_id=clone_id)
    until(lambda: scene.gone(clone_id), timeout_s=30)


MAKING = ("standing", "files-finished", "server-started")
REMOVING = ("clone-removed",)


def test_a_kill_at_each_step_leaves_one_clone_or_none(scene: Scene) -> None:
    """One job, and then another, each ended at each of its steps by one worker after the other."""
    station = scene.station
    station.stop()
    station.start("--no-worker")

    def die_at(steps: tuple[str, ...]) -> None:
        for step in steps:
            worker = station.process("work", env={"ICECORE_FAIL_AT": step})
            assert worker.wait(60) == -9, step

    clone_id = scene.clone(lifetime_seconds=0)
    die_at(MAKING)
    worker = station.process("work")
    dsn = station.wait_running(clone_id)
    assert fingerprint(dsn) == scene.rows
    assert world.sql(dsn, "SHOW fsync") == [("on",)]  # for ever: it lasts
    assert world.sql(dsn, "SHOW max_logical_replication_workers") == [("0",)]
    worker.terminate()
    assert worker.wait(60) == 0
    station.call("DeleteClone", db_cluster_id=clone_id)
    die_at(REMOVING)
    station.stop()
    station.start()
    until(lambda: scene.gone(clone_id))
    assert scene.standing() == [] and list((station.home / "clusters").iterdir()) == []
    assert not list((station.home / "servers").glob(f"{clone_id}.json"))


def test_what_is_planted_beside_the_data_leads_nowhere(scene: Scene, place: Path) -> None:
    beside, kept = scene.beside, scene.beside.with_name("kept")
    elsewhere = place / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    if beside.exists():
        beside.rename(kept)
    try:
        beside.symlink_to(elsewhere)
        with pytest.raises(AssertionError, match="NoImage"):
            scene.station.wait_running(scene.clone())
        assert list(elsewhere.iterdir()) == []
        beside.unlink()
        beside.mkdir(mode=0o700)
        os.chown(beside, *world.database_user()[1:])
        with pytest.raises(AssertionError, match="NoImage"):
            scene.station.wait_running(scene.clone())
        assert list(beside.iterdir()) == []
    finally:
        beside.unlink() if beside.is_symlink() else beside.rmdir()
        if kept.exists():
            kept.rename(beside)


def test_the_living_come_first(scene: Scene) -> None:
    """Last in this file: the image goes as well."""
    station, filler = scene.station, scene.source.place.parent / "filler"
    clone_id = scene.clone(lifetime_seconds=3000)
    station.wait_running(clone_id)

    def leave_free(share: float) -> None:
        space = os.statvfs(scene.source.place)
        with filler.open("ab") as file:
            size = filler.stat().st_size
            os.posix_fallocate(file.fileno(), size, int((space.f_bavail - space.f_blocks * share) * space.f_frsize))

    try:
        leave_free(0.08)
        with pytest.raises((AssertionError, IcecoreError), match=r"NoImage|RestoreTarget|has no image"):
            station.wait_running(scene.clone())
        leave_free(0.03)
        until(lambda: scene.shown(clone_id)["db_cluster_status"] == "Stopped", timeout_s=30)
        assert "nearly full" in scene.shown(clone_id)["status_reason"]
        filler.unlink()
        until(lambda: scene.shown(clone_id)["db_cluster_status"] == "Running", timeout_s=30)
    finally:
        filler.unlink(missing_ok=True)
    station.call("DeleteClone", db_cluster_id=clone_id)
    until(lambda: scene.gone(clone_id), timeout_s=30)
