"""Our own client against the real server: both signatures, TLS, errors rebuilt, servers that are not there."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulated_backend import SimulatedBackend, serving

from icecore import errors
from icecore.api.client import Client, RemoteError, rebuild
from icecore.api.server import Server, self_signed


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[SimulatedBackend, Server]]:
    backend = SimulatedBackend(time.time())
    with serving(backend) as server:
        yield backend, server


@pytest.mark.parametrize("version", ["V1", "V3"])
@pytest.mark.parametrize(
    "text", ["before the upgrade", "é ~*+/!'()&=%;#? \u2028 \U0001f9ca", "a=b&Action=DeleteBackup"]
)
def test_calls_arrive_as_they_were_meant(served: tuple[SimulatedBackend, Server], version: str, text: str) -> None:
    backend, server = served
    client = Client(server.endpoint, "testid", "testsecret", version)
    answer = client.call("CreateBackup", db_cluster_id="pc-1", comment=text, client_token=None)
    assert answer["backup_job_id"] == "11111111" and answer["request_id"]
    assert backend.calls[-1][0].params == {"db_cluster_id": "pc-1", "client_token": None, "comment": text}


@pytest.mark.parametrize("version", ["V1", "V3"])
def test_security_token(served: tuple[SimulatedBackend, Server], version: str) -> None:
    _, server = served
    Client(server.endpoint, "stsid", "stssecret", version, security_token="testtoken").call("DescribeRegions")
    with pytest.raises(errors.InvalidSecurityToken):
        Client(server.endpoint, "stsid", "stssecret", version).call("DescribeRegions")


@pytest.mark.parametrize("version", ["V1", "V3"])
def test_error_answers_become_what_the_server_raised(served: tuple[SimulatedBackend, Server], version: str) -> None:
    _, server = served
    client = Client(server.endpoint, "testid", "testsecret", version)
    with pytest.raises(errors.ClusterNotFound) as caught:
        client.call("CreateBackup", db_cluster_id="pc-unknown")
    assert (caught.value.exit, caught.value.wire_code()) == (5, "InvalidDBClusterId.NotFound")
    with pytest.raises(errors.QuotaExceeded) as full:
        client.call("CreateBackup", db_cluster_id="pc-full")
    assert full.value.exit == 6 and "icecore delete" in full.value.advice()
    with pytest.raises(errors.MissingParameter) as missing:
        client.call("CreateBackup")
    assert missing.value.advice() == "Add DBClusterId to the request."
    with pytest.raises(errors.SignatureMismatch):
        Client(server.endpoint, "testid", "other", version).call("DescribeRegions")
    reply = client.send("CreateBackup", db_cluster_id="pc-full")
    assert reply.status == 403 and isinstance(reply.error, errors.QuotaExceeded)
    assert json.loads(reply.body) == reply.wire and reply.wire["RequestId"] == reply.request_id


def samples_of(kind: type[errors.IcecoreError]) -> errors.IcecoreError:
    if issubclass(kind, errors.Refused):
        return kind("it is so", "do this")
    fields = ("parameter", "reason", "string_to_sign", "limit_bytes", "backup_id", "backup_status", "name")
    fields += ("doing", "do", "job_id", "place", "endpoint", "moment", "nearest")
    return kind(**dict.fromkeys(fields, "Thing"))


@pytest.mark.parametrize(
    "kind", [k for k in errors.every_error() if k is not RemoteError], ids=lambda kind: str(kind.__name__)
)
def test_every_error_survives_the_way(kind: type[errors.IcecoreError]) -> None:
    """Whatever an operation raises, the command line shows the same text, advice and exit code as in process."""
    raised = samples_of(kind)
    error = rebuild(raised.wire_code(), raised.message, raised.status)
    assert error.message == raised.message and str(error) == raised.message
    assert error.wire_code() == raised.wire_code()
    assert (error.status, error.retry) == (raised.status, raised.retry)
    if kind not in (errors.BrokenLaw, errors.InvalidParameter):  # InternalError does not say which it was
        assert error.exit == raised.exit
    if not issubclass(kind, errors.Refused) and kind not in (errors.BrokenLaw, errors.Busy):
        assert error.advice() == raised.advice()  # a Refused's own hint is not on the wire


def test_unknown_codes_keep_everything() -> None:
    for status, family in ((418, errors.CallerError), (503, errors.WorldError)):
        error = rebuild("Later.Code", "of a later version", status)
        assert isinstance(error, RemoteError)
        assert (error.wire_code(), error.message, error.status) == ("Later.Code", "of a later version", status)
        assert (error.exit, error.retry) == (family.exit, family.retry)


def test_nobody_there() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = Client(f"http://127.0.0.1:{unused.getsockname()[1]}", "testid", "testsecret")
        with pytest.raises(errors.ServerUnreachable) as caught:
            client.call("DescribeRegions")
    assert caught.value.exit == 7 and caught.value.retry


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n<html>"])
def test_answers_that_are_none(answer: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def once() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)

    thread = threading.Thread(target=once)
    thread.start()
    client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "testid", "testsecret", timeout_s=5)
    with pytest.raises((errors.ServerUnreachable, RemoteError)):
        client.call("DescribeRegions")
    thread.join()
    listener.close()


def test_an_answer_that_does_not_come_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Client(f"http://127.0.0.1:{silent.getsockname()[1]}", "testid", "testsecret", timeout_s=0.3)
        began = time.monotonic()
        with pytest.raises(errors.ServerUnreachable):
            client.call("DescribeRegions")
        assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "endpoint", ["127.0.0.1:80", "ftp://h", "http://h/path", "http://", "http://h:x", "http://h\r\n"]
)
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(errors.Usage):
        Client(endpoint, "testid", "testsecret")


def test_keys_with_blanks_are_refused_here() -> None:
    for key in ("", "a b", "a\n"):
        with pytest.raises(errors.Usage):
            Client("http://h", key, "testsecret")


def test_tls_with_a_self_signed_certificate(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path / "tls")
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert self_signed(tmp_path / "tls") == (cert, key)  # kept
    before = cert.read_bytes()
    backend = SimulatedBackend(time.time())
    with serving(backend, tls_cert=cert, tls_key=key) as server:
        assert server.endpoint == f"https://127.0.0.1:{server.port}"
        for version in ("V1", "V3"):
            for host in ("127.0.0.1", "localhost"):
                client = Client(f"https://{host}:{server.port}", "testid", "testsecret", version, ca_file=cert)
                assert client.call("DescribeRegions")["regions"]
        with pytest.raises(errors.ServerUnreachable, match="certificate"):
            Client(server.endpoint, "testid", "testsecret").call("DescribeRegions")
        recommend = Client(server.endpoint, "no", "x", ca_file=cert).send("DescribeRegions").wire["Recommend"]
        assert recommend.startswith("https://127.0.0.1:")
    assert cert.read_bytes() == before
    with pytest.raises(errors.Usage):
        Client("https://h", "testid", "testsecret", ca_file=tmp_path / "none").call("DescribeRegions")


def test_the_client_imports_no_server() -> None:
    """The command line starts with it: nothing slow may come along."""
    program = "import sys, icecore.api.client, icecore.api.samples; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"starlette", "uvicorn", "h11", "structlog", "httpx", "requests", "sqlalchemy", "cryptography"}
