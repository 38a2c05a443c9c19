"""The endpoint over real sockets: captured requests, formats, limits, garbage, and what never leaks."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import xml.etree.ElementTree as ET
from calendar import timegm
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_backend import SimulatedBackend, exchange, read_answer, serving, signed

from icecore.api import contract, listen
from icecore.api.client import sign_v1
from icecore.api.server import BODY_LIMIT_BYTES, Gateway, Server, build_app
from icecore.api.signature import Request
from icecore.errors import Refused

CAPTURED = sorted((Path(__file__).parents[1] / "vectors" / "requests").glob("*.txt"))
REQUEST_ID = re.compile(r"[0-9A-F]{8}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{4}-[0-9A-F]{12}")


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[SimulatedBackend, Server]]:
    backend = SimulatedBackend()
    with serving(backend) as server:
        yield backend, server


def captured(path: Path) -> tuple[bytes, bytes, float]:
    """Head, body as it goes over the wire, and the moment it was signed."""
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    if b"Transfer-Encoding: chunked" in head:
        cut = len(body) // 2
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:cut], body[cut:])) + b"0\r\n\r\n"
    date = re.search(rb"(?:Timestamp=|x-acs-date: )(\S+?Z)", head.replace(b"%3A", b":"))
    assert date
    return head + b"\r\n\r\n", body, timegm(time.strptime(date[1].decode(), "%Y-%m-%dT%H:%M:%SZ"))


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.stem)
@pytest.mark.parametrize("cut", ["whole", "bytes"])
def test_captured_requests_verify(path: Path, cut: str) -> None:
    """Ten requests of real clients, as they were sent: in one piece and byte by byte."""
    head, body, signed_at = captured(path)
    backend = SimulatedBackend(signed_at)
    if "sts" in path.stem:
        backend.keys["testid"] = dataclasses.replace(backend.keys["testid"], security_token="testtoken")
    whole = head + body
    with serving(backend) as server:
        parts = [whole] if cut == "whole" else [whole[i : i + 1] for i in range(len(whole))]
        status, headers, content = exchange(server.port, parts)
        again, _, refused = exchange(server.port, [whole])

    # the signature was found right; a ClientToken with an é is then refused by the contract
    first, second = backend.records
    assert first.access_key_id == "testid" and first.action in path.stem
    assert REQUEST_ID.fullmatch(headers["x-acs-request-id"])
    if b"%C3%A9" in whole:
        assert (status, first.code) == (400, "InvalidClientToken.Malformed")
        assert not backend.calls
    else:
        assert (status, first.code) == (200, "OK"), content
        ((call, _),) = backend.calls
        assert call.params["db_cluster_id"] == "pc-test0001"
    if "xml" in path.stem:
        assert ET.fromstring(content).tag == "CreateBackupResponse"
        assert b"<Code>SignatureNonceUsed</Code>" in refused
    else:
        assert json.loads(content)["RequestId"] == headers["x-acs-request-id"]
        assert json.loads(refused)["Code"] == "SignatureNonceUsed"

    # A2: the nonce was used up whatever followed
    assert (again, second.code) == (400, "SignatureNonceUsed")


# ---------------------------------------------------------------- the order of checks


def call_in_process(backend: SimulatedBackend, request: Request) -> tuple[str, int]:
    answer = Gateway(backend, backend.clock).answer(request)
    return answer.code or "OK", answer.status


def test_A2_a_nonce_works_once_per_key_and_only_a_valid_signature_uses_it_up() -> None:
    backend = SimulatedBackend()
    request = signed(backend, "DescribeRegions", [])
    forged = dataclasses.replace(request, query="DBClusterId=pc-1")
    assert call_in_process(backend, forged) == ("SignatureDoesNotMatch", 400)
    assert call_in_process(backend, request) == ("OK", 200)
    assert call_in_process(backend, request) == ("SignatureNonceUsed", 400)
    # another key may use the same one
    other = [(name, value) for name, value in request.headers if name != "x-acs-signature-nonce"]
    assert len(other) == len(request.headers) - 1
    assert backend.use_nonce("readerid", next(iter(backend.nonces))[1], 0)


def test_A2_concurrent_replays_give_one_success() -> None:
    backend = SimulatedBackend()
    request = signed(backend, "CreateBackup", [("DBClusterId", "pc-1")])
    gateway = Gateway(backend, backend.clock)
    with ThreadPoolExecutor(8) as pool:
        codes = [answer.code for answer in pool.map(lambda _: gateway.answer(request), range(32))]
    assert sorted(codes) == [""] + ["SignatureNonceUsed"] * 31
    assert len(backend.calls) == 1


def test_A1_nothing_else_is_answered_before_the_signature_is_right() -> None:
    backend = SimulatedBackend()
    for action, query in (("Nothing", ""), ("CreateBackup", "PageSize=1"), ("CreateBackup", "Format=PDF")):
        request = signed(backend, action, [])
        forged = dataclasses.replace(request, query=query or "x=1")
        assert call_in_process(backend, forged) == ("SignatureDoesNotMatch", 400)
    assert call_in_process(backend, signed(backend, "CreateBackup", [("Format", "PDF")])) == (
        "InvalidParameter.Format",
        400,
    )


def test_C1_no_success_is_answered_when_the_operation_did_not_return() -> None:
    backend = SimulatedBackend()
    for cluster_id, expected in (
        ("pc-unknown", ("InvalidDBClusterId.NotFound", 404)),
        ("pc-full", ("BackupTimesExceeded", 403)),
        ("pc-broken", ("InternalError", 500)),
    ):
        request = signed(backend, "CreateBackup", [("DBClusterId", cluster_id)])
        assert call_in_process(backend, request) == expected


def test_readers_may_only_look() -> None:
    backend = SimulatedBackend()
    for op in contract.operations().values():
        pairs = [(p.name, p.example) for p in op.bound() if p.required]
        expected = ("Forbidden.RAM", 403) if op.mutates else ("OK", 200)
        assert call_in_process(backend, signed(backend, op.name, pairs, key="readerid")) == expected
    assert all(not call.operation.mutates for call, _ in backend.calls)


def test_action_and_version() -> None:
    backend = SimulatedBackend()

    def v1(action: str, extra: list[tuple[str, str]]) -> tuple[str, int]:
        key = ("testid", "testsecret", "")
        return call_in_process(backend, sign_v1("h", action, extra, key, int(backend.now), os.urandom(8).hex()))

    assert v1("DescribeRegions", []) == ("OK", 200)
    assert v1("", []) == ("MissingParameter", 400)
    # V3: parameter and signed header must agree
    same = signed(backend, "DescribeRegions", [("Action", "DescribeRegions"), ("Version", "2017-08-01")])
    assert call_in_process(backend, same) == ("OK", 200)
    other = signed(backend, "DescribeRegions", [("Action", "CreateBackup")])
    assert call_in_process(backend, other) == ("InvalidAction.Malformed", 400)
    old = signed(backend, "DescribeRegions", [("Version", "2014-05-26")])
    assert call_in_process(backend, old) == ("InvalidVersion.Malformed", 400)


def test_under_V1_unsigned_headers_do_not_choose_the_action() -> None:
    backend = SimulatedBackend()
    request = sign_v1("h", "", [], ("testid", "testsecret", ""), int(backend.now), "n")
    redirected = dataclasses.replace(request, headers=[*request.headers, ("x-acs-action", "DeleteBackup")])
    assert call_in_process(backend, redirected) == ("MissingParameter", 400)


# ---------------------------------------------------------------- over the socket


def raw(method: str, target: str, headers: str = "", body: bytes = b"") -> bytes:
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    return f"{method} {target} HTTP/1.1\r\nHost: h\r\n{length}{headers}\r\n".encode() + body


@pytest.mark.parametrize(
    ("request_bytes", "status", "code"),
    [
        (raw("GET", "/"), 400, "MissingAccessKeyId"),
        (raw("POST", "/", body=b"a=b"), 400, "MissingAccessKeyId"),
        (raw("GET", "/?%FF=1"), 400, "InvalidParameter"),
        (raw("GET", "/?a=%C3"), 400, "InvalidParameter"),
        (raw("GET", "/?Format=XML"), 400, "MissingAccessKeyId"),
        (raw("GET", "/?" + "a" * 40000), 413, "RequestEntityTooLarge"),
        (raw("GET", "/", "Authorization: ACS3-HMAC-SHA256 nonsense\r\n"), 400, "IncompleteSignature"),
        (raw("GET", "/", "Authorization: Basic eDp5\r\n"), 400, "MissingAccessKeyId"),
        (raw("PUT", "/"), 403, "UnsupportedHTTPMethod"),
        (raw("DELETE", "/"), 403, "UnsupportedHTTPMethod"),
        (raw("OPTIONS", "/"), 403, "UnsupportedHTTPMethod"),
        (raw("BREW", "/"), 403, "UnsupportedHTTPMethod"),
        (raw("GET", "/elsewhere"), 404, "InvalidAction.NotFound"),
        (raw("GET", "//"), 404, "InvalidAction.NotFound"),
        (raw("GET", "/healthz/"), 404, "InvalidAction.NotFound"),
        (raw("POST", "/healthz"), 403, "UnsupportedHTTPMethod"),
        (raw("POST", "/", f"Content-Length: {BODY_LIMIT_BYTES + 1}\r\n"), 413, "RequestEntityTooLarge"),
        (raw("POST", "/", "Content-Length: 99999999999999999999\r\n"), 413, "RequestEntityTooLarge"),
        (raw("POST", "/", "Content-Length: x\r\n"), 400, "InvalidParameter"),
        (raw("POST", "/", "Transfer-Encoding: chunked\r\n") + b"zz\r\n", 400, "InvalidParameter"),
        (raw("GET", "/", "Cookie: " + "c" * 70000 + "\r\n"), 413, "RequestEntityTooLarge"),
        (raw("GET", "/", "Cookie: " + "c" * 300000 + "\r\n"), 413, "RequestEntityTooLarge"),
        (b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n", 400, "InvalidParameter"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "InvalidParameter"),
        (b"HELO there\r\n\r\n", 400, "InvalidParameter"),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else str(value),
)
def test_refusals_over_the_socket(
    served: tuple[SimulatedBackend, Server], request_bytes: bytes, status: int, code: str
) -> None:
    backend, server = served
    got, headers, body = exchange(server.port, [request_bytes])
    if b"Format=XML" in request_bytes:
        wire = {child.tag: child.text for child in ET.fromstring(body)}
    else:
        assert headers["content-type"] == "application/json; charset=utf-8"
        wire = json.loads(body)
    assert (got, wire["Code"]) == (status, code)
    assert REQUEST_ID.fullmatch(wire["RequestId"]) and wire["RequestId"] == headers["x-acs-request-id"]
    assert wire["Message"]
    assert not backend.calls


def test_head_has_no_body(served: tuple[SimulatedBackend, Server]) -> None:
    _, server = served
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(raw("HEAD", "/", "Connection: close\r\n"))
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert received.startswith(b"HTTP/1.1 403 ") and received.endswith(b"\r\n\r\n")


def test_a_body_over_the_limit_is_not_read_on(served: tuple[SimulatedBackend, Server]) -> None:
    """Chunked, so that its size is not announced: the answer comes while the body is still being sent."""
    _, server = served
    chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(raw("POST", "/", "Transfer-Encoding: chunked\r\n"))
        for _ in range(BODY_LIMIT_BYTES // 65536):
            connection.sendall(chunk)
        connection.sendall(b"1\r\nx\r\n")
        status, headers, body = read_answer(connection)
        assert (status, headers["connection"]) == (413, "close")
        assert json.loads(body)["Code"] == "RequestEntityTooLarge"
        assert connection.recv(1) == b""


def test_a_large_body_within_the_limit_is_read(served: tuple[SimulatedBackend, Server]) -> None:
    _, server = served
    status, _, body = exchange(server.port, [raw("POST", "/", body=b"x" * BODY_LIMIT_BYTES)])
    assert (status, json.loads(body)["Code"]) == (400, "MissingAccessKeyId")


def test_connections_are_kept_and_pipelined(served: tuple[SimulatedBackend, Server]) -> None:
    _, server = served
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        for _ in range(3):
            connection.sendall(raw("GET", "/healthz"))
            assert read_answer(connection)[0] == 200


def test_health_and_readiness() -> None:
    backend = SimulatedBackend()
    with serving(backend) as server:
        assert json.loads(exchange(server.port, [raw("GET", "/healthz")])[2]) == {"status": "ok"}
        assert exchange(server.port, [raw("GET", "/readyz")])[0] == 200
        backend.reasons = ["catalog: locked"]
        status, _, body = exchange(server.port, [raw("GET", "/readyz")])
        assert (status, json.loads(body)) == (503, {"ready": False, "reasons": ["catalog: locked"]})


def test_slow_calls_do_not_hold_up_others() -> None:
    backend = SimulatedBackend()
    run = backend.run

    def slow(call: contract.Call, caller: object) -> dict[str, object]:
        if call.params.get("db_cluster_id") == "pc-slow":
            time.sleep(0.7)
        return run(call, caller)  # type: ignore[arg-type]

    backend.run = slow  # type: ignore[method-assign,assignment]
    with serving(backend) as server, ThreadPoolExecutor(40) as pool:

        def call(cluster_id: str) -> int:
            request = signed(backend, "CreateBackup", [("DBClusterId", cluster_id)])
            headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers if name != "host")
            head = f"POST /?{request.query} HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{headers}Content-Length: 0\r\n\r\n"
            return exchange(server.port, [head.encode()])[0]

        slow_calls = [pool.submit(call, "pc-slow") for _ in range(32)]
        time.sleep(0.2)
        began = time.monotonic()
        assert call("pc-1") == 200
        assert time.monotonic() - began < 0.4
        assert [one.result() for one in slow_calls] == [200] * 32
        assert time.monotonic() - began < 5


def test_what_nobody_foresaw_is_logged_with_its_request_id_and_not_told(capsys: pytest.CaptureFixture[str]) -> None:
    backend = SimulatedBackend()
    request = signed(backend, "CreateBackup", [("DBClusterId", "pc-broken")])
    with structlog.testing.capture_logs() as logged:
        answer = Gateway(backend, backend.clock).answer(request)
    assert (answer.status, answer.code) == (500, "InternalError")
    assert b"secret words" not in answer.body and b"Traceback" not in answer.body
    (line,) = logged
    assert line["request_id"] == answer.request_id and "ZeroDivisionError" in line["trace"]
    for secret in ("testsecret", "Signature=", dict(request.headers)["authorization"][-64:]):
        assert secret not in repr(line)


def test_a_history_that_cannot_be_kept_does_not_break_the_answer() -> None:
    backend = SimulatedBackend()
    backend.note = lambda record: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert call_in_process(backend, signed(backend, "DescribeRegions", [])) == ("OK", 200)


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost"], ids=["nothing", "half a head"])
def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(listen, "HEAD_TIMEOUT_S", 0.3)
    with serving(SimulatedBackend()) as server, socket.create_connection(("127.0.0.1", server.port), 5) as connection:
        connection.sendall(sent)
        assert connection.recv(1) == b""


def test_a_body_that_does_not_come_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icecore.api.server.BODY_TIMEOUT_S", 0.3)
    with serving(SimulatedBackend()) as server:
        status, headers, body = exchange(server.port, [raw("POST", "/", "Content-Length: 10\r\n") + b"half"])
    assert (status, json.loads(body)["Code"], headers["connection"]) == (400, "InvalidParameter", "close")


def test_a_client_that_leaves_does_no_harm() -> None:
    backend = SimulatedBackend()
    with serving(backend) as server:
        for sent in (raw("POST", "/", "Content-Length: 10\r\n") + b"half", raw("GET", "/")):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
                connection.sendall(sent)
        assert exchange(server.port, [raw("GET", "/healthz")])[0] == 200


# ---------------------------------------------------------------- garbage

CODES = {code for op in contract.operations() for code in contract.documented_errors(op)} | {("OK", 200)}
TEXT = st.text(max_size=30)
WORDS = st.sampled_from(
    [p.name for op in contract.operations().values() for p in op.bound()]
    + [p.name for p in contract.common_parameters()]
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.text(st.characters(max_codepoint=255), max_size=80),
    st.lists(st.tuples(st.sampled_from(["host", "authorization", "x-acs-date", "accept", "x-acs-action"]), TEXT)),
    st.binary(max_size=200),
)
def test_garbage_gives_documented_codes_only(
    method: str, query: str, headers: list[tuple[str, str]], body: bytes
) -> None:
    backend = SimulatedBackend()
    assert call_in_process(backend, Request(method, "/", query, headers, body)) in CODES
    assert not backend.calls


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(list(contract.operations())),
    st.lists(st.tuples(WORDS | TEXT, TEXT | st.sampled_from(["pc-1", "4182", "1", "2026-11-01T00:00Z"])), max_size=6),
)
def test_signed_garbage_gives_documented_codes_only(action: str, pairs: list[tuple[str, str]]) -> None:
    """Parameters that are well signed and nothing else: the operation's documented codes, or a bound call."""
    backend = SimulatedBackend()
    code, status = call_in_process(backend, signed(backend, action, pairs))
    common = {(f"Invalid{name}.Malformed", 400) for name in ("Action", "Version")}
    assert (code, status) in contract.documented_errors(action) | common | {("OK", 200)}
    assert bool(backend.calls) == (code == "OK")


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"POST /?a=b HTTP/1.1\r\nHost: h\r\n", b"GET /"]),
    st.binary(max_size=200) | st.text(max_size=100).map(str.encode),
)
def test_garbage_over_the_socket_gives_documented_codes_or_nothing(
    served: tuple[SimulatedBackend, Server], begin: bytes, rest: bytes
) -> None:
    backend, server = served
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(begin + rest + b"\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        try:
            received = b"".join(iter(lambda: connection.recv(65536), b""))
        except ConnectionResetError:
            received = b""
    # the garbage may have been several requests
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        length = int(re.findall(rb"content-length: (\d+)", head)[0])
        body, received = received[:length], received[length:]
        assert (json.loads(body)["Code"], int(head.split()[1])) in CODES
    assert not backend.calls


# ---------------------------------------------------------------- the process

PROGRAM = """
    import sys, time
    from pathlib import Path
    sys.path.insert(0, {tests!r})
    from simulated_backend import SimulatedBackend
    from icecore.api.server import build_app, run_server

    class Slow(SimulatedBackend):
        def ready(self):
            print("working", flush=True)
            time.sleep(1.0)
            return []

    run_server(build_app(Slow()), "127.0.0.1", 0, on_started=lambda server: print(server.port, flush=True))
    print("ended in order", flush=True)
"""


def test_sigterm_lets_running_calls_finish() -> None:
    program = textwrap.dedent(PROGRAM.format(tests=str(Path(__file__).parent)))
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            port = int(process.stdout.readline())
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                connection.sendall(raw("GET", "/readyz"))
                assert process.stdout.readline() == "working\n"
                process.send_signal(signal.SIGTERM)
                began = time.monotonic()
                assert read_answer(connection)[0] == 200
            assert process.wait(10) == 0
            assert time.monotonic() - began < 5
            assert process.stdout.read() == "ended in order\n"
        finally:
            process.kill()


def test_a_call_that_hangs_does_not_keep_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listen, "GRACE_S", 1)
    backend = SimulatedBackend()
    hanging, released = threading.Event(), threading.Event()

    def hang(access_key_id: str) -> None:
        hanging.set()
        released.wait(10)

    backend.find_key = hang  # type: ignore[method-assign,assignment]
    request = signed(backend, "DescribeRegions", [])
    headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers if name != "host")
    try:
        with socket.socket() as connection:
            with serving(backend) as server:
                connection.connect(("127.0.0.1", server.port))
                connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n{headers}\r\n".encode())
                assert hanging.wait(5)
                began = time.monotonic()
            assert time.monotonic() - began < 5
    finally:
        released.set()


def test_what_cannot_listen_is_refused(served: tuple[SimulatedBackend, Server], tmp_path: Path) -> None:
    app = build_app(SimulatedBackend())
    with pytest.raises(Refused, match="cannot listen"):
        Server(app, "127.0.0.1", served[1].port)
    with pytest.raises(Refused, match="cannot use the certificate"):
        Server(app, tls_cert=tmp_path / "none.pem", tls_key=tmp_path / "none.key")
    (tmp_path / "cert.pem").write_text("no certificate")
    with pytest.raises(Refused, match="cannot use the certificate"):
        Server(app, tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "cert.pem")


def test_a_server_for_all_addresses_is_announced_by_one_that_can_be_called() -> None:
    backend = SimulatedBackend()
    with serving(backend, host="0.0.0.0") as server:
        assert server.endpoint == f"http://127.0.0.1:{server.port}"
        assert exchange(server.port, [raw("GET", "/healthz")])[0] == 200
