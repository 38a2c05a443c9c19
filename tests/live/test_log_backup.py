"""The continuous log of a real server: archiver killed and restarted, server restarted, timelines changed; then moments
restored and compared with a ledger that was kept outside."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

import world
from icecore import backup, errors, moments, restore
from icecore.archive import LogProgress, run
from icecore.engines import RestoreTarget
from icecore.engines.postgresql import PostgresEngine, PostgresRestore
from icecore.engines.postgresql.control import lsn_number, lsn_text
from icecore.engines.postgresql.records import Records
from icecore.model import Phase
from icecore.recovery import Window
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
                server.sql("ALTER SYSTEM SET max_connections = 150")
                server.stop()
                server.start()
                server.sql("CREATE TABLE more AS SELECT * FROM bulk")
                time.sleep(2)
            time.sleep(0.5)
        with Archiving(server.dsn(), str(repo)) as archiving:
            # A position between two commits, for a restore that ends there
            server.sql("CREATE TABLE mark (n int)")
            ((position,),) = server.sql("SELECT pg_current_wal_insert_lsn()::text")
            server.sql("INSERT INTO mark VALUES (1)")
            # Idle: moments after the last commit are known as well
            ended = time.time()
            eventually(lambda: archiving.last is not None and archiving.last.known_at_us > ended * 1e6)
            assert archiving.last is not None and archiving.last.quiet
        assert not archiving.gaps
    (window,) = moments.windows(repository, CLUSTER, PostgresRestore())
    assert window.until_us > ended * 1e6
    picked = [chance.randint(window.since_us, int(ended * 1e6)) for _ in range(3)]
    for number, moment_us in enumerate([*picked, window.until_us, window.since_us]):
        with restored(repository, place, f"r{number}", moment_us=moment_us) as dsn:
            ledger.check(dsn, moment_us / 1e6)
    with restored(repository, place, "lsn", position=lsn_number(position)) as dsn:
        assert world.sql(dsn, "SELECT count(*) FROM mark") == [(0,)]
        ledger.check(dsn, time.time())
    # A day of units does not stay: those of a full stride are one
    units = repository.log(CLUSTER).listing.units
    assert len(units) < 60, len(units)
    assert {unit.end - unit.start for unit in units[1:-1] if unit.end % (16 << 20) == 0} == {16 << 20}


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "5")


def test_the_log_goes_on_through_a_promotion(place: Path) -> None:
    """A standby is followed while it is promoted: one moment on the old timeline, one on the new one."""
    repository, repo = new_repository(place), place / "repo"
    with PostgresWorld("15", place / "source") as primary:
        primary.sql("CREATE TABLE t (n int); INSERT INTO t VALUES (1)")
        standby = primary.standby()
        with standby, Archiving(standby.dsn(), str(repo)) as archiving:
            eventually(lambda: archiving.last is not None)
            take_backup(primary, repository, place, "1")
            time.sleep(1.1)
            before = time.time()
            primary.sql("INSERT INTO t VALUES (2)")
            # What the standby had not received is lost with the primary: wait for it
            eventually(lambda: standby.sql("SELECT max(n) FROM t") == [(2,)])
            primary.stop("immediate")
            standby.sql("SELECT pg_promote()")
            time.sleep(0.2)
            between = time.time()
            standby.sql("INSERT INTO t VALUES (3)")
            ended = time.time()
            eventually(lambda: archiving.last.timeline == 2 and archiving.last.known_at_us > ended * 1e6, 30)
            assert not archiving.gaps
        engine = PostgresRestore()
        assert {unit.timeline for unit in repository.log(CLUSTER).listing.units} == {1, 2}
        assert [window.timeline for window in moments.windows(repository, CLUSTER, engine)] == [2]
        for name, moment, rows in (("old", before, 1), ("new", between, 2), ("end", ended, 3)):
            with restored(repository, place, name, moment_us=int(moment * 1e6)) as dsn:
                assert world.sql(dsn, "SELECT max(n) FROM t") == [(rows,)]


def test_P2_log_that_the_server_gave_up_is_a_gap_and_no_moment_in_it_is_promised(place: Path) -> None:
    repository, repo = new_repository(place), place / "repo"
    options = {"min_wal_size": "32MB", "max_wal_size": "32MB"}
    with PostgresWorld("15", place / "source", options) as server:
        with Archiving(server.dsn(), str(repo)) as archiving:
            eventually(lambda: archiving.last is not None)
            take_backup(server, repository, place, "1")
            time.sleep(1.1)
            server.sql("CREATE TABLE t AS SELECT 1 AS n")
            eventually(lambda: archiving.last.known_at_us > time.time() * 1e6 - 3e5)
        # Away, and somebody drops the slot
        server.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
        lost = time.time()
        for _ in range(4):
            server.sql("CREATE TABLE big AS SELECT repeat(md5(g::text), 20) FROM generate_series(1, 30000) g")
            server.sql("DROP TABLE big; SELECT pg_switch_wal(); CHECKPOINT")
        with Archiving(server.dsn(), str(repo)) as archiving:
            eventually(lambda: bool(archiving.gaps) and archiving.last is not None)
            assert [window.until_us < lost * 1e6 for window in windows_of(repository)] == [True]
            take_backup(server, repository, place, "2")
            time.sleep(1.1)
            server.sql("INSERT INTO t VALUES (2)")
            ended = time.time()
            eventually(lambda: archiving.last.known_at_us > ended * 1e6)
    first, second = windows_of(repository)
    with pytest.raises(errors.MomentNotRestorable, match="the nearest restorable moments are"):
        moments.plan(repository, CLUSTER, PostgresRestore(), moment_us=int((lost + 0.01) * 1e6))
    for name, moment_us, rows in (("first", first.until_us, 1), ("second", second.until_us, 2)):
        with restored(repository, place, name, moment_us=moment_us) as dsn:
            assert world.sql(dsn, "SELECT max(n) FROM t") == [(rows,)]


def windows_of(repository: Repository) -> list[Window]:
    return moments.windows(repository, CLUSTER, PostgresRestore())


def test_records_and_commit_times_are_those_of_pg_waldump(place: Path) -> None:
    """Fed in pieces of any length, over segments and a switch."""
    with PostgresWorld("15", place / "source", {"wal_keep_size": "200MB"}) as server:
        server.sql("CREATE TABLE t AS SELECT g, repeat('x', 300) FROM generate_series(1, 60000) g")
        server.sql("SELECT pg_switch_wal()")
        for number in range(40):
            server.sql(f"CREATE TABLE small_{number} AS SELECT {number}")
        server.sql("SELECT pg_switch_wal()")
        names = sorted(path.name for path in (server.data / "pg_wal").glob("0" * 7 + "1*"))[1:]
        ((end, last),) = server.sql("SELECT lsn::text, pg_walfile_name(lsn) FROM pg_current_wal_flush_lsn() lsn")
        names = [name for name in names if name <= last]
        begins = int(names[0][8:16], 16) << 32 | int(names[0][16:], 16) << 24
        content = b"".join((server.data / "pg_wal" / name).read_bytes() for name in names)[: lsn_number(end) - begins]
        command = [server.bin / "pg_waldump", "-p", server.data / "pg_wal", "-s", lsn_text(begins), "-e", end]
        told = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    listed = re.findall(r"lsn: (\w+/\w+), .*desc: COMMIT ([0-9-]+ [0-9:.]+) (\w+)", told)
    expected = [
        (unpadded(position), datetime.fromisoformat(f"{moment}+00:00").timestamp()) for position, moment, _ in listed
    ]
    assert len(expected) > 40 and {zone for _, _, zone in listed} <= {"UTC", "GMT", "Etc"}, told[:500]
    chance = random.Random(4)
    records = Records(begins, major="15", segment_bytes=16 << 20, page_bytes=8192)
    at = 0
    while at < len(content):
        size = chance.choice([1, 7, 24, 8192, 100_000, 1_000_000])
        records.feed(content[at : at + size])
        at += size
    found = [(lsn_text(commit.position), round(commit.at_us / 1e6, 6)) for commit in records.commits]
    assert found == expected
    starts = re.findall(r"lsn: (\w+/\w+),", told)
    assert lsn_text(records.last_record) == unpadded(starts[-1])


def unpadded(position: str) -> str:
    return lsn_text(lsn_number(position))
