"""Real servers and a whole installation. A module shares its source: starting one takes a second or two."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from station import Station

import world
from world import PostgresWorld


@pytest.fixture(scope="module")
def ground() -> Iterator[Path]:
    """A directory for a module's servers; those left running are ended before it goes."""
    directory = world.new_place()
    yield directory
    world.end_servers_below(directory)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def source(ground: Path) -> Iterator[PostgresWorld]:
    """PostgreSQL 15 with a few thousand rows, running."""
    server = PostgresWorld("15", ground / "source").create().start()
    server.sql("CREATE TABLE items AS SELECT g AS id, md5(g::text) AS word FROM generate_series(1, 20000) g")
    server.sql("ALTER TABLE items ADD PRIMARY KEY (id)")
    yield server
    server.stop("immediate")


@pytest.fixture
def station(place: Path) -> Iterator[Station]:
    with Station(place) as running:
        yield running
