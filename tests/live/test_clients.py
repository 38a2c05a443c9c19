"""Alibaba Cloud's clients against a real installation and a real server: each makes backups up to the quota, sees them
through to the end, lists, reads the refusal, deletes and makes another. The current SDK then restores one."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alibabacloud_polardb20170801 import models
from alibabacloud_tea_openapi.exceptions import ClientException
from clients import Current, Legacy, OfficialClient, Refusal, Wire, as_modelled, current_sdk, node
from darabonba.exceptions import UnretryableException
from darabonba.runtime import RuntimeOptions

from station import Station, until
from world import PostgresWorld, fingerprint, sql

# Characters that the clients encode each in their own way
TOKEN = "~*+/!'()=&% 1"
QUOTA_CODE = "BackupTimesExceeded"
QUOTA_MESSAGE = "Exceeding the daily backup times of this DB cluster."


@dataclass(frozen=True)
class Kind:
    """A client, and what it shows of an error: ``{code}``, ``{message}`` and so on stand for what was on the wire."""

    name: str
    code: str = "{code}"
    message: str = "{message}"
    shown_as: str = ""  # the error's class or name
    has_tasks: bool = True
    sends_token: bool = True

    def open(self, station: Station, stack: ExitStack) -> OfficialClient:
        match self.name:
            case "python-current":
                return Current(station)
            case "python-current-v1":
                return Current(station, signature_algorithm="v2")
            case "python-legacy":
                return Legacy(station)
            case name:
                return stack.enter_context(node(station, name))


WITH_STATUS = "code: {status}, {message} request id: {request_id}"
KINDS = (
    Kind("python-current", message=WITH_STATUS, shown_as="ClientException"),
    Kind("python-current-v1", message=WITH_STATUS, shown_as="ClientException"),
    Kind("python-legacy"),
    Kind("openapi-client", message="{code}: " + WITH_STATUS, shown_as="Error"),
    Kind(
        "polardb20170801",
        code="{code}Error",
        message="{code}Error: code: {status}, {message} requestid: {request_id}",
        has_tasks=False,
        sends_token=False,  # its CreateBackup has no ClientToken
    ),
    Kind("pop-core-get", message="{message}, URL: ", shown_as="{code}Error"),
    Kind("pop-core-post", message="{message}, URL: ", shown_as="{code}Error"),
)


@pytest.fixture(scope="module")
def serving(ground: Path) -> Iterator[Station]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        with Station(ground) as station:
            yield station


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_client_walks_from_the_first_backup_to_the_quota_and_past_it(
    serving: Station, source: PostgresWorld, kind: Kind
):
    cluster_id = serving.add(source, kind.name)
    with ExitStack() as stack:
        client = kind.open(serving, stack)
        create = {"DBClusterId": cluster_id} | ({"ClientToken": kind.name + TOKEN} if kind.sends_token else {})

        # create; the same token again has no second effect
        began = int(time.time())
        first = as_modelled("CreateBackup", client.call("CreateBackup", **create))
        assert first["BackupJobId"].isdecimal()
        if kind.sends_token:
            again = client.call("CreateBackup", **create)
            assert again["BackupJobId"] == first["BackupJobId"] and again["RequestId"] != first["RequestId"]

        # poll to the end
        _see_through(client, kind, cluster_id, first["BackupJobId"])

        # list: the set has the job's number, and content
        (made,) = _list(client, cluster_id)
        assert made["BackupId"] == first["BackupJobId"]
        _check(made, cluster_id, began, source)

        # up to the quota, and the refusal in this client's words
        others = [client.call("CreateBackup", DBClusterId=cluster_id)["BackupJobId"] for _ in range(2)]
        with pytest.raises(Refusal) as refused:
            client.call("CreateBackup", DBClusterId=cluster_id)
        _check_refusal(refused.value, kind)
        if kind.sends_token:  # a repetition is none of the three
            assert client.call("CreateBackup", **create)["BackupJobId"] == first["BackupJobId"]

        # delete one, make another
        as_modelled("DeleteBackup", client.call("DeleteBackup", DBClusterId=cluster_id, BackupId=made["BackupId"]))
        fourth = client.call("CreateBackup", DBClusterId=cluster_id)["BackupJobId"]
        left = [fourth, *reversed(others)]
        until(lambda: _ids(client, cluster_id) == left)
        for each in _list(client, cluster_id):
            _check(each, cluster_id, began, source)
        assert len({first["BackupJobId"], *left}) == 4


def test_a_client_that_sends_a_form_in_chunks_is_understood(serving: Station, source: PostgresWorld):
    cluster_id = serving.add(source, "form")
    with node(serving, "openapi-client-form") as client:
        made = client.call("CreateBackup", DBClusterId=cluster_id, ClientToken=TOKEN)
        assert (
            client.call("CreateBackup", DBClusterId=cluster_id, ClientToken=TOKEN)["BackupJobId"]
            == (made["BackupJobId"])
        )
        with pytest.raises(Refusal) as refused:
            client.call("CreateBackup", ClientToken="form2" + TOKEN)
        assert refused.value.code == "MissingParameter" and "DBClusterId" in refused.value.message
    serving.wait(made["BackupJobId"])
    assert [each["backup_id"] for each in serving.backups(cluster_id)] == [made["BackupJobId"]]


def test_what_is_told_of_clusters_is_as_the_models_say(serving: Station, source: PostgresWorld):
    """Read with the legacy client, which keeps the answer as it came; the current SDK's models judge it."""
    cluster_id = serving.add(source, "described")
    client, one = Legacy(serving), {"DBClusterId": cluster_id}
    listed = as_modelled("DescribeDBClusters", client.call("DescribeDBClusters", PageSize="100"))
    (shown,) = [each for each in listed["Items"]["DBCluster"] if each["DBClusterId"] == cluster_id]
    attribute = as_modelled("DescribeDBClusterAttribute", client.call("DescribeDBClusterAttribute", **one))
    for each in (shown, attribute):
        assert (each["DBClusterDescription"], each["DBClusterStatus"]) == ("described", "Running")
        assert (each["DBType"], each["DBVersion"]) == ("PostgreSQL", "15")
    endpoints = as_modelled("DescribeDBClusterEndpoints", client.call("DescribeDBClusterEndpoints", **one))
    (address,) = endpoints["Items"][0]["AddressItems"]
    assert address["Port"] == str(source.port)
    as_modelled("DescribeRegions", client.call("DescribeRegions"))
    assert as_modelled("DescribeBackupTasks", client.call("DescribeBackupTasks", **one))["Items"]["BackupJob"] == []
    assert _list(client, cluster_id) == []

    # each operation has its own words for a cluster that does not exist
    unknown = {"DBClusterId": "pc-000000000000"}
    for action, status, code in (
        ("CreateBackup", 404, "InvalidDBClusterId.NotFound"),
        ("DescribeBackupTasks", 400, "InvalidDBClusterId.NotFound"),
        ("DeleteDBCluster", 404, "InvalidDBCluster.NotFound"),
    ):
        with pytest.raises(Refusal) as refused:
            client.call(action, **unknown)
        assert (refused.value.code, refused.value.data["statusCode"]) == (code, status), action


