"""Bad input to every operation of the contract, in front of a real catalog: a documented code, and nothing changed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from icecore import errors
from icecore.api import contract
from icecore.api.operations import table
from icecore.catalog import tables

GOOD = {
    "region_id": "here", "db_type": "PostgreSQL", "db_version": "15", "pay_type": "Postpaid",
    "creation_option": "CloneFromPolarDB", "start_time": "2026-01-01T00:00Z", "end_time": "2030-01-01T00:00Z",
    "backup_id": "123", "source_resource_id": "pc-none", "job_id": "1", "key_id": "none", "role": "reader",
    "db_cluster_description": "another", "engine": "postgresql", "connection_string": "host=/x",
    "log_backup": "on", "drill_period": "7",
}  # fmt: skip
WRONG = ("", " ", "x" * 5000, "кластер", "pc-\x00", "a\nb", "-1", "0", "99999999999999999999",
         "'; DROP TABLE backup; --", "../../etc/passwd", "%", "_", "<b>", "true", "2026-13-45T99:99Z")  # fmt: skip


def snapshot(desk) -> list[list[tuple]]:
    with desk.app.catalog.read() as tx:
        kept = [tables.cluster, tables.backup, tables.job, tables.token, tables.access_key]
        return [[tuple(row) for row in tx.execute(sa.select(each).order_by(each.c[0])).all()] for each in kept]


def requests(cluster_id: str) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    for action, operation in contract.operations().items():
        good = {}
        for parameter in operation.bound():
            if parameter.required or parameter.snake in ("creation_option", "source_resource_id"):
                good[parameter.name] = GOOD.get(parameter.snake, cluster_id)
        for parameter in operation.bound():
            rest = [(name, value) for name, value in good.items() if name != parameter.name]
            if parameter.required:
                yield action, rest
            for wrong in WRONG:
                yield action, [*rest, (parameter.name, wrong)]
            yield action, [*rest, (parameter.name, "one"), (parameter.name, "two")]


def test_every_operation_of_the_contract_is_there():
    assert set(table()) == set(contract.operations())


def test_bad_input_gets_a_documented_code_and_changes_nothing(desk):
    before, refused, served = snapshot(desk), 0, set()
    for action, pairs in requests(desk.cluster_id):
        try:
            call = contract.bind(action, pairs)
            result = desk.app.run(call)
        except errors.IcecoreError as error:
            refused += 1
            assert error.status < 500, (action, pairs, error)
            gateway = {code for code, _ in contract.gateway_errors()}
            documented = {code for code, _ in contract.documented_errors(action)} | gateway
            assert error.wire_code() in documented, (action, pairs, error.wire_code())
        else:
            contract.render(action, result, "id")  # whatever was served can be said on the wire
            served.add(action)
            if call.operation.mutates:
                before = snapshot(desk)  # it was good input after all
        assert snapshot(desk) == before, (action, pairs)
    assert refused > 300 and len(served) > 5


def test_likeness_signs_in_ids_match_nothing(desk):
    desk.create()
    for pattern in ("%", "_", "1%"):
        with pytest.raises(errors.CallerError):
            desk.call("DescribeBackup", BackupId=pattern)
    assert desk.call("DescribeDBClusters", DBClusterDescription="%")["total_record_count"] == 0


def test_a_reader_may_look_and_not_touch(desk):
    from icecore.api.server import Caller

    reader = Caller("key", "reader")
    for action, operation in contract.operations().items():
        if not operation.mutates:
            continue
        pairs = [(p.name, GOOD.get(p.snake, desk.cluster_id)) for p in operation.bound() if p.required]
        before = snapshot(desk)
        with pytest.raises(errors.Forbidden):
            desk.app.run(contract.bind(action, pairs), reader)
        assert snapshot(desk) == before
    shown = desk.app.run(contract.bind("DescribeDBClusters", []), reader)
    assert shown["total_record_count"] == 1


def test_the_last_admin_key_cannot_be_revoked(desk):
    (only,) = desk.call("DescribeAccessKeys")["items"]["access_key"]
    with pytest.raises(errors.Refused):
        desk.call("RevokeAccessKey", KeyId=only["key_id"])
    second = desk.call("CreateAccessKey", Role="admin")
    desk.call("RevokeAccessKey", KeyId=only["key_id"])
    with pytest.raises(errors.Refused):
        desk.call("RevokeAccessKey", KeyId=second["key_id"])
