"""The OpenAPI document: valid by the official schema, complete, and of one mind with ``bind``, ``render`` and the
answers that were recorded from a server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012
from simulated_backend import SimulatedBackend, signed

from icecore.api import contract, openapi
from icecore.api.contract import Operation, Parameter
from icecore.api.server import Gateway
from icecore.errors import IcecoreError

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = list(contract.operations().values())
NAMES = [op.name for op in OPERATIONS]
PLAIN = [
    pytest.param(op, parameter, id=f"{op.name}-{parameter.name}")
    for op in OPERATIONS
    for parameter in op.bound()
    if parameter.type != "list"
]
# Values that one contract or another takes or refuses. No control characters but those that the schema names.
TRIED = (
    "0", "-1", "1", "30", "31", "50", "101", "1000000001", "9" * 17, "a", "shop", "Shop", "sh op", "pc-1", "pc-*", "é",
    "令牌", "x\x00y", "x\ny", "x\x7fy", "true", "FALSE", "yes", "JSON", "Success", "PostgreSQL", "15", "15.1",
    "LATEST", "4182", "2026-11-01T00:00Z", "2026-11-01T00:00:00Z", "2026-11-01", "2026-11-01T00:00+08:00",
    "a" * 63, "a" * 64, "a" * 65,
    "a" * 128, "a" * 129, "a" * 256, "a" * 257, "1" * 20, "1" * 21, "a" * 2048, "a" * 2049, "host=/tmp dbname=x",
)  # fmt: skip


@cache
def document() -> dict[str, Any]:
    return openapi.document()


def described(action: str) -> dict[str, Any]:
    return dict(document()["paths"][f"/#Action={action}"]["post"])


def follow(node: dict[str, Any]) -> dict[str, Any]:
    """What a ``$ref`` stands for; else the node itself."""
    if "$ref" not in node:
        return node
    found: Any = document()
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)


@cache
def _registry() -> Registry[Any]:
    return Registry().with_resource("urn:icecore", Resource(document(), DRAFT202012))


def complaints(schema: dict[str, Any], value: Any) -> list[str]:
    # a schema taken out of the document: its references lead back into it
    rooted = json.loads(json.dumps(schema).replace('"#/components', '"urn:icecore#/components'))
    validator = jsonschema.Draft202012Validator(rooted, registry=_registry())
    return [error.message for error in validator.iter_errors(value)]


def recorded(action: str) -> list[dict[str, Any]]:
    path = ROOT / "tests" / "vectors" / "reference" / f"{action}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["Exchanges"])


# ---------------------------------------------------------------- the document


def test_it_is_valid_by_the_official_schema() -> None:
    OpenAPIV31SpecValidator(document()).validate()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("info",), {"title": "Icecore"}),
        (("paths", "/#Action=CreateBackup", "post", "parameters", 3, "in"), "body"),
        (("paths", "/#Action=CreateBackup", "post", "responses", "200", "content"), []),
        (("paths", "/#Action=CreateBackup", "post", "operationId"), "DeleteBackup"),
        (("components", "securitySchemes", "V1", "in"), "path"),
    ],
)
def test_the_validator_sees_a_broken_one(place: tuple[Any, ...], value: Any) -> None:
    broken = json.loads(json.dumps(document()))
    node = broken
    for step in place[:-1]:
        node = node[step]
    node[place[-1]] = value
    with pytest.raises(OpenAPIValidationError):
        OpenAPIV31SpecValidator(broken).validate()


def test_the_committed_document_is_the_generated_one() -> None:
    """``make docs`` writes it."""
    kept = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")
    assert kept == json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def test_an_endpoint_is_taken_as_it_is_given() -> None:
    assert openapi.document("https://backup.example:8443")["servers"] == [{"url": "https://backup.example:8443"}]
    assert openapi.document("https://backup.example:8443")["paths"] == document()["paths"]


def test_every_operation_is_there_in_a_group() -> None:
    assert [path["post"]["operationId"] for path in document()["paths"].values()] == NAMES
    tags = [tag["name"] for tag in document()["tags"]]
    for op in OPERATIONS:
        assert described(op.name)["tags"][0] in tags
        assert described(op.name)["x-icecore-extension"] is op.extension
        assert described(op.name)["x-icecore-mutates"] is op.mutates
    grouped = {op.name: openapi.group_of(op) for op in OPERATIONS}
    assert grouped["CreateBackup"] == "Backups" and grouped["CancelJob"] == "Jobs"
    assert grouped["DescribeBackupTasks"] == "Backups" and grouped["CreateDBCluster"] == "Clusters"
    assert grouped["RevokeAccessKey"] == "Access" and grouped["DescribeRepository"] == "Installation"


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize("op", OPERATIONS, ids=NAMES)
def test_parameters_are_those_that_bind_looks_at(op: Operation) -> None:
    parameters = [follow(each) for each in described(op.name)["parameters"]]
    assert [each["name"] for each in parameters] == ["Action", "Version", "Format", *(p.name for p in op.bound())]
    assert parameters[0]["schema"]["const"] == op.name
    required = [each["name"] for each in parameters if each.get("required")]
    assert required == ["Action", "Version", *(p.name for p in op.bound() if p.required)]
    assert described(op.name)["x-icecore-ignored"] == [p.name for p in op.parameters if p.ignored]


def schema_of(op: Operation, name: str) -> dict[str, Any]:
    (found,) = [each for each in described(op.name)["parameters"] if each.get("name") == name]
    return dict(found["schema"])


def typed(parameter: Parameter, text: str) -> Any:
    """As a tool that follows the schema would hold the value before it sends ``text``."""
    if parameter.type == "int":
        return int(text) if text.lstrip("-").isdigit() else text
    return {"true": True, "false": False}.get(text.lower(), text) if parameter.type == "bool" else text


@pytest.mark.parametrize(("op", "parameter"), PLAIN)
def test_a_schema_takes_what_bind_takes_and_nothing_else(op: Operation, parameter: Parameter) -> None:
    schema = schema_of(op, parameter.name)
    for text in (*TRIED, *parameter.values, parameter.example, "x" * (parameter.max_length + 1)):
        if not text:
            continue  # an empty value counts as not given
        try:
            contract.bind_one(parameter, text)
            taken = True
        except IcecoreError:
            taken = False
        assert (complaints(schema, typed(parameter, text)) == []) == taken, (text, schema)


@pytest.mark.parametrize("highest", [1, 9, 10, 19, 20, 50, 99])
def test_numbers_of_a_list_end_where_the_contract_says(highest: int) -> None:
    parameter = Parameter("Tag", "list", max_items=highest, fields=(Parameter("Key", "str"), Parameter("Value", "str")))
    schema = openapi._list_schema(parameter)
    for number in range(120):
        for part in ("Key", "Value"):
            assert (complaints(schema, {f"Tag.{number}.{part}": "x"}) == []) == (1 <= number <= highest)
    for wrong in ("Tag.1", "Tag.1.Name", "Tag.01.Key", "Tags.1.Key", "xTag.1.Key", "Tag.1.Keyx"):
        assert complaints(schema, {wrong: "x"})


def test_several_ids_are_one_text_with_commas() -> None:
    op = contract.operation("DeleteBackup")
    parameter = op.parameter("backup_id")
    for text in ("4182", "4182,4183", ",".join(["1"] * 50), "", "x", "1,", ",1", "1,,2", "1, 2", ",".join(["1"] * 51)):
        try:
            taken = bool(text) and bool(contract.bind_one(parameter, text))
        except IcecoreError:
            taken = False
        assert (complaints(schema_of(op, "BackupId"), text) == []) == taken, text


def sent(parameter: dict[str, Any], value: Any) -> list[tuple[str, str]]:
    """As OpenAPI's styles put a value into a query."""
    if isinstance(value, dict):
        assert (parameter["style"], parameter["explode"]) == ("form", True)
        return list(value.items())
    return [(parameter["name"], json.dumps(value) if isinstance(value, bool | int) else value)]


