"""The judgement over a source, and whether a directory seen here is the server's: no server needed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from test_control import control

from icecore.engines.postgresql.probe import Examination, findings
from icecore.engines.postgresql.source import Location, Source, Tablespace, locate

SOURCE = Source(
    version_number=150018,
    settings={
        "wal_level": "replica",
        "fsync": "on",
        "data_checksums": "on",
        "max_wal_senders": "10",
        "max_replication_slots": "10",
        "block_size": "8192",
        "wal_segment_size": "16777216",
    },
    system_identifier=7711772796105673774,
    catalog_version=202209061,
    timeline=1,
    checkpoint="0/3000060",
    redo="0/3000028",
    in_recovery=False,
    role="backup",
    superuser=False,
    replication=True,
    bootstrap_role="postgres",
    postmaster_started_at=1795537000.5,
    through_socket=True,
    tablespaces=(Tablespace(16384, "side", "/srv/side"),),
    size_bytes=1,
)
SEEN = Examination(
    source=SOURCE,
    location=Location(True),
    may_start=True,
    may_stop=True,
    reads_settings=True,
    replication_error="",
    senders_in_use=0,
    slots_in_use=0,
    primary_page_writes=True,
)


def refusals(seen: Examination) -> list[str]:
    return [finding.what for finding in findings(seen) if finding.level == "refusal"]


def with_setting(name: str, value: str) -> Examination:
    return replace(SEEN, source=replace(SOURCE, settings={**SOURCE.settings, name: value}))


def test_a_sound_source_has_no_refusal_and_no_warning() -> None:
    assert {finding.level for finding in findings(SEEN)} == {"ok"}


@pytest.mark.parametrize(
    ("seen", "word"),
    [
        (replace(SEEN, source=replace(SOURCE, version_number=120017)), "12.17 is not supported"),
        (replace(SEEN, source=replace(SOURCE, version_number=190001)), "19.1 is not supported"),
        (with_setting("wal_level", "minimal"), "wal_level"),
        (with_setting("fsync", "off"), "fsync"),
        (replace(SEEN, primary_page_writes=False), "full_page_writes"),
        (replace(SEEN, may_start=False), "backup functions"),
        (replace(SEEN, may_stop=False), "backup functions"),
        (replace(SEEN, reads_settings=False), "read all settings"),
        (replace(SEEN, source=replace(SOURCE, replication=False)), "receive the log"),
        (replace(SEEN, replication_error="no pg_hba.conf entry"), "no pg_hba.conf entry"),
        (replace(SEEN, senders_in_use=10), "walsenders"),
        (replace(SEEN, senders_in_use=9, location=Location(False, "far away")), "walsenders"),
        (replace(SEEN, slots_in_use=10), "slot"),
        (replace(SEEN, location=Location(False, "it is another's", foreign=True)), "wrong data directory"),
    ],
)
def test_each_reason_is_one_refusal_with_a_way_out(seen: Examination, word: str) -> None:
    (what,) = refusals(seen)
    assert word in what
    assert all(finding.fix for finding in findings(seen) if finding.level == "refusal")


def test_grants_are_exact_for_the_version() -> None:
    (modern,) = (f.fix for f in findings(replace(SEEN, may_start=False)) if f.level == "refusal")
    assert modern == 'GRANT EXECUTE ON FUNCTION pg_catalog.pg_backup_start(text,boolean) TO "backup";'
    older = replace(SEEN, may_stop=False, source=replace(SOURCE, version_number=140023))
    (fix,) = (f.fix for f in findings(older) if f.level == "refusal")
    assert fix == 'GRANT EXECUTE ON FUNCTION pg_catalog.pg_stop_backup(boolean,boolean) TO "backup";'


def test_a_superuser_needs_no_grant() -> None:
    powers = replace(SOURCE, superuser=True, replication=False)
    assert not refusals(replace(SEEN, source=powers, reads_settings=False))


def test_a_foreign_directory_of_a_remote_server_is_no_refusal() -> None:
    remote = replace(SOURCE, through_socket=False)
    seen = replace(SEEN, source=remote, location=Location(False, "it is another's", foreign=True))
    assert not refusals(seen)
    assert any("streamed" in finding.what for finding in findings(seen))


# ---------------------------------------------------------------- the directory


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "global").mkdir()
    (tmp_path / "base/1").mkdir(parents=True)
    (tmp_path / "global/pg_control").write_bytes(control())
    (tmp_path / "pg_tblspc/16384/PG_15_202209061/5").mkdir(parents=True)
    (tmp_path / "postmaster.pid").write_text(f"999999999\n{tmp_path}\n1795537000\n5432\n")
    return tmp_path


def at(data: Path, **more: object) -> Source:
    return replace(SOURCE, settings={**SOURCE.settings, "data_directory": str(data)}, **more)  # type: ignore[arg-type]


def test_its_own_directory(data: Path) -> None:
    assert locate(at(data)) == Location(True)


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        ({"system_identifier": 5}, "system identifier"),
        ({"catalog_version": 5}, "catalog version"),
        ({"postmaster_started_at": 1795537100.0}, "another start"),
    ],
)
def test_another_servers_directory(data: Path, difference: dict[str, object], word: str) -> None:
    found = locate(at(data, **difference))
    assert found.foreign and not found.local and word in found.reason


def test_a_tablespace_out_of_sight_means_streaming(data: Path) -> None:
    (data / "pg_tblspc/16384").rename(data / "hidden")
    found = locate(at(data))
    assert not found.local and not found.foreign and "tablespace side" in found.reason


def test_another_process_of_that_number(data: Path) -> None:
    (data / "postmaster.pid").write_text(f"{os.getpid()}\n{data}\n1795537000\n5432\n")
    assert not locate(at(data)).local


def test_nothing_to_see(data: Path, tmp_path: Path) -> None:
    for source in (at(tmp_path / "absent"), SOURCE):
        found = locate(source)
        assert not found.local and not found.foreign and found.reason
    (data / "postmaster.pid").unlink()
    assert not locate(at(data)).local
    (data / "global/pg_control").write_bytes(b"torn")
    assert not locate(at(data)).local
