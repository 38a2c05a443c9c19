"""What can happen to a running backup, and what must be left on the server afterwards: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import world
from icecore.engines import BackupSession
from icecore.engines.postgresql import PostgresEngine, PostgresRestore, wal
from icecore.errors import EngineFailed
from world import Ledger, PostgresWorld, eventually


@pytest.fixture(scope="module")
def server(ground: Path) -> Iterator[PostgresWorld]:
    with PostgresWorld("15", ground / "guard") as running:
        running.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")
        yield running


def impatient(session: BackupSession) -> None:
    """Ask at once instead of every few seconds."""
    session._pinged_at = 0.0  # type: ignore[attr-defined]
    session.alive()


@pytest.mark.parametrize("victim", ["client backend", "walsender"])
def test_a_killed_connection_ends_the_backup(server: PostgresWorld, tmp_path: Path, victim: str) -> None:
    def kill(session: BackupSession) -> None:
        server.sql(
            f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE application_name = 'icecore' AND backend_type = '{victim}'"""
        )

    engine = PostgresEngine(server.dsn(), None, name="guard")
    with pytest.raises(EngineFailed), engine.start("guard", tmp_path) as session:
        for source in session.files():
            source.meta  # noqa: B018
        kill(session)
        eventually(lambda: bool(impatient(session)) or False, 10)
    assert not list(tmp_path.iterdir())
    eventually(server.no_slot)


def test_a_killed_process_leaves_no_slot_and_no_backup(server: PostgresWorld, tmp_path: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from icecore.engines.postgresql import PostgresEngine
with PostgresEngine({server.dsn()!r}, None, name="k").start("k", Path({str(tmp_path)!r})) as session:
    next(session.files())
    print("ready", flush=True)
    time.sleep(60)
"""
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    assert server.sql("SELECT temporary, active FROM pg_replication_slots") == [(True, True)]
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    eventually(server.no_slot)
    eventually(lambda: not server.sql("SELECT 1 FROM pg_stat_activity WHERE application_name = 'icecore'"))
    # The server is free for the next one.
    for left in tmp_path.iterdir():
        left.unlink()
    with PostgresEngine(server.dsn(), None, name="k").start("k", tmp_path) as session:
        list(session.files())
        session.stop()


def test_a_capture_is_never_a_synchronous_standby(
    server: PostgresWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``*`` every walsender that reports flushed positions would acknowledge commits."""
    monkeypatch.setattr(wal, "FEEDBACK_S", 0.1)
    server.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    server.sql("SELECT pg_reload_conf()")
    eventually(lambda: server.sql("SHOW synchronous_standby_names") == [("*",)])
    try:
        with PostgresEngine(server.dsn(), None, name="sync").start("sync", tmp_path) as session:
            server.sql("SET synchronous_commit = local; CREATE TABLE IF NOT EXISTS s (i int); INSERT INTO s VALUES (1)")
            time.sleep(1)
            states = server.sql("SELECT sync_state, flush_lsn FROM pg_stat_replication")
            assert states == [("async", None)]
            list(session.files())
            session.stop()
    finally:
        server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        server.sql("SELECT pg_reload_conf()")


def test_the_server_is_not_filled_with_log(server: PostgresWorld, tmp_path: Path) -> None:
    """Where the server may not forget what arrived, the limit ends the backup."""
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'none_here'")
    server.sql("SELECT pg_reload_conf()")
    eventually(lambda: server.sql("SHOW synchronous_standby_names") == [("none_here",)])
    try:
        engine = PostgresEngine(server.dsn(), None, name="limit", retained_limit_bytes=4 * 2**20)
        with pytest.raises(EngineFailed, match="limit of 4 MiB"), engine.start("limit", tmp_path) as session:
            impatient(session)
            server.sql(
                """SET synchronous_commit = local;
                   CREATE TABLE much AS SELECT repeat('m', 900) FROM generate_series(1, 20000)"""
            )
            impatient(session)
    finally:
        server.sql("ALTER SYSTEM RESET synchronous_standby_names")
        server.sql("SELECT pg_reload_conf()")
    eventually(server.no_slot)


def test_log_that_arrived_is_not_kept_on_the_server(
    server: PostgresWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal, "FEEDBACK_S", 0.1)
    engine = PostgresEngine(server.dsn(), None, name="limit", retained_limit_bytes=48 * 2**20)
    with engine.start("limit", tmp_path) as session:
        for number in range(6):
            server.sql(f"CREATE TABLE much_{number} AS SELECT repeat('m', 900) FROM generate_series(1, 20000)")
        time.sleep(1)
        impatient(session)
        list(session.files())
        session.stop()


@pytest.mark.parametrize("major", ["15", "17"])
def test_a_standby_as_the_source(major: str, place: Path) -> None:
    if world.programs_of(major) is None:
        pytest.skip(f"PostgreSQL {major} is not here")
    with PostgresWorld(major, place) as primary:
        primary.sql("CREATE TABLE still AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g")
        with primary.standby() as standby:
            engine, restore = PostgresEngine(standby.dsn(), None, name="standby"), PostgresRestore()
            assert engine.probe().details["in_recovery"]
            with Ledger(primary.dsn()) as ledger:
                ledger.wait_for(100)
                time.sleep(2.2)
                copy = world.copy_session(engine, restore, place, before_stop=lambda _: time.sleep(1.5))
                ledger.wait_for(len(ledger.acknowledged) + 50)
            assert copy.facts.engine_facts["in_recovery"]
            # It stands for a moment of the load, not for one long before.
            assert time.time() - copy.facts.boundary.consistent_at < 60
            restored = restore.server(copy.facts, world.server_place(place))
            restored.prepare()
            restored.start(60)
            ledger.check(restored.dsn(), copy.facts.boundary.consistent_at)
            assert world.fingerprint(restored.dsn())["public.still"] == world.fingerprint(primary.dsn())["public.still"]
            world.inspect(restored.dsn())
            restored.stop(30)
            assert world.damaged_pages(copy.target.data_directory) == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_idle_standby_by_both_routes(stream: bool, place: Path) -> None:
    """No log comes after the end, and none is needed. A streamed ``standby.signal`` does not come along."""
    with PostgresWorld("15", place) as primary:
        primary.sql("CREATE TABLE still AS SELECT g FROM generate_series(1, 5000) g")
        with primary.standby() as standby:
            eventually(lambda: standby.sql("SELECT count(*) FROM still") == [(5000,)])
            restore = PostgresRestore()
            engine = PostgresEngine(standby.dsn(), None, name="idle", stream=stream)
            began = time.monotonic()
            copy = world.copy_session(engine, restore, place)
            assert time.monotonic() - began < 9, "it waited for log that does not come"
            restored = restore.server(copy.facts, world.server_place(place))
            restored.prepare()
            restored.start(60)
            assert world.sql(restored.dsn(), "SELECT count(*) FROM still") == [(5000,)]
            restored.stop(30)


def test_a_promotion_makes_the_backup_worthless(place: Path, tmp_path: Path) -> None:
    with PostgresWorld("15", place) as primary:
        primary.sql("CREATE TABLE t AS SELECT 1")
        with primary.standby() as standby:
            engine = PostgresEngine(standby.dsn(), None, name="promoted")
            with pytest.raises(EngineFailed, match=r"promoted|timeline"), engine.start("p", tmp_path) as session:
                list(session.files())
                standby.sql("SELECT pg_promote()")
                list(session.closing_files())
                session.stop()
