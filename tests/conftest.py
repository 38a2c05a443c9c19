"""Fixtures shared by all tests. Everything a test starts, it ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import world

world.announce_programs()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a minute")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that a database server may use; servers left running in it are ended before it goes."""
    directory = world.new_place()
    yield directory
    world.end_servers_below(directory)
    shutil.rmtree(directory, ignore_errors=True)
