"""What the user of a restored server can plant in its directory, and root on the other side; a start that is ended."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import world
from icecore.engines import RestoreTarget, ServerPlace
from icecore.engines.postgresql import PostgresEngine, PostgresRestore, owner
from icecore.engines.postgresql.server import PostgresServer
from icecore.errors import Cancelled, EngineFailed, IcecoreError, TargetRefused
from icecore.model import BackupFacts, BackupMode, Boundary
from world import PostgresWorld

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to lose")


def facts(**more: Any) -> BackupFacts:
    known = {"major": "15", "role": "postgres", "version": "15.1", "settings": {}, "tablespaces": [], **more}
    boundary = Boundary("0/2000000", "0/2000100", 1, 1, 2, 2)
    return BackupFacts(
        backup_id="1",
        cluster_id="pc-test",
        cluster_name="test",
        job_uuid="0",
        mode=BackupMode.MANUAL,
        boundary=boundary,
        engine="postgresql",
        engine_version="15.1",
        size_bytes=1,
        file_count=1,
        tool_version="test",
        warnings=(),
        engine_facts=known,
    )


@pytest.fixture
def where(place: Path) -> ServerPlace:
    """A directory that looks restored, and is its user's."""
    found = world.server_place(place)
    (found.data_directory / "pg_tblspc").mkdir(parents=True)
    for name, text in (("PG_VERSION", "15\n"), ("pg_hba.conf", "# rules\n"), ("postgresql.auto.conf", "# mine\n")):
        (found.data_directory / name).write_text(text)
    (found.data_directory / "backup_label").write_text(
        "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n"
    )
    world.own(found.data_directory)
    return found


@pytest.fixture
def treasure(tmp_path: Path) -> Path:
    """A file and a directory of root's that the user can reach by name."""
    directory = world.new_place()
    os.chown(directory, 0, 0)
    for name in ("directory", "directory/inner"):
        (directory / name).mkdir()
    for name in ("file", "directory/inner/file"):
        (directory / name).write_text("of root's\n")
        (directory / name).chmod(0o600)
    yield directory
    shutil.rmtree(directory)


def unharmed(treasure: Path) -> bool:
    paths = (treasure, *treasure.rglob("*"))
    return (
        all(path.lstat().st_uid == 0 for path in paths)
        and len(paths) == 5
        and all(path.read_text() == "of root's\n" for path in paths if path.is_file())
    )


def same(one: os.stat_result, other: os.stat_result) -> bool:
    """Neither exchanged nor written nor given away in between."""
    return (one.st_ino, one.st_mtime_ns, one.st_ctime_ns) == (other.st_ino, other.st_mtime_ns, other.st_ctime_ns)


def attempt(call: Callable[[], object]) -> None:
    with contextlib.suppress(IcecoreError):
        call()


# ---------------------------------------------------------------- planted


@as_root
def test_a_planted_tablespace_link_gives_nothing_away(where: ServerPlace, treasure: Path) -> None:
    (where.data_directory / "pg_tblspc" / "99").symlink_to(treasure / "directory")
    PostgresRestore().server(facts(), where).prepare()
    assert unharmed(treasure)
    target = RestoreTarget(where.data_directory, {})
    attempt(lambda: PostgresRestore().finish_files(facts(), target))
    assert unharmed(treasure)


@as_root
@pytest.mark.parametrize("name", ["pg_hba.conf.icecore", "postgresql.auto.conf.icecore"])
def test_a_planted_link_in_a_files_way_is_not_written_through(name: str, where: ServerPlace, treasure: Path) -> None:
    (where.data_directory / name).symlink_to(treasure / "file")
    PostgresRestore().server(facts(), where).prepare()
    assert unharmed(treasure)
    assert "begin of icecore" in (where.data_directory / name.removesuffix(".icecore")).read_text()
    (where.data_directory / name).symlink_to(treasure / "file")
    PostgresRestore().finish_files(facts(), RestoreTarget(where.data_directory, {}))
    assert unharmed(treasure)


@as_root
@pytest.mark.parametrize("name", ["pg_hba.conf", "postgresql.auto.conf", "postgresql.conf"])
def test_a_planted_link_in_a_files_place_gives_nothing_to_read(name: str, where: ServerPlace, treasure: Path) -> None:
    path = where.data_directory / name
    path.unlink(missing_ok=True)
    path.symlink_to(treasure / "file")
    attempt(PostgresRestore().server(facts(), where).prepare)
    attempt(lambda: PostgresRestore().finish_files(facts(), RestoreTarget(where.data_directory, {})))
    assert unharmed(treasure)
    readable = world.run_as_database_user(["sh", "-c", f"cat {where.data_directory}/*.conf 2>/dev/null || true"])
    assert "of root's" not in readable.stdout


