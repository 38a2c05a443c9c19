"""What images pin, and that the living do not want for it: measured on the file system itself."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from filesystems import SHARING, mounted
from house import CLUSTER, Acting, House, fill
from icecore import errors
from icecore.images import Images
from icecore.keeper import GUARD_EVERY_S
from world import Ledger, PostgresWorld


def used_bytes(place: Path, kind: str) -> int:
    """As df has it; on btrfs of data alone, for there df counts a reserve as used that grows and shrinks by itself."""
    subprocess.run(["sync", "-f", str(place)], check=True)
    if kind == "btrfs":
        told = subprocess.run(["btrfs", "filesystem", "df", "-b", place], check=True, capture_output=True, text=True)
        return int(told.stdout.split("Data, single: ")[1].split("used=")[1].split()[0])
    found = os.statvfs(place)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


@pytest.mark.parametrize("kind", SHARING)
def test_what_an_image_is_said_to_pin_is_free_when_it_is_gone(place: Path, kind: str) -> None:
    with mounted(kind, 1 << 30) as point:
        server = PostgresWorld("15", point / "source").create().start()
        server.sql(
            "CREATE TABLE items AS SELECT g AS id, repeat(md5(g::text), 20) AS pad FROM generate_series(1, 30000) g"
        )
        server.sql("CREATE TABLE gone AS SELECT * FROM items")
        house = House(place, server)
        house.back_up(1)
        with Images(CLUSTER, [server.place]) as images:
            assert images.kept("1").pinned_bytes() < 1 << 20  # everything is shared
            server.sql("UPDATE items SET pad = repeat('x', 600) WHERE id % 37 = 0")
            server.sql("DROP TABLE gone")
            server.sql("CHECKPOINT")
            server.stop()
            before = used_bytes(point, kind)
            pinned = images.kept("1").pinned_bytes()
            images.keep_only("")
        freed = before - used_bytes(point, kind)
        # the rest is what the file system kept of a thousand files; btrfs calls a little shared that goes as well
        assert pinned > 15 << 20 and 0 <= freed - pinned < freed * (0.25 if kind == "btrfs" else 0.1), (pinned, freed)


@contextmanager
def guarding(server: PostgresWorld, lowest: list[float]) -> Iterator[None]:
    """What the keeper does, as often as it does it; ``lowest``: the smallest share that was free."""
    ended = threading.Event()

    def guard() -> None:
        next_at = 0.0
        while not ended.wait(0.01):
            with Images(CLUSTER, [server.place], create=False) as images:
                lowest.append(images.free_share())
                if time.monotonic() >= next_at:
                    next_at = time.monotonic() + GUARD_EVERY_S
                    images.make_room()

    thread = threading.Thread(target=guard)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def test_the_database_never_wants_for_room_because_of_images(place: Path) -> None:
    """A table larger than what is free is written over, between backups and during one: without an image that takes no
    room at all, with one it would take more than there is."""
    with mounted("xfs", 400 << 20) as point:
        options = {"max_wal_size": "'24MB'", "min_wal_size": "'8MB'", "autovacuum": "off"}
        server = PostgresWorld("15", point / "source", options, initdb=["--wal-segsize=1"]).create().start()
        server.sql("CREATE TABLE items (id int, n int, pad text) WITH (fillfactor = 45)")
        row = "g, 0, repeat(md5(g::text), 20)"
        for part in range(4):  # 80 MB; not at once, or its log would not find room
            server.sql(f"INSERT INTO items SELECT {row} FROM generate_series({part}0000, {part}9999) g")
        server.sql("CREATE INDEX ON items (id)")

        def write_over() -> None:
            for at in range(0, 40000, 800):  # 16 MB a second at most: the guard looks twice a second
                server.sql(f"UPDATE items SET n = n + 1 WHERE id >= {at} AND id < {at + 800}")
                server.sql("CHECKPOINT")
                time.sleep(0.1)

        write_over()  # each page has room for two versions of its rows: it does not grow any more
        house, filler, lowest = House(place, server), point / "filler", []
        with guarding(server, lowest), Ledger(server.dsn()) as ledger:
            assert house.back_up(1).imaged
            fill(filler, 0.17)
            assert os.statvfs(point).f_bavail * 4096 < (server.data / _path(server)).stat().st_size
            write_over()
            assert house.images() == [] and ledger.errors == []
            fill(filler, 0.17)

            def meanwhile() -> None:
                fill(filler, 0.17)
                write_over()

            with pytest.raises((errors.EngineFailed, errors.StorageFull)):
                house.back_up(2, Acting("session-closed", meanwhile))
            assert house.images() == []
            house.back_up(2, images=False)
            ledger.wait_for(len(ledger.acknowledged) + 20)
        assert ledger.errors == [] and min(lowest) > 0.02, min(lowest)
        server.sql("CHECKPOINT")
        assert house.stored(2, _path(server)) == (server.data / _path(server)).read_bytes()
        server.stop("immediate")


def _path(server: PostgresWorld) -> str:
    return str(server.sql("SELECT pg_relation_filepath('items')")[0][0])