@pytest.mark.parametrize("op", OPERATIONS, ids=NAMES)
def test_a_request_made_from_the_document_alone_is_accepted(op: Operation) -> None:
    """Path, method, parameters and their examples; only the signature is ours. It is bound as the contract means it."""
    address = urlsplit(f"{document()['servers'][0]['url']}/#Action={op.name}")
    pairs: list[tuple[str, str]] = []
    for parameter in map(follow, described(op.name)["parameters"]):
        schema = parameter["schema"]
        value = schema.get("const", parameter.get("example", schema.get("default")))
        pairs += [] if value is None else sent(parameter, value)
    assert ("Action", op.name) in pairs and ("Format", "JSON") in pairs
    backend = SimulatedBackend()
    request = signed(backend, op.name, pairs)
    assert (request.method, request.path) == ("POST", address.path)
    given = Gateway(backend, backend.clock).answer(request)
    assert not given.code, given.body
    expected = {p.snake: contract.bind_one(p, p.example) for p in op.bound() if p.example}
    assert expected.items() <= backend.calls[-1][0].params.items()


# ---------------------------------------------------------------- answers


def undeclared(schema: dict[str, Any], value: Any, place: str) -> Iterator[str]:
    """Fields of an answer that the document does not name: they are allowed, but none of ours."""
    schema = follow(schema)
    if isinstance(value, dict):
        for name, inner in value.items():
            if name not in schema["properties"]:
                yield f"{place}.{name}"
            else:
                yield from undeclared(schema["properties"][name], inner, f"{place}.{name}")
    if isinstance(value, list):
        for one in value:
            yield from undeclared(schema["items"], one, place)


