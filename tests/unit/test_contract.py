"""The contract: names, binding, rendering; bad input for every parameter of every operation."""

from __future__ import annotations

import ast
import itertools
import json
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_backend import SimulatedBackend, signed

from icecore import errors
from icecore.api import answer, contract
from icecore.api.contract import Field, Operation, Parameter
from icecore.api.operations import table
from icecore.api.server import Gateway

OPERATIONS = list(contract.operations().values())
BOUND = [(op, parameter) for op in OPERATIONS for parameter in op.bound()]


def code_of(action: str, pairs: list[tuple[str, str]]) -> tuple[str, int]:
    """What the gateway answers to a well signed call, and that nothing was run unless it answers OK."""
    backend = SimulatedBackend()
    given = Gateway(backend, backend.clock).answer(signed(backend, action, pairs))
    assert bool(backend.calls) == (given.code == "")
    wire = json.loads(given.body)
    assert wire["RequestId"] == given.request_id
    assert ("Code" in wire) == bool(given.code)
    assert backend.records[-1].code == (given.code or "OK")
    return given.code or "OK", given.status


def valid(op: Operation, without: str = "") -> list[tuple[str, str]]:
    """Required parameters with their examples; ``without`` one name."""
    return [(p.name, p.example) for p in op.bound() if p.required and p.name != without]


# ---------------------------------------------------------------- names


def test_snake() -> None:
    for wire, inside in {
        "DBClusterId": "db_cluster_id",
        "VPCId": "vpc_id",
        "BackupsLevel": "backups_level",
        "DBNodes": "db_nodes",
        "TotalLevel2BackupSize": "total_level2_backup_size",
        "IPAddress": "ip_address",
        "MaxIOPS": "max_iops",
        "DBNodeCXLRemoteMemory": "db_node_cxl_remote_memory",
    }.items():
        assert contract.snake(wire) == inside


def test_A3_names_of_one_request_or_object_stay_apart_in_snake_case() -> None:
    """So that no name is written anywhere but in the contract: the way there and back is mechanical."""

    def scopes(fields: tuple[Field, ...]) -> Iterator[list[str]]:
        yield [f.name for f in fields]
        for f in fields:
            yield from scopes(f.fields)

    every = [[p.name for p in (*op.parameters, *contract.common_parameters())] for op in OPERATIONS]
    every += [names for op in OPERATIONS for names in scopes(op.response)]
    for names in every:
        assert len(set(names)) == len(names)
        assert len({contract.snake(name) for name in names}) == len(names)


def test_A3_a_result_with_a_name_that_the_contract_lacks_is_not_sent() -> None:
    with pytest.raises(KeyError, match="surprise"):
        contract.render("CreateBackup", {"backup_job_id": 1, "surprise": 2}, "R")
    with pytest.raises(KeyError, match="surprise"):
        contract.render("DescribeBackups", {"items": {"backup": [{"surprise": 2}]}}, "R")


def test_A3_wire_names_of_parameters_and_fields_stand_nowhere_else() -> None:
    """In no string of the program, but for names of one word (``Port``). The command line is let out: the documents
    that it prints about its own work use the same words, as the vocabulary wants, and go over no wire."""

    def names(fields: tuple[Field, ...]) -> Iterator[str]:
        for f in fields:
            yield f.name
            yield from names(f.fields)

    wire = {p.name for op in OPERATIONS for p in op.parameters} | {n for op in OPERATIONS for n in names(op.response)}
    wire -= {parameter.name for parameter in contract.common_parameters()} | {"AccessKey"}  # a class of ours
    wire = {name for name in wire if "_" in contract.snake(name)} - set(contract.operations())
    assert "DBClusterId" in wire and "BackupId" in wire
    source = Path(contract.__file__).parents[1]
    found = {
        (str(path.relative_to(source)), node.value)
        for path in source.rglob("*.py")
        if "cli" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in wire
    }
    assert found == set()


def test_every_operation_is_served_and_described() -> None:
    assert set(table()) == set(contract.operations())
    known = {(kind.code, kind.status) for kind in errors.every_error()}
    for op in OPERATIONS:
        assert op.summary.endswith(".")
        for parameter in op.parameters:
            assert parameter.description, (op.name, parameter.name)
            assert parameter.type in ("str", "int", "bool", "time", "ids", "list")
            assert parameter.ignored or parameter.fields or parameter.example, (op.name, parameter.name)
            assert isinstance(parameter.refusal(), errors.CallerError)
        for code, status in op.errors:
            assert (code, status) in known or code.endswith(".Malformed"), (op.name, code, status)
    for code, status in contract.gateway_errors():
        assert any(
            kind.status == status and (kind.code == code or "{parameter}" in kind.code) for kind in errors.every_error()
        ), code


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_examples_are_what_rendering_gives(op: Operation) -> None:
    inside = contract.parse(op.name, op.example)
    assert list(contract.render(op.name, inside, op.example["RequestId"]).items()) == list(op.example.items())