@as_root
def test_a_directory_exchanged_for_a_link_is_not_root_s_to_write(where: ServerPlace, treasure: Path) -> None:
    """The whole data directory, which lies in a directory of the user's."""
    shutil.copytree(where.data_directory, treasure / "data")
    where.data_directory.rename(where.data_directory.with_name("aside"))
    where.data_directory.symlink_to(treasure / "data")
    before = {path: path.stat() for path in treasure.rglob("*")}
    (treasure / "data" / "postmaster.pid").write_text("99999999\n/\n1000000000\n1\n")
    server = PostgresRestore().server(facts(), where)
    for call in (server.prepare, lambda: server.start(2), server.running, lambda: server.stop(1)):
        attempt(call)
    assert all(same(path.stat(), status) for path, status in before.items() if not path.is_dir())
    assert (treasure / "data" / "postmaster.pid").exists()
    shutil.rmtree(treasure / "data")
    assert unharmed(treasure)


@as_root
def test_a_foreign_program_is_not_run_as_root(where: ServerPlace, tmp_path: Path) -> None:
    place = where.data_directory.parent
    ran = place / "ran"
    ran.mkdir()
    ran.chmod(0o777)
    programs = place / "bin"
    programs.mkdir()
    for name in ("postgres", "pg_ctl", "initdb"):
        (programs / name).write_text(
            f"#!/bin/sh\nid -u > {ran}/{name}-$$\nid -G >> {ran}/{name}-$$\necho 'x (PostgreSQL) 11.1'\n"
        )
        (programs / name).chmod(0o755)
    server = PostgresRestore().server(facts(major="11", binaries_directory=str(programs)), where)
    assert not list(ran.iterdir()), "attaching ran something"
    PostgresRestore().check_server(facts(major="11", binaries_directory=str(programs)))
    server.prepare()
    attempt(lambda: server.start(3))
    attempt(lambda: server.stop(1))
    found = {path.name.partition("-")[0]: path.read_text().split() for path in ran.iterdir()}
    assert set(found) >= {"postgres", "pg_ctl"}
    _, uid, _gid = world.database_user()
    for ids in found.values():
        assert ids[0] in (str(uid), "65534") and "0" not in ids


@as_root
def test_a_log_that_is_a_link_is_neither_written_nor_given_nor_shown(where: ServerPlace, treasure: Path) -> None:
    where.log_file.symlink_to(treasure / "file")
    server = PostgresRestore().server(facts(), where)
    with pytest.raises(TargetRefused, match="cannot be written"):
        server.prepare()
    assert unharmed(treasure)
    with pytest.raises(EngineFailed) as caught:
        server.start(5)
    assert "of root's" not in caught.value.message


def test_a_planted_pipe_holds_up_nobody(where: ServerPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "CHILD_TIMEOUT_S", 0.5)
    os.mkfifo(where.data_directory / "postmaster.pid")
    server = PostgresRestore().server(facts(), where)
    began = time.monotonic()
    assert not server.running()
    if os.geteuid() == 0:
        (where.data_directory / "pg_hba.conf").unlink()
        os.mkfifo(where.data_directory / "pg_hba.conf", 0o666)
        with pytest.raises(EngineFailed, match="took more than"):
            server.prepare()
    assert time.monotonic() - began < 5


# ---------------------------------------------------------------- the socket's directory


def test_the_sockets_directory_is_made_closed(where: ServerPlace) -> None:
    server = PostgresRestore().server(facts(), where)
    for _ in range(2):
        server.prepare()
        status = where.socket_directory.lstat()
        assert stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700
        assert (status.st_uid, status.st_gid) == where.owner
        where.socket_directory.chmod(0o755)
    missing = replace(where, socket_directory=where.data_directory.parent / "a" / "b")
    with pytest.raises(TargetRefused, match="is not a directory"):
        PostgresRestore().server(facts(), missing).prepare()


