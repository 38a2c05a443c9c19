"""What was tried against the console from outside, and with a reader's key: none of it may work again."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from visitor import Visitor, visiting

from icecore import app as application
from icecore.api import client
from icecore.app import App
from icecore.catalog import console as records
from icecore.catalog import keys
from icecore.console import explorer_bytes, session

FORM = "Content-Type: application/x-www-form-urlencoded\r\n"


class Gate:
    """A served home with two keys, for all tests of the module."""

    def __init__(self, home: Path, app: App, port: int) -> None:
        self.home, self.app, self.port = home, app, port
        self.admin = keys.create(app.catalog, "admin")
        self.reader = keys.create(app.catalog, "reader")

    def visitor(self, key: keys.StoredKey) -> Visitor:
        visitor = Visitor(self.port)
        visitor.sign_in(key.id, key.secret)
        return visitor

    def raw(self, target: str, headers: bytes = b"", method: str = "GET", body: bytes = b"") -> bytes:
        """The whole answer to a request that no browser would write."""
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n".encode()
        length = f"Content-Length: {len(body)}\r\n".encode() if method == "POST" else b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(head + headers + length + b"\r\n" + body)
            return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module", name="gate")
def make_gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    home = tmp_path_factory.mktemp("gate") / "home"
    application.initialise(home, repository=None, encrypted=True, passphrase=None, listen=None)
    app = application.open_app(home)
    with visiting(app) as port:
        yield Gate(home, app, port)
    app.close()


@pytest.fixture(autouse=True)
def forgotten_failures(gate: Gate) -> None:
    """Each test begins as an address that nobody failed from."""
    with gate.app.records._engine.begin() as tx:
        tx.execute(sa.delete(records.failed_sign_in))


# ---------------------------------------------------------------- one line that ends in a trace


@pytest.mark.parametrize("path", ["/errors", "/console/sign-in", "/openapi.json"])
def test_too_many_fields_in_an_address_are_not_looked_at(gate: Gate, path: str) -> None:
    assert gate.raw(f"{path}?" + "a=b&" * 400).startswith(b"HTTP/1.1 200")


def test_too_many_fields_of_a_private_page_lead_to_sign_in_or_are_ignored(gate: Gate) -> None:
    query = "a=b&" * 400
    assert gate.raw(f"/console/tasks?{query}").startswith(b"HTTP/1.1 303")
    assert gate.raw(f"/console/tasks/events?{query}").startswith(b"HTTP/1.1 401")
    assert gate.visitor(gate.reader).get(f"/console/tasks?{query}").status == 200


@pytest.mark.parametrize(
    "origin", ["http://[", "http://\u2100", "null", "", "localhost", "http://localhost@evil", "//"]
)
def test_an_origin_that_is_none_is_refused(gate: Gate, origin: str) -> None:
    headers = f"{FORM}Origin: {origin}\r\n".encode()
    assert gate.raw("/console/sign-in", headers, "POST", b"access_key_id=x").startswith(b"HTTP/1.1 403")


@pytest.mark.parametrize(
    "wanted", ["//[", "http://[", "//\u2100", "//evil", "/\\evil", "/console//evil", "/console/\r\nX: y"]
)
def test_where_to_go_after_signing_in_is_ours(gate: Gate, wanted: str) -> None:
    visitor = Visitor(gate.port)
    given = {"access_key_id": gate.admin.id, "access_key_secret": gate.admin.secret, "next": wanted}
    signed_in = visitor.post("/console/sign-in", given)
    assert (signed_in.status, signed_in.location) == (303, "/console") and visitor.cookies
    assert visitor.get(f"/console/sign-in?next={quote(wanted)}").location == "/console"


def test_a_host_longer_than_any_stands_in_no_page(gate: Gate) -> None:
    visitor = Visitor(gate.port)
    visitor.host = "a" * 20_000
    assert len(visitor.get("/errors/Forbidden.RAM").body) < 30_000


# ---------------------------------------------------------------- signing in


def test_many_attempts_at_once_are_not_more_than_one_after_the_other(gate: Gate) -> None:
    visitors = [Visitor(gate.port) for _ in range(3 * session.FAILURES_ALLOWED)]
    together, statuses = threading.Barrier(len(visitors)), list[int]()

    def attempt(visitor: Visitor) -> None:
        together.wait()
        given = {"access_key_id": gate.admin.id, "access_key_secret": "wrong"}
        statuses.append(visitor.post("/console/sign-in", given).status)

    threads = [threading.Thread(target=attempt, args=(visitor,)) for visitor in visitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(404) == session.FAILURES_ALLOWED
    assert statuses.count(429) == len(visitors) - session.FAILURES_ALLOWED


def test_addresses_of_ipv4_are_told_apart_where_they_come_as_ipv6() -> None:
    mapped = [session.network(f"::ffff:{address}") for address in ("192.0.2.1", "192.0.2.2")]
    assert mapped == ["192.0.2.1", "192.0.2.2"]
    assert session.network("::1") == "::1" != session.network("::2")


def test_strangers_do_not_wash_away_who_changed_what(gate: Gate) -> None:
    visitor = Visitor(gate.port)
    for given in ({"access_key_id": "x", "access_key_secret": "y"}, {"link": "x"}):
        for _ in range(session.FAILURES_ALLOWED):
            visitor.post("/console/sign-in", given)
    noted = gate.app.calls.page(action="ConsoleSignIn", limit=2 * session.FAILURES_ALLOWED).rows
    strangers = [line for line in noted if not line.access_key_id]
    assert strangers and not any(line.mutates for line in strangers)
    # an attempt with a key that exists is what an audit shows first
    with gate.app.records._engine.begin() as tx:
        tx.execute(sa.delete(records.failed_sign_in))
    visitor.post("/console/sign-in", {"access_key_id": gate.reader.id, "access_key_secret": "wrong"})
    assert gate.app.calls.page(only_changes=True, limit=1).rows[0].access_key_id == gate.reader.id


# ---------------------------------------------------------------- the cookie


@pytest.mark.parametrize("before", [b"\xa0", b"\x85", b"\x1f", b"\x0b", b"x"])
def test_only_the_cookies_exact_name_counts(gate: Gate, before: bytes) -> None:
    token = gate.visitor(gate.admin).cookies["icecore"].encode()
    assert gate.raw("/console", b"Cookie: icecore=" + token + b"\r\n").startswith(b"HTTP/1.1 200")
    assert not gate.raw("/console", b"Cookie: " + before + b"icecore=" + token + b"\r\n").startswith(b"HTTP/1.1 200")


# ---------------------------------------------------------------- the Explorer


def test_a_reader_can_forge_no_call(gate: Gate) -> None:
    """With the reader's own signature, without one, and in the admin's name."""
    visitor = gate.visitor(gate.reader)
    made = len(gate.app.calls.page(action="RevokeAccessKey", limit=99).rows)
    for version, sign in (("V1", client.sign_v1), ("V3", client.sign_v3)):
        for key, secret in ((gate.reader, gate.reader.secret), (gate.reader, "x" * 30), (gate.admin, "x" * 30)):
            credential = (key.id, secret, "")
            nonce = f"{version}{key.id}{secret[:3]}"
            request = sign(visitor.host, "RevokeAccessKey", [("KeyId", gate.admin.id)], credential, _now(), nonce)
            fields = {"do": "call", "confirm": "yes", "request": explorer_bytes.write(request)}
            found = visitor.post("/console/explorer/RevokeAccessKey", fields)
            assert found.status in (200, 400), found.status
            # nor by a page about an operation that needs no question
            assert visitor.post("/console/explorer/DescribeRegions", fields).status == 400
    assert keys.find(gate.app.catalog, gate.admin.id) == gate.admin
    codes = [line.code for line in gate.app.calls.page(action="RevokeAccessKey", limit=99).rows[: -made or None]]
    assert set(codes) == {"Forbidden.RAM"}


def test_a_refusal_that_says_what_was_signed_leaves_no_secret_behind(gate: Gate) -> None:
    visitor = gate.visitor(gate.admin)
    secret = 'Hush <9> & "it\'s" ü/%41'
    pairs = [("DBClusterDescription", "n1"), ("Engine", "postgresql"), ("ConnectionString", f"password={secret}")]
    for sign in (client.sign_v1, client.sign_v3):
        for format_ in ("JSON", "XML"):
            credential = (gate.admin.id, "x" * 30, "")
            sent = [*pairs, ("Format", format_)]
            request = sign(visitor.host, "RegisterDBCluster", sent, credential, _now(), f"n{sign.__name__}{format_}")
            fields = {"do": "call", "confirm": "yes", "request": explorer_bytes.write(request)}
            assert "SignatureDoesNotMatch" in visitor.post("/console/explorer/RegisterDBCluster", fields).text
    kept = gate.app.records.explored(gate.admin.id)
    assert len(kept) == 4
    for each in kept:
        assert "Hush" not in each.body and "Hush" not in each.pairs and "SignatureDoesNotMatch" in each.body
    stored = b"".join(path.read_bytes() for path in gate.home.glob("calls.db*"))
    assert b"Hush" not in stored and b"SignatureDoesNotMatch" in stored


def test_a_reader_sees_nobody_elses_calls(gate: Gate) -> None:
    gate.visitor(gate.admin).post("/console/act", {"Action": "RevokeAccessKey", "p.key_id": "LTAI5nobody"})
    (line,) = gate.app.calls.page(action="RevokeAccessKey", access_key_id=gate.admin.id, limit=1).rows
    visitor = gate.visitor(gate.reader)
    for path in (
        f"/errors?RequestId={line.request_id}",
        f"/errors/Forbidden.RAM?RequestId={line.request_id}",
        f"/errors?q={line.request_id}",
    ):
        found = visitor.get(path)
        assert "no call with this RequestId that you may see" in found.text and gate.admin.id not in found.text
    assert line.request_id not in visitor.get(f"/console/access?show=every&key={gate.admin.id}").text
    assert line.request_id in gate.visitor(gate.admin).get("/console/access?show=every").text


def _now() -> int:
    return int(time.time())