def test_polardb_field_types_are_kept() -> None:
    """Paging of DescribeBackups is text, that of DescribeDBClusters numbers (the vendor's models)."""
    paging = {"page_number": 1, "page_record_count": 0, "total_record_count": 0}
    assert contract.render("DescribeBackups", {**paging, "items": {"backup": []}}, "R") == {
        "RequestId": "R",
        "Items": {"Backup": []},
        "PageNumber": "1",
        "PageRecordCount": "0",
        "TotalRecordCount": "0",
    }
    assert contract.render("DescribeDBClusters", {**paging, "items": {"db_cluster": []}}, "R")["PageNumber"] == 1
    backup = {"backup_start_time": 1605425405, "consistent_time": 1605425407, "is_avail": 1, "comment": None}
    assert contract.render("DescribeBackups", {"items": {"backup": [backup]}}, "R")["Items"]["Backup"] == [
        {"BackupStartTime": "2020-11-15T07:30:05Z", "ConsistentTime": "1605425407", "IsAvail": "1"}
    ]


# ---------------------------------------------------------------- binding


def test_bind_types_defaults_and_ignored_parameters() -> None:
    call = contract.bind(
        "DescribeBackups",
        [
            ("DBClusterId", "pc-1"),
            ("StartTime", "2026-11-01T00:00Z"),
            ("EndTime", "2026-11-01T00:00:01Z"),
            ("PageSize", "50"),
            ("OwnerId", "no number"),
            ("BackupRegion", "\x00"),
            ("BackupStatus", ""),
            ("Unheard", "of"),
        ],
    )
    assert call.params == {
        "db_cluster_id": "pc-1",
        "start_time": 1793491200,
        "end_time": 1793491201,
        "backup_id": None,
        "backup_status": None,
        "backup_mode": None,
        "page_number": 1,
        "page_size": 50,
    }


def test_bind_lists() -> None:
    pairs = [("Tag.2.Key", "b"), ("Tag.1.Key", "a"), ("Tag.1.Value", "é"), ("DBClusterIds", "pc-1,pc-2,pc-1")]
    call = contract.bind("DescribeDBClusters", pairs)
    assert call.params["tag"] == [{"key": "a", "value": "é"}, {"key": "b", "value": None}]
    assert call.params["db_cluster_ids"] == ["pc-1", "pc-2"]
    for name in ("Tag.0.Key", "Tag.21.Key", "Tag.x.Key", "Tag.1x.Key", "Tag.²"):
        assert code_of("DescribeDBClusters", [(name, "a")]) == ("InvalidTag.Malformed", 400)
    assert code_of("DescribeDBClusters", [("Tag.1.Value", "a")]) == ("MissingParameter", 400)
    assert code_of("DescribeDBClusters", [("Tag.1.Key", "a"), ("Tag.1.Key", "b")]) == ("InvalidTag.Malformed", 400)


def test_end_must_be_later_than_start() -> None:
    pairs = [("DBClusterId", "pc-1"), ("StartTime", "2026-11-01T00:00Z")]
    for end in ("2026-11-01T00:00Z", "2026-10-01T00:00Z"):
        assert code_of("DescribeBackups", [*pairs, ("EndTime", end)]) == ("InvalidEndTime.Malformed", 400)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200),
    st.integers(0, 4102444800),
    st.lists(st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True), min_size=1, max_size=50, unique=True),
)
def test_to_pairs_is_bind_backwards(text: str, at: int, ids: list[str]) -> None:
    for action, params in (
        ("CreateBackup", {"db_cluster_id": "pc-1", "comment": text, "client_token": None}),
        ("DescribeBackups", {"db_cluster_id": "pc-1", "start_time": at, "end_time": at + 1}),
        ("DescribeDBClusters", {"db_cluster_ids": ids, "tag": [{"key": text[:128], "value": None}]}),
    ):
        try:
            call = contract.bind(action, contract.to_pairs(action, params))
        except errors.InvalidParameter:
            assert "\ufffe" in text or "\uffff" in text
            continue
        assert {name: call.params[name] for name in params} == params


