"""What the call log keeps of a call, and that no secret is in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_backend import SimulatedBackend, signed

from icecore import errors
from icecore.api import contract, recorded
from icecore.api.client import sign_v1
from icecore.api.server import CallRecord, Gateway
from icecore.api.signature import Request

DSN = "host=db user=icecore passfile=/root/hunter2"


class Registering(SimulatedBackend):
    """Refuses with a message that echoes what it was given, as a driver's may."""

    def run(self, call, caller):
        if call.action == "RegisterDBCluster":
            raise errors.Refused(f"cannot connect with {call.params['connection_string']}")
        return super().run(call, caller)


def noted(request: Request, backend: SimulatedBackend, **more: str) -> CallRecord:
    Gateway(backend, backend.clock).answer(request, **more)
    return backend.records[-1]


def test_a_call_is_noted_with_its_parameters_and_where_it_came_from() -> None:
    backend = SimulatedBackend()
    pairs = [("DBClusterId", "pc-full"), ("Comment", "<b>é</b>"), ("ClientToken", ""), ("OwnerId", "7")]
    record = noted(signed(backend, "CreateBackup", [*pairs, pairs[0]]), backend, origin="console", source="10.0.0.9")
    assert sorted(record.params) == [("Comment", "<b>é</b>"), ("DBClusterId", "pc-full")]
    assert (record.code, record.message) == ("BackupTimesExceeded", errors.QuotaExceeded().message)
    assert (record.origin, record.source, record.mutates) == ("console", "10.0.0.9", True)
    record = noted(signed(backend, "DescribeBackupTasks", pairs[:1]), backend)
    assert (record.origin, record.source, record.mutates) == ("api", "", False)


def test_list_parameters_are_kept_as_sent() -> None:
    backend = SimulatedBackend()
    pairs = [
        ("Tag.1.Key", "a"),
        ("Tag.1.Value", "b"),
        ("Tag.1.Other", "x"),
        ("Tag", "y"),
        ("DBClusterIds", "pc-1,pc-2"),
    ]
    record = noted(signed(backend, "DescribeDBClusters", pairs), backend)
    assert sorted(record.params) == [("DBClusterIds", "pc-1,pc-2"), ("Tag.1.Key", "a"), ("Tag.1.Value", "b")]


def test_private_parameters_are_hidden_in_every_part_of_the_record() -> None:
    backend = Registering()
    pairs = [("DBClusterDescription", "shop"), ("Engine", "postgresql"), ("ConnectionString", DSN)]
    misspelt = [("Connectionstring", DSN), ("Password", "hunter2"), ("ConnectionString.1", DSN)]
    record = noted(signed(backend, "RegisterDBCluster", [*pairs, *misspelt]), backend)
    assert dict(record.params)["ConnectionString"] == recorded.HIDDEN
    assert record.message == "cannot connect with ***" and "hunter2" not in repr(record)
    # an unbound call keeps no parameters at all
    record = noted(signed(backend, "RegisterDBCluster", pairs[2:]), backend)
    assert (record.code, record.params, record.mutates) == ("MissingParameter", (), True)


def test_the_flags_stand_where_secrets_pass() -> None:
    """A parameter or field that looks like a secret's carries its flag; so a new one is not forgotten."""
    words = ("secret", "password", "token", "connection_string", "credential")
    public = {"client_token", "security_token"}

    def fields(found):
        for each in found:
            yield each
            yield from fields(each.fields)

    for operation in contract.operations().values():
        for parameter in operation.bound():
            if any(word in parameter.snake for word in words) and parameter.snake not in public:
                assert parameter.private, (operation.name, parameter.name)
        if operation.name.startswith("Create"):
            for each in fields(operation.response):
                assert each.secret or not any(word in each.snake for word in words), (operation.name, each.name)


def test_A1_nothing_of_an_unverified_call_is_kept_but_its_verdict() -> None:
    backend = SimulatedBackend()
    pairs = [("DBClusterId", "pc-1"), ("Comment", "planted")]
    good = signed(backend, "CreateBackup", pairs)
    forged = Request(good.method, good.path, good.query.replace("planted", "another"), good.headers, good.body)
    record = noted(forged, backend)
    assert record.code == "SignatureDoesNotMatch"
    assert (record.action, record.access_key_id, record.params, record.message) == ("", "", (), "")
    assert not record.mutates
    stranger = sign_v1("127.0.0.1:8080", "CreateBackup", pairs, ("nobody", "x", ""), int(backend.now), "n")
    record = noted(stranger, backend)
    assert (record.code, record.params) == ("InvalidAccessKeyId.NotFound", ())
    assert record.message == errors.UnknownAccessKey().message
    # verified, but its nonce was used: the key is known, the parameters are not looked at
    Gateway(backend, backend.clock).answer(good)
    record = noted(good, backend)
    assert (record.code, record.access_key_id, record.params) == ("SignatureNonceUsed", "testid", ())


def test_a_forbidden_call_is_kept_and_an_unforeseen_error_says_nothing_of_the_inside() -> None:
    backend = SimulatedBackend()
    record = noted(signed(backend, "CreateBackup", [("DBClusterId", "pc-1")], key="readerid"), backend)
    assert (record.code, record.access_key_id) == ("Forbidden.RAM", "readerid")
    assert record.params == (("DBClusterId", "pc-1"),) and record.mutates
    record = noted(signed(backend, "CreateBackup", [("DBClusterId", "pc-broken")]), backend)
    assert record.code == "InternalError" and "inside" not in record.message


@pytest.mark.parametrize("action", ["CreateBackup", "CreateDBCluster", "DescribeDBClusters"])
@given(st.data())
def test_parameters_stay_below_the_limit(action: str, data: st.DataObject) -> None:
    names = [p.name for p in contract.operation(action).bound() if p.type != "list"]
    names += [f"Tag.{n}.{part}" for n in range(1, 21) for part in ("Key", "Value")]
    pair = st.tuples(st.sampled_from(names), st.text(max_size=50).map(lambda text: text * 40))
    kept = recorded.parameters(action, data.draw(st.lists(pair, max_size=40)))
    assert sum(len(name.encode()) + len(value.encode()) for name, value in kept) <= recorded.PARAMETERS_LIMIT_BYTES
    for _, value in kept:
        assert len(value.encode()) <= recorded.VALUE_LIMIT_BYTES
    json.dumps(kept, ensure_ascii=False).encode()  # whatever it was, it can be written


def test_what_is_cut_says_so() -> None:
    assert recorded.shortened("é" * 10, 20) == "é" * 10
    assert recorded.shortened("é" * 11, 20) == "é" * 8 + "…"
    assert recorded.shortened("a\ud800b", 20) == "a?b"
    many = [(f"Tag.{n}.Key", "x" * 500) for n in range(1, 21)]
    kept = recorded.parameters("DescribeDBClusters", many)
    assert kept[-1] == ("…", "") and kept[:-1] == many[: len(kept) - 1]
    assert recorded.message(errors.Refused("x" * 5000)).endswith("…")
    assert recorded.message(errors.SignatureMismatch(string_to_sign="what was sent")) == ""
