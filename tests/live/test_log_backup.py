"""The continuous log of a real server: archiver killed and restarted, server restarted, timelines changed; then moments
restored and compared with a ledger that was kept outside."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import world
from icecore import backup, errors, moments, restore
from icecore.archive import LogProgress, run
from icecore.engines import RestoreTarget
from icecore.engines.postgresql import PostgresEngine, PostgresRestore
from icecore.model import Phase
from icecore.repository import KeyFile, Repository
from icecore.storage.local import LocalStorage
from world import PostgresWorld, eventually

CLUSTER = "pc-ice1"
KEY = bytes(range(32))
ARCHIVER = """
import sys
sys.path.insert(0, {tests!r})
from live.test_log_backup import Archiving
Archiving({dsn!r}, {repo!r}).run()
"""


class QuietWatch:
    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...
    def step(self, name: str) -> None: ...


class Archiving:
    """Log backup in this process, until ``stop``."""

    def __init__(self, dsn: str, repo: str) -> None:
        self.engine = PostgresEngine(dsn, None, name="log")
        self.repository = Repository.open(LocalStorage(Path(repo)), KeyFile(KEY))
        self.last: LogProgress | None = None
        self.gaps: list[tuple[int, int, int]] = []
        self._ended = threading.Event()

    def wanted(self) -> bool:
        return not self._ended.is_set()

    def progressed(self, progress: LogProgress) -> None:
        self.last = progress

    def gap(self, timeline: int, start: int, end: int) -> None:
        self.gaps.append((timeline, start, end))

    def run(self) -> None:
        while self.wanted():
            try:
                run(self.engine.log_stream(CLUSTER), self.repository, CLUSTER, self)
            except errors.WorldError:
                time.sleep(0.1)

    def __enter__(self) -> Archiving:
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def another_process(server: PostgresWorld, repo: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Log backup in a process of its own, killed at the end."""
    script = ARCHIVER.format(tests=str(world.ROOT / "tests"), dsn=server.dsn(), repo=str(repo))
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


class TimedLedger:
    """One commit after another; of each is known outside when it was sent and when it was answered."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.times: dict[int, tuple[float, float]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        world.sql(dsn, "CREATE TABLE ledger (number int PRIMARY KEY)")

    def _write(self) -> None:
        number = 0
        while not self._ended.is_set():
            with contextlib.suppress(psycopg.Error), psycopg.connect(self.dsn, autocommit=True) as connection:
                while not self._ended.is_set():
                    number += 1
                    sent = time.time()
                    connection.execute("INSERT INTO ledger VALUES (%s)", (number,))
                    self.times[number] = (sent, time.time())
                    time.sleep(0.003)
            time.sleep(0.05)

    def __enter__(self) -> TimedLedger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)

    def check(self, dsn: str, moment: float) -> None:
        """Every commit answered before the moment is there, none that was sent after it."""
        found = {number for (number,) in world.sql(dsn, "SELECT number FROM ledger")}
        promised = {number for number, (_, answered) in self.times.items() if answered <= moment}
        later = {number for number, (sent, _) in self.times.items() if sent > moment}
        assert promised, "nothing was promised: the test shows nothing"
        assert promised <= found, f"lost: {sorted(promised - found)[:5]}"
        assert not later & found, f"too late: {sorted(later & found)[:5]}"


def new_repository(place: Path) -> Repository:
    return Repository.create(LocalStorage(place / "repo"), KeyFile(KEY))


def take_backup(server: PostgresWorld, repository: Repository, place: Path, backup_id: str) -> None:
    scratch = place / f"scratch-{backup_id}"
    scratch.mkdir()
    order = backup.BackupOrder(backup_id, CLUSTER, "log", f"uuid-{backup_id}")
    engine = PostgresEngine(server.dsn(), None, name="log")
    backup.run(engine, repository, order, QuietWatch(), scratch=scratch, threads=2, images=None)


@contextlib.contextmanager
def restored(repository: Repository, place: Path, name: str, **wanted: int) -> Iterator[str]:
    """The DSN of a server restored to a moment."""
    engine = PostgresRestore()
    made = moments.plan(repository, CLUSTER, engine, **wanted)
    where = world.server_place(place, name)
    target = RestoreTarget(where.data_directory, {}, made.target)
    reader = repository.reader(CLUSTER, made.facts.backup_id)
    plan = restore.plan(reader, engine, target, owner=where.owner, block_bytes=repository.block_bytes)
    log = repository.log(CLUSTER)
    restore.run(
        plan,
        reader,
        engine,
        QuietWatch(),
        threads=2,
        more=lambda: moments.lay_log(made, log, engine, target.data_directory, where.owner),
    )
    server = engine.server(made.facts, where)
    server.prepare()
    server.start(60)
    try:
        yield server.dsn()
    finally:
        server.stop(30)


def test_moments_through_kills_and_restarts(place: Path) -> None:
    repository, repo = new_repository(place), place / "repo"
    chance = random.Random(os.urandom(8))
    with PostgresWorld("15", place / "source", {"max_wal_size": "64MB"}) as server:
        with TimedLedger(server.dsn()) as ledger:
            # A backup while the log is archived; then the archiver is killed, and another goes on
            with another_process(server, repo):
                eventually(lambda: len(repository.log(CLUSTER).listing.units) > 2)
                take_backup(server, repository, place, "1")
                time.sleep(1.5)
            server.sql("CREATE TABLE bulk AS SELECT g, repeat(md5(g::text), 8) FROM generate_series(1, 60000) g")
            with another_process(server, repo):
                # Log of several segments, and a restart of the server
                time.sleep(1)
                server.stop()
                server.start()
                server.sql("CREATE TABLE more AS SELECT * FROM bulk")
                time.sleep(2)
            time.sleep(0.5)
        with Archiving(server.dsn(), str(repo)) as archiving:
            # Idle: moments after the last commit are known as well
            ended = time.time()
            eventually(lambda: archiving.last is not None and archiving.last.known_at_us > ended * 1e6)
            assert archiving.last is not None and archiving.last.quiet
        assert not archiving.gaps
    (window,) = moments.windows(repository, CLUSTER, PostgresRestore())
    assert window.until_us > ended * 1e6
    picked = [chance.randint(window.since_us, int(ended * 1e6)) for _ in range(4)]
    for number, moment_us in enumerate([*picked, window.until_us, window.since_us]):
        with restored(repository, place, f"r{number}", moment_us=moment_us) as dsn:
            ledger.check(dsn, moment_us / 1e6)
    # A day of units does not stay: those of a full stride are one
    units = repository.log(CLUSTER).listing.units
    assert len(units) < 60, len(units)
    assert {unit.end - unit.start for unit in units[1:-1] if unit.end % (16 << 20) == 0} == {16 << 20}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "5")
