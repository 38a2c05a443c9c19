"""The pace of a running backup, from the command line down to the threads."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from station import Station, until
from world import PostgresWorld


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    with Station(tmp_path) as made:
        yield made


def test_a_backup_that_runs_is_slowed_down_and_let_go(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    shown = json.loads(station.icecore("cluster", "set", "orders", "--max-rate", "100kB", "--json"))
    assert (shown["MaxRateBytes"], shown["MaxRateOwn"], shown["BackgroundOwn"]) == (100_000, True, False)
    job_id = station.create(cluster_id)
    until(lambda: station.job(job_id)["phase"] == "Uploading")
    time.sleep(1.5)
    held = station.job(job_id)
    assert held["state"] == "running" and held["bytes_done"] < held["bytes_total"] / 10, held

    station.icecore("cluster", "set", "orders", "--max-rate", "0")
    began = time.monotonic()
    done = station.wait(job_id)
    assert time.monotonic() - began < 5  # at 100 kB a second it would be minutes
    assert "pace" in {spent["part"] for spent in done["time_spent"]}
    assert "the rate limit" in done["binding_sentence"]
    assert done["binding_sentence"] in station.icecore("jobs", "--job", job_id)
