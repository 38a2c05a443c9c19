"""Restores over what is there. The verdict: byte for byte what a restore into a new directory gives."""

from __future__ import annotations

import json
import os
import shutil
import stat
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import world
from icecore import config, delta, errors, parts
from icecore.engines import RestoreTarget
from icecore.engines.postgresql import PostgresRestore
from icecore.laying import RestorePlan
from icecore.model import Phase
from station import Station
from world import PostgresWorld, fingerprint


@dataclass
class Scene:
    station: Station
    source: PostgresWorld
    place: Path
    backup: str
    oid: str
    table: str
    rows: dict[str, Any]

    def restore(self, name: str, *words: str, check: bool = True) -> Any:
        """``--to name``, its tablespace beside it; what the command said."""
        told = self.station.icecore(
            *("restore", self.backup, "--to", f"{self.place / name}", "--json"),
            *("--tablespace", f"{self.oid}={self.place / f'{name}-space'}", *words),
            check=check,
        )
        return json.loads(told.splitlines()[-1]) if check else told

    def copy(self, name: str) -> Path:
        """Of the restored directory and its tablespace, as ``cp -a`` makes one; its link leads to its own."""
        for suffix in ("", "-space"):
            world.run_as_database_user(["cp", "-a", self.place / f"whole{suffix}", self.place / f"{name}{suffix}"])
        link = self.place / name / "pg_tblspc" / self.oid
        link.unlink()
        link.symlink_to(self.place / f"{name}-space")
        return self.place / name

    def same(self, name: str) -> bool:
        return self.look(self.place / name) == self.look(self.place / "whole")

    def look(self, data: Path) -> dict[str, tuple[Any, ...]]:
        """Every name with kind, mode, owner and bytes; of the tablespace's link that it leads to its own."""
        found: dict[str, tuple[Any, ...]] = {}
        space = data.with_name(f"{data.name}-space")
        assert (data / "pg_tblspc" / self.oid).readlink() == space
        for top in (data, space):
            for path in (top, *top.rglob("*")):
                status = path.lstat()
                content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
                name = str(path.relative_to(top.parent)).removeprefix(data.name)
                found[name] = (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, content)
        return found


@pytest.fixture(scope="module")
def scene(ground: Path) -> Iterator[Scene]:
    source = PostgresWorld("15", ground / "source").create().start()
    space = source.tablespace("side")
    source.sql(
        """CREATE TABLE items AS SELECT g AS id, repeat(md5(g::text), 20) AS pad FROM generate_series(1, 20000) g;
           CREATE TABLE aside TABLESPACE side AS SELECT * FROM items WHERE id < 2000"""
    )
    table = source.sql("SELECT pg_relation_filepath('items')")[0][0]
    oid = source.sql("SELECT oid::text FROM pg_tablespace WHERE spcname = 'side'")[0][0]
    assert space.is_dir()
    with Station(ground) as station:
        backup = station.backup(station.add(source))["backup_id"]
        scene = Scene(station, source, ground, backup, oid, table, fingerprint(source.dsn()))
        scene.restore("whole")
        yield scene
    source.stop("immediate")


