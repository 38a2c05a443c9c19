"""``contract.json`` as an OpenAPI 3.1 document, for tools that read one. Pure.

All operations have one path, ``/``, and differ by the parameter ``Action``; OpenAPI tells operations apart by path and
method only. Each therefore gets the key ``/#Action=NAME``. A fragment is never sent, so a tool that parses the address
as a URL reaches the real path; ``Action`` itself is a required parameter with one possible value. A query in the key
(``/?Action=NAME``) would be sent, and twice. The public catalog of AWS descriptions writes APIs of this kind the same
way, so tools know it. Neither is a path by the letter of the specification, whose JSON Schema accepts both.

A list (``Tag.1.Key=a``) is an exploded object whose property names are checked by a pattern: a tool then sends what the
contract says, which no array style of OpenAPI does. Several ids are one string with commas, as they are sent.

Ours beside the standard: ``x-icecore-extension`` (PolarDB has no such operation), ``x-icecore-mutates`` (closed to the
role reader), ``x-icecore-private`` (may hold a secret: kept in no log), ``x-icecore-ignored`` (names that are accepted
and not looked at), ``x-icecore-signing`` (all parts of a signature, of which a security scheme can name one).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from icecore.api import contract, explain
from icecore.api.contract import Field, Operation, Parameter

OPENAPI_VERSION = "3.1.1"
ENDPOINT = "http://127.0.0.1:8080"  # of the document in docs/: what `icecore serve` listens on unless told otherwise
MEDIA = {"JSON": "application/json", "XML": "text/xml"}

# The first group whose pattern fits an operation's name is its group; an operation that is new finds one by itself.
GROUPS = (
    ("Backups", "Making, listing and deleting backups.", r"Backup"),
    ("Clusters", "The database clusters; restoring is creating one from a backup.", r"Cluster|Clone|Regions"),
    ("Jobs", "What runs in the background.", r"Job|Task"),
    ("Access", "Keys, who called, signing in.", r"AccessKey|Calls?$|Link|Session"),
    ("Installation", "The repository and the whole at a glance.", r""),
)

_PATTERN_BY_KIND = {
    "int": "^(-?[0-9]+)?$",
    "time": "^([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)?$",  # empty: there is no such moment
}
_PRINTABLE = r"^[^\u0000-\u001f\u007f-\u009f]*$"
_ABOUT = """\
Snapshot backups of database clusters, behind the operations, names and signatures of PolarDB's OpenAPI \
(2017-08-01); operations marked `x-icecore-extension` are Icecore's own.

Every call is `POST /` or `GET /` with its parameters in the query or in a form. The path keys of this document carry \
`#Action=NAME` only to tell the operations apart: the path that is sent, and signed, is `/`.

Every call is signed; one of the two schemes below is enough. Under ACS3, `Action` and `Version` may stand in the \
headers `x-acs-action` and `x-acs-version` instead.

Unknown parameters are ignored, and so are those named in `x-icecore-ignored`. An empty value counts as not given. \
Answers may gain fields."""
_ACS3 = """\
`ACS3-HMAC-SHA256 Credential=KEY,SignedHeaders=NAMES,Signature=HEX`: HMAC-SHA256 with the secret over the hash of the \
canonical request, that is method, path, sorted query, the signed headers, their names and the hash of the body, one a \
line. Signed are `host` and every `x-acs-*` header that is sent. A nonce works once; the date may differ from the \
server's clock by 15 minutes."""
_V1 = """\
Base64 of HMAC-SHA1, keyed with the secret and `&`, over `METHOD&%2F&` and the percent-encoded canonical query, that \
is all other parameters, sorted and percent-encoded. Headers are not signed. A nonce works once; the timestamp may \
differ from the server's clock by 15 minutes."""


def document(endpoint: str = ENDPOINT) -> dict[str, Any]:
    """The whole description, ready for ``json.dumps``. ``endpoint``: ``http://HOST:PORT`` as the reader reaches it."""
    operations = contract.operations().values()
    ignored = [parameter.name for parameter in contract.common_parameters() if parameter.ignored]
    return {
        "openapi": OPENAPI_VERSION,
        "info": {
            "title": "Icecore",
            "summary": "Self-hosted snapshot backup for database clusters behind the PolarDB OpenAPI",
            "description": _ABOUT,
            "version": contract.document()["version"],
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "x-icecore-ignored": ignored,
        },
        "servers": [{"url": endpoint}],
        "security": [{"ACS3": []}, {"V1": []}],
        "tags": [{"name": name, "description": about} for name, about, _ in GROUPS],
        "paths": {f"/#Action={op.name}": {"post": _operation(op)} for op in operations},
        "components": {
            "securitySchemes": _security_schemes(),
            "parameters": _common_parameters(),
            "headers": {
                contract.document()["envelope"]["request_id"]: {
                    "description": "The RequestId of the body.",
                    "schema": {"type": "string"},
                }
            },
            "schemas": {
                **{f"{op.name}Response": _answer(op) for op in operations},
                "Error": _error(),
                **{f"GatewayCode{status}": {"enum": codes} for status, codes in _by_status(contract.gateway_errors())},
            },
            "responses": {
                f"Refused{status}": _refusal(status, codes, {"$ref": f"#/components/schemas/GatewayCode{status}"})
                for status, codes in _by_status(contract.gateway_errors())
            },
        },
    }


