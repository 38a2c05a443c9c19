"""The call log: who sees what of it, what it keeps, and a log of the first version."""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from icecore import config
from icecore.api import contract
from icecore.api.client import sign_v1, sign_v3
from icecore.api.server import Caller, Gateway
from icecore.catalog import keys as keys_of
from icecore.catalog import paging
from icecore.catalog.calls import Calls

CALL: dict[str, Any] = {"request_id": "", "action": "", "access_key_id": "", "code": "OK", "status": 200,
                        "called_at": 0, "took_ms": 3}  # fmt: skip


def described(desk, caller: Caller | None = None, **wire: str) -> dict[str, Any]:
    """The answer as it goes over the wire."""
    bound = contract.bind("DescribeCalls", list(wire.items()))
    return contract.render("DescribeCalls", desk.app.run(bound, caller), "R")


def keys(desk) -> list[dict[str, Any]]:
    return list(desk.call("DescribeAccessKeys")["items"]["access_key"])


def test_a_reader_sees_its_own_calls_and_nothing_of_others(desk) -> None:
    for n, key in enumerate(["admin", "reader", "other", ""]):
        desk.app.calls.note(**{**CALL, "request_id": f"R-{n}", "access_key_id": key, "action": "DescribeJobs"})
    admin, reader = Caller("admin", "admin"), Caller("reader", "reader")

    def seen(caller: Caller | None, **wire: str) -> list[str]:
        return [row["CallRequestId"] for row in described(desk, caller, **wire)["Items"]["Call"]]

    assert seen(admin) == seen(None) == ["R-3", "R-2", "R-1", "R-0"]
    assert seen(reader) == seen(reader, CallAccessKeyId="reader") == ["R-1"]
    assert seen(reader, CallAction="DescribeJobs") == ["R-1"]
    assert seen(reader, CallRequestId="R-1") == ["R-1"]
    assert seen(reader, Marker=paging.write_marker("call", 4)) == ["R-1"]
    # somebody else's, nobody's, and one that never was: the same answer, letter by letter
    answers = [
        described(desk, reader, **wire)
        for wire in (
            {"CallRequestId": "R-2"},
            {"CallRequestId": "R-3"},
            {"CallRequestId": "R-99"},
            {"CallRequestId": "R-2", "CallAccessKeyId": "reader"},
        )
    ]
    assert answers == [{"RequestId": "R", "Items": {"Call": []}}] * 4
    assert seen(reader, CallAccessKeyId="other") == seen(reader, CallAccessKeyId="none") == []


def test_only_changes(desk) -> None:
    for n, action in enumerate(["CreateBackup", "DescribeJobs", "DeleteBackup", "Later"]):
        desk.app.calls.note(**{**CALL, "request_id": f"R-{n}", "action": action, "mutates": n % 2 == 0})
    changes = described(desk, OnlyChanges="true")["Items"]["Call"]
    assert [row["CallAction"] for row in changes] == ["DeleteBackup", "CreateBackup"]
    for action, count in (("CreateBackup", 1), ("DescribeJobs", 0), ("Later", 0), ("Never", 0)):
        assert len(described(desk, OnlyChanges="true", CallAction=action)["Items"]["Call"]) == count


def old_calls(home: Path) -> None:
    """``calls.db`` as the first version made it."""
    engine = sa.create_engine(f"sqlite:///{home / 'calls.db'}")
    with engine.begin() as tx:
        for statement in (
            "CREATE TABLE nonce (access_key_id TEXT NOT NULL, nonce TEXT NOT NULL, used_at BIGINT NOT NULL,"
            " PRIMARY KEY (access_key_id, nonce))",
            "CREATE INDEX ix_nonce_used_at ON nonce (used_at)",
            "CREATE TABLE call (number INTEGER NOT NULL, request_id TEXT NOT NULL, action TEXT NOT NULL,"
            " access_key_id TEXT NOT NULL, code TEXT NOT NULL, status INTEGER NOT NULL, called_at BIGINT NOT NULL,"
            " took_ms INTEGER NOT NULL, PRIMARY KEY (number))",
            "CREATE INDEX ix_call_request_id ON call (request_id)",
            "INSERT INTO call VALUES (1, 'R-1', 'CreateBackup', 'key', 'OK', 200, 100, 3)",
            "INSERT INTO call VALUES (2, 'R-2', 'CreateBackup', 'key', 'OK', 200, 200, 3)",
            "INSERT INTO call VALUES (3, 'R-3', '', '', 'MissingParameter', 400, 300, 3)",
        ):
            tx.exec_driver_sql(statement)
    engine.dispose()


def schema(calls: Calls) -> dict[str, Any]:
    found = sa.inspect(calls._engine)
    return {
        table: (
            [(column["name"], str(column["type"]), column["nullable"]) for column in found.get_columns(table)],
            sorted((index["name"], index["column_names"]) for index in found.get_indexes(table)),
        )
        for table in ("call", "nonce", "key_use")
    }