def test_a_damaged_copy_becomes_the_backup_and_only_what_differs_is_written(scene: Scene) -> None:
    data = scene.copy("damaged")
    table, small = data / scene.table, data / "PG_VERSION"
    size = table.stat().st_size
    flipped = bytearray(table.read_bytes())
    flipped[1_000_000] ^= 1
    flipped[3 << 20 : 4 << 20] = bytes(1 << 20)
    table.write_bytes(flipped)
    with table.open("r+b") as file:
        file.truncate(size - 100_000)
        os.posix_fallocate(file.fileno(), 0, 1)
    small.write_text("9\n")
    small.chmod(0o666)
    (data / "base" / "1" / "1255").unlink()
    (data / "base" / "planted").mkdir()
    (data / "base" / "planted" / "file").write_text("not in the backup")
    (data / "pg_wal" / f"{'0' * 7}9{'0' * 16}").write_text("log of another time line")
    elsewhere = scene.place / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("mine")
    (data / "pg_xact" / "0000").unlink()
    (data / "pg_xact" / "0000").symlink_to(elsewhere / "precious")
    (data / "base" / "linked").symlink_to(elsewhere)
    (data / "base" / "1" / "1259").unlink()
    (data / "base" / "1" / "1259").mkdir()
    second = scene.place / "second-name"
    os.link(data / "base" / "1" / "1249", second)
    twin = second.read_bytes()
    (scene.place / "damaged-space").rename(scene.place / "spare-space")  # a tablespace that is gone
    before = scene.station.icecore("restore", scene.backup, "--to", str(data), check=False)
    assert before == ""  # refused without --delta

    planned = scene.restore("damaged", "--delta", "--dry-run")
    assert small.read_text() == "9\n"
    done = scene.restore("damaged", "--delta")
    assert scene.same("damaged")
    assert (elsewhere / "precious").read_text() == "mine" and second.read_bytes() == twin
    assert planned["Removed"] == done["Removed"] >= 6
    # the flipped block, the hole of a megabyte, the end that was cut off, the tablespace and four small files
    space = sum(path.stat().st_size for path in (scene.place / "damaged-space").rglob("*") if path.is_file())
    assert (1 << 20) + space < done["WrittenBytes"] < (1 << 20) + space + 3_000_000, done
    assert abs(planned["WrittenBytes"] - done["WrittenBytes"]) < 1_000_000
    assert 0 < done["FetchedBytes"] < done["WrittenBytes"]
    again = scene.restore("damaged", "--delta")
    assert again["WrittenBytes"] < 100_000 and scene.same("damaged")  # the configuration that a restore rewrites


def test_a_copy_that_lived_on_becomes_the_backup_and_starts(scene: Scene) -> None:
    """A restored server that wrote for a while: other time line, other tables, other log; back to the backup."""
    from icecore.engines import ServerPlace

    data = scene.copy("lived")
    reader = parts.open_repository(config.load(scene.station.home)).find(scene.backup)
    where = ServerPlace(
        data, scene.place / "s", scene.place / "lived.log", world.free_port(), world.database_user()[1:]
    )
    server = PostgresRestore().server(reader, where)
    server.prepare()
    server.start(60)
    world.sql(server.dsn(), "CREATE TABLE later AS SELECT * FROM items; UPDATE items SET pad = 'x'")
    refused = scene.station.icecore(
        *("restore", scene.backup, "--to", str(data), "--delta", "--tablespace", f"{scene.oid}={data}-space", "--json"),
        check=False,
    )
    assert world.sql(server.dsn(), "SELECT count(*) FROM items WHERE pad = 'x'") == [(20000,)], refused
    server.stop(30)
    scene.restore("lived", "--delta")
    assert scene.same("lived")
    server.prepare()
    server.start(60)
    assert fingerprint(server.dsn()) == scene.rows
    server.stop(30)


STEPS = ("noted", "unstartable", "swept", "laying", "files-laid", "files-finished", "restored")


def test_broken_off_anywhere_it_cannot_start_and_goes_on(scene: Scene) -> None:
    data = scene.copy("broken")
    for step in STEPS:
        (data / scene.table).write_bytes(b"damage" * 5000)
        assert _run_and_die_at(scene, data, step) == 9
        assert (data / delta.NOTE).exists()
        if step not in ("noted", "restored"):
            assert not (data / "global" / "pg_control").exists()
    scene.restore("broken", "--delta")
    assert scene.same("broken")