def test_every_answer_parses_back() -> None:
    result = {
        "items": {"job": [{"job_id": "1", "process": 64, "queued_time": 1795500000, "attempts": 2, "bytes_done": 5}]},
        "page_number": 1,
        "page_record_count": 1,
        "total_record_count": 1,
    }
    wire = contract.render("DescribeJobs", result, "R")
    assert wire["Items"]["Job"][0]["Process"] == "64"
    assert contract.parse("DescribeJobs", wire) == {**result, "request_id": "R"}
    assert contract.parse("DescribeJobs", {**wire, "Later": 1}) == {**result, "request_id": "R"}


# ---------------------------------------------------------------- bad input, parameter by parameter


@pytest.mark.parametrize("op", OPERATIONS, ids=lambda op: op.name)
def test_required_is_enough_and_each_is_needed(op: Operation) -> None:
    assert code_of(op.name, valid(op)) == ("OK", 200)
    for parameter in op.bound():
        if parameter.required:
            without = valid(op, without=parameter.name)
            assert code_of(op.name, without) == ("MissingParameter", 400)
            assert code_of(op.name, [*without, (parameter.name, "")]) == ("MissingParameter", 400)
        else:
            assert code_of(op.name, [*valid(op), (parameter.name, "")]) == ("OK", 200)


def wrong_values(parameter: Parameter) -> list[str]:
    """Values that no parameter of this kind may take."""
    too_long = "1" * (parameter.max_length + 1)
    values = [too_long, "a\x00b", "a\nb", "\x7f", "x\ufffe"]
    if not parameter.text:
        values += ["é", "pc-\u0661", "\u200b"]
    if parameter.values:
        values += ["nonsense", *(value.swapcase() for value in parameter.values if value.swapcase() != value)]
        values += [f" {parameter.values[0]}"]
    match parameter.type:
        case "int":
            values += ["abc", "1.5", "0x1", "1e3", "+1", " 1", "-1", "9" * 19, *(["0"] if parameter.minimum else [])]
        case "time":
            values += ["now", "2026-11-01", "2026-11-31T00:00Z", "2026-11-01T24:00Z", "2026-11-01T00:00+00:00"]
            values += ["1969-12-31T23:59Z", "2026-11-01t00:00z"]
        case "ids":
            values += ["a,,b", ",", "a, b", ",".join(["1"] * (parameter.max_items + 1))]
    if parameter.pattern and parameter.type == "str":
        values += [value for value in ("a b", "'; drop table x", "../..", "-", "%") if not _matches(parameter, value)]
    return values


def _matches(parameter: Parameter, value: str) -> bool:
    import re

    return re.fullmatch(parameter.pattern, value) is not None


@pytest.mark.parametrize(("op", "parameter"), BOUND, ids=lambda value: getattr(value, "name", ""))
def test_wrong_values_are_refused_by_name(op: Operation, parameter: Parameter) -> None:
    if parameter.type == "list":
        for part in parameter.fields:
            pairs = [(f"{parameter.name}.1.{other.name}", other.example) for other in parameter.fields if other != part]
            for value in wrong_values(part):
                given = code_of(op.name, [*valid(op), *pairs, (f"{parameter.name}.1.{part.name}", value)])
                assert given == (f"Invalid{parameter.name}.Malformed", 400), value
        return
    others = valid(op, without=parameter.name)
    expected = (parameter.refusal().wire_code(), parameter.refusal().status)
    assert expected in contract.documented_errors(op.name)
    assert expected[0].startswith(f"Invalid{parameter.name}") and expected[0].endswith(".Malformed")
    for value in wrong_values(parameter):
        assert code_of(op.name, [*others, (parameter.name, value)]) == expected, value
    # given twice: the same value counts once, two values are refused
    twice = [(parameter.name, parameter.example)] * 2
    if not parameter.after:
        assert code_of(op.name, [*others, *twice]) == ("OK", 200)
    assert code_of(op.name, [*others, *twice, (parameter.name, "other")]) == expected