@pytest.mark.parametrize("wanted", ["", "JSON", "XML"])
def test_the_legacy_client_gets_the_format_it_asks_for(serving: Station, wanted: str):
    """Its raw call sends ``Format=None`` when it was told nothing; the one that raises errors always asks for JSON."""
    answer = Legacy(serving).raw("DescribeRegions", wanted)
    if wanted == "XML":
        assert answer.startswith(b"<?xml") and b"<DescribeRegionsResponse>" in answer
    else:
        assert json.loads(answer)["Regions"]["Region"]


def test_over_https_a_client_that_trusts_the_certificate_is_served_and_one_that_does_not_refuses(place: Path):
    station = Station(place)
    station.start("--tls-self-signed", "--no-worker")
    try:
        certificate = station.home / "keys" / "tls-cert.pem"
        sdk, trusting = current_sdk(station), RuntimeOptions(ca=str(certificate))
        request = models.DescribeRegionsRequest()
        with pytest.raises(UnretryableException, match="CERTIFICATE_VERIFY_FAILED"):
            sdk.describe_regions(request)
        assert sdk.describe_regions_with_options(request, trusting).body.regions.region
        assert asyncio.run(sdk.describe_regions_with_options_async(request, trusting)).body.regions.region
        with node(station, "openapi-client", NODE_EXTRA_CA_CERTS=str(certificate)) as client:
            assert client.call("DescribeRegions")["Regions"]["Region"]
        with node(station, "openapi-client") as client, pytest.raises(Refusal, match="self-signed certificate"):
            client.call("DescribeRegions")
    finally:
        station.kill()


