"""Pages that are damaged on disk are named; pages that are not are not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import world
from icecore.engines.postgresql import PostgresEngine, PostgresRestore
from world import PostgresWorld


@pytest.fixture(scope="module")
def damaged(ground: Path) -> Iterator[tuple[PostgresWorld, str]]:
    """A server with two damaged pages in one table and a sound twin of it; the path of the damaged one."""
    server = PostgresWorld("15", ground / "damage", {"autovacuum": "off"}).create().start()
    server.sql("CREATE TABLE sick AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g")
    server.sql("CREATE TABLE sound AS TABLE sick")
    ((path,),) = server.sql("SELECT pg_relation_filepath('sick')")
    server.stop()
    with (server.data / path).open("r+b") as file:
        for block, offset in ((3, 5000), (40, 100)):
            file.seek(block * 8192 + offset)
            byte = file.read(1)
            file.seek(block * 8192 + offset)
            file.write(bytes((byte[0] ^ 0xFF,)))
    server.start()
    yield server, str(path)
    server.stop("immediate")


@pytest.mark.parametrize("stream", [False, True])
def test_damage_is_named_by_relation_and_block(damaged: tuple[PostgresWorld, str], stream: bool, place: Path) -> None:
    server, path = damaged
    engine = PostgresEngine(server.dsn(), None, name="sick", stream=stream)
    copy = world.copy_session(engine, PostgresRestore(), place)
    assert copy.facts.warnings == (f"{path}: page checksum does not match in blocks 3, 40",)
    # The bytes are in the backup as they are: nothing is invented.
    assert (copy.target.data_directory / path).read_bytes() == (server.data / path).read_bytes()


def test_without_rights_to_read_again_the_log_position_decides(damaged: tuple[PostgresWorld, str], place: Path) -> None:
    """A page that was last changed before the backup began cannot be in the middle of a write."""
    server, path = damaged
    server.sql(
        """CREATE ROLE limited LOGIN REPLICATION; GRANT pg_read_all_settings TO limited;
           GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean) TO limited;
           GRANT EXECUTE ON FUNCTION pg_backup_stop(boolean) TO limited"""
    )
    engine = PostgresEngine(server.dsn(user="limited"), None, name="sick", stream=True)
    copy = world.copy_session(engine, PostgresRestore(), place)
    assert copy.facts.warnings == (f"{path}: page checksum does not match in blocks 3, 40",)


def test_without_checksums_the_probe_says_so_and_nothing_is_reported(place: Path) -> None:
    with PostgresWorld("15", place, checksums=False) as server:
        server.sql("CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g")
        engine = PostgresEngine(server.dsn(), None, name="plain")
        assert [f for f in engine.probe().findings if f.level == "warning" and "data_checksums is off" in f.what]
        restore = PostgresRestore()
        copy = world.copy_session(engine, restore, place)
        assert copy.facts.engine_facts["checksums"] is False and not copy.facts.warnings
        restored = restore.server(copy.facts, world.server_place(place))
        restored.prepare()
        restored.start(60)
        assert world.sql(restored.dsn(), "SELECT count(*) FROM t") == [(1000,)]
        restored.stop(30)
