"""A backup is verified by being restored, started and queried; and what must not verify does not. Real servers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import world
from icecore.errors import IcecoreError
from station import Station, until
from world import PostgresWorld

STEPS = ["examining"]
if os.environ.get("ICECORE_RANDOM_KILLS"):  # `make soak`
    STEPS += ["scratch-cleared", "laying", "laid-down", "awaiting", "server-stopped", "pages-read", "evidence-kept"]
NEWEST = world.majors()[-1]  # its programs came without pg_checksums


@pytest.fixture(scope="module")
def plain(ground: Path) -> Iterator[PostgresWorld]:
    """Without page checksums: only its structures can tell that something is wrong."""
    server = PostgresWorld("15", ground / "plain", {"autovacuum": "off"}, checksums=False).create().start()
    server.sql("CREATE TABLE items AS SELECT g AS id, md5(g::text) AS word FROM generate_series(1, 20000) g")
    server.sql("ALTER TABLE items ADD PRIMARY KEY (id)")
    server.sql("CREATE DATABASE shop")
    server.sql('CREATE TABLE "two words" (id int PRIMARY KEY); INSERT INTO "two words" VALUES (1)', "shop")
    yield server
    server.stop("immediate")


def verify(station: Station, backup_id: str, state: str = "succeeded") -> dict[str, Any]:
    job_id = station.call("VerifyBackup", backup_id=backup_id)["job_id"]
    station.wait(job_id, state=state)
    return evidence(station, backup_id, job_id)


def evidence(station: Station, backup_id: str, job_id: str) -> dict[str, Any]:
    found = station.call("DescribeBackupEvidence", backup_id=backup_id)["items"]["evidence"]
    (mine,) = [each for each in found if each["evidence_id"] == job_id]
    return {**mine, "by_name": {each["name"]: each for each in mine["examinations"]}}


def outcomes(found: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["outcome"] for each in found["examinations"]}


def assert_nothing_left(station: Station) -> None:
    assert list((station.home / "verify").iterdir()) == []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                assert not str((process / "cwd").readlink()).startswith(str(station.home)), process
            except OSError:
                continue


def test_a_good_backup_verifies_with_its_source_down_and_a_killed_verification_leaves_nothing(place: Path) -> None:
    source = PostgresWorld(NEWEST, place / "source").create()
    with source.start(), Station(place) as station:
        source.sql("CREATE TABLE items AS SELECT g AS id, md5(g::text) AS word FROM generate_series(1, 20000) g")
        source.sql("CREATE UNIQUE INDEX ON items (word)")
        source.sql("CREATE TABLE locked (id int PRIMARY KEY)")
        cluster_id = station.add(source)
        backup_id = station.backup(cluster_id)["backup_id"]
        source.stop()
        for step in STEPS:
            station.kill()
            station.start(env={"ICECORE_FAIL_AT": step})
            token = f"at-{step}"
            job_id = station.call("VerifyBackup", backup_id=backup_id, client_token=token)["job_id"]
            station.wait_for_death()
            (station.home / "verify" / "1").mkdir()  # of a job that nobody remembers
            station.start()
            assert station.wait(job_id)["attempts"] == 2, step
            assert station.call("VerifyBackup", backup_id=backup_id, client_token=token)["job_id"] == job_id
            assert_nothing_left(station)
        found = evidence(station, backup_id, job_id)
        assert found["outcome"] == "passed" and found["server_version"].startswith(NEWEST)
        names = ["restore", "start", "amcheck of heaps", "amcheck of indexes", "rows", "page checksums"]
        assert outcomes(found) == dict.fromkeys(names, "passed")
        by_name = found["by_name"]
        assert {"name": "postgres.public.items", "count": 20000} in by_name["rows"]["rows"]
        assert by_name["amcheck of indexes"]["count"] > 300 and by_name["amcheck of heaps"]["count"] > 200
        assert by_name["page checksums"]["count"] > 2000

        # the badge, and what a lost catalog takes back
        shown = station.backups(cluster_id)[0]
        assert (shown["verify_outcome"], shown["verified_time"]) == ("passed", found["end_time"])
        assert "checked_time" not in shown
        station.stop()
        for path in station.home.glob("catalog.db*"):
            path.unlink()
        station.start(env={"ICECORE_PAUSE_AT": "server-started:20"})
        assert station.backups(cluster_id)[0]["verified_time"] == found["end_time"]
        taken_back = station.call("DescribeBackupEvidence", backup_id=backup_id)["items"]["evidence"]
        assert len(taken_back) == len(STEPS)
        assert taken_back[0] == {name: value for name, value in found.items() if name != "by_name"}

        # cancelled: no evidence of anything; deleted: none is left
        job_id = station.call("VerifyBackup", backup_id=backup_id)["job_id"]
        until(lambda: list((station.home / "verify").glob("*/data/postmaster.pid")))
        station.call("CancelJob", job_id=job_id)
        station.wait(job_id, state="cancelled")
        assert_nothing_left(station)
        assert len(list((station.home / "repository").rglob("evidence/*/*"))) == len(STEPS)
        station.call("DeleteBackup", db_cluster_id=cluster_id, backup_id=[backup_id])
        until(lambda: not list((station.home / "repository").rglob("evidence/*/*")))
        with pytest.raises(IcecoreError, match="BackupId"):
            station.call("DescribeBackupEvidence", backup_id=backup_id)


def test_what_is_wrong_with_a_backup_is_found(place: Path, plain: PostgresWorld) -> None:
    """A false assertion; then heap pages that were damaged on the source, where no page checksum could tell."""
    with Station(place) as station:
        cluster_id = station.add(plain)
        good = station.backup(cluster_id)["backup_id"]
        asserted = place / "asserted.toml"
        asserted.write_text(
            """[[assertion]]
            name = "items are there"
            database = "postgres"
            query = "SELECT count(*) = 20000 FROM items"
            [[assertion]]
            name = "the shop is empty"
            database = "shop"
            query = '''SELECT NOT EXISTS (SELECT FROM "two words")'''
            [[assertion]]
            name = "nothing is written"
            database = "shop"
            query = '''WITH gone AS (DELETE FROM "two words" RETURNING 1) SELECT count(*) = 1 FROM gone'''
            [[assertion]]
            name = "one statement"
            database = "shop"
            query = "COMMIT; SELECT true"
            """
        )
        shown = json.loads(
            station.icecore("verify", good, "--sql", str(asserted), "--json", check=False).splitlines()[-1]
        )
        assert shown["Type"] == "Summary" and shown["Outcome"] == "failed"
        found = evidence(station, good, shown["EvidenceId"])
        assert found["outcome"] == "failed"
        assert {name: each for name, each in outcomes(found).items() if each != "passed"} == {
            "assertion: the shop is empty": "failed",
            "assertion: nothing is written": "failed",
            "assertion: one statement": "failed",
            "page checksums": "not-run",
        }
        notes = {name: each["notes"] for name, each in found["by_name"].items()}
        assert "(False)" in notes["assertion: the shop is empty"][0]
        assert "read-only transaction" in notes["assertion: nothing is written"][0]
        assert {"name": "shop.public.two words", "count": 1} in found["by_name"]["rows"]["rows"]

        # one of the damaged source, without those assertions, on a machine that has the repository and its key alone
        ((path,),) = plain.sql("SELECT pg_relation_filepath('items')")
        plain.stop()
        with (plain.data / path).open("r+b") as file:
            file.seek(3 * 8192 + 8000)  # inside of the first rows: their bytes, or their headers
            file.write(bytes(range(1, 65)))
        plain.start()
        station.icecore("cluster", "check", cluster_id)  # or the keeper still takes it for stopped
        sick = station.backup(cluster_id)["backup_id"]
        offline = ("--repo", str(station.home / "repository"), "--key-file", str(station.home / "keys/repository.key"))
        said = station.icecore("verify", sick, *offline, "--scratch", str(place), "--json", check=False)
        shown = json.loads(said.splitlines()[-1])
        found = {each["Name"]: each for each in shown["Examinations"]}
        faults = [note for name in ("amcheck of heaps", "amcheck of indexes") for note in found[name]["Notes"]]
        assert shown["Outcome"] == "failed" and any("items" in note for note in faults), shown
        assert not list(place.glob("icecore-verify-*"))
        (kept,) = (station.home / "repository").rglob(f"evidence/{sick}/*.verify")
        assert kept.name == f"{shown['EvidenceId']}.verify"
        assert_nothing_left(station)

        # a damaged pack: neither intact nor restorable
        pack, *_ = sorted((station.home / "repository").rglob("packs/*"), key=lambda path: -path.stat().st_size)
        content = bytearray(pack.read_bytes())
        content[len(content) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(content)
        found = verify(station, good, "failed")
        assert outcomes(found) == {"restore": "failed"} and "damaged" in found["by_name"]["restore"]["notes"][0]
        job_id = station.call("CheckBackup", backup_id=good)["job_id"]
        assert station.wait(job_id, state="failed")["error_code"] == "RepositoryDamaged"
        assert station.call("DescribeBackup", backup_id=good)["backup"]["check_outcome"] == "failed"
