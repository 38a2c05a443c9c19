"""The page that defines CreateBackup, sentence by sentence, over plain HTTP against a running server.

Each test is named after its sentence. Requests are signed here, from the published rules, and sent as bytes: nothing
of ours stands between the page and the server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from icecore import config
from icecore.app import App
from station import Station, until
from world import PostgresWorld, fingerprint

QUOTA_MESSAGE = "Exceeding the daily backup times of this DB cluster"
REQUEST_ID = "F3322AFE-083E-4D77-A074-421301******"
BACKUP_JOB_ID = "11111111"
XML_SAMPLE = """
<CreateBackupResponse>
  <RequestId>F3322AFE-083E-4D77-A074-421301******</RequestId>
  <BackupJobId>11111111</BackupJobId>
</CreateBackupResponse>
"""
JSON_SAMPLE = """
{
	"RequestId": "F3322AFE-083E-4D77-A074-421301******",
	"BackupJobId": 11111111
}
"""


# ---------------------------------------------------------------- requests, from the published rules


@dataclass(frozen=True)
class Answered:
    status: int
    content_type: str
    text: str

    @property
    def body(self) -> dict[str, Any]:
        return dict(json.loads(self.text))

    @property
    def refusal(self) -> tuple[int, str]:
        return self.status, self.body["Code"]


@dataclass(frozen=True)
class Caller:
    station: Station
    ca_file: Path | None = None

    def v1(
        self, params: Mapping[str, str], *, method: str = "POST", form: bool = False, headers: Mapping[str, str] = {}
    ) -> Answered:
        """``params`` in wire names, with all of V1's added that are not among them; in the query or in a form."""
        common = {
            "Version": "2017-08-01",
            "Timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "AccessKeyId": self.station.access_key_id,
            "SignatureMethod": "HMAC-SHA1",
            "SignatureVersion": "1.0",
            "SignatureNonce": uuid.uuid4().hex,
        }
        everything = {**common, **params}
        to_sign = f"{method}&%2F&{_encode(_encoded(everything))}"
        secret = f"{self.station.access_key_secret}&".encode()
        everything["Signature"] = base64.b64encode(hmac.digest(secret, to_sign.encode(), hashlib.sha1)).decode()
        if form:
            typed = {"Content-Type": "application/x-www-form-urlencoded", **headers}
            return self._exchange(method, "/", _encoded(everything).encode(), typed)
        return self._exchange(method, f"/?{_encoded(everything)}", b"", headers)

    def v3(self, params: Mapping[str, str], *, action: str, method: str = "POST") -> Answered:
        """``action`` goes into ``x-acs-action`` unless it is empty."""
        headers = {
            "host": urlsplit(self.station.endpoint).netloc,
            **({"x-acs-action": action} if action else {}),
            "x-acs-content-sha256": hashlib.sha256(b"").hexdigest(),
            "x-acs-date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "x-acs-signature-nonce": uuid.uuid4().hex,
            "x-acs-version": "2017-08-01",
        }
        signed = ";".join(headers)
        lines = [f"{name}:{value}" for name, value in headers.items()]
        canonical = "\n".join([method, "/", _encoded(params), *lines, "", signed, headers["x-acs-content-sha256"]])
        to_sign = f"ACS3-HMAC-SHA256\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        proof = hmac.new(self.station.access_key_secret.encode(), to_sign.encode(), hashlib.sha256).hexdigest()
        headers["Authorization"] = (
            f"ACS3-HMAC-SHA256 Credential={self.station.access_key_id},SignedHeaders={signed},Signature={proof}"
        )
        return self._exchange(method, f"/?{_encoded(params)}", b"", headers)

    def create(self, cluster_id: str, **more: str) -> Answered:
        return self.v1({"Action": "CreateBackup", "DBClusterId": cluster_id, **more})

    def _exchange(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answered:
        url = urlsplit(self.station.endpoint)
        if url.scheme == "https":
            context = ssl.create_default_context(cafile=self.ca_file)
            connection: HTTPConnection = HTTPSConnection(url.netloc, timeout=10, context=context)
        else:
            connection = HTTPConnection(url.netloc, timeout=10)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Answered(response.status, response.headers["content-type"], response.read().decode())
        finally:
            connection.close()


def _encode(text: str) -> str:
    return quote(text, safe="-_.~")


def _encoded(params: Mapping[str, str]) -> str:
    return "&".join(f"{_encode(name)}={_encode(params[name])}" for name in sorted(params))


# ---------------------------------------------------------------- two installations


@pytest.fixture(scope="module")
def serving(ground: Path) -> Iterator[Caller]:
    """Accepts and works."""
    with Station(ground) as station:
        yield Caller(station)


@pytest.fixture(scope="module")
def accepting(ground: Path) -> Iterator[Caller]:
    """Accepts only: its jobs wait for a worker, so that what is asked of the answer costs no backup."""
    station = Station(ground, "accepting")
    station.start("--no-worker")
    yield Caller(station)
    station.kill()


@pytest.fixture(scope="module")
def register(accepting: Caller, source: PostgresWorld) -> Iterator[Callable[[], str]]:
    """The id of another cluster, registered as ``cluster add`` does it, without a process for each."""
    app = App(config.load(accepting.station.home))
    wanted = {"engine": "postgresql", "connection_string": source.dsn()}

    def another() -> str:
        made = accepting.station.call("RegisterDBCluster", db_cluster_description=uuid.uuid4().hex[:12], **wanted)
        app.look_at(made["db_cluster_id"])
        return str(made["db_cluster_id"])

    yield another
    app.close()


@pytest.fixture
def cluster_id(register: Callable[[], str]) -> str:
    """A cluster of this test's own."""
    return register()


def _tasks(caller: Caller, cluster_id: str) -> list[dict[str, Any]]:
    shown = caller.v1({"Action": "DescribeBackupTasks", "DBClusterId": cluster_id})
    return list(shown.body["Items"]["BackupJob"])


# ---------------------------------------------------------------- what it does


def test_creates_a_full_snapshot_backup_for_a_specified_polardb_cluster(serving: Caller, source: PostgresWorld):
    """Full: it is restored after the backup before it was deleted."""
    station = serving.station
    specified, other = station.add(source, "specified"), station.add(source, "other")
    before, kept = (serving.create(specified).body["BackupJobId"] for _ in range(2))
    for job_id in (before, kept):
        station.wait(job_id)
    expected = fingerprint(source.dsn())
    deleted = serving.v1({"Action": "DeleteBackup", "DBClusterId": specified, "BackupId": before})
    assert deleted.status == 200 and list(deleted.body) == ["RequestId"]
    until(lambda: station.call("DescribeJobs", job_state="running")["items"]["job"] == [])
    (shown,) = station.backups(specified)
    assert (shown["backup_id"], shown["backup_method"], shown["backup_type"]) == (kept, "Snapshot", "FullBackup")
    assert shown["db_cluster_id"] == specified and station.backups(other) == []
    _, dsn = station.restore(specified, kept)
    assert fingerprint(dsn) == expected


def test_you_can_manually_create_up_to_three_backups_for_each_cluster(accepting: Caller, register: Callable[[], str]):
    clusters = [register() for _ in range(2)]
    for cluster_id in clusters:
        made = [accepting.create(cluster_id).body["BackupJobId"] for _ in range(3)]
        assert accepting.create(cluster_id).refusal == (403, "BackupTimesExceeded")
        assert sorted(task["BackupJobId"] for task in _tasks(accepting, cluster_id)) == sorted(made)
        assert len(set(made)) == 3


def test_the_error_message_indicates_three_backups_and_you_must_delete_one_before_you_call_again(
    serving: Caller, source: PostgresWorld
):
    station = serving.station
    cluster_id = station.add(source, "full")
    made = [serving.create(cluster_id).body["BackupJobId"] for _ in range(3)]
    for job_id in made:
        station.wait(job_id)
    for _ in range(2):  # it stays so until one is deleted
        refused = serving.create(cluster_id)
        assert refused.refusal == (403, "BackupTimesExceeded")
        assert refused.body["Message"].removesuffix(".") == QUOTA_MESSAGE
    assert len(station.backups(cluster_id)) == 3
    serving.v1({"Action": "DeleteBackup", "DBClusterId": cluster_id, "BackupId": made[1]})
    fourth = serving.create(cluster_id).body["BackupJobId"]
    assert serving.create(cluster_id).refusal == (403, "BackupTimesExceeded")
    station.wait(fourth)
    assert [each["backup_id"] for each in station.backups(cluster_id)] == [fourth, made[2], made[0]]


def test_after_you_call_this_operation_a_backup_task_is_created_in_the_backend(place: Path, source: PostgresWorld):
    """The answer does not wait for the task, which is there at once and is carried out by another process."""
    station = Station(place)
    station.start("--no-worker")
    caller = Caller(station)
    try:
        cluster_id = station.add(source)
        job_id = caller.create(cluster_id).body["BackupJobId"]
        (task,) = _tasks(caller, cluster_id)
        waiting = {"BackupJobId": job_id, "BackupProgressStatus": "NoStart", "Process": "0", "JobMode": "Manual"}
        assert waiting.items() <= task.items()
        worker = station.process("work")
        try:
            until(lambda: _tasks(caller, cluster_id)[0]["BackupProgressStatus"] == "Finished")
            assert _tasks(caller, cluster_id)[0]["Process"] == "100"
            assert station.backups(cluster_id)[0]["backup_status"] == "Success"
        finally:
            worker.kill()
            worker.wait()
    finally:
        station.kill()


# ---------------------------------------------------------------- request parameters


def test_action_the_operation_that_you_want_to_perform(accepting: Caller, cluster_id: str):
    """As a parameter, or under V3 as ``x-acs-action``; not required there, since the header names it."""
    token = {"DBClusterId": cluster_id, "ClientToken": f"action-{cluster_id}"}
    answers = [
        accepting.v1({"Action": "CreateBackup", **token}),
        accepting.v3(token, action="CreateBackup"),
        accepting.v3({"Action": "CreateBackup", **token}, action=""),
        accepting.v3({"Action": "CreateBackup", **token}, action="CreateBackup"),
    ]
    assert {each.status for each in answers} == {200}
    assert len({each.body["BackupJobId"] for each in answers}) == 1


@pytest.mark.parametrize("action", ["createbackup", "CreateBackups", "CreateBackup ", "é"])
def test_action_set_the_value_to_create_backup(accepting: Caller, cluster_id: str, action: str):
    assert accepting.create(cluster_id, Action=action).refusal == (404, "InvalidAction.NotFound")
    assert _tasks(accepting, cluster_id) == []


def test_action_must_come_from_somewhere(accepting: Caller, cluster_id: str):
    # under V1 the header is not signed: it cannot name the action
    refused = accepting.v1({"DBClusterId": cluster_id}, headers={"x-acs-action": "CreateBackup"})
    assert refused.refusal == (400, "MissingParameter") and '"Action"' in refused.body["Message"]
    assert _tasks(accepting, cluster_id) == []


@pytest.mark.parametrize("given", [{}, {"DBClusterId": ""}])
def test_db_cluster_id_is_required(accepting: Caller, given: dict[str, str]):
    for refused in (accepting.v1({"Action": "CreateBackup", **given}), accepting.v3(given, action="CreateBackup")):
        assert refused.refusal == (400, "MissingParameter")
        assert refused.body["Message"] == (
            'The input parameter "DBClusterId" that is mandatory for processing this request is not supplied.'
        )


def test_db_cluster_id_the_id_of_the_cluster(accepting: Caller, cluster_id: str):
    assert accepting.create("pc-000000000000").refusal == (404, "InvalidDBClusterId.NotFound")
    assert accepting.create(cluster_id.upper()).refusal == (404, "InvalidDBClusterId.NotFound")
    assert accepting.create("pc-*************").refusal == (400, "InvalidDBClusterId.Malformed")  # the page's own mask
    assert accepting.create(cluster_id).status == 200


def test_client_token_is_not_required(accepting: Caller, cluster_id: str):
    ids = {accepting.create(cluster_id, **given).body["BackupJobId"] for given in ({}, {"ClientToken": ""})}
    assert len(ids) == 2  # without a token each call has its own effect


def test_client_token_the_same_result_for_identical_requests(accepting: Caller, cluster_id: str):
    token = f"same-{cluster_id}"
    answers = [accepting.create(cluster_id, ClientToken=token) for _ in range(5)]
    assert {each.status for each in answers} == {200}
    assert len({each.body["BackupJobId"] for each in answers}) == 1
    assert len({each.body["RequestId"] for each in answers}) == 5
    assert len(_tasks(accepting, cluster_id)) == 1


def test_client_token_the_value_is_unique_for_different_requests(
    accepting: Caller, cluster_id: str, register: Callable[[], str]
):
    other = register()
    token = f"unique-{cluster_id}"
    assert accepting.create(cluster_id, ClientToken=token).status == 200
    for refused in (
        accepting.create(other, ClientToken=token),
        accepting.create(cluster_id, ClientToken=token, Comment="x"),
    ):
        assert refused.refusal == (400, "IdempotentParameterMismatch")
    assert len(_tasks(accepting, cluster_id)) == 1 and _tasks(accepting, other) == []


def test_client_token_is_case_sensitive(accepting: Caller, cluster_id: str):
    ids = [
        accepting.create(cluster_id, ClientToken=f"{word}-{cluster_id}").body["BackupJobId"]
        for word in ("token", "Token", "TOKEN")
    ]
    assert len(set(ids)) == 3 == len(_tasks(accepting, cluster_id))


@pytest.mark.parametrize("token", ["tokén", "令牌", "token\u00a0", "tok\nen", "token\x7f"])
def test_client_token_can_contain_only_ascii_characters(accepting: Caller, cluster_id: str, token: str):
    assert accepting.create(cluster_id, ClientToken=token).refusal == (400, "InvalidClientToken.Malformed")
    assert _tasks(accepting, cluster_id) == []


def test_client_token_may_contain_every_printable_ascii_character(accepting: Caller, cluster_id: str):
    printable = "".join(map(chr, range(0x20, 0x7F)))
    tokens = [printable[:48] + cluster_id, printable[48:] + cluster_id]
    ids = [accepting.create(cluster_id, ClientToken=token).body["BackupJobId"] for token in tokens]
    assert ids == [
        accepting.v3({"DBClusterId": cluster_id, "ClientToken": token}, action="CreateBackup").body["BackupJobId"]
        for token in tokens
    ]


def test_client_token_cannot_exceed_64_characters_in_length(accepting: Caller, cluster_id: str):
    longest = f"{cluster_id}{'x' * 64}"[:64]
    assert accepting.create(cluster_id, ClientToken=longest + "x").refusal == (400, "InvalidClientToken.Malformed")
    assert _tasks(accepting, cluster_id) == []
    first = accepting.create(cluster_id, ClientToken=longest)
    second = accepting.create(cluster_id, ClientToken=longest[:63] + "y")  # the last character counts
    assert (first.status, second.status) == (200, 200)
    assert first.body["BackupJobId"] != second.body["BackupJobId"]


# ---------------------------------------------------------------- response parameters and samples


def test_backup_job_id_the_id_of_the_backup_set(serving: Caller, source: PostgresWorld):
    cluster_id = serving.station.add(source, "one-number")
    job_id = serving.create(cluster_id).body["BackupJobId"]
    assert isinstance(job_id, str) and re.fullmatch("[0-9]+", job_id)
    serving.station.wait(job_id)
    day = {"StartTime": "2020-01-01T00:00Z", "EndTime": "2099-01-01T00:00Z"}
    shown = serving.v1({"Action": "DescribeBackups", "DBClusterId": cluster_id, "BackupId": job_id, **day}).body
    assert [each["BackupId"] for each in shown["Items"]["Backup"]] == [job_id]


def test_request_id_the_id_of_the_request(accepting: Caller, cluster_id: str):
    """In every answer, never twice, also when the request is refused."""
    answers = [accepting.create(cluster_id), accepting.create(cluster_id), accepting.create("pc-none")]
    ids = {each.body["RequestId"] for each in answers}
    assert len(ids) == 3
    assert all(re.fullmatch("[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}", each) for each in ids)


@pytest.mark.parametrize("tls", [False, True])
def test_sample_request_over_http_or_https(
    accepting: Caller, cluster_id: str, place: Path, source: PostgresWorld, tls: bool
):
    """One token sent in every way has one effect: GET or POST, in the query as the page shows it, or in a form."""
    caller = accepting
    if tls:
        station = Station(place)
        station.start("--tls-self-signed", "--no-worker")
        caller, cluster_id = Caller(station, station.home / "keys" / "tls-cert.pem"), station.add(source)
    assert caller.station.endpoint.startswith("https://" if tls else "http://")
    sample = {"Action": "CreateBackup", "DBClusterId": cluster_id, "ClientToken": f"way-{cluster_id}"}
    try:
        answers = [
            caller.v1(sample, method="GET"),
            caller.v1(sample, method="POST"),
            caller.v1(sample, method="POST", form=True),
            caller.v3(sample, method="GET", action=""),
            caller.v3(sample, method="POST", action=""),
        ]
        assert {each.status for each in answers} == {200}
        assert len({each.body["BackupJobId"] for each in answers}) == 1 == len(_tasks(caller, cluster_id))
    finally:
        if tls:
            caller.station.kill()


def test_sample_success_response_in_xml_format(accepting: Caller, cluster_id: str):
    """With the sample's values in it, our answer is the sample, but for white space between elements."""
    given = accepting.create(cluster_id, Format="XML")
    assert given.status == 200 and given.content_type == "text/xml;charset=utf-8"
    text = given.text.removeprefix("<?xml version='1.0' encoding='UTF-8'?>")
    text = re.sub("(?<=<RequestId>)[0-9A-F-]{36}(?=<)", REQUEST_ID, text)
    text = re.sub("(?<=<BackupJobId>)[0-9]+(?=<)", BACKUP_JOB_ID, text)
    assert text == re.sub(r"\s+(?=<)|\s+$", "", XML_SAMPLE)
    (task,) = _tasks(accepting, cluster_id)
    assert f"<BackupJobId>{task['BackupJobId']}</BackupJobId>" in given.text


def test_sample_success_response_in_json_format(accepting: Caller, cluster_id: str):
    """The sample's keys in its order; the id is a string, as the page's table says, where its sample has a number."""
    given = accepting.create(cluster_id, Format="JSON")
    assert given.status == 200 and given.content_type.startswith("application/json")
    shape = {"RequestId": REQUEST_ID, "BackupJobId": int(BACKUP_JOB_ID)}
    assert list(json.loads(JSON_SAMPLE).items()) == list(shape.items())
    assert [(name, type(value)) for name, value in given.body.items()] == [("RequestId", str), ("BackupJobId", str)]


@pytest.mark.parametrize("wanted", ["json", "Json", "None", "", "xml", "Xml"])
def test_the_format_is_json_unless_xml_is_asked_for(accepting: Caller, cluster_id: str, wanted: str):
    """``Format=None`` comes from a client that asks for nothing and reads errors in JSON only."""
    answers = [accepting.create(cluster_id, Format=wanted), accepting.create("pc-none", Format=wanted)]
    assert [each.status for each in answers] == [200, 404]
    for each, xml in zip(answers, ("<CreateBackupResponse>", "<Error>"), strict=True):
        if wanted.upper() == "XML":
            assert each.content_type == "text/xml;charset=utf-8" and xml in each.text
        else:
            assert each.content_type.startswith("application/json") and each.body["RequestId"]


def test_a_format_that_is_neither_is_refused(accepting: Caller, cluster_id: str):
    assert accepting.create(cluster_id, Format="YAML").refusal == (400, "InvalidParameter.Format")
    assert _tasks(accepting, cluster_id) == []


def test_error_codes_are_listed_in_the_error_center(accepting: Caller, cluster_id: str):
    """A refusal says where its code is explained."""
    body = accepting.create("pc-none").body
    assert list(body) == ["RequestId", "HostId", "Code", "Message", "Recommend"]
    assert body["HostId"] == urlsplit(accepting.station.endpoint).netloc
    assert body["Recommend"].startswith(f"{accepting.station.endpoint}/errors/InvalidDBClusterId.NotFound")
