"""Every request and answer that the reference shows, produced by a running server.

``ICECORE_UPDATE=1`` writes ``tests/vectors/reference`` anew; otherwise the answers must have the recorded shape.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import exchanges
import pytest
from exchanges import VECTORS, Recorder
from psycopg.conninfo import conninfo_to_dict

from icecore.api import contract
from icecore.api.client import Client
from station import Station, until
from world import PostgresWorld

DSN = "host=/var/run/postgresql port=5432 user=icecore dbname=postgres"
TOKEN = "6000170000591aed949d0f54a343f1a4"
BUSY = ("queued", "running")
UNKNOWN = ("DBClusterId", "pc-2ze000000000")


@pytest.fixture
def serving(ground: Path) -> Iterator[Station]:
    """Accepts; a worker comes later, so that a job can be seen, and cancelled, while it waits."""
    station = Station(ground)
    station.start("--no-worker")
    yield station
    station.kill()


def test_every_operation_answers_as_recorded(serving: Station, source: PostgresWorld) -> None:
    recorder = Recorder(serving.client())
    _record(recorder, serving, source)
    recorded = recorder.finished()
    assert set(recorded) == set(contract.operations())
    assert serving.access_key_secret not in json.dumps(recorded)
    if os.environ.get("ICECORE_UPDATE") == "1":
        exchanges.write(recorded)
    assert {path.stem for path in VECTORS.glob("*.json")} == set(recorded)
    for action, found in recorded.items():
        kept = [exchanges.outline(each) for each in exchanges.read(action)]
        assert [exchanges.outline(each) for each in found] == kept, action


def test_no_record_holds_what_belongs_to_an_installation() -> None:
    for path in VECTORS.glob("*.json"):
        text = path.read_text(encoding="utf-8")
        for private in ("LTAI5", "/tmp/", "pc-ice", "Signature="):
            assert private not in text, (path.name, private)


def _record(recorder: Recorder, serving: Station, source: PostgresWorld) -> None:
    record = recorder.record
    recorder.stand_in(serving.endpoint.split("//")[1], "127.0.0.1:8080")
    recorder.stand_in(str(serving.home), "/var/lib/icecore")
    recorder.stand_in(serving.access_key_id, "ICE7Q2M4K1X9")
    recorder.stand_in(source.dsn(), DSN)
    recorder.stand_in(conninfo_to_dict(source.dsn())["host"], "/var/run/postgresql")
    recorder.stand_in(str(source.data), "/var/lib/postgresql/15/main")
    ((version, system),) = source.sql(
        "SELECT split_part(current_setting('server_version'), ' ', 1), system_identifier FROM pg_control_system()"
    )
    recorder.stand_in(version, "15.18")
    recorder.stand_in(str(system), "7711813023674376069")

    # Clusters are registered
    def registration(name: str, dsn: str = "") -> list[tuple[str, str]]:
        server = ("ConnectionString", dsn or source.dsn())
        return [("DBClusterDescription", name), ("Engine", "postgresql"), server]

    first, second = record("RegisterDBCluster", *registration("shop"), xml=registration("staging"))
    shop, staging = first["DBClusterId"], second["DBClusterId"]
    trial = serving.call("RegisterDBCluster", **{contract.snake(k): v for k, v in registration("trial")})
    for cluster_id in (shop, staging, trial["db_cluster_id"]):
        for prefix in ("pc-", "pi-", "pe-"):  # the cluster, its node, its endpoint
            recorder.stand_in(prefix + cluster_id.removeprefix("pc-"), f"{prefix}2ze3ngi149b313k7")
    record("RegisterDBCluster", *registration("shop"), title="The name is taken")
    record("RegisterDBCluster", *registration("till", f"{DSN} password=x"), title="A secret in the connection string")
    for name in ("shop", "staging"):
        serving.icecore("cluster", "check", name)

    # Backups are asked for, up to the limit, and jobs that wait are cancelled
    here = ("DBClusterId", shop)
    wanted = [here, ("ClientToken", TOKEN), ("Comment", "before the upgrade")]
    made, _ = record("CreateBackup", *wanted)
    waiting = [serving.create(shop) for _ in range(2)]
    recorder.stand_in(made["BackupJobId"], "4182")
    for job_id in waiting:
        recorder.stand_in(job_id, "4183")
    record("CreateBackup", here, title="Three manual backups exist")
    record("CreateBackup", UNKNOWN, title="There is no such cluster")
    record("CreateBackup", ("DBClusterId", "pc-*************"), title="An ID that cannot be one")
    record("CreateBackup", title="A required parameter is missing")
    record("CreateBackup", here, ("ClientToken", TOKEN), title="The token was sent with other parameters before")
    record("DescribeBackupTasks", here, ("BackupJobId", made["BackupJobId"]), title="A job that waits for a worker")
    record("CancelJob", ("JobId", waiting[0]), xml=[("JobId", waiting[1])])
    record("CancelJob", ("JobId", "1"), title="There is no such job")

    worker = serving.process("work")
    try:
        _record_with_worker(recorder, serving, shop, staging, trial["db_cluster_id"], made["BackupJobId"])
    finally:
        worker.kill()
        worker.wait()
    _record_clones(recorder, serving, shop, made["BackupJobId"])


def _record_with_worker(
    recorder: Recorder, serving: Station, shop: str, staging: str, trial: str, backup_id: str
) -> None:
    record, here, backup = recorder.record, ("DBClusterId", shop), ("BackupId", backup_id)
    spare = [serving.create(shop) for _ in range(2)]
    for job_id in spare:
        recorder.stand_in(job_id, "4184")
    for job_id in (backup_id, *spare):
        serving.wait(job_id)

    # Backups are looked at, and one is deleted
    period = [("StartTime", "2020-01-01T00:00Z"), ("EndTime", "2100-01-01T00:00Z")]
    record("DescribeBackupTasks", here, ("BackupJobId", backup_id))
    record("DescribeBackupTasks", UNKNOWN, title="There is no such cluster")
    record("DescribeBackups", here, *period, backup)
    record("DescribeBackups", here, period[1], ("StartTime", "2100-01-01T00:00Z"), title="The period ends as it begins")
    record("DescribeBackup", backup)
    record("DescribeBackup", ("BackupId", "1"), title="There is no such backup")
    for action in ("CheckBackup", "VerifyBackup"):
        proven = record(action, backup)
        record(action, ("BackupId", "1"), title="There is no such backup")
        for answer in proven:
            recorder.stand_in(answer["JobId"], "4190")
            serving.wait(answer["JobId"])
    record("DescribeBackupEvidence", backup)
    record("DescribeBackupEvidence", ("BackupId", "1"), title="There is no such backup")
    record("DescribeBackupHistory", here, ("MaxResults", "1"))
    record("DescribeJobs", ("JobId", backup_id))
    record("DescribeJobs", ("JobState", "done"), title="A state that there is not")
    record("DescribeRepository")
    record("DeleteBackup", here, ("BackupId", spare[0]), xml=[here, ("BackupId", spare[1])])
    record("DeleteBackup", here, ("BackupId", "1"), title="There is no such backup")

    # One is restored
    restoring = [
        ("RegionId", "cn-hangzhou"),
        ("DBType", "PostgreSQL"),
        ("DBVersion", "15"),
        ("DBNodeClass", "polar.pg.x4.medium"),
        ("PayType", "Postpaid"),
        ("CreationOption", "CloneFromPolarDB"),
        ("SourceResourceId", shop),
        ("CloneDataPoint", backup_id),
        ("DBClusterDescription", "shop-restored"),
        ("ClientToken", TOKEN[::-1]),
    ]
    restored, _ = record("CreateDBCluster", *restoring)
    for prefix in ("pc-", "pi-", ""):
        recorder.stand_in(prefix + restored["OrderId"], f"{prefix}2zer0a7d65ab2k19")
    other = [(name, value) for name, value in restoring if name not in ("DBVersion", "ClientToken")]
    record("CreateDBCluster", *other, ("DBVersion", "16"), title="Another major version than the backup's")
    from_nothing = [(name, "1" if name == "CloneDataPoint" else value) for name, value in restoring[:-1]]
    record("CreateDBCluster", *from_nothing, title="There is no such backup")
    serving.wait_running(restored["DBClusterId"])

    # Clusters are looked at, and one goes
    until(lambda: not any(serving.call("DescribeJobs", job_state=state)["items"]["job"] for state in BUSY))
    record("DescribeDBClusters", ("DBClusterIds", shop))
    record("DescribeDBClusterAttribute", here)
    record("DescribeDBClusterAttribute", ("DBClusterId", restored["DBClusterId"]), title="A restored cluster")
    record("DescribeDBClusterAttribute", UNKNOWN, title="There is no such cluster")
    record("DescribeDBClusterEndpoints", here)
    record("DescribeRegions")
    record("ModifyDBClusterPace", here, ("MaxRate", "200MB"), ("Background", "on"))
    record("ModifyDBClusterPace", here, ("MaxRate", "fast"), title="A rate that means nothing")
    policy = [("PreferredBackupTime", "16:00Z-17:00Z"), ("PreferredBackupPeriod", "Monday,Wednesday,Friday")]
    record("ModifyBackupPolicy", here, *policy)
    record("ModifyBackupPolicy", here, ("PreferredBackupPeriod", "Monday"), title="Fewer than two days")
    record("ModifyDrillPolicy", here, ("DrillPeriod", "7"))
    record("ModifyDrillPolicy", here, ("DrillPeriod", "400"), title="More than a year")
    record("DescribeBackupPolicy", here)
    record("PlanRetention", here)
    record("HoldBackup", here, ("BackupId", backup_id), ("Reason", "audit of 2026"))
    record("HoldBackup", here, ("BackupId", "1"), title="There is no such backup")
    record("ReleaseBackup", here, ("BackupId", backup_id))
    record("DeleteBackupPolicy", here)
    record("DescribeRecoveryWindows", here)
    record("ModifyDBClusterLogBackup", here, ("LogBackup", "on"))
    record("ModifyDBClusterLogBackup", here, ("LogBackup", "maybe"), title="Neither on nor off")
    record("DescribeClusterHealth", here)
    record("DescribeOverview", here)
    keeping = ("BackupRetentionPolicyOnClusterDeletion", "ALL")
    record("DeleteDBCluster", ("DBClusterId", staging), keeping, xml=[("DBClusterId", trial), keeping])
    record("DeleteDBCluster", UNKNOWN, title="There is no such cluster")

    # Keys come and go
    first, second = record("CreateAccessKey", ("Role", "reader"), ("Description", "ci"))
    for key_id in (first["KeyId"], second["KeyId"]):
        recorder.stand_in(key_id, "ICE3B8W5T0ZR")
    record("CreateAccessKey", ("Role", "owner"), title="A role that there is not")
    record("DescribeAccessKeys")
    record("RevokeAccessKey", ("KeyId", first["KeyId"]), xml=[("KeyId", second["KeyId"])])
    record("RevokeAccessKey", ("KeyId", serving.access_key_id), title="The last admin key")
    record("DescribeCalls", ("CallAction", "RevokeAccessKey"), ("OnlyChanges", "true"), ("MaxResults", "1"))
    record("CreateConsoleLink")


def _record_clones(recorder: Recorder, serving: Station, shop: str, backup_id: str) -> None:
    """The file system of this test need not share blocks: what a worker would have said of a clone is written into the
    catalog. That clones work is shown where such a file system is (``test_clones.py``)."""
    record, here, backup = recorder.record, ("DBClusterId", shop), ("BackupId", backup_id)
    record("CreateClone", backup, title="The backup has no image")
    _write(serving, "UPDATE backup SET imaged = 1 WHERE id = ?", backup_id)
    purpose, name = ("Purpose", "look for the lost orders"), "DBClusterDescription"
    first, second = record(
        "CreateClone", backup, (name, "shop-look"), purpose, xml=[here, (name, "shop-peek"), purpose]
    )
    for clone_id in (first["DBClusterId"], second["DBClusterId"]):
        recorder.stand_in(clone_id, "pc-2zeq3x1d5k0m84bt")
    record("CreateClone", title="A clone of nothing")
    _write(serving, "UPDATE job SET state = 'succeeded' WHERE kind = 'clone'")
    values = "status = 'Running', host = '127.0.0.1', port = 5433"
    _write(serving, f"UPDATE cluster SET {values} WHERE origin = 'clone'")
    record("DescribeClones", ("DBClusterId", first["DBClusterId"]))
    record("ModifyClone", ("DBClusterId", first["DBClusterId"]), ("LifetimeSeconds", "7200"))
    record(
        "ModifyClone", ("DBClusterId", first["DBClusterId"]), ("LifetimeSeconds", "0"), title="It was made for a while"
    )
    record("DeleteClone", ("DBClusterId", first["DBClusterId"]), xml=[("DBClusterId", second["DBClusterId"])])
    record("DeleteClone", here, title="A cluster that is no clone")


def _write(serving: Station, statement: str, *values: str) -> None:
    with closing(sqlite3.connect(serving.home / "catalog.db", timeout=10)) as catalog, catalog:
        catalog.execute(statement, values)


@pytest.mark.parametrize(
    "changed",
    [
        '{"RequestId":"a","Items":{"Backup":[{"Id":"1"}]}}',
        '{"RequestId":"a","Items":{"Backup":[{"BackupId":1,"Size":5}]}}',
        '{"RequestId":"a","Items":{"Backup":[{"Size":5,"BackupId":"1"}]}}',
        '{"RequestId":"a","Items":{"Backup":[{"BackupId":"1","Size":5},{"BackupId":"2"}]}}',
        '{"RequestId":"a","Items":{"Backup":[]}}',
        '{"RequestId":"a","Backup":[{"BackupId":"1","Size":5}]}',
    ],
)
def test_a_difference_of_shape_is_seen(changed: str) -> None:
    kept = {"RequestId": "a", "Items": {"Backup": [{"BackupId": "1", "Size": 5}]}}
    more = {"RequestId": "b", "Items": {"Backup": [{"BackupId": "7", "Size": 8}, {"BackupId": "9", "Size": 0}]}}
    assert exchanges.shape(kept) == exchanges.shape(more) != exchanges.shape(json.loads(changed))


def test_a_difference_of_shape_is_seen_in_xml() -> None:
    kept = exchanges.shape_xml("<R><A>1</A><B><C>2</C></B><B><C>3</C></B></R>")
    assert kept == exchanges.shape_xml("<R><A>9</A><B><C>2</C></B></R>")
    for changed in ("<R><B><C>2</C></B><A>1</A></R>", "<R><A>1</A><B>2</B></R>", "<S><A>1</A><B><C>2</C></B></S>"):
        assert kept != exchanges.shape_xml(changed)


def test_stand_ins_keep_type_and_form() -> None:
    recorder = Recorder(Client("http://127.0.0.1:1", "id", "secret"))
    recorder.stand_in("777", "4182")
    recorder.stand_in("/tmp/home", "/var/lib/icecore")
    wire = {"BackupId": "777", "Other": "7770", "SizeBytes": 5, "FreeBytes": 0, "EndTime": "", "Path": "/tmp/home/repo"}
    shown = recorder._tidy("", wire)
    assert shown == wire | {"BackupId": "4182", "SizeBytes": 4639948800, "Path": "/var/lib/icecore/repo"}