@pytest.mark.parametrize("version", ["v2", ""])
def test_a_wrong_secret_is_told_as_such(serving: Station, version: str):
    wrong = Station.__new__(Station)
    wrong.__dict__.update(serving.__dict__)
    wrong.access_key_secret = "wrong"
    client = Current(wrong, **({"signature_algorithm": version} if version else {}))
    with pytest.raises(Refusal) as refused:
        client.call("DescribeRegions")
    assert refused.value.code == "SignatureDoesNotMatch"
    with pytest.raises(Refusal) as refused:
        Legacy(wrong).call("DescribeRegions")
    assert refused.value.code == "InvalidAccessKeySecret"  # the client's own conclusion: its string equals ours


def test_the_sdk_restores_a_backup_and_deletes_the_copy(serving: Station, source: PostgresWorld):
    # a role that needs its password from the network, on the source
    rules = source.data / "pg_hba.conf"
    rules.write_text(f"host all app 127.0.0.1/32 scram-sha-256\n{rules.read_text()}")
    source.sql("CREATE ROLE app LOGIN PASSWORD 'correct horse'; GRANT pg_read_all_data TO app; SELECT pg_reload_conf()")
    cluster_id = serving.add(source, "restored-by-sdk")
    sdk = current_sdk(serving)

    # a backup, and later rows that the copy must not have
    job_id = sdk.create_backup(models.CreateBackupRequest(dbcluster_id=cluster_id)).body.backup_job_id
    _see_through(Current(serving), KINDS[0], cluster_id, job_id)
    expected = fingerprint(source.dsn())
    source.sql("CREATE TABLE later AS SELECT 1 AS id")

    # restore
    made = sdk.create_dbcluster(
        models.CreateDBClusterRequest(
            region_id="cn-hangzhou",
            dbtype="PostgreSQL",
            dbversion="15",
            dbnode_class="polar.pg.x4.medium",
            pay_type="Postpaid",
            creation_option="CloneFromPolarDB",
            source_resource_id=cluster_id,
            clone_data_point=job_id,
            client_token="restore-1",
        )
    ).body
    as_modelled("CreateDBCluster", made.to_map())

    def attribute() -> Any:
        asked = models.DescribeDBClusterAttributeRequest(dbcluster_id=made.dbcluster_id)
        return sdk.describe_dbcluster_attribute(asked).body

    seen = []

    def running() -> bool:
        seen.append(attribute().dbcluster_status)
        assert seen[-1] in ("Creating", "Running"), seen
        return bool(seen[-1] == "Running")

    until(running, timeout_s=120)
    assert seen[0] == "Creating"
    shown = attribute()
    as_modelled("DescribeDBClusterAttribute", shown.to_map())
    assert (shown.source_dbcluster, shown.restore_data_point) == (cluster_id, job_id)
    assert shown.restore_type == "RestoreByBackupSetOss"

    # its address, its roles and its access rules
    endpoints = sdk.describe_dbcluster_endpoints(
        models.DescribeDBClusterEndpointsRequest(dbcluster_id=made.dbcluster_id)
    ).body
    as_modelled("DescribeDBClusterEndpoints", endpoints.to_map())
    (address,) = endpoints.items[0].address_items
    dsn = f"host={address.connection_string} port={address.port} user=app dbname=postgres"
    assert address.connection_string == "127.0.0.1" and int(address.port) != source.port
    assert fingerprint(f"{dsn} password='correct horse'") == expected
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        sql(f"{dsn} password=wrong", "SELECT 1")
    assert fingerprint(source.tcp_dsn(user="app") + " password='correct horse'") == fingerprint(source.dsn())

    # away with it
    sdk.delete_dbcluster(models.DeleteDBClusterRequest(dbcluster_id=made.dbcluster_id))

    def gone() -> bool:
        try:
            assert attribute().dbcluster_status == "Deleting"
        except ClientException as error:
            assert (error.code, error.status_code) == ("InvalidDBClusterId.NotFound", 404)
            return True
        return False

    until(gone)
    assert not _answers(int(address.port)) and not (serving.home / "clusters" / made.dbcluster_id).exists()
    assert source.sql("SELECT id FROM later") == [(1,)]


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except OSError:
        return False
    return True


