"""The main job through the front door: signed calls in, a running copy of the cluster out."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import threading
import time
from pathlib import Path

import pytest

import world
from filesystems import SHARING, mounted
from icecore import parts
from icecore.app import open_app
from icecore.errors import IcecoreError
from station import Station, until
from world import Ledger, PostgresWorld, fingerprint, inspect, sql

DISTURB = (
    "CREATE TABLE IF NOT EXISTS passing (id int); INSERT INTO passing SELECT generate_series(1, 500)",
    "TRUNCATE passing",
    "VACUUM FULL items",
    "DROP TABLE IF EXISTS passing",
    "CREATE INDEX IF NOT EXISTS by_word ON items (word)",
    "DROP INDEX IF EXISTS by_word",
)
# Each way that files are taken, each major once: by images, read at once, or streamed
CASES = [("15", "files"), ("13", "stream"), ("14", "xfs"), ("16", "files"), ("17", "btrfs"), ("18", "stream")]
OTHER_MAJORS = [major for major in ("13", "14", "16", "17", "18") if major in world.majors()]


def route_of(station: Station, backup_id: str) -> str:
    app = open_app(station.home)
    facts = parts.open_repository(app.config).find(backup_id).engine_facts
    app.close()
    return "image" if facts.get("image") else str(facts["route"])


def test_enough_majors_are_here():
    assert "15" in world.majors() and len(OTHER_MAJORS) >= 2 and max(map(int, OTHER_MAJORS)) >= 17


@pytest.mark.parametrize(("major", "route"), [case for case in CASES if world.programs_of(case[0])])
def test_every_acknowledged_row_comes_back(place: Path, major: str, route: str):
    """Writers, DDL, VACUUM FULL and TRUNCATE beside the backup; unlogged tables; a tablespace; then the copy is
    compared with what was acknowledged before ConsistentTime, and inspected page by page."""
    with mounted(route) if route in SHARING else contextlib.nullcontext(place) as point:
        _every_acknowledged_row_comes_back(place, PostgresWorld(major, point / "source").create().start(), route)


def _every_acknowledged_row_comes_back(place: Path, source: PostgresWorld, route: str) -> None:
    major = source.major
    source.tablespace("elsewhere")
    source.sql("CREATE TABLE items TABLESPACE elsewhere AS SELECT g AS id, md5(g::text) AS word"
               " FROM generate_series(1, 30000) g")  # fmt: skip
    source.sql("CREATE UNLOGGED TABLE fleeting AS SELECT generate_series(1, 1000) AS id")
    source.sql("CREATE ROLE app LOGIN PASSWORD 'secret'")
    with Station(place, hidden=source.place if route == "stream" else None) as station:
        cluster_id = station.add(source, dsn=source.tcp_dsn())
        with Ledger(source.dsn(), disturb=DISTURB) as ledger:
            ledger.wait_for(100)
            backup = station.backup(cluster_id)
            ledger.wait_for(len(ledger.acknowledged) + 20)  # later rows: the copy must not need them
        assert route_of(station, backup["backup_id"]) == ("image" if route in SHARING else route)
        restored_id, dsn = station.restore(cluster_id, backup["backup_id"], major)
        ledger.check(dsn, backup["consistent_time"])
        assert sql(dsn, "SELECT count(*) FROM items") == [(30000,)]
        assert sql(dsn, "SELECT count(*) FROM fleeting") == [(0,)]  # unlogged: there, and empty
        assert sql(dsn, "SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = 'app'") == [(True,)]
        (where,) = sql(dsn, "SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'")
        assert where[0].startswith(str(station.home))
        assert inspect(dsn) > 0
        assert station.backups(cluster_id)[0]["backup_status"] == "Success"
        # the copy is a cluster of its own: it can be backed up and restored in turn
        again = station.backup(restored_id)
        _, second = station.restore(restored_id, again["backup_id"], major)
        assert fingerprint(second) == fingerprint(dsn)
        station.stop()
    source.stop("immediate")
    for data in sorted((station.home / "clusters").glob("*/data")):
        world.run_as_database_user([source.bin / "pg_ctl", "stop", "-w", "-m", "fast", "-D", data])
        assert world.damaged_pages(data) == []


def test_a_standby_as_source(place: Path):
    with mounted("xfs") as point:  # by images; read at once and streamed in test_engine_guard.py
        _a_standby_as_source(place, PostgresWorld("15", point / "primary").create().start())


def _a_standby_as_source(place: Path, primary: PostgresWorld) -> None:
    standby = primary.standby()
    with Station(place) as station, Ledger(primary.dsn()) as ledger:
        ledger.wait_for(100)
        cluster_id = station.add(standby)
        ledger.wait_for(len(ledger.acknowledged) + 100)
        station.backup(cluster_id)
        backup = station.backup(cluster_id)  # compared with the image of the first
        assert route_of(station, backup["backup_id"]) == "image"
        _, dsn = station.restore(cluster_id, backup["backup_id"])
        ledger.check(dsn, backup["consistent_time"])
        assert sql(dsn, "SELECT pg_is_in_recovery()") == [(False,)]
        assert sql(standby.dsn(), "SELECT pg_is_in_recovery()") == [(True,)]
    standby.stop("immediate")
    primary.stop("immediate")


def test_answers_within_a_second_while_a_backup_runs(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    source.sql("CREATE TABLE IF NOT EXISTS bulk AS SELECT g, repeat(md5(g::text || random()), 30) AS pad"
               " FROM generate_series(1, 300000) g")  # fmt: skip
    job_id = station.create(cluster_id)
    slowest, calls = 0.0, 0
    while station.job(job_id)["state"] not in ("succeeded", "failed"):
        for action, params in (
            ("DescribeBackupTasks", {"db_cluster_id": cluster_id}),
            ("DescribeDBClusters", {}),
            ("DescribeBackup", {"backup_id": job_id}),
        ):
            began = time.monotonic()
            station.call(action, **params)
            slowest, calls = max(slowest, time.monotonic() - began), calls + 1
    station.wait(job_id)
    source.sql("DROP TABLE bulk")
    assert calls > 10 and slowest < 1.0, (calls, slowest)


def test_a_queued_job_starts_at_once_and_shows_its_phases(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    seen: list[str] = []
    job_id = station.create(cluster_id)

    def task() -> bool:
        found = station.call("DescribeBackupTasks", db_cluster_id=cluster_id, backup_job_id=job_id)
        (job,) = found["items"]["backup_job"]
        if job["backup_progress_status"] not in seen:
            seen.append(job["backup_progress_status"])
        return bool(job["backup_progress_status"] == "Finished")

    until(task, every_s=0.01)
    assert station.wait(job_id)["attempts"] == 1
    order = ["NoStart", "Preparing", "Waiting", "Uploading", "Checking", "Finished"]
    assert seen == [phase for phase in order if phase in seen] and len(seen) >= 3


def test_cancel_leaves_nothing_and_gives_the_quota_back(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    keep = station.backup(cluster_id)
    station.stop()
    station.start(env={"ICECORE_PAUSE_AT": "started:20"})
    job_id = station.create(cluster_id)
    until(lambda: station.job(job_id)["state"] == "running")
    station.call("CancelJob", job_id=job_id)
    assert station.wait(job_id, state="cancelled")["error_code"] == "JobCancelled"
    shown = {each["backup_id"]: each["backup_status"] for each in station.backups(cluster_id)}
    assert shown == {keep["backup_id"]: "Success", job_id: "Failed"}
    assert sql(source.dsn(), "SELECT count(*) FROM pg_replication_slots") == [(0,)]
    for _ in range(2):
        station.create(cluster_id)
    with pytest.raises(IcecoreError, match="daily backup times"):
        station.create(cluster_id)


def test_sigterm_hands_the_job_over_and_the_next_start_finishes_it(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    station.stop()
    station.start(env={"ICECORE_PAUSE_AT": "copied:30"})
    job_id = station.create(cluster_id)
    until(lambda: station.job(job_id)["state"] == "running")
    time.sleep(0.5)
    began = time.monotonic()
    assert station.stop() == 0
    assert time.monotonic() - began < 25
    station.start()
    assert station.wait(job_id)["attempts"] == 2
    assert [each["backup_status"] for each in station.backups(cluster_id)] == ["Success"]


def test_two_serving_processes_never_run_a_job_twice(place: Path, source: PostgresWorld):
    with Station(place) as station:
        cluster_id = station.add(source)
        second = station.process("work")
        try:
            jobs = [station.create(cluster_id) for _ in range(3)]
            for job_id in jobs:
                assert station.wait(job_id)["attempts"] == 1
        finally:
            second.kill()
            second.wait()
        assert len(station.backups(cluster_id)) == 3


def test_a_dead_workers_job_is_taken_over_by_a_live_one(place: Path, source: PostgresWorld):
    with Station(place) as station:
        cluster_id = station.add(source)
        station.stop()
        station.start("--no-worker")
        station.call("DescribeRegions")
        doomed = station.process("work", env={"ICECORE_FAIL_AT": "copied"})
        doomed.stdout.readline()  # it has announced itself
        job_id = station.create(cluster_id)
        doomed.wait(60)
        heir = station.process("work")
        try:
            assert station.wait(job_id)["attempts"] == 2
        finally:
            heir.kill()
            heir.wait()


def test_restored_servers_come_back_after_a_reboot_and_go_when_deleted(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    backup = station.backup(cluster_id)
    restored_id, dsn = station.restore(cluster_id, backup["backup_id"])
    sql(dsn, "CREATE TABLE mine (id int)")
    # a reboot: every process of ours is gone without a goodbye, the postmaster's pid file stays
    station.kill()
    _kill_server(station, restored_id)
    until(lambda: not _answers(dsn))
    station.start()
    until(lambda: _answers(dsn), timeout_s=60)
    assert sql(dsn, "SELECT count(*) FROM mine") == [(0,)]
    station.call("DeleteDBCluster", db_cluster_id=restored_id)
    assert until(lambda: _refusal(station, restored_id)) == "InvalidDBClusterId.NotFound"
    assert not (station.home / "clusters" / restored_id).exists() and not _answers(dsn)  # gone, not only out of sight
    assert fingerprint(source.dsn())  # the source is not touched


def test_a_restored_server_whose_port_was_taken_comes_up_at_another(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    backup = station.backup(cluster_id)
    restored_id, dsn = station.restore(cluster_id, backup["backup_id"])
    station.kill()
    _kill_server(station, restored_id)
    until(lambda: not _answers(dsn))
    with socket.socket() as squatter:
        port = int(dsn.partition("port=")[2].split()[0])
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # what the killed server leaves (a child just forked, a connection that closes) holds the port a moment longer
        until(lambda: _listens(squatter, port), timeout_s=90)
        station.start()
        until(lambda: _port(station, restored_id) != port)
        moved = station.wait_running(restored_id)
        until(lambda: _answers(moved))
        assert sql(moved, "SELECT count(*) FROM items") == [(20000,)]
        sql(moved, "ALTER SYSTEM SET work_mem = '8MB'")  # the keeper leaves a running server's settings alone
        time.sleep(6)
        assert "work_mem = '8MB'" in (station.home / "clusters" / restored_id / "data/postgresql.auto.conf").read_text()


def _listens(squatter: socket.socket, port: int) -> bool:
    try:
        squatter.bind(("127.0.0.1", port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    squatter.listen()
    return True


def test_a_half_removed_cluster_can_be_removed(station: Station, source: PostgresWorld):
    """As after a kill in the middle of the removal: the note is there, part of the data is not."""
    cluster_id = station.add(source)
    backup = station.backup(cluster_id)
    restored_id, _ = station.restore(cluster_id, backup["backup_id"])
    station.kill()
    _kill_server(station, restored_id)
    data = station.home / "clusters" / restored_id / "data"
    for name in ("postgresql.conf", "postgresql.auto.conf", "PG_VERSION"):
        (data / name).unlink()
    station.start()
    station.call("DeleteDBCluster", db_cluster_id=restored_id)
    assert until(lambda: _refusal(station, restored_id)) == "InvalidDBClusterId.NotFound"
    assert not data.parent.exists() and list((station.home / "servers").glob("*.json")) == []


def test_removing_a_cluster_beside_the_keeper_leaves_no_server(place: Path, source: PostgresWorld):
    """Five copies are made and removed while the keeper looks at each; no server survives its directory."""
    with Station(place) as station:
        cluster_id = station.add(source)
        backup = station.backup(cluster_id)
        for _ in range(5):
            restored_id, _ = station.restore(cluster_id, backup["backup_id"])
            _kill_server(station, restored_id)  # the keeper will want it up again
            time.sleep(0.3)
            station.call("DeleteDBCluster", db_cluster_id=restored_id)
            assert until(lambda restored_id=restored_id: _refusal(station, restored_id))
        time.sleep(6)
        assert list((station.home / "clusters").iterdir()) == []
        assert _servers_below(station.home / "clusters") == []


def test_one_damaged_manifest_does_not_lock_the_others_out(place: Path, source: PostgresWorld):
    with Station(place) as station:
        cluster_id = station.add(source)
        lost, kept = (station.backup(cluster_id)["backup_id"] for _ in range(2))
        station.stop()
        manifest = station.home / "repository" / "clusters" / cluster_id / "manifests" / lost
        broken = bytearray(manifest.read_bytes())
        broken[len(broken) // 2] ^= 1
        manifest.chmod(0o600)
        manifest.write_bytes(broken)
        for part in station.home.glob("catalog.db*"):
            part.unlink()
        station.start()
        assert [each["backup_id"] for each in station.backups(cluster_id)] == [kept]
        counted = station.call("DescribeRepository")
        assert (counted["backup_count"], counted["damaged_count"]) == (1, 1)
        station.add(source)
        _, dsn = station.restore(cluster_id, kept)
        assert sql(dsn, "SELECT count(*) FROM items") == [(20000,)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_run_as_the_databases_own_user(place: Path, source: PostgresWorld):
    """The recommended way: Icecore is no more than the server is. Nothing in the home can be read by others."""
    _, uid, gid = world.database_user()
    with Station(place, user=(uid, gid)) as station:
        cluster_id = station.add(source)
        backup = station.backup(cluster_id)
        _, dsn = station.restore(cluster_id, backup["backup_id"])
        assert fingerprint(dsn) == fingerprint(source.dsn())
        readable = [
            path
            for path in station.home.rglob("*")
            if not path.is_symlink()
            and path.is_file()
            and path.stat().st_mode & 0o044
            and _open_to_all(path, station.home)
        ]
        assert readable == [station.home / "icecore.toml"]  # settings, no secret among them


def _open_to_all(path: Path, top: Path) -> bool:
    """Whether somebody else can walk to it; its own mode aside."""
    return all(parent.stat().st_mode & 0o001 for parent in path.parents if parent.is_relative_to(top))


def test_deleting_backups_gives_their_space_back(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    first = station.backup(cluster_id)
    once = _tree_bytes(station.home / "repository")
    source.sql(
        "CREATE TABLE IF NOT EXISTS extra AS SELECT g, md5(g::text || random()) FROM generate_series(1, 50000) g"
    )
    second = station.backup(cluster_id)
    source.sql("DROP TABLE extra")
    assert _tree_bytes(station.home / "repository") > once
    station.call("DeleteBackup", db_cluster_id=cluster_id, backup_id=[second["backup_id"]])
    until(lambda: station.call("DescribeJobs", job_state="running")["items"]["job"] == [])
    until(lambda: _tree_bytes(station.home / "repository") <= once * 1.02)
    _, dsn = station.restore(cluster_id, first["backup_id"])
    assert sql(dsn, "SELECT count(*) FROM items") == [(20000,)]


def test_offline_restore_needs_the_package_the_repository_and_the_key(place: Path, source: PostgresWorld):
    """On another machine: the home is gone, the key was exported, nothing else is left."""
    with Station(place) as station:
        cluster_id = station.add(source)
        with Ledger(source.dsn()) as ledger:
            ledger.wait_for(50)
            backup = station.backup(cluster_id)
        station.icecore("repo", "key", "export", str(place / "exported.key"))
        station.stop()
    repository = place / "moved"
    (station.home / "repository").rename(repository)
    station.home.rename(place / "lost")
    out = place / "out"
    bare = Station.__new__(Station)
    bare._icecore, bare._user = station._icecore, {}
    bare.home, bare.log = place / "nothing", place / "bare.log"
    bare.icecore(
        "restore", "--repo", str(repository), "--key-file", str(place / "exported.key"),
        backup["backup_id"], "--to", f"{out}/", "--yes",
    )  # fmt: skip
    _, uid, gid = world.database_user()
    for path in (out, *out.rglob("*")):
        os.chown(path, uid, gid, follow_symlinks=False)
    sockets = place / "so"
    sockets.mkdir()
    os.chown(sockets, uid, gid)
    port = world.free_port()
    options = f"-p {port} -k {sockets} -c listen_addresses="
    world.run_as_database_user(
        [source.bin / "pg_ctl", "start", "-w", "-D", out, "-o", options, "-l", place / "out.log"]
    )
    dsn = f"host={sockets} port={port} user=postgres dbname=postgres"
    ledger.check(dsn, backup["consistent_time"])
    assert sql(dsn, "SELECT count(*) FROM items") == [(20000,)]


def test_R8_a_lost_catalog_is_rebuilt_from_the_repository(place: Path, source: PostgresWorld):
    with Station(place) as station:
        cluster_id = station.add(source)
        job_id = station.create(cluster_id, token="once")
        station.wait(job_id)
        station.stop()
        for part in station.home.glob("c*.db*"):
            part.unlink()
        station.start()
        shown = station.call("DescribeBackup", backup_id=job_id)["backup"]
        assert shown["backup_status"] == "Success" and shown["client_token"] == "once"
        assert station.create(cluster_id, token="once") == job_id  # before the server is known again
        assert station.add(source) == cluster_id  # registered again, it is the same cluster
        _, dsn = station.restore(cluster_id, job_id)
        assert sql(dsn, "SELECT count(*) FROM items") == [(20000,)]


def test_tls_and_both_signature_versions(place: Path):
    station = Station(place)
    station.start("--tls-self-signed")
    try:
        assert station.endpoint.startswith("https://")
        found = json.loads(station.icecore("call", "DescribeRegions", "--json"))
        assert found["Regions"]["Region"][0]["RegionId"]
    finally:
        station.kill()


@pytest.mark.parametrize("processes", [2])
def test_C2_forty_tokens_over_http_with_the_server_killed_in_between(
    place: Path, source: PostgresWorld, processes: int
):
    """40 tokens from 8 threads against two serving processes, one of them killed and started again meanwhile: never
    more than three are accepted, each accepted one becomes a backup, and each token keeps its answer."""
    first = Station(place)
    first.start()
    cluster_id = first.add(source)
    second = _beside(first)
    answers: dict[str, str] = {}
    lock = threading.Lock()

    def ask(share: list[str], stations: list[Station]) -> None:
        for token in share:
            for attempt in range(40):
                try:
                    answer = stations[attempt % 2].create(cluster_id, token)
                except IcecoreError as error:
                    if error.status >= 500:
                        time.sleep(0.1)
                        continue
                    answer = error.wire_code()
                with lock:
                    answers[token] = answer
                break

    tokens = [f"token-{n}" for n in range(40)]
    threads = [
        threading.Thread(target=ask, args=(tokens[n::8], [first, second][:: 1 if n % 2 else -1])) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.15)
    address = first.endpoint.partition("://")[2]
    first.kill()
    first.start(listen=address)
    for thread in threads:
        thread.join(60)
    second.kill()
    accepted = {token: answer for token, answer in answers.items() if answer.isdecimal()}
    assert len(answers) == 40 and len(set(accepted.values())) == 3 == len(accepted)
    assert set(answers.values()) - set(accepted.values()) == {"BackupTimesExceeded"}
    for token, job_id in accepted.items():
        first.wait(job_id)
        assert first.create(cluster_id, token) == job_id
    assert {each["backup_id"] for each in first.backups(cluster_id)} == set(accepted.values())
    first.kill()


def _beside(station: Station) -> Station:
    """A second serving process of the same home."""
    second = Station.__new__(Station)
    second.__dict__.update(station.__dict__)
    return second.start()


def _kill_server(station: Station, cluster_id: str) -> None:
    pid_file = station.home / "clusters" / cluster_id / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), 9)


def _port(station: Station, cluster_id: str) -> int:
    endpoints = station.call("DescribeDBClusterEndpoints", db_cluster_id=cluster_id)["items"]
    return int(endpoints[0]["address_items"][0]["port"])


def _servers_below(directory: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "cwd").readlink()).startswith(str(directory)):
                found.append(process.name)
        except OSError:
            continue
    return found


def _refusal(station: Station, cluster_id: str) -> str:
    try:
        station.call("DescribeDBClusterAttribute", db_cluster_id=cluster_id)
    except IcecoreError as error:
        return error.wire_code()
    return ""


def _answers(dsn: str) -> bool:
    try:
        return bool(sql(dsn, "SELECT 1"))
    except Exception:
        return False


def _tree_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
