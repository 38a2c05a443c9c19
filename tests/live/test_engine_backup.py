"""The engine against real servers under load: back up, restore, start, compare. No repository in between.

Every major that is installed takes part; 15 (Debian's) must, and at least two others.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from psycopg.conninfo import make_conninfo

import world
from icecore.engines import BackupSession
from icecore.engines.postgresql import PostgresEngine, PostgresRestore
from world import Ledger, PostgresWorld

# One round of everything that makes files appear, move and vanish.
DISTURBANCE = (
    "CREATE TABLE IF NOT EXISTS moving AS SELECT g, repeat('m', 300) FROM generate_series(1, 300) g",
    "VACUUM FULL moving",
    "TRUNCATE emptied",
    "INSERT INTO emptied SELECT g, repeat('e', 500) FROM generate_series(1, 400) g",
    "CREATE UNLOGGED TABLE fleeting AS SELECT g FROM generate_series(1, 500) g",
    "CREATE INDEX ON fleeting (g)",
    "ALTER TABLE moving SET TABLESPACE side",
    "CREATE TEMPORARY TABLE IF NOT EXISTS mine AS SELECT g FROM generate_series(1, 200) g",
    "VACUUM FULL unlogged_rows",
    "UPDATE emptied SET pad = repeat('f', 500) WHERE number % 3 = 0",
    "DROP TABLE fleeting",
    "ALTER TABLE moving SET TABLESPACE pg_default",
    "DROP TABLE moving",
    "REINDEX TABLE ledger_a",
)
CASES = [("15", False), ("17", False), ("18", False), ("13", False), ("15", True), ("14", True), ("16", True)]


def test_enough_majors_are_here() -> None:
    assert "15" in world.majors() and len(world.majors()) >= 3, "run scripts/fetch_postgres.py"


def furnish(server: PostgresWorld) -> None:
    server.tablespace("side")
    server.sql(
        """CREATE TABLE still AS SELECT g AS id, md5(g::text) AS word FROM generate_series(1, 20000) g;
           ALTER TABLE still ADD PRIMARY KEY (id);
           CREATE TABLE aside TABLESPACE side AS SELECT * FROM still;
           CREATE INDEX aside_word ON aside (word) TABLESPACE side;
           CREATE UNLOGGED TABLE unlogged_rows AS SELECT g AS id FROM generate_series(1, 2000) g;
           CREATE INDEX ON unlogged_rows (id);
           CREATE UNLOGGED TABLE unlogged_still AS TABLE unlogged_rows;
           CREATE TABLE emptied (number int, pad text);
           CREATE TABLE large_values AS SELECT g AS id, string_agg(md5((g * i)::text), '') AS value
             FROM generate_series(1, 50) g, generate_series(1, 400) i GROUP BY g;
           CREATE ROLE reader LOGIN PASSWORD 'kept'"""
    )
    server.sql("CREATE DATABASE second")
    server.sql("CREATE TABLE other AS SELECT g FROM generate_series(1, 1000) g", "second")


@pytest.mark.parametrize(("major", "stream"), CASES, ids=lambda each: str(each))
def test_every_acknowledged_row_comes_back(major: str, stream: bool, place: Path) -> None:
    if world.programs_of(major) is None:
        pytest.skip(f"PostgreSQL {major} is not here")
    with PostgresWorld(major, place) as server:
        furnish(server)
        before = {name: world.fingerprint(server.dsn(name)) for name in ("postgres", "second")}
        ((unlogged,),) = server.sql("SELECT pg_relation_filepath('unlogged_still')")
        engine = PostgresEngine(server.tcp_dsn() if stream else server.dsn(), None, name="ledger", stream=stream)
        restore = PostgresRestore()
        with Ledger(server.dsn(), disturb=DISTURBANCE) as ledger:
            ledger.wait_for(50)
            time.sleep(1.2)  # at least one whole second of commits lies before the backup's

            def let_it_run(session: BackupSession) -> None:
                ledger.wait_for(len(ledger.acknowledged) + 300)
                rounds = ledger.rounds
                while ledger.rounds < rounds + 1:
                    time.sleep(0.05)

            copy = world.copy_session(engine, restore, place, before_stop=let_it_run)
            ledger.wait_for(len(ledger.acknowledged) + 50)
        assert not copy.facts.warnings
        # The source goes on as if nothing had been: no slot, no label, no log kept back.
        world.eventually(server.no_slot)
        assert not (server.data / "backup_label").exists()
        # Started on its own, beside its source.
        restored = restore.server(copy.facts, world.server_place(place))
        restored.prepare()
        restored.start(60)
        ledger.check(restored.dsn(), copy.facts.boundary.consistent_at)
        for database, tables in before.items():
            dsn = make_conninfo(restored.dsn(), dbname=database)
            after = world.fingerprint(dsn)
            for table, content in tables.items():
                if table.startswith("public.unlogged_"):
                    assert after[table][0] == 0, "an unlogged table comes back empty"
                elif table != "public.emptied":
                    assert after[table] == content, table
        assert world.inspect(restored.dsn()) > 50
        # Its own timeline, its own places, the source's roles.
        assert world.sql(restored.dsn(), "SELECT timeline_id FROM pg_control_checkpoint()") == [(2,)]
        assert world.sql(restored.dsn(), "SELECT rolname FROM pg_roles WHERE rolname = 'reader'")
        (location,) = world.sql(
            restored.dsn(), "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'side'"
        )[0]
        assert Path(location) in copy.target.tablespaces.values()
        assert world.sql(restored.dsn(), "SHOW archive_mode") == [("off",)]
        restored.stop(30)
        assert not restored.running()
        assert world.damaged_pages(copy.target.data_directory) == []
        # What must not be in a backup is not.
        assert unlogged not in copy.paths and f"{unlogged}_init" in copy.paths
        assert not any(path.split("/")[-1].startswith(("pgsql_tmp", "pg_internal.init")) for path in copy.paths)
        assert not {"postmaster.pid", "standby.signal", "backup_manifest"} & copy.paths


def test_a_file_that_grows_is_read_as_far_as_it_was_listed(place: Path, tmp_path: Path) -> None:
    with PostgresWorld("15", place) as server:
        server.sql("CREATE TABLE growing AS SELECT g, repeat('x', 500) FROM generate_series(1, 1000) g")
        ((path,),) = server.sql("SELECT pg_relation_filepath('growing')")
        with PostgresEngine(server.dsn(), None, name="grow").start("grow", tmp_path) as session:
            (source,) = [source for source in session.files() if source.meta.path == path]
            server.sql("INSERT INTO growing SELECT g, repeat('y', 500) FROM generate_series(1, 9000) g; CHECKPOINT")
            assert (server.data / path).stat().st_size > source.meta.size_bytes
            assert len(world.read_all(source)) == source.meta.size_bytes
            with source.open() as reader:
                assert reader.read(source.meta.size_bytes - 10, memoryview(bytearray(100))) == 10
            server.sql("TRUNCATE growing; DROP TABLE growing")
            with source.open() as reader:  # emptied until the next checkpoint: short, not an error
                assert reader.read(0, memoryview(bytearray(8192))) == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_relation_that_crosses_a_gigabyte(place: Path) -> None:
    """131 072 pages are one segment file; the backup begins below and ends above."""
    if shutil.disk_usage(place).free < 8 * 1024**3:
        pytest.skip("needs 8 GiB of disk")
    with PostgresWorld("15", place, {"max_wal_size": "'3GB'", "autovacuum": "off"}) as server:
        # One row fills a page: 7 900 bytes, stored plainly.
        server.sql(
            """CREATE TABLE big (id int, pad text);
               ALTER TABLE big ALTER pad SET STORAGE PLAIN;
               INSERT INTO big SELECT g, repeat(chr(97 + g % 26), 7900) FROM generate_series(1, 130500) g"""
        )
        ((path,),) = server.sql("SELECT pg_relation_filepath('big')")
        assert not (server.data / f"{path}.1").exists()

        def cross(_: BackupSession) -> None:
            server.sql("INSERT INTO big SELECT g, repeat('z', 7900) FROM generate_series(130501, 132500) g")
            server.sql("UPDATE big SET id = id WHERE id % 1000 = 0")
            assert (server.data / f"{path}.1").exists()

        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="big"), restore, place, before_stop=cross)
        assert path in copy.paths and f"{path}.1" not in copy.paths
        restored = restore.server(copy.facts, world.server_place(place))
        restored.prepare()
        restored.start(120)
        question = "SELECT count(*), min(length(pad)), sum(hashtextextended(pad, 0)::numeric), max(id) FROM big"
        assert world.sql(restored.dsn(), question) == server.sql(question)
        restored.stop(60)
        assert world.damaged_pages(copy.target.data_directory) == []