def test_what_lies_in_the_sockets_place_is_refused(where: ServerPlace, treasure: Path) -> None:
    server = PostgresRestore().server(facts(), where)
    for plant in (
        lambda: where.socket_directory.symlink_to(treasure / "directory"),
        lambda: where.socket_directory.symlink_to(treasure / "nowhere"),
        lambda: where.socket_directory.write_text("a file"),
    ):
        plant()
        with pytest.raises(TargetRefused, match="not a directory"):
            server.prepare()
        where.socket_directory.unlink()
    if os.geteuid() == 0:
        assert unharmed(treasure)
        where.socket_directory.mkdir()
        os.chown(where.socket_directory, 12345, 12345)
        with pytest.raises(TargetRefused, match="another user"):
            server.prepare()


@as_root
def test_in_roots_own_directory_root_makes_them(where: ServerPlace, treasure: Path) -> None:
    """As in ``/tmp`` or below the home: the user could not."""
    mine = replace(where, socket_directory=treasure / "sockets", log_file=treasure / "log")
    server = PostgresRestore().server(facts(), mine)
    (treasure / "sockets").mkdir()  # root's, from a run that was killed half-way
    for _ in range(2):
        server.prepare()
        for path, mode in ((mine.socket_directory, 0o700), (mine.log_file, 0o600)):
            status = path.lstat()
            assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (*where.owner, mode)
    shutil.rmtree(treasure / "sockets")
    (treasure / "sockets").symlink_to(treasure / "directory")
    with pytest.raises(TargetRefused):
        server.prepare()
    for path in (treasure / "sockets", treasure / "log"):
        path.unlink()
    assert unharmed(treasure)


# ---------------------------------------------------------------- as the owner


def children() -> set[str]:
    """Process ids of this process's children, those that nobody waited for included."""
    return {pid for each in Path("/proc/self/task").glob("*/children") for pid in each.read_text().split()}


@as_root
def test_work_as_the_owner() -> None:
    _, uid, gid = world.database_user()
    before = children()
    found = owner.as_owner((uid, gid), "looking", lambda: [os.getresuid(), os.getresgid(), os.getgroups()])
    assert found[:2] == [[uid] * 3, [gid] * 3] and 0 not in found[2]
    assert os.geteuid() == 0

    def refuse() -> None:
        raise TargetRefused("no", "try")

    def fail() -> None:
        raise EngineFailed(doing="this", reason="that")

    for work, kind, text in (
        (refuse, TargetRefused, "^no$"),
        (fail, EngineFailed, "this: that"),
        (lambda: Path("/etc/shadow").read_text(), EngineFailed, "looking: PermissionError"),
        (lambda: os._exit(3), EngineFailed, "killed"),
    ):
        with pytest.raises(kind, match=text):
            owner.as_owner((uid, gid), "looking", work)
    long = owner.as_owner((uid, gid), "looking", lambda: "x\n" * 200_000)
    assert long == "x\n" * 200_000
    assert children() <= before  # none is left, dead or alive


@as_root
def test_who_can_get_into_a_directory(tmp_path: Path) -> None:
    place = world.new_place()
    closed = place / "closed"
    (closed / "inner").mkdir(parents=True)
    closed.chmod(0o700)
    assert not owner.closed_to_others(closed / "inner"), "the user's directory is on the way"
    os.chown(place, 0, 0)
    assert owner.closed_to_others(closed / "inner") and not owner.closed_to_others(closed)
    os.chown(closed, 12345, 0)
    assert not owner.closed_to_others(closed / "inner")
    shutil.rmtree(place)


# ---------------------------------------------------------------- servers


