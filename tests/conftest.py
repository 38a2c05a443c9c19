"""Fixtures shared by all tests. Everything a test starts, it ends. A module shares its source: starting one takes a
second or two."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import world
from station import Station
from world import PostgresWorld

world.announce_programs()
# A slot outlives the home that a test throws away; tests of log backup switch it on
os.environ.setdefault("ICECORE_LOG_BACKUP", "off")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a minute")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that a database server may use; servers left running in it are ended before it goes."""
    directory = world.new_place()
    yield directory
    world.end_servers_below(directory)
    shutil.rmtree(directory, ignore_errors=True)


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
    """A whole installation, serving."""
    with Station(place) as running:
        yield running
