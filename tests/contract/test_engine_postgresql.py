"""The engine contract on a real PostgreSQL 15, by both routes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from engine import EngineContract, drain

import world
from icecore.engines.postgresql import PostgresEngine, PostgresRestore
from icecore.model import FileKind
from world import PostgresWorld


class Server(PostgresWorld):
    def traces(self) -> list[object]:
        """Slots, walsenders, a running backup, sessions that outlived theirs."""
        deadline_s = 5.0
        while deadline_s > 0:
            found = self.sql(
                """SELECT slot_name::text FROM pg_replication_slots UNION ALL
                   SELECT backend_type || ' ' || application_name FROM pg_stat_activity
                   WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')"""
            )
            if not found:
                return []
            time.sleep(0.1)  # the server notices a closed connection in its own time
            deadline_s -= 0.1
        return list(found)

    def make_droppable(self) -> str:
        self.sql("DROP TABLE IF EXISTS droppable")
        self.sql("CREATE TABLE droppable AS SELECT 1 AS one")
        return str(self.sql("SELECT pg_relation_filepath('droppable')")[0][0])

    def drop_droppable(self) -> None:
        self.sql("DROP TABLE droppable")
        self.sql("CHECKPOINT")  # until then an empty file keeps the number from being used again


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    directory = world.new_place()
    with Server("15", directory) as running:
        running.tablespace("side")
        running.sql("CREATE TABLE t TABLESPACE side AS SELECT g, md5(g::text) FROM generate_series(1, 5000) g")
        running.sql("CREATE UNLOGGED TABLE u AS SELECT 1 AS one")
        yield running
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def restore() -> PostgresRestore:
    return PostgresRestore()


class TestFiles(EngineContract):
    @pytest.fixture
    def engine(self, server: Server) -> PostgresEngine:
        return PostgresEngine(server.dsn(), None, name="contract")


class TestStream(EngineContract):
    @pytest.fixture
    def engine(self, server: Server) -> PostgresEngine:
        return PostgresEngine(server.tcp_dsn(), None, name="contract", stream=True)


def test_both_routes_give_the_same_names_and_kinds(server: Server, tmp_path: Path) -> None:
    server.sql("CHECKPOINT")
    found = []
    for stream in (False, True):
        engine = PostgresEngine(server.dsn(), None, name="contract", stream=stream)
        with engine.start("icecore contract", tmp_path) as session:
            metas = []
            for source in session.files():
                metas.append(source.meta)
                drain(source)
            for source in session.closing_files():
                metas.append(source.meta)
            session.stop()
            metas += [source.meta for source in session.tail_files() if not source.meta.path.startswith("pg_wal/")]
            facts = session.facts()
        # Statistics and time stamps go on between the two.
        names = {(meta.path, meta.kind, meta.mode, meta.target) for meta in metas if meta.kind is not FileKind.SYMLINK}
        links = {(meta.path, meta.target) for meta in metas if meta.kind is FileKind.SYMLINK}
        found.append((names, links, facts["tablespaces"], facts["exclusions"]))
    assert found[0] == found[1]
