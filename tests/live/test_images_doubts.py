"""What could make an image lie, go missing or take the living's room: each doubt as a history on a real file system."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import world
from filesystems import mounted
from house import CLUSTER, Acting, House, fill
from icecore import errors, keeper, parts, pinned
from icecore.app import open_app
from icecore.images import PLACE, Images
from icecore.images.extents import NoMap, Seal, unchanged_blocks
from station import Station, until
from world import PostgresWorld


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresWorld]:
    with mounted("xfs", 1 << 30) as point:
        running = PostgresWorld("15", point / "source").create().start()
        running.sql(
            "CREATE TABLE items AS SELECT g AS id, repeat(md5(g::text), 20) AS pad FROM generate_series(1, 15000) g"
        )
        running.sql("VACUUM FREEZE items")
        running.sql("CHECKPOINT")
        yield running
        running.stop("immediate")


@pytest.fixture(autouse=True)
def _without_images(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        shutil.rmtree(request.getfixturevalue("server").place / PLACE, ignore_errors=True)


def table_of(server: PostgresWorld) -> str:
    return str(server.sql("SELECT pg_relation_filepath('items')")[0][0])


def test_a_clone_that_goes_missing_fails_the_backup(place: Path, server: PostgresWorld) -> None:
    """Who removes an image to make room must not thereby make a backup without tables."""
    house = House(place, server)

    def remove() -> None:
        shutil.rmtree(server.place / PLACE / CLUSTER / "1.partial" / "base")

    with pytest.raises(errors.EngineFailed, match="removed meanwhile"):
        house.back_up(1, Acting("session-closed", remove))
    assert house.repository.has(CLUSTER, "1") is None


def test_an_image_of_another_backup_of_the_same_number_proves_nothing(place: Path, server: PostgresWorld) -> None:
    """A home was copied, or rolled back: there are two backups 1. The file system was rolled back with it: the files
    share their places with the image of the one backup, while the repository at hand holds the other."""
    first, second = House(place, server, "first"), House(place, server, "second")
    before = server.place / "before"
    server.stop()
    subprocess.run(["cp", "-a", "--reflink=always", server.data, before], check=True)
    server.start()
    assert first.back_up(1).imaged
    server.sql("UPDATE items SET pad = repeat('other', 100) WHERE id % 3 = 0")
    server.sql("VACUUM items")
    server.sql("CHECKPOINT")
    second.back_up(1, images=False)
    server.stop()
    shutil.rmtree(server.data)
    before.rename(server.data)
    server.start()
    second.back_up(2)
    table = table_of(server)
    assert second.stored(2, table) == (server.data / table).read_bytes()


def test_nothing_is_laid_inside_a_data_directory(place: Path) -> None:
    """The data directory is a mount point, a tablespace lies inside of it: beside that would be inside the data."""
    with mounted("xfs", 512 << 20) as point:
        os.chown(point, *world.database_user()[1:])
        server = PostgresWorld("15", point.parent, name=point.name).create().start()
        inside = point / "inside"
        inside.mkdir(mode=0o700)
        os.chown(inside, *world.database_user()[1:])
        server.sql(f"CREATE TABLESPACE inside LOCATION '{inside}'")
        house = House(place, server)
        house.back_up(1)
        assert not list(point.rglob(PLACE))
        house.back_up(2)
        assert not [f for f in house.repository.reader(CLUSTER, "2").files() if PLACE in f.meta.path]
        server.stop("immediate")


def test_maps_of_a_file_system_that_nobody_looked_at_prove_nothing(tmp_path: Path) -> None:
    """Elsewhere a map's physical place may be one of several devices' (bcachefs), or another node's business (OCFS2).
    ext4 stands for them: it has maps."""
    (tmp_path / "file").write_bytes(os.urandom(1 << 20))
    with mounted("ext4", 64 << 20) as point, (point / "file").open("w+b") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        with pytest.raises(NoMap):
            unchanged_blocks(file.fileno(), file.fileno(), Seal.of(file.fileno()), 128 << 10)


def test_what_became_of_the_older_image_fails_neither_backup_nor_restore(place: Path, server: PostgresWorld) -> None:
    house, table = House(place, server), table_of(server)
    house.back_up(1)
    clone = server.place / PLACE / CLUSTER / "1" / table
    clone.unlink()
    clone.symlink_to(server.data / table)
    with Images(CLUSTER, [server.place]) as images, (server.place / "onto").open("wb") as onto:
        assert table in images.kept("1") and not images.kept("1").lay(table, onto.fileno(), 8192)
    assert house.back_up(2).facts.engine_facts["image"]["read_bytes"] > 10_000_000
    assert house.stored(2, table) == (server.data / table).read_bytes()


def test_the_room_is_watched_while_other_files_are_read(place: Path, server: PostgresWorld) -> None:
    """A tablespace on a file system without clones is read for hours, while clones pin what the database gives up."""
    elsewhere = place / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    os.chown(elsewhere, *world.database_user()[1:])
    server.sql(f"CREATE TABLESPACE elsewhere LOCATION '{elsewhere}'")
    server.sql("CREATE TABLE away TABLESPACE elsewhere AS SELECT * FROM items")
    filler = server.place / "filler"
    try:
        watch = Acting("imaged", lambda: fill(filler, 0.03))
        with pytest.raises(errors.StorageFull):
            House(place, server).back_up(1, watch)
        assert "copied" not in watch.steps
        assert list((server.place / PLACE / CLUSTER).iterdir()) == []
    finally:
        filler.unlink()
        server.sql("DROP TABLE away")
        server.sql("DROP TABLESPACE elsewhere")


def test_a_backup_whose_image_has_no_room_is_made_without_one(place: Path, server: PostgresWorld) -> None:
    filler = server.place / "filler"
    with Station(place) as station:
        cluster_id = station.add(server)
        station.stop()
        station.start(env={"ICECORE_PAUSE_AT": "imaged:1"})
        job_id = station.create(cluster_id)
        beside = server.place / PLACE / cluster_id
        until(lambda: (beside / f"{job_id}.partial").exists(), every_s=0.02)
        try:
            fill(filler, 0.04)
            station.wait(job_id)
        finally:
            filler.unlink()
        assert list(beside.iterdir()) == []
        assert (
            "StorageFull" not in str(station.job(job_id))
            and "no space left to keep an image" in station.log.read_text()
        )
        app = open_app(station.home)
        assert "image" not in parts.open_repository(app.config).find(job_id).engine_facts
        app.close()


def test_the_image_that_is_being_made_goes_before_the_room_does(place: Path, server: PostgresWorld) -> None:
    """The backup itself may hang, in its storage: whoever guards the room lets its image go, and the backup fails."""
    house, filler = House(place, server), server.place / "filler"
    assert house.back_up(1).imaged

    def guard() -> None:
        with Images(CLUSTER, [server.place]) as images:
            fill(filler, 0.08)
            assert images.make_room() and house.images() == ["2.partial"]
            fill(filler, 0.04)
            assert images.make_room() and house.images() == []
            filler.unlink()

    with pytest.raises((errors.EngineFailed, errors.StorageFull)):  # whichever it sees first
        house.back_up(2, Acting("copying:10", guard))
    assert house.repository.has(CLUSTER, "2") is None


def test_an_image_does_not_outlive_its_use(place: Path, server: PostgresWorld) -> None:
    with Station(place) as station:
        cluster_id = station.add(server)
        beside = server.place / PLACE / cluster_id
        # the catalog never learnt of it: it goes with its backup all the same
        first = station.backup(cluster_id)["backup_id"]
        station.stop()
        with sqlite3.connect(station.home / "catalog.db") as catalog:
            assert catalog.execute("UPDATE backup SET imaged = 0").rowcount == 1
        station.start()
        assert (beside / first).is_dir()
        station.call("DeleteBackup", db_cluster_id=cluster_id, backup_id=first)
        until(lambda: not list(beside.iterdir()))
        # no more images: the last one would only pin more and more
        station.backup(cluster_id)
        assert list(beside.iterdir())
        station.stop()
        station.start(env={"ICECORE_IMAGES": "off"})
        station.backup(cluster_id)
        until(lambda: not list(beside.iterdir()))
        until(lambda: {each["backups_level"] for each in station.backups(cluster_id)} == {"Level-2"})


def test_what_lies_beside_a_dropped_tablespace_goes(place: Path, server: PostgresWorld) -> None:
    app, house = open_app(Station(place).home), House(place, server)
    house.noting = lambda parents: pinned.note(app.config, CLUSTER, parents)
    with mounted("xfs", 320 << 20) as point:
        space = point / "space"
        space.mkdir(mode=0o700)
        os.chown(space, *world.database_user()[1:])
        server.sql(f"CREATE TABLESPACE away LOCATION '{space}'")
        server.sql("CREATE TABLE there TABLESPACE away AS SELECT * FROM items")
        house.back_up(1)
        assert list((point / PLACE / CLUSTER / "1").rglob("PG_15*"))
        server.sql("DROP TABLE there")
        server.sql("DROP TABLESPACE away")
        assert house.back_up(2).imaged
        assert list((point / PLACE / CLUSTER).iterdir()) == []
    app.close()


def test_a_look_that_hangs_does_not_keep_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper waits for a server that does not answer, or for one to come up: room is watched all the same."""
    looking, guarded, stopping = threading.Event(), threading.Event(), threading.Event()
    app = open_app(Station(place).home)
    monkeypatch.setattr(keeper.Keeper, "_due", lambda self: ["one"])
    monkeypatch.setattr(keeper.Keeper, "_look", lambda self, row: (looking.set(), stopping.wait()))
    monkeypatch.setattr(keeper.pinned, "guard", lambda *_: looking.is_set() and guarded.set())
    thread = threading.Thread(target=keeper.Keeper(app.config, app.catalog, stopping).run)
    thread.start()
    try:
        assert guarded.wait(5)
    finally:
        stopping.set()
        thread.join()
        app.close()
