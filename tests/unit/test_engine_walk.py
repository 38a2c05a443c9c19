"""Which names belong into a backup: on directories made here, no server needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icecore.engines.postgresql.walk import Relation, Walk, left_out, relation_of
from icecore.errors import EngineFailed
from icecore.model import FileKind

VERSION = "PG_15_202209061"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    for directory in (
        "base/5",
        "global",
        "pg_tblspc",
        "pg_wal/archive_status",
        "pg_stat_tmp",
        "pg_xact",
        "pg_replslot/s",
    ):
        (root / directory).mkdir(parents=True)
    for name in (
        *("PG_VERSION", "postgresql.auto.conf", "postmaster.pid", "standby.signal", "backup_label.old"),
        *("global/pg_control", "global/1262", "global/pg_internal.init", "base/5/pg_internal.init.4242"),
        *("base/5/PG_VERSION", "base/5/1259", "base/5/1259_fsm", "base/5/1259.1", "base/5/t3_99", "base/5/t3_99_fsm"),
        *("base/5/700", "base/5/700.1", "base/5/700_vm", "base/5/700_init", "pg_xact/0000", "base/5/backup_label"),
        *("pg_wal/000000010000000000000001", "pg_wal/archive_status/x.done", "pg_replslot/s/state"),
        *("pg_stat_tmp/global.tmp", "polar_something", "base/pgsql_tmp_kept_out"),
    ):
        (root / name).write_bytes(b"x" * 10)
    return root


def walk(data: Path, **more: object) -> Walk:
    return Walk(data, version_directory=VERSION, **more)  # type: ignore[arg-type]


def names(subject: Walk) -> dict[str, FileKind]:
    found: dict[str, FileKind] = {}
    for each in subject.entries():
        assert each.meta.path not in found
        assert "/" not in each.meta.path or each.meta.path.rpartition("/")[0] in found
        found[each.meta.path] = each.meta.kind
    return found


def test_the_rules(data: Path) -> None:
    found = names(walk(data))
    files = {path for path, kind in found.items() if kind is FileKind.FILE}
    assert files == {
        *("PG_VERSION", "postgresql.auto.conf", "polar_something", "global/1262", "pg_xact/0000"),
        *("base/5/PG_VERSION", "base/5/1259", "base/5/1259_fsm", "base/5/1259.1", "base/5/700_init"),
        "base/5/backup_label",  # a root name elsewhere is an unknown file, and unknown files are kept
    }
    for directory in ("pg_wal", "pg_wal/archive_status", "pg_replslot", "pg_stat_tmp", "pg_tblspc"):
        assert found[directory] is FileKind.DIRECTORY


def test_names_of_relations() -> None:
    assert relation_of("16384") == Relation(16384, "main", 0, False)
    assert relation_of("16384_fsm.2") == Relation(16384, "fsm", 2, False)
    assert relation_of("t12_16384_vm") == Relation(16384, "vm", 0, True)
    for other in ("pg_filenode.map", "16384.", "16384_old", "PG_VERSION", "a16384", "16384_init.x"):
        assert relation_of(other) is None


def test_temporary_names_count_in_database_directories_only() -> None:
    assert left_out("base/5", "t3_99") and left_out("pg_tblspc/9/PG_15_1/5", "t3_99")
    assert not left_out("", "t3_99") and not left_out("log", "t3_99")


def test_an_unlogged_relation_that_shows_late_is_omitted(data: Path) -> None:
    (data / "base/5/701").write_bytes(b"x")
    (data / "base/5/701.1").write_bytes(b"x")
    (data / "base/5/7010").write_bytes(b"x")
    subject = walk(data)
    assert "base/5/701" in names(subject)
    assert subject.omitted() == frozenset()
    (data / "base/5/701_init").touch()
    (data / "base/5/702_init").touch()  # its main fork was never listed
    assert subject.omitted() == {"base/5/701", "base/5/701.1"}


def test_tablespaces_are_links_with_their_own_version_only(data: Path, tmp_path: Path) -> None:
    outside = tmp_path / "fast"
    (outside / VERSION / "5").mkdir(parents=True)
    (outside / "PG_14_202107181" / "5").mkdir(parents=True)
    (outside / VERSION / "5" / "900").write_bytes(b"y" * 7)
    (outside / VERSION / "5" / "t1_901").touch()
    (data / "pg_tblspc/16400").symlink_to(outside)
    subject = walk(data)
    metas = {each.meta.path: each.meta for each in subject.entries()}
    assert metas["pg_tblspc/16400"].kind is FileKind.SYMLINK
    assert metas["pg_tblspc/16400"].target == str(outside)
    assert {path for path in metas if path.startswith("pg_tblspc/16400/")} == {
        *(f"pg_tblspc/16400/{VERSION}", f"pg_tblspc/16400/{VERSION}/5", f"pg_tblspc/16400/{VERSION}/5/900")
    }
    assert subject.tablespace_bytes == {"16400": 7}


def test_a_tablespace_that_is_not_mounted_here_is_no_empty_one(data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (data / "pg_tblspc/16400").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineFailed, match="cannot be seen here"):
        list(walk(data).entries())


def test_a_part_of_the_data_that_is_not_mounted_here_is_an_error(data: Path, tmp_path: Path) -> None:
    (data / "pg_xact/0000").unlink()
    (data / "pg_xact").rmdir()
    (data / "pg_xact").symlink_to(tmp_path / "absent")
    with pytest.raises(EngineFailed, match="pg_xact"):
        list(walk(data).entries())


def test_a_tablespace_inside_the_data_directory_is_copied_once(data: Path) -> None:
    inside = data / "spaces" / "one"
    (inside / VERSION / "5").mkdir(parents=True)
    (inside / VERSION / "5" / "900").touch()
    (data / "pg_tblspc/16401").symlink_to(inside)
    found = names(walk(data))
    assert f"pg_tblspc/16401/{VERSION}/5/900" in found and "spaces" in found
    assert not [path for path in found if path.startswith("spaces/")]


def test_an_in_place_tablespace_is_a_directory(data: Path) -> None:
    (data / "pg_tblspc/16402" / VERSION / "5").mkdir(parents=True)
    (data / "pg_tblspc/16402" / VERSION / "5/900").touch()
    found = names(walk(data))
    assert found["pg_tblspc/16402"] is FileKind.DIRECTORY
    assert f"pg_tblspc/16402/{VERSION}/5/900" in found


def test_links_are_followed_and_keys_are_not_taken(data: Path, tmp_path: Path) -> None:
    (tmp_path / "wal" / "archive_status").mkdir(parents=True)
    (tmp_path / "wal" / "000000010000000000000009").touch()
    (tmp_path / "server.key").write_text("secret")
    (tmp_path / "postgresql.conf").write_text("port = 5433")
    for name in ("archive_status/x.done", "000000010000000000000001"):
        (data / "pg_wal" / name).unlink()
    (data / "pg_wal/archive_status").rmdir()
    (data / "pg_wal").rmdir()
    (data / "pg_wal").symlink_to(tmp_path / "wal")
    (data / "postgresql.conf").symlink_to(tmp_path / "postgresql.conf")
    (data / "server.key").symlink_to(tmp_path / "server.key")
    (data / "nowhere").symlink_to(tmp_path / "absent")
    (data / "round").symlink_to(data)
    subject = walk(data, secrets=frozenset((str(tmp_path / "server.key"),)))
    found = names(subject)
    assert found["pg_wal"] is FileKind.DIRECTORY and "pg_wal/000000010000000000000009" not in found
    assert found["postgresql.conf"] is FileKind.FILE
    assert not {"server.key", "nowhere", "round"} & found.keys()
    assert len(subject.warnings) == 3
    assert subject.links["postgresql.conf"] == str(tmp_path / "postgresql.conf")


def test_pipes_are_left_out_with_a_warning(data: Path) -> None:
    os.mkfifo(data / "pipe")
    subject = walk(data)
    assert "pipe" not in names(subject)
    assert "pipe" in subject.warnings[0]


def test_the_statistics_directory_may_have_another_name(data: Path) -> None:
    (data / "stats").mkdir()
    (data / "stats/global.stat").touch()
    assert "stats/global.stat" in names(walk(data))
    assert "stats/global.stat" not in names(walk(data, statistics_directory="stats"))


def test_a_dropped_database_is_no_error_but_a_lost_base_is(data: Path) -> None:
    subject = walk(data)
    entries = subject.entries()
    next(entry for entry in entries if entry.meta.path == "base")
    for each in (data / "base/5").iterdir():
        each.unlink()
    (data / "base/5").rmdir()
    assert not [entry for entry in entries if entry.meta.path.startswith("base/5")]
    assert subject.omitted() == frozenset()
    (data / "base").rename(data / "gone")
    with pytest.raises(EngineFailed, match="no base"):
        list(walk(data).entries())
    with pytest.raises(EngineFailed):
        list(Walk(data / "absent", version_directory=VERSION).entries())
