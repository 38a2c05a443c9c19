"""The pace of a running backup, from the command line down to the threads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icecore import backup
from icecore.engines.postgresql import PostgresEngine
from icecore.model import Phase
from icecore.pace import NICE, Pace
from icecore.repository import Repository
from icecore.storage.local import LocalStorage
from icecore.watch import Interrupted
from station import Station, until
from world import PostgresWorld, eventually


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
    assert time.monotonic() - began < 10  # at 100 kB a second it would be minutes
    assert "pace" in {spent["part"] for spent in done["time_spent"]}
    assert "the rate limit" in done["binding_sentence"]
    assert done["binding_sentence"] in station.icecore("jobs", "--job", job_id)
    command = [*station._icecore, "--home", str(station.home), "watch", job_id]
    watched = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done["binding_sentence"] in watched.stderr


class Cancelling:
    """Cancels after a moment of copying; ``first`` is done before."""

    def __init__(self, first) -> None:
        self._first, self._began = first, 0.0
        self.cancelled_at = 0.0
        self.niceness: list[int] = []

    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...

    def step(self, name: str) -> None:
        if name != "copying":
            return
        if not self._began:
            self._began = time.monotonic()
            self._first()
        ours = [each for each in threading.enumerate() if each.name.startswith(("receive_", "store_"))]
        self.niceness += [os.getpriority(os.PRIO_PROCESS, each.native_id or 0) for each in ours]
        if time.monotonic() - self._began > 0.8:
            self.cancelled_at = time.monotonic()
            raise Interrupted


@pytest.mark.parametrize("silent", [False, True])
def test_a_stream_is_cancelled_in_the_midst_of_a_file_and_received_in_the_background(
    source: PostgresWorld, tmp_path: Path, silent: bool
):
    """Also while the server says nothing at all: its sender is stopped."""
    stopped: list[int] = []
    scratch = tmp_path / "scratch"
    scratch.mkdir()

    def silence() -> None:
        ((sender,),) = source.sql("SELECT pid FROM pg_stat_replication WHERE state = 'backup'")
        os.kill(sender, signal.SIGSTOP)
        stopped.append(sender)
        pace.set(0, background=True)  # what lies in between is read, then there is nothing

    Repository.create(LocalStorage(tmp_path / "repository"), None)
    repository = Repository.open(LocalStorage(tmp_path / "repository"), None)
    engine = PostgresEngine(source.tcp_dsn(), None, name="orders", stream=True)
    order = backup.BackupOrder("1", "pc-1", "orders", "uuid")
    watch = Cancelling(silence if silent else lambda: None)
    pace = Pace(500_000, background=True)
    try:
        with pytest.raises(Interrupted):
            backup.run(engine, repository, order, watch, scratch=scratch, threads=2, pace=pace)
        assert time.monotonic() - watch.cancelled_at < 3.0
    finally:
        for sender in stopped:
            os.kill(sender, signal.SIGCONT)
    assert watch.niceness and min(watch.niceness) >= NICE
    eventually(source.no_slot)