def test_a_call_log_of_the_first_version_is_brought_up_to_date(desk, tmp_path: Path) -> None:
    place = tmp_path / "old"
    place.mkdir()
    old_calls(place)
    kept = config.load(desk.home)
    calls = Calls(config.Config(**{**kept.__dict__, "home": place}))
    assert schema(calls) == schema(desk.app.calls)
    rows = calls.page().rows
    assert [(row.request_id, row.origin, row.params, row.mutates) for row in rows] == [
        (f"R-{n}", "api", "[]", False) for n in (3, 2, 1)
    ]
    assert calls.last_used() == {"key": 200}
    # a process of the first version that still runs goes on writing
    with calls._engine.begin() as tx:
        tx.exec_driver_sql(
            "INSERT INTO call (request_id, action, access_key_id, code, status, called_at, took_ms)"
            " VALUES ('R-4', 'DescribeJobs', 'key', 'OK', 200, 400, 1)"
        )
    assert calls.page(limit=1).rows[0].request_id == "R-4"
    calls.close()
    again = Calls(config.Config(**{**kept.__dict__, "home": place}))  # nothing is lost by opening once more
    assert len(again.page().rows) == 4
    again.close()


def test_the_last_use_of_a_key_outlives_the_log(desk) -> None:
    (key,) = keys(desk)
    assert key["last_used_time"] is None
    for at in (500, 900, 700):  # threads may write out of order
        desk.app.calls.note(**{**CALL, "access_key_id": key["key_id"], "called_at": at})
    with desk.app.calls._engine.begin() as tx:
        tx.exec_driver_sql("DELETE FROM call")
    assert keys(desk)[0]["last_used_time"] == 900


def test_a_noted_call_is_told_in_full(desk) -> None:
    pairs = [("Comment", 'é"<b>\\'), ("DBClusterId", "pc-1")]
    desk.app.calls.note(**CALL, message="no", source="10.0.0.1", origin="explorer", mutates=True, params=pairs)
    (row,) = described(desk)["Items"]["Call"]
    assert row["CallParameters"] == [{"Name": name, "Value": value} for name, value in pairs]
    assert (row["ResultMessage"], row["SourceAddress"], row["Origin"]) == ("no", "10.0.0.1", "explorer")
    assert json.loads(json.dumps(row)) == row


def test_a_flood_of_other_calls_does_not_wash_away_who_changed_what(desk, monkeypatch) -> None:
    monkeypatch.setattr("icecore.catalog.calls.CALLS_KEPT", 5)
    for n in range(8):
        desk.app.calls.note(**{**CALL, "request_id": f"change-{n}", "action": "DeleteBackup", "mutates": True})
    for n in range(50):
        desk.app.calls.note(**{**CALL, "request_id": f"stranger-{n}"})
    desk.app.calls._since_sweep = 0
    assert desk.app.calls.use_nonce("key", "n", 1)
    left = [row["CallRequestId"] for row in described(desk, MaxResults="100")["Items"]["Call"]]
    assert left == [f"stranger-{n}" for n in range(49, 44, -1)] + [f"change-{n}" for n in range(7, 2, -1)]


def test_what_is_signed_is_noted_and_its_secret_is_nowhere_in_the_file(desk) -> None:
    """Through the gateway, under both signatures: from the bytes of the call to the bytes of the log."""
    gateway, numbers = Gateway(desk.app), itertools.count()
    admin, reader = (keys_of.create(desk.app.catalog, role) for role in ("admin", "reader"))

    def signed(key: Any, action: str, pairs: list[tuple[str, str]], sign: Any = sign_v3) -> dict[str, Any]:
        nonce = f"nonce-{next(numbers)}"
        request = sign("127.0.0.1:8080", action, pairs, (key.id, key.secret, ""), int(time.time()), nonce)
        given = gateway.answer(request, source="192.0.2.7")
        return {"request_id": given.request_id} | json.loads(given.body)

    secret = "host=/x passfile=/root/planted-secret"
    pairs = [("DBClusterDescription", "new-one"), ("Engine", "postgresql"), ("ConnectionString", secret)]
    made = signed(admin, "RegisterDBCluster", pairs)
    refused = signed(admin, "RegisterDBCluster", [*pairs[:2], ("ConnectionString", "password=planted-secret")])
    key = signed(admin, "CreateAccessKey", [("Role", "reader")])
    for sign in (sign_v1, sign_v3):
        signed(reader, "CreateBackup", [("DBClusterId", desk.cluster_id)], sign)
    asked = signed(reader, "DescribeCalls", [("CallRequestId", made["request_id"])], sign_v1)
    assert asked["Items"] == {"Call": []}  # somebody else's

    seen = {row["CallRequestId"]: row for row in signed(admin, "DescribeCalls", [])["Items"]["Call"]}
    first = seen[made["request_id"]]
    shown = {each["Name"]: each["Value"] for each in first["CallParameters"]}
    assert shown == {"DBClusterDescription": "new-one", "Engine": "postgresql", "ConnectionString": "***"}
    assert (first["ResultCode"], first["Mutates"], first["SourceAddress"]) == ("OK", True, "192.0.2.7")
    assert seen[refused["request_id"]]["ResultMessage"] == "the DSN holds a secret (password)"
    mine = signed(reader, "DescribeCalls", [("OnlyChanges", "true")])["Items"]["Call"]
    assert [(row["CallAction"], row["ResultCode"]) for row in mine] == [("CreateBackup", "Forbidden.RAM")] * 2
    assert all(row["AccessKeyId"] == reader.id for row in mine)

    desk.app.close()
    raw = b"".join(path.read_bytes() for path in desk.home.glob("calls.db*"))
    assert b"new-one" in raw and b"planted-secret" not in raw and key["KeySecret"].encode() not in raw
