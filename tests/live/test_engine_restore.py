"""Restored directories and servers: configuration from outside, safeguards, restarts, timelines."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import world
from icecore.engines.postgresql import PostgresEngine, PostgresRestore
from icecore.errors import EngineFailed
from world import PostgresWorld

NEW_CERTIFICATE = ("openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=test")


def test_debians_layout_starts_from_the_data_directory_alone(place: Path) -> None:
    """Configuration, access rules, socket, log and pid file all lie elsewhere; none of it is touched by the copy."""
    server = PostgresWorld("15", place).create()
    etc, run = place / "etc", place / "run"
    for directory in (etc / "conf.d", run):
        directory.mkdir(parents=True)
    for name in ("postgresql.conf", "pg_hba.conf", "pg_ident.conf"):
        shutil.move(server.data / name, etc / name)
    with (etc / "postgresql.conf").open("a") as conf:
        conf.write(
            f"""data_directory = '{server.data}'   # use data in another directory
hba_file='{etc}/pg_hba.conf'
ident_file = '{etc}/pg_ident.conf'
external_pid_file = '{run}/main.pid'
log_directory = '{run}'
logging_collector = on
archive_mode = on
archive_command = 'touch {run}/archived-%f'
shared_preload_libraries = 'pg_stat_statements'
work_mem = '5MB'
ssl = on
ssl_cert_file = '{etc}/snakeoil.pem'
ssl_key_file = '{etc}/snakeoil.key'
include_dir 'conf.d'
include_if_exists 'absent.conf'
"""
        )
    (etc / "conf.d" / "10-first.conf").write_text("maintenance_work_mem = '77MB'\nwork_mem = '6MB'\n")
    (etc / "conf.d" / "20-second.conf").write_text("work_mem = '7MB'  # the last one wins\n")
    (etc / "conf.d" / "ignored.txt").write_text("work_mem = '8MB'\n")
    (etc / "people").write_text("reader, postgres # and nobody else\n")
    (etc / "pg_hba.conf").write_text(
        "local all postgres trust\nlocal replication all trust\nhost all @people 127.0.0.1/32 scram-sha-256\n"
    )
    pem, key = etc / "snakeoil.pem", etc / "snakeoil.key"
    subprocess.run(
        [
            *["openssl", "req", "-new", "-x509", "-days", "2", "-nodes", "-subj", "/CN=test"],
            "-out",
            pem,
            "-keyout",
            key,
        ],
        check=True,
        capture_output=True,
    )
    _, uid, gid = world.database_user()
    for path in (etc, run, *etc.rglob("*")):
        os.chown(path, uid, gid)
    (etc / "snakeoil.key").chmod(0o600)
    server.start("-o", f"-c config_file={etc}/postgresql.conf")
    try:
        server.sql("ALTER SYSTEM SET log_min_duration_statement = '99s'")
        server.sql("ALTER SYSTEM SET recovery_target_time = '2020-01-01 00:00:00+00'")
        server.sql("CREATE ROLE reader LOGIN PASSWORD 'secret word'; CREATE TABLE t AS SELECT 1 AS one")
        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="debian"), restore, place)
        assert "secret word" not in str(copy.facts.engine_facts)
        assert "PRIVATE KEY" not in str(copy.facts.engine_facts)
        archived = set(run.glob("archived-*"))
    finally:
        server.stop()
    # Its whole world but the data is gone: only what was restored can be used.
    shutil.rmtree(etc)
    pid_file = run / "main.pid"
    pid_file.unlink(missing_ok=True)
    where = world.server_place(place)
    restored = restore.server(copy.facts, where)
    restored.prepare()
    restored.start(60)

    def show(name: str) -> object:
        return world.sql(restored.dsn(), f"SHOW {name}")[0][0]

    assert (show("work_mem"), show("maintenance_work_mem")) == ("7MB", "77MB")
    assert show("log_min_duration_statement") == "99s"
    assert show("shared_preload_libraries") == "pg_stat_statements"
    assert show("archive_mode") == "off" and show("ssl") == "off"
    assert show("config_file") == f"{where.data_directory}/postgresql.conf"
    assert show("hba_file") == f"{where.data_directory}/pg_hba.conf"
    assert show("port") == str(where.port) and show("listen_addresses") == "127.0.0.1"
    assert not pid_file.exists() and set(run.glob("archived-*")) == archived
    # The source's rules hold on the network: a password for those listed, nobody else.
    network = f"host=127.0.0.1 port={where.port} dbname=postgres"
    assert world.sql(f"{network} user=reader password='secret word'", "SELECT 1") == [(1,)]
    for wrong in (f"{network} user=reader password=wrong", f"{network} user=nobody"):
        with pytest.raises(world.psycopg.OperationalError):
            world.sql(wrong, "SELECT 1")
    assert where.socket_directory.stat().st_mode & 0o777 == 0o700
    assert all(path.lstat().st_uid == uid for path in where.data_directory.rglob("*"))
    restored.stop(30)


def test_a_library_that_is_not_here_is_not_preloaded(place: Path) -> None:
    with PostgresWorld("15", place) as server:
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="l"), PostgresRestore(), place)
        facts = copy.facts.engine_facts
        settings = {**facts["settings"], "shared_preload_libraries": "not_here, pg_stat_statements, $libdir/absent"}
        known = replace(copy.facts, engine_facts={**facts, "settings": settings})
        restored = PostgresRestore().server(known, world.server_place(place))
        restored.prepare()
        restored.start(60)
        assert world.sql(restored.dsn(), "SHOW shared_preload_libraries") == [("pg_stat_statements",)]
        restored.stop(30)


@pytest.mark.parametrize("major", ["15", "18"])
def test_without_its_label_a_copy_does_not_start(major: str, place: Path) -> None:
    """Recovery from a control file alone would begin at the wrong place and say nothing."""
    if world.programs_of(major) is None:
        pytest.skip(f"PostgreSQL {major} is not here")
    with PostgresWorld(major, place) as server:
        server.sql("CREATE TABLE t AS SELECT 1 AS one")
        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="guard"), restore, place)
        restored = restore.server(copy.facts, world.server_place(place))
        restored.prepare()
        label = copy.target.data_directory / "backup_label"
        kept = label.read_bytes()
        label.unlink()
        with pytest.raises(EngineFailed):
            restore.finish_files(replace(copy.facts), replace(copy.target, data_directory=place / "absent"))
        with pytest.raises(EngineFailed, match="checkpoint"):
            restored.start(20)
        assert not restored.running()
        # The same with its label does.
        label.write_bytes(kept)
        world.own(copy.target.data_directory)
        restored.start(60)
        assert world.sql(restored.dsn(), "TABLE t") == [(1,)]
        restored.stop(30)


def test_a_restored_server_restarts_and_forgets_stale_locks(place: Path) -> None:
    with PostgresWorld("15", place) as server:
        server.sql("CREATE TABLE t AS SELECT 1 AS one")
        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="r"), restore, place)
        where = world.server_place(place)
        restored = restore.server(copy.facts, where)
        restored.prepare()
        restored.start(60)
        restored.start(60)  # nothing to do
        world.sql(restored.dsn(), "INSERT INTO t VALUES (2)")
        restored.stop(30)
        restored.stop(30)  # nothing to do
        # As after a power cut and a start of the machine: the number now belongs to some other process.
        lock = where.data_directory / "postmaster.pid"
        lock.write_text(f"{os.getpid()}\n{where.data_directory}\n1000000000\n{where.port}\n")
        again = PostgresRestore().server(copy.facts, where)
        again.prepare()
        assert not again.running()
        again.start(60)
        assert again.running()
        assert world.sql(again.dsn(), "SELECT sum(one) FROM t") == [(3,)]
        # A directory that is being removed can still be asked.
        gone = replace(where, data_directory=place / "gone")
        assert not PostgresRestore().server(copy.facts, gone).running()
        assert not (place / "gone").exists()
        # Preparing a running server a second time changes nothing that matters.
        settings = (where.data_directory / "postgresql.auto.conf").read_text()
        rules = (where.data_directory / "pg_hba.conf").read_text()
        PostgresRestore().server(copy.facts, where).prepare()
        assert (where.data_directory / "postgresql.auto.conf").read_text() == settings
        assert (where.data_directory / "pg_hba.conf").read_text() == rules
        again.stop(30)


@pytest.mark.parametrize("stream", [False, True])
def test_a_restored_cluster_is_backed_up_and_restored_in_turn(stream: bool, place: Path) -> None:
    """Right after a promotion: a new timeline whose first segment begins as its ancestor's, and whose control file
    may still name the old one."""
    with PostgresWorld("15", place) as server:
        server.sql("CREATE TABLE t AS SELECT 1 AS one")
        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="g1"), restore, place)
    place_of = place
    restored = restore.server(copy.facts, world.server_place(place_of))
    restored.prepare()
    restored.start(60)
    for generation in (2, 3):
        world.sql(restored.dsn(), f"INSERT INTO t VALUES ({generation})")
        place_of = place / f"g{generation}"
        place_of.mkdir()
        os.chown(place_of, *world.database_user()[1:])
        engine = PostgresEngine(restored.dsn(), None, name="again", stream=stream)
        copy = world.copy_session(engine, restore, place_of)
        assert copy.facts.boundary.timeline == generation
        assert f"pg_wal/{generation:08X}.history" in copy.paths
        restored.stop(30)
        restored = restore.server(copy.facts, world.server_place(place_of))
        restored.prepare()
        restored.start(60)
        assert world.sql(restored.dsn(), "SELECT timeline_id FROM pg_control_checkpoint()") == [(generation + 1,)]
        assert world.sql(restored.dsn(), "SELECT sum(one) FROM t") == [(sum(range(1, generation + 1)),)]
    restored.stop(30)


def test_timelines_past_fifteen_are_hexadecimal(place: Path) -> None:
    server = PostgresWorld("15", place).create()
    world.run_as_database_user([server.bin / "pg_resetwal", "-l", "0000001A0000000000000009", "-D", server.data])
    with server.start():
        server.sql("CREATE TABLE t AS SELECT 1 AS one")
        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="t"), restore, place)
        assert copy.facts.boundary.timeline == 0x1A
        assert any(path.startswith("pg_wal/0000001A") for path in copy.paths)
        assert copy.facts.warnings == ("0000001A.history is no longer kept by the server",)
        restored = restore.server(copy.facts, world.server_place(place))
        restored.prepare()
        restored.start(60)
        assert world.sql(restored.dsn(), "SELECT timeline_id FROM pg_control_checkpoint()") == [(0x1B,)]
        restored.stop(30)


def test_large_segments_and_group_access(place: Path) -> None:
    """Log segments of 64 MiB, and a data directory that its group may read."""
    with PostgresWorld("15", place, initdb=("--wal-segsize=64", "-g")) as server:
        server.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")
        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="w"), restore, place)
        assert copy.target.data_directory.stat().st_mode & 0o777 == 0o750
        restored = restore.server(copy.facts, world.server_place(place))
        restored.prepare()
        restored.start(60)
        assert world.sql(restored.dsn(), "SHOW wal_segment_size") == [("64MB",)]
        assert world.sql(restored.dsn(), "SELECT count(*) FROM t") == [(1000,)]
        restored.stop(30)
