"""What is refused before the first byte: sources that cannot be backed up, targets that cannot be restored to."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import world
from icecore.engines import Finding, RestoreTarget
from icecore.engines.postgresql import PostgresEngine, PostgresRestore
from icecore.errors import EngineFailed, EngineRefused, EngineUnreachable, TargetRefused
from world import PostgresWorld


def refusals(engine: PostgresEngine) -> list[Finding]:
    return [finding for finding in engine.probe().findings if finding.level == "refusal"]


def refused(engine: PostgresEngine, scratch: Path, reason: str) -> None:
    """Found by the probe, with a way out, and refused by start all the same."""
    found = refusals(engine)
    assert any(reason in finding.what for finding in found), found
    assert all(finding.fix for finding in found)
    with pytest.raises(EngineRefused, match=reason):
        engine.start("no", scratch)
    assert not list(scratch.iterdir())


def test_nobody_answers(place: Path, tmp_path: Path) -> None:
    engine = PostgresEngine(f"host={place} port=5499 user=nobody connect_timeout=2", "a secret", name="absent")
    with pytest.raises(EngineUnreachable) as caught:
        engine.probe()
    assert "a secret" not in str(caught.value)
    with pytest.raises(EngineUnreachable):
        engine.start("no", tmp_path)


def test_a_dsn_may_be_a_uri_or_name_several_hosts(place: Path, tmp_path: Path) -> None:
    """Every connection of a backup goes to the server that the first one reached."""
    with PostgresWorld("15", place) as server:
        server.sql("CREATE ROLE secretive LOGIN SUPERUSER PASSWORD 'p@ss /word'")
        rules = (server.data / "pg_hba.conf").read_text()
        (server.data / "pg_hba.conf").write_text("host all,replication secretive 127.0.0.1/32 scram-sha-256\n" + rules)
        server.sql("SELECT pg_reload_conf()")
        dead = world.free_port()
        for dsn in (
            f"postgresql://secretive@127.0.0.1:{server.port}/postgres",
            f"host=127.0.0.1,127.0.0.1 port={dead},{server.port} user=secretive dbname=postgres",
        ):
            with PostgresEngine(dsn, "p@ss /word", name="uri").start("uri", tmp_path) as session:
                list(session.files())
                list(session.closing_files())
                session.stop()
            with pytest.raises(EngineUnreachable):
                PostgresEngine(dsn, "wrong", name="uri").probe()


def test_a_minimal_log(place: Path, tmp_path: Path) -> None:
    with PostgresWorld("15", place, {"wal_level": "minimal", "max_wal_senders": "0"}) as server:
        refused(PostgresEngine(server.dsn(), None, name="minimal"), tmp_path, "wal_level is minimal")


def test_fsync_off_no_senders_and_no_slots(place: Path, tmp_path: Path) -> None:
    options = {"fsync": "off", "max_wal_senders": "1", "max_replication_slots": "0"}
    with PostgresWorld("15", place, options) as server:
        engine = PostgresEngine(server.dsn(), None, name="unsafe")
        refused(engine, tmp_path, "fsync is off")
        refused(engine, tmp_path, "no replication slot")
        refused(PostgresEngine(server.dsn(), None, name="unsafe"), tmp_path, "fsync")


def test_peer_authentication_is_explained(place: Path) -> None:
    with PostgresWorld("15", place) as server:
        server.sql("CREATE ROLE somebody LOGIN")
        (server.data / "pg_hba.conf").write_text("local all somebody peer\nlocal all all trust\n")
        server.sql("SELECT pg_reload_conf()")
        with pytest.raises(EngineUnreachable, match=r"Peer authentication .* pg_ident\.conf"):
            PostgresEngine(server.dsn(user="somebody"), None, name="peer").probe()


def test_no_replication_in_the_access_rules(place: Path, tmp_path: Path) -> None:
    with PostgresWorld("15", place) as server:
        (server.data / "pg_hba.conf").write_text("local all all trust\n")
        server.sql("SELECT pg_reload_conf()")
        refused(PostgresEngine(server.dsn(), None, name="hba"), tmp_path, "no replication connection")


@pytest.mark.parametrize("major", ["14", "15"])
def test_the_named_grants_are_enough(major: str, place: Path, tmp_path: Path) -> None:
    """A role without rights is told statements; after exactly these a whole backup succeeds."""
    if world.programs_of(major) is None:
        pytest.skip(f"PostgreSQL {major} is not here")
    with PostgresWorld(major, place) as server:
        server.sql('CREATE ROLE "odd ""name" LOGIN; CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g')
        dsn = server.dsn().replace("user=postgres", "user='odd \"name'")
        engine = PostgresEngine(dsn, None, name="limited")
        found = refusals(engine)
        assert len(found) == 3, found
        refused(engine, tmp_path, "may not run the backup functions")
        for finding in found:
            server.sql(finding.fix)
        assert not refusals(engine)
        restore = PostgresRestore()
        copy = world.copy_session(engine, restore, place)
        restored = restore.server(copy.facts, world.server_place(place))
        restored.prepare()
        restored.start(60)
        assert world.sql(restored.dsn(), "SELECT count(*) FROM t") == [(1000,)]
        restored.stop(30)
    with PostgresWorld(major, place, name="second") as server:
        server.sql('CREATE ROLE "odd ""name" LOGIN')
        for finding in found:
            server.sql(finding.fix)
        # A stream, too, though the role may not read pages again or list directories.
        engine = PostgresEngine(
            server.dsn().replace("user=postgres", "user='odd \"name'"), None, name="limited", stream=True
        )
        other = place / "other"
        other.mkdir()
        copy = world.copy_session(engine, PostgresRestore(), other)
        assert not copy.facts.warnings


def test_another_directory_at_the_servers_path(place: Path, tmp_path: Path) -> None:
    with PostgresWorld("15", place) as server:
        real = server.data.rename(place / "real")
        try:
            # A copy of the very same cluster: same identifier, same checkpoint, same lock file. Only the process
            # tells them apart.
            shutil.copytree(real, server.data, symlinks=True)
            world.own(server.data)
            refused(PostgresEngine(server.dsn(), None, name="copy"), tmp_path, "works in another directory")
        finally:
            shutil.rmtree(server.data, ignore_errors=True)
            real.rename(server.data)


def test_a_control_file_older_than_the_start_is_caught(place: Path, tmp_path: Path) -> None:
    """The last check, after the backup began: the checkpoint just made must be in the directory that is read."""
    from icecore.engines.postgresql.session import LocalSession

    with PostgresWorld("15", place) as server:
        session = LocalSession(server.dsn(), None, "stale", tmp_path, retained_limit_bytes=2**33)
        shutil.copytree(server.data, place / "stale", symlinks=True)
        server.sql("CREATE TABLE t AS SELECT 1; CHECKPOINT")
        genuine = session._open

        def elsewhere() -> None:
            genuine()
            settings = {**session.source.settings, "data_directory": str(place / "stale")}
            session._source = replace(session.source, settings=settings)

        session._open = elsewhere  # type: ignore[method-assign]
        with pytest.raises(EngineFailed, match="another directory"), session:
            pass
        world.eventually(server.no_slot)


def test_targets(place: Path) -> None:
    with PostgresWorld("15", place) as server:
        side = server.tablespace("side")
        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="t"), restore, place)
        (link,) = copy.target.tablespaces
        facts, new = copy.facts, place / "new"

        def check(data: Path, space: Path | None) -> None:
            restore.check_target(facts, RestoreTarget(data, {link: space} if space else {}))

        check(new, place / "space")
        assert not new.exists(), "a check writes nothing"
        for data, space, reason in (
            (new, None, "has no directory"),
            (new, new, "the same"),
            (new, new / "inside", "inside the data directory"),
            (copy.target.data_directory, place / "space", "not empty"),
            (server.data, place / "space", "a server .* runs"),
            (server.data / "sub", place / "space", "belongs to the source"),
            (new, side / "sub", "belongs to the source"),
            (server.data / "PG_VERSION", place / "space", "not a directory"),
        ):
            with pytest.raises(TargetRefused, match=reason):
                check(data, space)
        (place / "dangling").symlink_to(place / "nowhere")
        with pytest.raises(TargetRefused, match="leads nowhere"):
            check(place / "dangling", place / "space")
        with pytest.raises(TargetRefused, match="MiB free"):
            restore.check_target(replace(facts, size_bytes=2**60), RestoreTarget(new, {link: place / "space"}))
        assert not new.exists()


def test_no_programs_of_the_major(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with PostgresWorld("15", place) as server:
        copy = world.copy_session(PostgresEngine(server.dsn(), None, name="t"), PostgresRestore(), place)
        facts = replace(copy.facts, engine_facts={**copy.facts.engine_facts, "major": "11", "binaries_directory": ""})
        with pytest.raises(TargetRefused, match="no programs of PostgreSQL 11") as caught:
            PostgresRestore().check_server(facts)
        with pytest.raises(TargetRefused, match="no programs of PostgreSQL 11"):
            PostgresRestore().server(facts, world.server_place(place)).prepare()
        PostgresRestore().check_server(copy.facts)
        assert "ICECORE_PG_BIN_11" in caught.value.advice()
        long = replace(world.server_place(place), socket_directory=place / ("s" * 100))
        with pytest.raises(TargetRefused, match="too long"):
            PostgresRestore().server(copy.facts, long).prepare()
        assert os.environ["ICECORE_PG_BIN_15"]
