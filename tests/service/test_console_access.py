"""The pages of the repository and of access: what needs a person, the keys, the audit."""

from __future__ import annotations

import dataclasses
import html
import re
import time
from typing import Any

import pytest
from office import GIB, HOSTILE, PAGE_LIMIT_BYTES, Office, make_house, make_office, plain
from visitor import Visitor

from icecore import app as application
from icecore import errors
from icecore.catalog import keys, queries
from icecore.console import repository

__all__ = ["make_house", "make_office"]  # fixtures


# ---------------------------------------------------------------- repository


def test_repository_says_what_needs_a_person(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    text = plain(office.admin.get("/console/repository").text)
    assert "The only copy of the repository's key is on this machine" in text
    assert "icecore repo key export" in text
    assert "It is empty" in text and "Not enough history yet" in text
    assert "none known" in text

    application.mark_key_exported(office.desk.app.config)
    now = int(time.time())
    for days in range(40, -1, -1):
        size = (50 - days) * GIB
        queries.note_repository_day(
            office.desk.app.catalog, noted_at=now - days * 86_400, stored_bytes=size, logical_bytes=9 * size
        )
    facts: dict[str, Any] = {
        **office.desk.app._read_repository(),
        "stored_bytes": 50 * GIB,
        "logical_bytes": 450 * GIB,
        "free_bytes": 20 * GIB,
        "damaged_count": 2,
        "backup_count": 9,
        "clusters": [
            {"db_cluster_id": "pc-a", "db_cluster_name": "orders", "stored_bytes": 10 * GIB, "backup_count": 4},
            {"db_cluster_id": "pc-b", "db_cluster_name": "", "stored_bytes": 40 * GIB, "backup_count": 5},
        ],
    }
    monkeypatch.setattr(
        office.desk.app,
        "_context",
        dataclasses.replace(office.desk.app._context, repository=lambda: facts),
    )
    page = office.admin.get("/console/repository")
    text = plain(page.text)
    assert "The only copy" not in text
    assert "2 backups cannot be read" in text
    assert "9.0 : 1" in text
    assert "1.00 GiB a day" in text
    assert re.search(r"will be full in about (19|20) d", text), text
    assert text.index("pc-b") < text.index("orders")  # the largest first
    assert len(page.body) < PAGE_LIMIT_BYTES


def test_repository_numbers() -> None:
    assert repository.factor({"stored_bytes": 0, "logical_bytes": 0}) is None
    assert repository.factor({"stored_bytes": 2, "logical_bytes": 9}) == 4.5
    assert repository.used({"stored_bytes": 30, "free_bytes": 70}) == 30
    assert repository.used({"stored_bytes": 30}) is None
    words = {None: "unknown", 0: "still", 5: "grows", -5: "shrinks"}
    assert {days: repository.growth({"growth_bytes_per_day": days}) for days in words} == words
    assert [each["share"] for each in repository.by_size([])] == []


# ---------------------------------------------------------------- access


def rows(text: str) -> list[str]:
    """The audit's rows as they are read."""
    table = re.search(r'<table class="stack audit".*?</table>', text, re.DOTALL)
    return [plain(row) for row in re.findall(r"<tr>(.*?)</tr>", table[0], re.DOTALL)[1:]] if table else []


def test_keys_are_listed_and_revoked_after_asking(office: Office) -> None:
    page = office.admin.get("/console/access")
    text = plain(page.text)
    assert "the admin" in text and "the reader" in text and office.admin_key.id in text
    assert "icecore key create" in text
    for key in (office.admin_key, office.reader_key):
        assert key.secret not in page.text
    ask = f"/console/confirm?Action=RevokeAccessKey&amp;p.key_id={office.reader_key.id}"
    assert ask in page.text
    confirm = office.admin.get(html.unescape(ask))
    form = next(form for form in confirm.forms() if form[":action"] == "/console/act")
    acted = office.admin.post("/console/act", {k: v for k, v in form.items() if k[0] != ":"})
    assert (acted.status, acted.location) == (303, "/console/access"), acted.text
    # keys are shown in pages, the revoked ones last
    seen, address = "", "/console/access"
    while address:
        page = office.admin.get(address)
        assert len(page.body) < PAGE_LIMIT_BYTES
        seen += plain(page.text)
        further = re.search(r'<a href="([^"]*)">[^<]* more keys?</a>', page.text)
        address = html.unescape(further[1]) if further else ""
    assert f"{office.reader_key.id} reader – revoked" in seen
    assert office.reader.get("/console/access").status == 303  # to sign in

    # a reader is not offered it
    other = keys.create(office.desk.app.catalog, "reader", "another")
    visitor = Visitor(office.port)
    visitor.sign_in(other.id, other.secret)
    assert "RevokeAccessKey&" not in visitor.get("/console/access").text


def test_audit_shows_changes_first_and_every_call_when_asked(office: Office) -> None:
    client = office.client(office.admin_key)
    job_id = client.call("CreateBackup", db_cluster_id=office.desk.cluster_id, comment=HOSTILE.replace("\r\n", " "))
    client.call("DescribeRegions")
    with pytest.raises(errors.IcecoreError):
        client.call("DeleteBackup", db_cluster_id=office.desk.cluster_id, backup_id="99")
    assert job_id

    page = office.admin.get("/console/access")
    shown = rows(page.text)
    assert "DeleteBackup" in shown[0] and "400" in shown[0] and "InvalidBackupSetID.NotFound" in shown[0]
    assert "CreateBackup" in shown[1] and "OK" in shown[1] and "127.0.0.1" in shown[1] and "the admin" in shown[1]
    assert any("ConsoleSignIn" in row and "the reader" in row for row in shown)
    assert not any("DescribeRegions" in row for row in shown)
    assert "<script>alert" not in page.text
    # a verdict leads to its code and its call
    assert re.search(r'href="/errors/InvalidBackupSetID.NotFound\?RequestId=[0-9A-F-]{36}"', page.text)
    # and the call can be made again with its parameters
    assert f"/console/explorer/DeleteBackup?p.BackupId=99&amp;p.DBClusterId={office.desk.cluster_id}" in page.text

    assert any("DescribeRegions" in row for row in rows(office.admin.get("/console/access?show=every").text))
    for query, name in (("action=DescribeRegions", "DescribeRegions"), ("action=ConsoleSignIn", "ConsoleSignIn")):
        found = rows(office.admin.get(f"/console/access?{query}").text)
        assert found and all(name in row for row in found), query
    found = rows(office.admin.get(f"/console/access?key={office.reader_key.id}").text)
    assert found and all("the reader" in row for row in found)
    assert "No call is like that" in office.admin.get("/console/access?action=RegisterDBCluster").text


def test_a_reader_sees_its_own_calls_only(office: Office) -> None:
    office.client(office.admin_key).call("CreateBackup", db_cluster_id=office.desk.cluster_id)
    office.client(office.reader_key).call("DescribeRegions")
    found = rows(office.reader.get("/console/access?show=every").text)
    assert any("DescribeRegions" in row for row in found)
    assert all("the reader" in row for row in found)
    for query in (f"key={office.admin_key.id}", "action=CreateBackup"):
        assert rows(office.reader.get(f"/console/access?show=every&{query}").text) == []


def test_audit_pages_stay_small_and_lose_nothing(office: Office) -> None:
    app = office.desk.app
    for number in range(70):
        app.calls.note(
            request_id=f"F3322AFE-083E-4D77-A074-{number:012d}",
            action="CreateBackup",
            access_key_id=office.admin_key.id,
            code="OK",
            status=200,
            called_at=int(time.time()),
            took_ms=3,
            mutates=True,
            params=[("Comment", "<&>" * 85), ("ClientToken", "t" * 64), ("DBClusterId", "pc-icemwv")],
        )
    seen: list[str] = []
    address = f"/console/access?key={office.admin_key.id}"
    while address:
        page = office.admin.get(address)
        assert page.status == 200 and len(page.body) < PAGE_LIMIT_BYTES, len(page.body)
        seen += re.findall(r"<code>F3322AFE-083E-4D77-A074-(\d{12})</code>", page.text)
        older = re.search(r'<a href="([^"]*)" rel="next">Older</a>', page.text)
        address = html.unescape(older[1]) if older else ""
    assert [int(number) for number in seen] == list(range(69, -1, -1))
