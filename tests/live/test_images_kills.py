"""kill -9 at every step of a backup that takes an image, or that streams, between any two of its parts: the next run
makes the backup, nothing half-made stays, and what an image vouches for is what its backup holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import world
from filesystems import mounted
from house import CLUSTER, House, die
from icecore import images, imaging
from icecore.images import PLACE, Images
from world import PostgresWorld

BEFORE = {
    "xfs": ["started", "imaged", "copied", "closing-copied", "stopped", "session-closed", "copying:15", "uploaded",
            "blocks-finished", "checked"],
    "stream": ["started", "copying", "copied", "stopped", "session-closed", "checked"],
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[PostgresWorld]:
    with mounted("xfs", 1 << 30) as point:
        running = PostgresWorld("15", point / "source").create().start()
        running.sql(
            "CREATE TABLE items AS SELECT g AS id, repeat(md5(g::text), 20) AS pad FROM generate_series(1, 9000) g"
        )
        yield running
        running.stop("immediate")


@pytest.mark.parametrize("route", BEFORE)
def test_R4_killed_at_each_step_there_is_one_backup(place: Path, server: PostgresWorld, route: str) -> None:
    house = House(place, server, stream=route == "stream")
    house.back_up(1)
    for number, step in enumerate(BEFORE[route]):
        server.sql(f"UPDATE items SET pad = 'killed at {step}' WHERE id % 20 = {number}")
        house.back_up_and_die(2, step)
        assert house.repository.has(CLUSTER, "2") is None
        assert set(house.images()) <= {"1", "2.partial"}
    assert house.back_up(2).imaged == (route == "xfs")
    right(house, 2, ["2"] if route == "xfs" else [])
    house.repository.collect(CLUSTER)
    world.eventually(server.no_slot)
    restored = house.restored(2)
    assert world.fingerprint(restored.dsn()) == world.fingerprint(server.dsn())
    restored.stop(30)


def test_killed_between_a_backup_and_its_image(place: Path, server: PostgresWorld) -> None:
    """The backup exists; its image is whole or none. The next one compares with what is there, and takes its place."""
    house = House(place, server)
    house.back_up(1)
    for number, (spoil, left) in enumerate(AFTER, 2):
        server.sql(f"UPDATE items SET pad = 'killed in {number}' WHERE id % 20 = {number}")
        house.back_up_and_die(number, "", spoil)
        assert house.back_up(number).adopted
        assert house.images() == left, spoil.__name__
        right(house, number, house.images())
    last = len(AFTER) + 2
    assert house.back_up(last).imaged
    right(house, last, [str(last)])
    assert {path.name for path in (server.place / PLACE / CLUSTER).iterdir()} == {str(last), f"{last}.seal"}


def right(house: House, number: int, sealed: list[str]) -> None:
    """The backup holds what the server had, and each finished image what its backup holds."""
    table = str(house.server.sql("SELECT pg_relation_filepath('items')")[0][0])
    assert house.stored(number, table) == (house.server.data / table).read_bytes()
    with Images(CLUSTER, [house.server.place]) as kept:
        for backup_id in kept.backup_ids():
            assert backup_id in sealed
            with (house.server.place / "onto").open("w+b") as onto:
                content = house.stored(int(backup_id), table)
                if kept.kept(backup_id).lay(table, onto.fileno(), len(content)):
                    assert onto.read() == content


# ---------------------------------------------------------------- where to die: in the child alone


def dying(owner: Any, name: str, *, first: bool = False) -> Callable[[], None]:
    """Die right after that function's first call, or instead of it."""
    real = getattr(owner, name)

    def instead(*args: Any, **more: Any) -> Any:
        if not first:
            real(*args, **more)
        die()

    def spoil() -> None:
        setattr(owner, name, instead)

    spoil.__name__ = f"{'before' if first else 'after'} {name}"
    return spoil


# One after the other, and which images are there after the rerun of the backup
AFTER = [
    (dying(imaging.Imaging, "keep", first=True), ["1", "2.partial"]),
    (dying(images, "_write_durably"), ["1", "3.partial"]),
    (dying(images.NewImage, "seal"), ["1", "4"]),
    (dying(images, "_remove"), ["1", "4", "5"]),
    (dying(images.Images, "keep_only"), ["6"]),
]