def _run_and_die_at(scene: Scene, data: Path, step: str) -> int:
    """In a process of its own, that ends without any goodbye; its exit code."""
    pid = os.fork()
    if pid == 0:
        try:
            repository = parts.open_repository(config.load(scene.station.home))
            reader = repository.reader(repository.find(scene.backup).cluster_id, scene.backup)
            target = RestoreTarget(data, {f"pg_tblspc/{scene.oid}": data.with_name(f"{data.name}-space")})
            owner = world.database_user()[1:] if os.geteuid() == 0 else None
            plan = RestorePlan(reader.facts, target, owner, repository.block_bytes)
            delta.run(plan, reader, PostgresRestore(), _Deadly(step), threads=2)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class _Deadly:
    def __init__(self, step: str) -> None:
        self._step = step

    def phase(self, phase: Phase, total_bytes: int = 0) -> None: ...
    def advance(self, done_bytes: int, new_bytes: int) -> None: ...

    def step(self, name: str) -> None:
        if name == self._step:
            os._exit(9)


class _StartsMeanwhile(PostgresRestore):
    """A server comes up between the last look and the moment from which none can."""

    looks = 0

    def check_existing(self, facts: Any, target: RestoreTarget, *, unfinished: bool) -> None:
        self.looks += 1
        if self.looks == 2:
            assert not (target.data_directory / "global" / "pg_control").exists()
            raise errors.TargetRefused("a server runs")
        super().check_existing(facts, target, unfinished=unfinished)


def test_a_server_that_starts_meanwhile_keeps_its_directory(scene: Scene) -> None:
    data = scene.copy("meanwhile")
    before = scene.look(data)
    repository = parts.open_repository(config.load(scene.station.home))
    reader = repository.reader(repository.find(scene.backup).cluster_id, scene.backup)
    target = RestoreTarget(data, {f"pg_tblspc/{scene.oid}": data.with_name(f"{data.name}-space")})
    plan = RestorePlan(reader.facts, target, None, repository.block_bytes)
    with pytest.raises(errors.TargetRefused, match="runs"):
        delta.run(plan, reader, _StartsMeanwhile(), _Deadly(""), threads=2)
    assert scene.look(data) == before


def _foreign(data: Path) -> None:
    control = bytearray((data / "global" / "pg_control").read_bytes())
    control[:8] = b"\x01" * 8
    (data / "global" / "pg_control").write_bytes(control)
    for segment in (data / "pg_wal").glob("0*"):
        segment.unlink()


def _a_link(data: Path) -> None:
    data.rename(data.with_name("really"))
    data.symlink_to(data.with_name("really"))


def _no_data(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()
    (data / "precious").write_text("mine")


def _a_lock(data: Path) -> None:
    """As of a server in a container, whose process has another number here."""
    (data / "postmaster.pid").write_text(f"1\n{data}\n9999999999\n5432\n")


def _a_strange_space(data: Path) -> None:
    (data.with_name(f"{data.name}-space") / "precious").write_text("mine")


def _another_space(data: Path) -> None:
    (data / "pg_tblspc").rename(data / "pg_tblspc.away")


def _a_linked_log(data: Path) -> None:
    (data / "pg_wal").rename(data.with_name("log"))
    (data / "pg_wal").symlink_to(data.with_name("log"))


@pytest.mark.parametrize(
    "spoil", [_foreign, _a_link, _no_data, _a_lock, _a_strange_space, _another_space, _a_linked_log]
)
def test_what_is_not_a_copy_of_this_cluster_is_not_touched(scene: Scene, spoil: Callable[[Path], None]) -> None:
    data = scene.copy(f"refused{spoil.__name__}")
    spoil(data)
    tops = (data, data.with_name(f"{data.name}-space"))
    before = [_names_and_times(top) for top in tops]
    repository = parts.open_repository(config.load(scene.station.home))
    reader = repository.reader(repository.find(scene.backup).cluster_id, scene.backup)
    target = RestoreTarget(data, {f"pg_tblspc/{scene.oid}": tops[1]})
    plan = RestorePlan(reader.facts, target, None, repository.block_bytes)
    with pytest.raises(errors.TargetRefused):
        delta.plan(reader, PostgresRestore(), plan)
    assert [_names_and_times(top) for top in tops] == before


def _names_and_times(top: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_ctime_ns, path.lstat().st_mode) for path in (top, *top.rglob("*"))}