# ---------------------------------------------------------------- steps of the journey


def _see_through(client: OfficialClient, kind: Kind, cluster_id: str, job_id: str) -> None:
    """Poll until the backup is made: by its task, or by the list where the client knows no tasks."""
    if not kind.has_tasks:
        until(lambda: _ids(client, cluster_id) == [job_id])
        return

    def finished() -> Wire | None:
        shown = as_modelled(
            "DescribeBackupTasks", client.call("DescribeBackupTasks", DBClusterId=cluster_id, BackupJobId=job_id)
        )
        (task,) = shown["Items"]["BackupJob"]
        assert task["BackupJobId"] == job_id and 0 <= int(task["Process"]) <= 100
        return task if task["BackupProgressStatus"] == "Finished" else None

    task = until(finished)
    assert (task["Process"], task["JobMode"], task["TaskAction"]) == ("100", "Manual", "TempBackupTask")


def _list(client: OfficialClient, cluster_id: str) -> list[Wire]:
    now = time.time()
    window = {
        "StartTime": datetime.fromtimestamp(now - 3600, UTC).strftime("%Y-%m-%dT%H:%MZ"),
        "EndTime": datetime.fromtimestamp(now + 120, UTC).strftime("%Y-%m-%dT%H:%MZ"),
    }
    shown = as_modelled("DescribeBackups", client.call("DescribeBackups", DBClusterId=cluster_id, **window))
    found = list(shown["Items"]["Backup"])
    assert shown["PageNumber"] == "1" and shown["PageRecordCount"] == shown["TotalRecordCount"] == str(len(found))
    return found


def _ids(client: OfficialClient, cluster_id: str) -> list[str]:
    """The sets that are made, as listed: newest first."""
    return [each["BackupId"] for each in _list(client, cluster_id) if each["BackupStatus"] == "Success"]


def _check(backup: Wire, cluster_id: str, began: int, source: PostgresWorld) -> None:
    """A backup as PolarDB's list shows it: its words, and figures that can be true."""
    words = {
        "DBClusterId": cluster_id,
        "BackupStatus": "Success",
        "BackupMode": "Manual",
        "BackupMethod": "Snapshot",
        "BackupType": "FullBackup",
        "BackupsLevel": "Level-2",
        "IsAvail": "1",
    }
    assert words.items() <= backup.items(), backup
    started, ended = (
        datetime.strptime(backup[name], "%Y-%m-%dT%H:%M:%S%z").timestamp()
        for name in ("BackupStartTime", "BackupEndTime")
    )
    assert began <= started <= int(backup["ConsistentTime"]) + 1 <= ended + 1 <= time.time() + 1, backup
    ((size_bytes,),) = source.sql("SELECT sum(pg_database_size(oid)) FROM pg_database")
    assert size_bytes < int(backup["BackupSetSize"]) < size_bytes + (1 << 30), backup


def _check_refusal(refusal: Refusal, kind: Kind) -> None:
    told = {"code": QUOTA_CODE, "message": QUOTA_MESSAGE, "status": 403, "request_id": refusal.data["RequestId"]}
    assert refusal.code == kind.code.format(**told)
    if kind.message.endswith("URL: "):
        assert refusal.message.startswith(kind.message.format(**told))
    else:
        assert refusal.message == kind.message.format(**told)
    if kind.shown_as:
        assert refusal.name == kind.shown_as.format(**told)
    if "Code" in refusal.data:  # the client keeps the body
        assert (refusal.data["Code"], refusal.data["Message"]) == (QUOTA_CODE, QUOTA_MESSAGE)
    if "statusCode" in refusal.data:
        assert refusal.data["statusCode"] == 403
