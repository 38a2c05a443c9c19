"""kill -9 at every step and at random moments; a full disk; damaged repository bytes. The verdict is a restore."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import world
from filesystems import SHARING, mounted
from icecore.errors import IcecoreError
from icecore.model import Phase
from station import Station, until
from world import Ledger, PostgresWorld, fingerprint, sql

BACKUP_STEPS = [
    "probed", "leased", "started", "copying", "copying:10", "copied", "closing-copied", "stopped",
    "session-closed", "blocks-finished", "checked", "committed",
]  # fmt: skip
RESTORE_STEPS = ["directories-made", "laying:5", "files-laid", "files-finished", "restored", "starting",
                 "server-started"]  # fmt: skip
SEED = int(os.environ.get("ICECORE_SEED", "20261124"))  # `make soak` gives others
RANDOM_KILLS = int(os.environ.get("ICECORE_RANDOM_KILLS", "15"))


@pytest.fixture(scope="module")
def still(ground: Path) -> Iterator[PostgresWorld]:
    """A source that nobody writes to, so that copies can be compared whole."""
    server = PostgresWorld("15", ground / "still").create().start()
    server.sql("CREATE TABLE items AS SELECT g AS id, md5(g::text) AS word FROM generate_series(1, 50000) g")
    yield server
    server.stop("immediate")


def one_success(station: Station, cluster_id: str, job_id: str) -> None:
    shown = {each["backup_id"]: each["backup_status"] for each in station.backups(cluster_id)}
    assert shown == {job_id: "Success"}


def nothing_left(station: Station, source: PostgresWorld) -> None:
    """No slot on the server, no scratch, and not a byte in the repository that no backup needs."""
    until(lambda: sql(source.dsn(), "SELECT count(*) FROM pg_replication_slots") == [(0,)], timeout_s=10)
    assert list((station.home / "run" / "scratch").glob("*")) == []


def test_R4_killed_at_each_step_of_a_backup(place: Path, still: PostgresWorld):
    """One backup results, its copy is equal, the quota and the repository are right."""
    with Station(place) as station:
        cluster_id = station.add(still)
        for step in BACKUP_STEPS:
            station.kill()
            station.start(env={"ICECORE_FAIL_AT": step})
            job_id = station.create(cluster_id, token=f"at-{step}")
            station.wait_for_death()
            station.start()
            done = station.wait(job_id)
            assert done["attempts"] == 2, step
            assert station.create(cluster_id, token=f"at-{step}") == job_id
            one_success(station, cluster_id, job_id)
            nothing_left(station, still)
            assert station.call("DescribeRepository")["backup_count"] == 1
            _delete(station, cluster_id, job_id)
        # what twelve crashes left: a repository without a backup holds nothing but itself
        assert list((station.home / "repository" / "clusters").rglob("packs/*")) == []
        assert list((station.home / "repository" / "clusters").rglob("indexes/*")) == []
        last = station.backup(cluster_id)
        _, dsn = station.restore(cluster_id, last["backup_id"])
        assert fingerprint(dsn) == fingerprint(still.dsn())


def test_killed_at_each_step_of_a_restore(place: Path, still: PostgresWorld):
    """The new cluster comes up all the same, once, and equal."""
    with Station(place) as station:
        cluster_id = station.add(still)
        backup = station.backup(cluster_id)
        for step in RESTORE_STEPS:
            station.kill()
            station.start(env={"ICECORE_FAIL_AT": step})
            made = station.call(
                "CreateDBCluster",
                region_id="here",
                db_type="PostgreSQL",
                db_version="15",
                pay_type="Postpaid",
                creation_option="CloneFromPolarDB",
                source_resource_id=cluster_id,
                clone_data_point=backup["backup_id"],
                client_token=f"at-{step}",
            )["db_cluster_id"]
            station.wait_for_death()
            station.start()
            dsn = station.wait_running(made)
            assert fingerprint(dsn) == fingerprint(still.dsn()), step
            station.call("DeleteDBCluster", db_cluster_id=made)
            until(lambda made=made: not (station.home / "clusters" / made).exists())
        assert _postgres_below(station.home) == []


@pytest.mark.parametrize(("kind", "kills"), [("files", RANDOM_KILLS // 3), ("xfs", RANDOM_KILLS - RANDOM_KILLS // 3)])
def test_killed_at_random_moments_under_writes(place: Path, kind: str, kills: int):
    """Again and again: a backup begins, the process dies somewhere, is started again; every backup restores what was
    acknowledged (each third one is really restored). Files are read at once, or taken by an image that is compared
    with the one before."""
    with mounted(kind) if kind in SHARING else contextlib.nullcontext(place) as point:
        source = PostgresWorld("15", point / "source").create().start()
        source.sql("CREATE TABLE bulk AS SELECT g, repeat(md5(g::text), 20) AS pad FROM generate_series(1, 60000) g")
        _killed_at_random_moments(place, source, kills)
        source.stop("immediate")


def _killed_at_random_moments(place: Path, source: PostgresWorld, kills: int) -> None:
    dice = random.Random(SEED)
    with Station(place) as station:
        cluster_id = station.add(source)
        station.backup(cluster_id)
        began = time.monotonic()
        previous = station.create(cluster_id)
        station.wait(previous)
        whole_s = time.monotonic() - began
        for each in station.backups(cluster_id):
            if each["backup_id"] != previous:
                _delete(station, cluster_id, each["backup_id"])
        killed_in: set[str] = set()
        for number in range(kills):
            source.sql(f"UPDATE bulk SET pad = pad || 'x' WHERE g BETWEEN {number * 700} AND {number * 700 + 50}")
            with Ledger(source.dsn()) as ledger:
                ledger.wait_for(20)
                job_id = station.create(cluster_id, token=f"random-{number}")
                time.sleep(dice.uniform(0, whole_s))
                killed_in.add(station.job(job_id)["phase"])
                station.kill()
                station.start()
                station.wait(job_id)
            _delete(station, cluster_id, previous)
            one_success(station, cluster_id, job_id)
            nothing_left(station, source)
            backup = station.call("DescribeBackup", backup_id=job_id)["backup"]
            if number % 3 == 0:
                made, dsn = station.restore(cluster_id, job_id)
                ledger.check(dsn, backup["consistent_time"])
                assert fingerprint(dsn)["public.bulk"] == fingerprint(source.dsn())["public.bulk"]
                station.call("DeleteDBCluster", db_cluster_id=made)
                until(lambda made=made: not (station.home / "clusters" / made).exists())
            previous = job_id
        assert len(killed_in - {Phase.FINISHED}) >= 2, killed_in  # else the moments were not random at all


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_fails_the_backup_and_loses_nothing(place: Path, still: PostgresWorld):
    small = place / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)], check=True)
    try:
        station = Station(place, init=("--repo", str(small / "repository"), "--unencrypted"))
        station.start()
        cluster_id = station.add(still)
        first = station.backup(cluster_id)
        still.sql("CREATE TABLE noise AS SELECT g, (SELECT string_agg(md5(random()::text || g || i), '')"
                  " FROM generate_series(1, 60) i) AS pad FROM generate_series(1, 25000) g")  # fmt: skip
        job_id = station.create(cluster_id)
        failed = station.wait(job_id, state="failed")
        assert failed["error_code"] == "StorageFull"
        nothing_left(station, still)
        still.sql("DROP TABLE noise")
        # what the failed one had written is gone again, the old backup restores, a new one succeeds
        second = station.backup(cluster_id)
        for backup in (first, second):
            _, dsn = station.restore(cluster_id, backup["backup_id"])
            assert fingerprint(dsn) == fingerprint(still.dsn())
        station.kill()
    finally:
        world.end_servers_below(place)
        subprocess.run(["umount", str(small)], check=True)


def test_R5_a_flipped_or_cut_byte_is_refused_or_harmless(place: Path, still: PostgresWorld):
    """200 sampled bytes of a real repository: the offline restore delivers the right bytes or refuses by name."""
    dice = random.Random(SEED)
    with Station(place, init=()) as station:
        cluster_id = station.add(still)
        backup_id = station.backup(cluster_id)["backup_id"]
        station.stop()
    from icecore import config, laying, parts, restore
    from icecore.engines import RestoreTarget
    from icecore.engines.postgresql import PostgresRestore

    settings = config.load(station.home)

    def laid() -> dict[str, int]:
        """Every byte that a restore would lay down, by a digest per file."""
        repository = parts.open_repository(settings)
        reader = repository.reader(cluster_id, backup_id)
        restore.plan(
            reader,
            PostgresRestore(),
            RestoreTarget(place / "unmade", {}),
            owner=None,
            block_bytes=repository.block_bytes,
        )
        size = laying.BLOCK_ID_BYTES
        return {
            file.meta.path: hash(
                b"".join(reader.block(file.blocks[at : at + size]) for at in range(0, len(file.blocks), size))
            )
            for file in reader.files()
        }

    right = laid()
    objects = sorted(
        path for path in (station.home / "repository").rglob("*") if path.is_file() and path.stat().st_size
    )
    outcomes = {"refused": 0, "harmless": 0}
    # Every byte of a manifest counts. A pack's footer stands in for a damaged index and the other way round, and a
    # lease holds no data: damage there is harmless, and the bytes that come out say so.
    for number in range(200):
        victim = objects[number % len(objects)]
        whole = victim.read_bytes()
        place_of_harm = dice.randrange(len(whole))
        broken = bytearray(whole)
        if number % 4 == 3:
            del broken[place_of_harm:]
        else:
            broken[place_of_harm] ^= 1 << dice.randrange(8)
        victim.chmod(0o600)
        victim.write_bytes(broken)
        try:
            assert laid() == right, f"wrong bytes after damage at {place_of_harm} of {victim}"
            assert "manifests" not in victim.parts, f"byte {place_of_harm} of {victim}"
            outcomes["harmless"] += 1
        except IcecoreError as error:
            assert error.message
            outcomes["refused"] += 1
        finally:
            victim.write_bytes(whole)
    assert outcomes["refused"] >= 80 and laid() == right, outcomes


def _delete(station: Station, cluster_id: str, backup_id: str) -> None:
    station.call("DeleteBackup", db_cluster_id=cluster_id, backup_id=[backup_id])
    (job,) = [
        job
        for job in station.call("DescribeJobs", db_cluster_id=cluster_id)["items"]["job"]
        if job["job_kind"] == "delete-backup" and job["backup_id"] == backup_id
    ]
    station.wait(job["job_id"])


def _postgres_below(home: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(home / "clusters"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_nothing_of_a_failed_restore_stays(station: Station, still: PostgresWorld):
    """The directory cannot be made: the job says so, the name is free again."""
    cluster_id = station.add(still)
    backup = station.backup(cluster_id)
    clusters = station.home / "clusters"
    shutil.rmtree(clusters)
    clusters.write_text("in the way")
    with pytest.raises(AssertionError, match="the restore failed"):
        station.restore(cluster_id, backup["backup_id"])
    assert station.call("DescribeJobs")["items"]["job"][0]["error_code"] == "StorageFailed"
    clusters.unlink()
    clusters.mkdir(mode=0o711)
    _, dsn = station.restore(cluster_id, backup["backup_id"])
    assert fingerprint(dsn) == fingerprint(still.dsn())
