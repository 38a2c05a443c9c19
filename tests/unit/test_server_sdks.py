"""Unmodified official Python SDKs against the endpoint: what they send is understood, what they read is there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest
from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.client import AcsClient
from aliyunsdkpolardb.request.v20170801.CreateBackupRequest import CreateBackupRequest as LegacyCreateBackup
from simulated_backend import SimulatedBackend, serving

os.environ["NO_PROXY"] = "127.0.0.1"  # read by both SDKs when they are imported or called

from alibabacloud_polardb20170801 import models
from alibabacloud_polardb20170801.client import Client
from alibabacloud_tea_openapi.exceptions import ClientException
from alibabacloud_tea_openapi.exceptions import ServerException as TeaServerException
from alibabacloud_tea_openapi.utils_models import Config

from icecore.api.server import Server

TOKEN = "tok ~*+/!'()"


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[SimulatedBackend, Server]]:
    backend = SimulatedBackend(time.time())
    backend.clock = time.time  # type: ignore[method-assign]
    with serving(backend) as server:
        yield backend, server


def current(server: Server, algorithm: str | None, key: tuple[str, str] = ("testid", "testsecret")) -> Client:
    place = f"127.0.0.1:{server.port}"
    config = Config(access_key_id=key[0], access_key_secret=key[1], endpoint=place, protocol="http")
    if algorithm:
        config.signature_algorithm = algorithm
    return Client(config)


@pytest.mark.parametrize("algorithm", [None, "v2"], ids=["V3", "V1"])
def test_current_sdk(served: tuple[SimulatedBackend, Server], algorithm: str | None) -> None:
    backend, server = served
    client = current(server, algorithm)
    answer = client.create_backup(models.CreateBackupRequest(dbcluster_id="pc-1", client_token=TOKEN, comment="é"))
    assert answer.status_code == 200 and answer.body.backup_job_id == "11111111"
    assert answer.body.request_id == answer.headers["x-acs-request-id"]
    assert backend.calls[-1][0].params == {"db_cluster_id": "pc-1", "client_token": TOKEN, "comment": "é"}

    # lists and paging come in the types of its models
    request = models.DescribeBackupsRequest(
        dbcluster_id="pc-1", start_time="2026-11-01T00:00Z", end_time="2026-11-30T00:00Z", page_size=30, page_number=1
    )
    backups = client.describe_backups(request).body
    assert backups.page_number == "1" and backups.items.backup[0].backup_id == "4182"
    clusters = client.describe_dbclusters(models.DescribeDBClustersRequest(region_id="cn-hangzhou")).body
    assert clusters.total_record_count == 1 and clusters.items.dbcluster[0].dbcluster_description == "shop"

    # errors: code, message, status and request id
    with pytest.raises(ClientException) as unknown:
        client.create_backup(models.CreateBackupRequest(dbcluster_id="pc-unknown"))
    assert (unknown.value.code, unknown.value.status_code) == ("InvalidDBClusterId.NotFound", 404)
    assert "The DBClusterId provided does not exist in our records." in unknown.value.message
    with pytest.raises(ClientException) as full:
        client.create_backup(models.CreateBackupRequest(dbcluster_id="pc-full"))
    assert full.value.code == "BackupTimesExceeded"
    with pytest.raises(TeaServerException) as broken:
        client.create_backup(models.CreateBackupRequest(dbcluster_id="pc-broken"))
    assert (broken.value.code, broken.value.status_code) == ("InternalError", 500)
    with pytest.raises(ClientException) as refused:
        current(server, algorithm, ("testid", "wrong")).describe_regions(models.DescribeRegionsRequest())
    assert refused.value.code == "SignatureDoesNotMatch"


def test_legacy_sdk(served: tuple[SimulatedBackend, Server]) -> None:
    backend, server = served
    client = AcsClient("testid", "testsecret", "cn-hangzhou")

    def request(cluster_id: str) -> LegacyCreateBackup:
        made = LegacyCreateBackup()
        made.set_endpoint(f"127.0.0.1:{server.port}")
        made.set_DBClusterId(cluster_id)
        made.set_ClientToken(TOKEN)
        return made

    answer = json.loads(client.do_action_with_exception(request("pc-1")))
    assert answer["BackupJobId"] == "11111111"
    assert backend.calls[-1][0].params["client_token"] == TOKEN
    with pytest.raises(ServerException) as caught:
        client.do_action_with_exception(request("pc-full"))
    assert caught.value.get_error_code() == "BackupTimesExceeded"
    assert caught.value.get_error_msg() == "Exceeding the daily backup times of this DB cluster."
    assert caught.value.get_http_status() == 403 and caught.value.get_request_id()


def test_legacy_sdk_tells_a_wrong_secret_by_the_string_to_sign(served: tuple[SimulatedBackend, Server]) -> None:
    """It compares ours with its own and reports a wrong secret only when both are equal to the last character."""
    _, server = served
    request = LegacyCreateBackup()
    request.set_endpoint(f"127.0.0.1:{server.port}")
    request.set_accept_format("JSON")
    request.set_DBClusterId("pc-1")
    request.set_ClientToken(TOKEN)
    with pytest.raises(ServerException) as caught:
        AcsClient("testid", "wrong", "cn-hangzhou").do_action_with_exception(request)
    assert caught.value.get_error_code() == "InvalidAccessKeySecret"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", [None, "JSON", "XML"])
def test_legacy_sdk_with_a_form_body_in_each_format(served: tuple[SimulatedBackend, Server], form: str | None) -> None:
    """Without a choice it sends Format=None."""
    backend, server = served
    request = LegacyCreateBackup()
    request.set_endpoint(f"127.0.0.1:{server.port}")
    request.set_accept_format(form)
    request.set_DBClusterId("pc-1")
    request.add_body_params("ClientToken", TOKEN)
    answer = AcsClient("testid", "testsecret", "cn-hangzhou").do_action(request)
    assert (b"<CreateBackupResponse><RequestId>" if form == "XML" else b'{"RequestId":"') in answer
    assert backend.calls[-1][0].params["client_token"] == TOKEN