def group_of(op: Operation) -> str:
    return next(name for name, _, pattern in GROUPS if re.search(pattern, op.name))


def _operation(op: Operation) -> dict[str, Any]:
    notes = [op.description]
    if op.extension:
        notes.append("Icecore's own operation: PolarDB has none of this name.")
    if op.mutates:
        notes.append("Needs a key with the role admin.")
    answers = {MEDIA[form]: {"schema": {"$ref": f"#/components/schemas/{op.name}Response"}} for form in MEDIA}
    answers[MEDIA["JSON"]]["example"] = op.example
    return {
        "operationId": op.name,
        "summary": op.summary,
        "description": " ".join(note for note in notes if note),
        "tags": [group_of(op)],
        "x-icecore-extension": op.extension,
        "x-icecore-mutates": op.mutates,
        "x-icecore-ignored": [parameter.name for parameter in op.parameters if parameter.ignored],
        "parameters": [
            {
                "name": "Action",
                "in": "query",
                "required": True,
                "description": "The operation.",
                "schema": {"type": "string", "const": op.name},
            },
            {"$ref": "#/components/parameters/Version"},
            {"$ref": "#/components/parameters/Format"},
            *(_parameter(parameter) for parameter in op.bound()),
        ],
        "responses": {
            "200": {"description": "Done, or accepted.", "headers": _headers(), "content": answers},
            **_refusals(op),
        },
    }


# ---------------------------------------------------------------- what is sent


def _common_parameters() -> dict[str, Any]:
    named = {parameter.name: parameter for parameter in contract.common_parameters()}
    version = contract.document()["version"]
    return {
        "Version": {
            "name": "Version",
            "in": "query",
            "required": True,
            "description": named["Version"].description,
            "schema": {"type": "string", "const": version},
        },
        "Format": {
            "name": "Format",
            "in": "query",
            "description": named["Format"].description,
            "schema": {"type": "string", "enum": list(MEDIA), "default": "JSON"},
        },
    }


def _security_schemes() -> dict[str, Any]:
    signing = [parameter.name for parameter in contract.common_parameters() if parameter.signing]
    headers = ["authorization", "host", "x-acs-content-sha256", "x-acs-date", "x-acs-signature-nonce"]
    return {
        "ACS3": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": _ACS3,
            "x-icecore-signing": headers,
        },
        "V1": {
            "type": "apiKey",
            "in": "query",
            "name": "Signature",
            "description": _V1,
            "x-icecore-signing": signing,
        },
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required,
        "description": parameter.description,
    }
    if parameter.type == "list":
        described |= {"style": "form", "explode": True, "schema": _list_schema(parameter)}
    else:
        described["schema"] = value_schema(parameter)
    if parameter.private:
        described["x-icecore-private"] = True
    example = _example(parameter)
    return described if example is None else described | {"example": example}


def value_schema(parameter: Parameter) -> dict[str, Any]:
    """The JSON Schema of one value that is not a list."""
    match parameter.type:
        case "int":
            schema: dict[str, Any] = {"type": "integer"}
            if parameter.values:
                schema["enum"] = [int(value) for value in parameter.values]
            if parameter.minimum is not None:
                schema["minimum"] = parameter.minimum
            if parameter.maximum is not None:
                schema["maximum"] = parameter.maximum
        case "bool":
            schema = {"type": "boolean"}
        case "ids":
            # as text: array styles are where tools differ
            pattern = f"^(?:{parameter.pattern})(?:,(?:{parameter.pattern})){{0,{parameter.max_items - 1}}}$"
            schema = {"type": "string", "maxLength": parameter.max_length, "pattern": pattern}
        case "time":
            # seconds may be left out, which the format date-time does not allow
            pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?Z$"
            schema = {"type": "string", "pattern": pattern}
        case _:
            schema = _text_schema(parameter, minimum_length=1 if parameter.required else 0)
    if parameter.default:
        schema["default"] = _typed(parameter, parameter.default)
    return schema


def _text_schema(parameter: Parameter, minimum_length: int) -> dict[str, Any]:
    if parameter.values:
        return {"type": "string", "enum": list(parameter.values)}
    schema: dict[str, Any] = {"type": "string"}
    if minimum_length:
        schema["minLength"] = minimum_length
    schema["maxLength"] = parameter.max_length
    if parameter.pattern:
        schema["pattern"] = f"^(?:{parameter.pattern})$" if minimum_length else f"^(?:{parameter.pattern})?$"
    else:
        schema["pattern"] = _PRINTABLE if parameter.text else "^[ -~]*$"
    return schema