def test_documented_messages() -> None:
    backend = SimulatedBackend()
    gateway = Gateway(backend, backend.clock)

    def body(action: str, pairs: list[tuple[str, str]]) -> tuple[int, str, str]:
        given = gateway.answer(signed(backend, action, pairs))
        wire = json.loads(given.body)
        return given.status, wire["Code"], wire["Message"]

    token = ("ClientToken", "x" * 65)
    assert body("CreateBackup", []) == (
        400,
        "MissingParameter",
        'The input parameter "DBClusterId" that is mandatory for processing this request is not supplied.',
    )
    assert body("CreateBackup", [("DBClusterId", "pc-1"), token]) == (
        400,
        "InvalidClientToken.Malformed",
        "The specified parameter ClientToken is not valid.",
    )
    assert body("DeleteDBCluster", [("DBClusterId", "a b")])[:2] == (404, "InvalidDBClusterId.Malformed")
    assert body("DeleteDBCluster", [("DBClusterId", "pc-1"), ("BackupRetentionPolicyOnClusterDeletion", "SOME")]) == (
        400,
        "InvalidBackupRetentionPolicyOnClusterDeletion.Malformed",
        "The specified BackupRetentionPolicyOnClusterDeletion is invalid.",
    )
    assert body("Nothing", [])[:2] == (404, "InvalidAction.NotFound")


# ---------------------------------------------------------------- bodies


def plain(element: ET.Element) -> Any:
    """An element as nested lists, order kept."""
    return (element.tag, [plain(child) for child in element] or element.text or "")


def test_xml_repeats_list_elements() -> None:
    result = {"items": {"backup": [{"backup_id": "1", "comment": "<&>\x01é"}, {"backup_id": "2"}]}, "page_number": 1}
    given = answer.success("DescribeBackups", result, "R", xml=True)
    assert given.content_type == "text/xml;charset=utf-8"
    backups = [("Backup", [("BackupId", "1"), ("Comment", "<&>\ufffdé")]), ("Backup", [("BackupId", "2")])]
    assert plain(ET.fromstring(given.body)) == (
        "DescribeBackupsResponse",
        [("RequestId", "R"), ("Items", backups), ("PageNumber", "1")],
    )
    flat = answer.success("DescribeDBClusterEndpoints", {"items": [{"nodes": "a"}, {"nodes": "b"}]}, "R", xml=True)
    assert plain(ET.fromstring(flat.body))[1][1:] == [("Items", [("Nodes", "a")]), ("Items", [("Nodes", "b")])]


def test_seed_page_samples() -> None:
    given = answer.success("CreateBackup", {"backup_job_id": 11111111}, "F3322AFE", xml=True)
    sample = "<CreateBackupResponse><RequestId>F3322AFE</RequestId><BackupJobId>11111111</BackupJobId>"
    assert given.body.decode().endswith(f"{sample}</CreateBackupResponse>")
    given = answer.success("CreateBackup", {"backup_job_id": 11111111}, "F3322AFE", xml=False)
    assert given.body == b'{"RequestId":"F3322AFE","BackupJobId":"11111111"}'


def test_no_success_has_a_code() -> None:
    assert all(f.name != "Code" for op in OPERATIONS for f in op.response)


def test_error_bodies() -> None:
    error = errors.QuotaExceeded()
    names = ["RequestId", "HostId", "Code", "Message", "Recommend"]
    given = answer.failure(error, "R", host="h:1", base_url="http://h:1", xml=False)
    wire = json.loads(given.body)
    assert list(wire) == names
    assert wire["Recommend"] == "http://h:1/errors/BackupTimesExceeded?RequestId=R"
    assert wire["Message"] == "Exceeding the daily backup times of this DB cluster."
    given = answer.failure(error, "R", host="h:1", base_url="http://h:1", xml=True)
    root = ET.fromstring(given.body)
    assert root.tag == "Error" and [child.tag for child in root] == names
    assert given.content_type == "text/xml;charset=utf-8"


def test_which_format_is_wanted() -> None:
    accepts = {
        "": "JSON",
        "*/*": "JSON",
        "text/xml": "XML",
        "application/json, text/xml": "JSON",
        "Application/XML": "XML",
    }
    for accept, wanted in accepts.items():
        assert answer.wanted_format(set(), accept) == wanted
        for value, (form, accept_counts) in {
            "JSON": ("JSON", False),
            "json": ("JSON", False),
            "XML": ("XML", False),
            "xml": ("XML", False),
            "None": ("", True),
            "": ("", True),
        }.items():
            assert answer.wanted_format({value}, accept) == (wanted if accept_counts else form)
    for pair in itertools.permutations(("JSON", "XML", "PDF"), 2):
        assert answer.wanted_format(set(pair), "") == ""