def from_xml(schema: dict[str, Any], element: ElementTree.Element) -> Any:
    """What an element means by the XML rules of the document: unwrapped lists, text for everything else."""
    schema = follow(schema)
    if schema["type"] == "object":
        found: dict[str, Any] = {}
        for child in element:
            inner = follow(schema["properties"][child.tag])
            if inner["type"] == "array":
                assert inner["items"]["xml"]["name"] == child.tag
                found.setdefault(child.tag, []).append(from_xml(inner["items"], child))
            else:
                assert child.tag not in found
                found[child.tag] = from_xml(inner, child)
        return found
    text = element.text or ""
    return {"integer": int, "boolean": lambda word: word == "true"}.get(schema["type"], str)(text)


@pytest.mark.parametrize("op", OPERATIONS, ids=NAMES)
def test_recorded_exchanges_are_as_described(op: Operation) -> None:
    exchanges = recorded(op.name)
    assert exchanges[0]["Status"] == 200
    for exchange in exchanges:
        response = follow(described(op.name)["responses"][str(exchange["Status"])])
        for media, wire in (("application/json", exchange["Json"]), ("text/xml", exchange["Xml"])):
            schema = response["content"][media]["schema"]
            if media == "text/xml":
                root = ElementTree.fromstring(wire)
                assert root.tag == follow(schema)["xml"]["name"]
                wire = from_xml(schema, root)
            assert complaints(schema, wire) == [], exchange["Title"]
            assert list(undeclared(schema, wire, op.name)) == []
        if exchange["Status"] == 200:
            _check_parameters(op, exchange["Parameters"])


def _check_parameters(op: Operation, sent: dict[str, str]) -> None:
    contract.bind(op.name, sent.items())
    for name, text in sent.items():
        parameter = next(p for p in op.bound() if p.name == name)
        assert complaints(schema_of(op, name), typed(parameter, text)) == [], (name, text)


@pytest.mark.parametrize("op", OPERATIONS, ids=NAMES)
def test_examples_are_as_described(op: Operation) -> None:
    content = described(op.name)["responses"]["200"]["content"]["application/json"]
    assert complaints(content["schema"], content["example"]) == []
    assert list(undeclared(content["schema"], content["example"], op.name)) == []
    for parameter in described(op.name)["parameters"]:
        if "example" in parameter:
            assert complaints(parameter["schema"], parameter["example"]) == []


@pytest.mark.parametrize("op", OPERATIONS, ids=NAMES)
def test_refusals_hold_exactly_the_documented_codes(op: Operation) -> None:
    found = set()
    names = contract.document()["envelope"]
    for status, response in described(op.name)["responses"].items():
        if status == "200":
            continue
        schema = follow(response)["content"]["application/json"]["schema"]
        body = dict.fromkeys(names.values(), "x")
        code = names["code"]
        for known in {code for code, _ in contract.documented_errors(op.name)} | {"NoSuchCode"}:
            if complaints(schema, body | {code: known}) == []:
                found.add((known, int(status)))
        assert complaints(schema, {code: "InvalidParameter"})  # without the other fields it is no answer of ours
    assert found == set(contract.documented_errors(op.name))