def test_attaching_touches_and_runs_nothing(where: ServerPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    def tree() -> dict[Path, Any]:
        return {each: each.lstat() for each in (place, *place.rglob("*"))}

    place = where.data_directory.parent
    before = tree()
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", None)
        server = PostgresRestore().server(facts(major="11", binaries_directory="/nowhere"), where)
        assert not server.running() and "port=" in server.dsn()
        server.stop(1)
    after = tree()
    assert before.keys() == after.keys()
    assert all(same(old, after[path]) for path, old in before.items())
    shutil.rmtree(where.data_directory)
    assert not server.running()
    server.stop(1)
    with pytest.raises(EngineFailed, match="holds no restored files"):
        PostgresRestore().server(facts(), where).prepare()


def test_starts_that_end_early_and_a_directory_that_goes_away(place: Path) -> None:
    """One server through the states of a start: not wanted, refused, running; at last its directory is removed."""
    with PostgresWorld("15", place) as source:
        source.sql("CREATE ROLE mute; CREATE TABLE t AS SELECT 1 AS one")
        restore = PostgresRestore()
        copy = world.copy_session(PostgresEngine(source.dsn(), None, name="s"), restore, place)
    where = world.server_place(place)
    data = where.data_directory
    server = restore.server(copy.facts, where)
    server.prepare()

    class Ending(Exception):
        pass

    calls: list[float] = []

    def still_wanted() -> None:
        calls.append(time.monotonic())
        if calls[-1] - calls[0] > 2:
            raise Ending

    # 1. It never promotes: a standby waits for more log for ever. The one who waits gives up.
    (data / "recovery.signal").rename(data / "standby.signal")
    began = time.monotonic()
    with pytest.raises(Ending):
        server.start(3600, still_wanted)
    assert not server.running() and time.monotonic() - began < 8
    waits = [later - earlier for earlier, later in itertools.pairwise(calls[2:])]
    assert len(waits) > 5 and max(waits) < 1  # one may be long on a loaded machine
    assert sum(waits) / len(waits) < 0.2

    # 2. A cancel before the launch starts nothing.
    def cancelled() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        server.start(3600, cancelled)
    assert not server.running()
    (data / "standby.signal").rename(data / "recovery.signal")
    # 3. Refused for good: said at once, whatever the patience. It runs on: its user may let the role in.
    for role, said in (("mute", "not permitted to log in"), ("nobody", "does not exist")):
        other = replace(copy.facts, engine_facts={**copy.facts.engine_facts, "role": role})
        refused = restore.server(other, where)
        refused.prepare()
        if server.running():
            world.sql(server.dsn(), "SELECT pg_reload_conf()")
        began = time.monotonic()
        with pytest.raises(EngineFailed, match=said):
            refused.start(3600)
        assert time.monotonic() - began < 20 and refused.running()
        server.prepare()
        os.kill(int((data / "postmaster.pid").read_text().split()[0]), 1)
        world.eventually(lambda: world.sql(server.dsn(), "SELECT 1") == [(1,)])
    # 4. One who does not want a running server to be waited for does not end it.
    with pytest.raises(Cancelled):
        server.start(3600, cancelled)
    assert server.running()
    server.start(60)
    # 5. Attaching again and again does not disturb ALTER SYSTEM.
    for number in range(1, 30):
        assert restore.server(copy.facts, where).running()
        world.sql(server.dsn(), f"ALTER SYSTEM SET log_min_duration_statement = {number}")
    assert "log_min_duration_statement = '29'" in (data / "postgresql.auto.conf").read_text()
    server.prepare()
    assert "log_min_duration_statement = '29'" in (data / "postgresql.auto.conf").read_text()
    # 6. At another port.
    server.stop(30)
    moved = restore.server(copy.facts, replace(where, port=world.free_port()))
    moved.prepare()
    moved.start(60)
    assert world.sql(moved.dsn(), "TABLE t; SHOW port") == [(str(moved._place.port),)]  # type: ignore[attr-defined]
    # 7. Without its lock file it is still found; without its directory it is ended, if it did not end by itself.
    (data / "postmaster.pid").rename(data / "aside")
    assert moved.running()
    (data / "aside").rename(data / "postmaster.pid")
    while data.exists():  # its processes go on making files
        shutil.rmtree(data, ignore_errors=True)
    moved.stop(30)
    assert not moved.running()


def test_a_server_whose_directory_is_gone_is_found_and_ended(where: ServerPlace) -> None:
    """A real one panics at some moment of its own; this one, of that name, does not."""
    program = where.data_directory.parent / "postgres"
    shutil.copy("/bin/sleep", program)
    orphan = subprocess.Popen([program, "60"], cwd=where.data_directory, **owner.rights(where.owner))
    try:
        server = PostgresRestore().server(facts(), where)
        world.eventually(server.running)
        shutil.rmtree(where.data_directory)
        assert server.running()
        server.stop(10)
        assert not server.running()
        assert orphan.wait(5) == -signal.SIGQUIT
    finally:
        orphan.kill()
        orphan.wait()


@as_root
def test_root_ends_none_but_the_owners_processes(where: ServerPlace) -> None:
    """A lock file may name any process that stands in the directory."""
    bystander = subprocess.Popen(["sleep", "60"], cwd=where.data_directory)
    try:
        (where.data_directory / "postmaster.pid").write_text(f"{bystander.pid}\n")
        server = PostgresServer(facts(), where)
        with pytest.raises(EngineFailed, match="another user's"):
            server.stop(1)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
