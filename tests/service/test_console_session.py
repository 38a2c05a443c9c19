"""Who gets in, who stays out, and what a hostile page, address or form can do: nothing."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Iterator

import pytest
from visitor import Visitor, visiting

from conftest import Desk
from icecore.catalog import clusters, keys
from icecore.catalog import console as records
from icecore.console import session

PAGES = (
    "/console",
    "/console/restore",
    "/console/tasks",
    "/console/repository",
    "/console/explorer",
    "/console/access",
)


class Entrance:
    """A served desk with an admin's and a reader's key."""

    def __init__(self, desk: Desk, port: int) -> None:
        self.desk, self.port = desk, port
        self.admin = keys.create(desk.app.catalog, "admin", "for the test")
        self.reader = keys.create(desk.app.catalog, "reader", "for the test")

    def visitor(self, role: str = "") -> Visitor:
        visitor = Visitor(self.port)
        if role:
            key = self.admin if role == "admin" else self.reader
            assert visitor.sign_in(key.id, key.secret).status == 200
        return visitor

    def audit(self, **wanted: str) -> list[dict[str, object]]:
        found = self.desk.call("DescribeCalls", MaxResults="100")["items"]["call"]
        return [line for line in found if all(line.get(name) == value for name, value in wanted.items())]


@pytest.fixture
def entrance(desk: Desk) -> Iterator[Entrance]:
    with visiting(desk.app) as port:
        yield Entrance(desk, port)


# ---------------------------------------------------------------- signing in


def test_nobody_sees_a_page_without_signing_in(entrance: Entrance) -> None:
    stranger = entrance.visitor()
    for path in (*PAGES, "/console/clusters/pc-1", "/console/backups/1", "/console/confirm?Action=DeleteBackup"):
        found = stranger.get(path)
        assert (found.status, found.body) == (303, b""), path
        assert found.location.startswith("/console/sign-in?next=%2Fconsole")
    assert stranger.post("/console/act", {"Action": "CreateBackup"}).location.startswith("/console/sign-in")
    assert stranger.get("/errors").status == 200


def test_signing_in_leads_back_to_where_one_was_going(entrance: Entrance) -> None:
    visitor = entrance.visitor()
    asked = visitor.get("/console/tasks?state=failed")
    form = visitor.get(asked.location).forms()[-1]
    given = {**form, "access_key_id": entrance.admin.id, "access_key_secret": entrance.admin.secret}
    assert visitor.post("/console/sign-in", given).location == "/console/tasks?state=failed"


ELSEWHERE = (
    "https://evil.example/console",
    "//evil.example/console",
    "/\\evil.example",
    "/console/..//evil.example",
    "/console\r\nSet-Cookie: icecore=x",
    "javascript:alert(1)",
    "/consolevil",
    "/%2Fevil.example",
    "\t//evil.example",
    "http:/console",
)


def test_signing_in_never_leads_to_another_place(entrance: Entrance) -> None:
    for elsewhere in ELSEWHERE:
        visitor = entrance.visitor()
        given = {"access_key_id": entrance.admin.id, "access_key_secret": entrance.admin.secret, "next": elsewhere}
        found = visitor.post("/console/sign-in", given)
        assert (found.status, found.location) == (303, "/console")
        assert list(visitor.cookies) == ["icecore"]


def test_a_wrong_key_is_refused_alike_and_noted_without_what_was_typed(entrance: Entrance) -> None:
    for wrong in ["id", "secret", "both", "empty", "revoked", "null", "huge"]:
        visitor = entrance.visitor()
        given = {"access_key_id": entrance.admin.id, "access_key_secret": entrance.admin.secret}
        if wrong in ("id", "both"):
            given["access_key_id"] = "LTAI5nobody<script>"
        if wrong in ("secret", "both"):
            given["access_key_secret"] = entrance.reader.secret
        if wrong == "empty":
            given["access_key_secret"] = ""
        if wrong == "null":
            given["access_key_secret"] = "\x00\ud800".encode("utf-8", "replace").decode()
        if wrong == "huge":
            given["access_key_secret"] = "x" * 100_000
        if wrong == "revoked":
            keys.revoke(entrance.desk.app.catalog, entrance.admin.id)
        found = visitor.post("/console/sign-in", given)
        assert found.status in (400, 404) and not visitor.cookies
        assert "<script>" not in found.text
        assert not given["access_key_secret"] or given["access_key_secret"][:50] not in found.text
        assert visitor.get("/console").status == 303
        noted = entrance.audit(call_action="ConsoleSignIn")
        assert noted and noted[0]["result_code"] != "OK"
        assert "nobody" not in str(noted) and entrance.reader.secret not in str(noted)


def test_failed_attempts_are_limited_and_a_link_still_works(entrance: Entrance) -> None:
    visitor = entrance.visitor()
    for _ in range(session.FAILURES_ALLOWED):
        assert visitor.post("/console/sign-in", {"access_key_id": "x", "access_key_secret": "y"}).status == 404
    right = {"access_key_id": entrance.admin.id, "access_key_secret": entrance.admin.secret}
    refused = visitor.post("/console/sign-in", right)
    assert refused.status == 429 and "Throttling.SignIn" in refused.text and not visitor.cookies
    token, _ = entrance.desk.app.records.make_link(entrance.admin.id, _now())
    assert visitor.post("/console/sign-in", {"link": token}).status == 303 and visitor.cookies
    # later it is forgotten
    assert entrance.desk.app.records.failures("127.0.0.1", _now() + records.ATTEMPTS_IN_S + 1) == 0


def test_one_sender_is_an_address_or_an_ipv6_network() -> None:
    assert (
        session.network("2001:db8:1:2:3::4")
        == session.network("2001:db8:1:2:ffff::1")
        != session.network("2001:db8:1:3::1")
    )
    assert session.network("192.0.2.1") != session.network("192.0.2.2")
    assert session.network("") == ""


def test_a_link_opens_one_session_also_when_used_at_the_same_moment(entrance: Entrance) -> None:
    token, _ = entrance.desk.app.records.make_link(entrance.reader.id, _now())
    looked = entrance.visitor().get(f"/console/sign-in?link={token}")
    assert looked.status == 200 and "one-time link" in looked.text  # a look does not use it
    visitors = [Visitor(entrance.port) for _ in range(8)]
    together = threading.Barrier(len(visitors))
    statuses = []

    def use(visitor: Visitor) -> None:
        together.wait()
        statuses.append(visitor.post("/console/sign-in", {"link": token}).status)

    threads = [threading.Thread(target=use, args=(visitor,)) for visitor in visitors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [303] + [403] * 7
    assert sum(bool(visitor.cookies) for visitor in visitors) == 1


def test_a_link_ends_with_its_time_and_with_its_key(entrance: Entrance) -> None:
    old, until = entrance.desk.app.records.make_link(entrance.admin.id, _now() - 2 * records.LINK_KEPT_S)
    assert until < _now()
    of_revoked, _ = entrance.desk.app.records.make_link(entrance.reader.id, _now())
    keys.revoke(entrance.desk.app.catalog, entrance.reader.id)
    for token in (old, of_revoked, "", "nonsense", "../../etc"):
        visitor = entrance.visitor()
        assert visitor.post(
            "/console/sign-in", {"link": token, "access_key_id": "", "access_key_secret": ""}
        ).status in (403, 404)
        assert not visitor.cookies


# ---------------------------------------------------------------- sessions


def test_the_cookie_is_closed_to_scripts_and_other_sites(entrance: Entrance) -> None:
    visitor = entrance.visitor()
    found = visitor.post(
        "/console/sign-in", {"access_key_id": entrance.admin.id, "access_key_secret": entrance.admin.secret}
    )
    cookie = found.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie and "path=/" in cookie and "domain" not in cookie
    assert session.cookie_name("https").startswith("__Host-")


def test_a_session_that_the_browser_brings_is_never_taken_over(entrance: Entrance) -> None:
    victim = entrance.visitor()
    attacker = entrance.visitor("reader")
    planted = attacker.cookies["icecore"]
    victim.cookies["icecore"] = planted
    victim.form_token = attacker.form_token
    victim.sign_in(entrance.admin.id, entrance.admin.secret)
    assert victim.cookies["icecore"] != planted
    assert attacker.get("/console").status == 303  # the planted one has ended
    unknown = Visitor(entrance.port)
    unknown.cookies["icecore"] = "chosen-by-me"
    unknown.sign_in(entrance.admin.id, entrance.admin.secret)
    assert unknown.cookies["icecore"] != "chosen-by-me"


def test_sign_out_ends_the_session_on_the_server(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    kept = dict(visitor.cookies)
    assert visitor.post("/console/sign-out").status == 303 and not visitor.cookies
    visitor.cookies = kept
    assert visitor.get("/console").status == 303
    assert entrance.audit(call_action="ConsoleSignOut", access_key_id=entrance.admin.id)


def test_a_revoked_key_ends_its_sessions(entrance: Entrance) -> None:
    visitor = entrance.visitor("reader")
    keys.revoke(entrance.desk.app.catalog, entrance.reader.id)
    assert visitor.get("/console").status == 303


def test_sessions_end_by_themselves(entrance: Entrance) -> None:
    kept = entrance.desk.app.records
    token = kept.open_session(entrance.admin.id, 1000)
    assert kept.find_session(token, 1000 + records.IDLE_S) == entrance.admin.id
    assert kept.find_session(token, 1001 + 2 * records.IDLE_S) is None
    at = 1000
    token = kept.open_session(entrance.admin.id, at)
    while at < 1000 + records.SESSION_KEPT_S:  # in use all the time
        assert kept.find_session(token, at) == entrance.admin.id
        at += records.IDLE_S
    assert kept.find_session(token, at + 1) is None


def test_tokens_are_kept_as_digests_only(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    link, _ = entrance.desk.app.records.make_link(entrance.admin.id, _now())
    stored = b"".join(path.read_bytes() for path in entrance.desk.home.glob("calls.db*"))
    assert visitor.cookies["icecore"].encode() not in stored and link.encode() not in stored
    assert entrance.admin.id.encode() in stored  # the search can find something


# ---------------------------------------------------------------- forms of another site


FORGED: tuple[dict[str, object], ...] = (
    {"form_token": ""},
    {"form_token": "0" * 64},
    {"form_token": "\u00e9"},
    {"headers": {"origin": "https://evil.example"}},
    {"headers": {"origin": "null"}},
    {"headers": {"sec_fetch_site": "cross-site"}},
    {"headers": {"sec_fetch_site": "same-site"}},
)


def test_a_form_of_another_site_does_nothing(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    for forged in FORGED:
        fields = {"Action": "CreateBackup", "p.db_cluster_id": entrance.desk.cluster_id}
        if "form_token" in forged:
            fields["form_token"] = str(forged["form_token"])
        headers = forged.get("headers", {})
        assert isinstance(headers, dict)
        for path in ("/console/act", "/console/sign-out"):
            assert visitor.post(path, fields, **headers).status == 403
    assert visitor.get("/console").status == 200
    assert entrance.desk.call("DescribeJobs")["items"]["job"] == []


def test_another_sessions_form_token_does_nothing(entrance: Entrance) -> None:
    visitor, other = entrance.visitor("admin"), entrance.visitor("admin")
    fields = {"Action": "CreateBackup", "p.db_cluster_id": entrance.desk.cluster_id, "form_token": other.form_token}
    assert visitor.post("/console/act", fields).status == 403
    assert entrance.desk.call("DescribeJobs")["items"]["job"] == []


def test_another_site_cannot_sign_a_browser_in(entrance: Entrance) -> None:
    visitor = entrance.visitor()
    given = {"access_key_id": entrance.admin.id, "access_key_secret": entrance.admin.secret}
    assert visitor.post("/console/sign-in", given, origin="https://evil.example").status == 403
    assert not visitor.cookies


# ---------------------------------------------------------------- what a page's action is


def test_an_action_is_a_signed_call_with_its_line_in_the_audit(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    done = visitor.post("/console/act", {"Action": "CreateBackup", "p.db_cluster_id": entrance.desk.cluster_id})
    assert done.status == 303
    (job,) = entrance.desk.call("DescribeJobs")["items"]["job"]
    assert done.location == f"/console/tasks/{job['job_id']}"
    (line,) = entrance.audit(call_action="CreateBackup")
    assert (line["origin"], line["access_key_id"], line["result_code"]) == ("console", entrance.admin.id, "OK")
    assert line["source_address"] == "127.0.0.1"


def test_a_reader_sees_no_buttons_and_a_forged_one_is_refused(entrance: Entrance) -> None:
    visitor = entrance.visitor("reader")
    for path in ("/console", f"/console/clusters/{entrance.desk.cluster_id}"):
        found = visitor.get(path)
        assert found.status == 200
        assert [form[":action"] for form in found.forms() if form[":method"] == "post"] == ["/console/sign-out"]
    refused = visitor.post("/console/act", {"Action": "CreateBackup", "p.db_cluster_id": entrance.desk.cluster_id})
    assert refused.status == 403 and "Forbidden.RAM" in refused.text
    assert entrance.desk.call("DescribeJobs")["items"]["job"] == []


def test_only_what_a_page_offers_can_be_done_from_it(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    for action in ["CreateAccessKey", "RegisterDBCluster", "DescribeBackups", "", "act", "__class__"]:
        assert visitor.post("/console/act", {"Action": action, "p.role": "admin"}).status == 404
        assert visitor.get(f"/console/confirm?Action={action}").status == 404


def test_a_removal_wants_the_name_typed(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    cluster_id = entrance.desk.cluster_id
    asked = visitor.get(f"/console/confirm?Action=DeleteDBCluster&p.db_cluster_id={cluster_id}")
    assert asked.status == 200 and "orders" in asked.text
    fields = {"Action": "DeleteDBCluster", "p.db_cluster_id": cluster_id}
    for typed in ("", "order", "Orders"):
        assert visitor.post("/console/act", {**fields, "typed": typed, "name": typed}).status == 400
    assert entrance.desk.call("DescribeJobs")["items"]["job"] == []
    assert visitor.post("/console/act", {**fields, "typed": "orders"}).status == 303
    assert [job["job_kind"] for job in entrance.desk.call("DescribeJobs")["items"]["job"]] == ["delete-cluster"]


# ---------------------------------------------------------------- addresses and sizes


ODD = (
    "/console/static/../../app.py",
    "/console/static/..%2f..%2fapp.py",
    "/console/static/%2e%2e/session.py",
    "/console/static//etc/passwd",
    "/console/static/icecore.css/..",
    "/console/static/%00",
    "/console/templates/layout.html",
    "/console/clusters/..%2f..%2fetc",
    "/console/nothing",
    "/console/",
)


def test_an_odd_address_shows_nothing(entrance: Entrance) -> None:
    for visitor, path in itertools.product((entrance.visitor(), entrance.visitor("admin")), ODD):
        found = visitor.get(path)
        assert found.status in (303, 404)
        assert b"def " not in found.body and b"root:" not in found.body and b"{%" not in found.body
        assert not found.location or found.location.startswith("/console")


def test_oversized_input_is_refused_and_changes_nothing(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    fields = {"Action": "CreateBackup", "p.db_cluster_id": entrance.desk.cluster_id}
    assert visitor.post("/console/act", {**fields, "p.comment": "x" * 300_000}).status == 413
    assert visitor.post("/console/act", {**fields, "p.comment": "x" * 2_000_000}).status == 413
    assert visitor.post("/console/act", fields | {f"f{i}": "" for i in range(400)}).status == 400
    assert visitor.get("/console/tasks?" + "a=b&" * 8000).status in (200, 400, 413)
    assert entrance.desk.call("DescribeJobs")["items"]["job"] == []
    noted = visitor.post("/console/act", {**fields, "p.comment": "x" * 5000})
    assert noted.status == 400 and "InvalidComment.Malformed" in noted.text


def test_every_page_keeps_to_itself(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    seen = [visitor.get(path) for path in (*PAGES, "/errors", "/console/nothing", "/console/static/icecore.css")]
    for found in seen:
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "frame-ancestors 'none'" in policy and found.headers["x-content-type-options"] == "nosniff"
        assert not re.findall(
            r"""(?:src|href|action)=["'](?:https?:)?//""", found.text.replace(f"http://127.0.0.1:{entrance.port}", "")
        )
        assert not re.search(r"<[^>]+\s(?:on\w+|style)=|<script(?![^>]*\ssrc=)|<style", found.text)
        assert entrance.admin.secret not in found.text and entrance.reader.secret not in found.text