def _list_schema(parameter: Parameter) -> dict[str, Any]:
    element = rf"{parameter.name}\.(?:{_numbers_to(parameter.max_items)})"
    names = "|".join(part.name for part in parameter.fields)
    return {
        "type": "object",
        "description": f"{parameter.name}.N.{parameter.fields[0].name} and so on, N from 1 to {parameter.max_items}.",
        "patternProperties": {
            rf"^{element}\.{part.name}$": value_schema(part) | {"description": part.description}
            for part in parameter.fields
        },
        "propertyNames": {"pattern": rf"^{element}\.(?:{names})$"},
        "additionalProperties": {"type": "string"},
    }


def _numbers_to(highest: int) -> str:
    """A pattern for 1 to ``highest``, which is below 100."""
    tens, ones = divmod(highest, 10)
    if not tens:
        return f"[1-{ones}]"
    middle = f"|[1-{tens - 1}][0-9]" if tens > 1 else ""
    return f"[1-9]{middle}|{tens}[0-{ones}]"


def _example(parameter: Parameter) -> Any:
    if parameter.type == "list":
        parts = {f"{parameter.name}.1.{part.name}": _example(part) for part in parameter.fields if part.example}
        return parts or None
    if not parameter.example:
        return None
    return _typed(parameter, parameter.example)


def _typed(parameter: Parameter, text: str) -> Any:
    """``text`` in the type that its schema has; times and all else stay text."""
    if parameter.type == "int":
        return int(text)
    return text.lower() == "true" if parameter.type == "bool" else text


# ---------------------------------------------------------------- what comes back


def _answer(op: Operation) -> dict[str, Any]:
    required = [contract.document()["envelope"]["request_id"]]
    return _object(op.response) | {"required": required, "xml": {"name": f"{op.name}Response"}}


def _object(fields: Iterable[Field]) -> dict[str, Any]:
    return {"type": "object", "properties": {field.name: _field(field) for field in fields}}


def _field(field: Field) -> dict[str, Any]:
    match field.type:
        case "object":
            schema = _object(field.fields)
        case "list":
            # in XML a list is its element repeated, without a wrapper
            one = _object(field.fields) if field.fields else {"type": "string"}
            schema = {"type": "array", "items": one | {"xml": {"name": field.name}}}
        case "int" | "bool":
            schema = {"type": "integer" if field.type == "int" else "boolean"}
        case _:
            schema = {"type": "string"}
            if field.holds:
                schema["pattern"] = _PATTERN_BY_KIND[field.holds]
            if field.secret:
                schema["format"] = "password"
    return schema | ({"description": field.description} if field.description else {})


def _error() -> dict[str, Any]:
    names = contract.document()["envelope"]
    meanings = {
        "request_id": "The ID of the request; the error center finds the call by it.",
        "host_id": "The host as the caller named it.",
        "code": "What went wrong, for programs.",
        "message": "What went wrong, for people.",
        "recommend": "The page of the error center that explains it.",
    }
    properties = {names[key]: {"type": "string", "description": meaning} for key, meaning in meanings.items()}
    return {"type": "object", "properties": properties, "required": list(properties), "xml": {"name": "Error"}}


def _refusals(op: Operation) -> dict[str, Any]:
    """By status. What only the gateway answers is described once for all operations."""
    gateway = dict(_by_status(contract.gateway_errors()))
    own = dict(_by_status(contract.documented_errors(op.name) - set(contract.gateway_errors())))
    described: dict[str, Any] = {}
    for status in sorted({*gateway, *own}):
        shared = {"$ref": f"#/components/schemas/GatewayCode{status}"}
        if status not in own:
            described[status] = {"$ref": f"#/components/responses/Refused{status}"}
        elif status not in gateway:
            described[status] = _refusal(status, own[status], {"enum": own[status]})
        else:
            described[status] = _refusal(status, own[status], {"anyOf": [{"enum": own[status]}, shared]})
            described[status]["description"] += f"\n- what any call may be answered: `Refused{status}`"
    return described


def _refusal(status: str, codes: list[str], code_schema: Mapping[str, Any]) -> dict[str, Any]:
    name = contract.document()["envelope"]["code"]
    schema = {"$ref": "#/components/schemas/Error", "properties": {name: code_schema}}
    lines = [f"- `{code}`: {_message(code, int(status))}" for code in codes]
    return {
        "description": "\n".join([HTTPStatus(int(status)).phrase, "", *lines]),
        "headers": _headers(),
        "content": {media: {"schema": schema} for media in MEDIA.values()},
    }


def _headers() -> dict[str, Any]:
    return {"x-acs-request-id": {"$ref": "#/components/headers/RequestId"}}


def _by_status(errors: Iterable[tuple[str, int]]) -> list[tuple[str, list[str]]]:
    """``("404", [codes])``, statuses and codes sorted."""
    found: dict[str, set[str]] = {}
    for code, status in errors:
        found.setdefault(str(status), set()).add(code)
    return [(status, sorted(codes)) for status, codes in sorted(found.items())]


def _message(code: str, status: int) -> str:
    """As far as it is known before a call; ``<name>`` where each answer has its own value."""
    cases = explain.entries()[code].cases
    return next((case for case in cases if case.status == status), cases[0]).shown_message
