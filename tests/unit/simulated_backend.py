"""A backend without a catalog: it keeps what it was asked to do and answers with the contract's examples."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from icecore.api import contract
from icecore.api.client import sign_v3
from icecore.api.server import AccessKey, Backend, Caller, CallRecord, Server, build_app
from icecore.api.signature import Request
from icecore.errors import ClusterNotFound, QuotaExceeded

KEYS = {
    "testid": AccessKey("testid", "testsecret", True, None, "admin"),
    "readerid": AccessKey("readerid", "readersecret", True, None, "reader"),
    "oldid": AccessKey("oldid", "oldsecret", False, None, "admin"),
    "stsid": AccessKey("stsid", "stssecret", True, "testtoken", "admin"),
}


class SimulatedBackend(Backend):
    """``now`` is its clock. Cluster ``pc-unknown`` does not exist, ``pc-full`` has three backups, ``pc-broken`` raises
    what nobody foresaw."""

    def __init__(self, now: float = 1795500000.0) -> None:
        self.now = now
        self.keys = dict(KEYS)
        self.nonces: set[tuple[str, str]] = set()
        self.calls: list[tuple[contract.Call, Caller]] = []
        self.records: list[CallRecord] = []
        self.reasons: list[str] = []
        self.lock = threading.Lock()

    def clock(self) -> float:
        return self.now

    def find_key(self, access_key_id: str) -> AccessKey | None:
        return self.keys.get(access_key_id)

    def use_nonce(self, access_key_id: str, nonce: str, now: int) -> bool:
        with self.lock:
            if (access_key_id, nonce) in self.nonces:
                return False
            self.nonces.add((access_key_id, nonce))
            return True

    def run(self, call: contract.Call, caller: Caller) -> dict[str, Any]:
        self.calls.append((call, caller))
        match call.params.get("db_cluster_id"):
            case "pc-unknown":
                raise ClusterNotFound()
            case "pc-full":
                raise QuotaExceeded()
            case "pc-broken":
                raise ZeroDivisionError("secret words of the inside")
        result = contract.parse(call.action, call.operation.example)
        result.pop("request_id")
        return result

    def ready(self) -> list[str]:
        return self.reasons

    def note(self, record: CallRecord) -> None:
        self.records.append(record)


@contextmanager
def serving(backend: SimulatedBackend, **tls: Any) -> Iterator[Server]:
    """The real server on a free port, in a thread."""
    server = Server(build_app(backend, clock=backend.clock), **tls)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(15)
        assert not thread.is_alive()


_nonce = 0


def signed(backend: SimulatedBackend, action: str, pairs: list[tuple[str, str]], key: str = "testid") -> Request:
    """A V3 request that is right in every part."""
    global _nonce
    _nonce += 1
    secret = backend.keys[key].secret
    token = backend.keys[key].security_token or ""
    return sign_v3("127.0.0.1:8080", action, pairs, (key, secret, token), int(backend.now), f"nonce-{_nonce}")


def exchange(port: int, parts: list[bytes]) -> tuple[int, dict[str, str], bytes]:
    """Send ``parts`` one by one over a fresh connection; status, headers and body of the first answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
        return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += _more(connection)
    status = re.match(r"HTTP/1\.1 (\d+)", first)
    assert status, first
    return int(status[1]), headers, body


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection within its answer")
    return data