def test_a_host_that_is_none_does_not_reach_a_page(entrance: Entrance) -> None:
    visitor = entrance.visitor("admin")
    visitor.host = '"><script>alert(1)</script>'
    found = visitor.get(f"/console/clusters/{entrance.desk.cluster_id}")
    assert found.status == 200 and "alert(1)" not in found.text


def test_a_name_with_markup_is_shown_as_typed(entrance: Entrance) -> None:
    name = "<script>alert('x')</script>&amp;\"{{7*7}}"
    # the API refuses such a name; a page must not depend on it
    cluster_id = clusters.register(
        entrance.desk.app.catalog, name=name, engine="postgresql", dsn="host=/", region_id="x"
    )
    visitor = entrance.visitor("admin")
    for path in (
        "/console",
        f"/console/clusters/{cluster_id}",
        f"/console/clusters/{cluster_id}?tab=health",
        f"/console/restore?cluster={cluster_id}",
        f"/console/confirm?Action=DeleteDBCluster&p.db_cluster_id={cluster_id}",
        f"/console/tasks?cluster={cluster_id}",
        "/console/repository",
    ):
        found = visitor.get(path)
        assert found.status == 200, path
        assert "<script>alert" not in found.text and "49" not in re.findall(r"amp;\S*?(\d\d)", found.text)


def _now() -> int:
    return int(time.time())
