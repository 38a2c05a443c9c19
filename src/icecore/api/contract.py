"""What the operations take and give: the one place where PolarDB's names and ours meet (A3).

``contract.json`` holds every name of the wire. Here it becomes

* objects that describe it (``operations()``), from which samples, reference and explorer are made,
* ``bind``: parameters as sent -> ``Call`` with snake_case names and typed values, wrong ones refused by name,
* ``render``: an operation's snake_case result -> the answer in wire names, types and order,
* ``to_pairs`` and ``parse``: the same two the other way round, for the client.

Kinds of values: ``str``, ``int``, ``bool``, ``time`` (UTC on the wire, whole Unix seconds inside), ``ids`` (one comma
list on the wire, a list of str inside), ``list`` (``Tag.1.Key`` on the wire, a list of dicts inside).
"""

from __future__ import annotations

import json
import re
from calendar import timegm
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from icecore import errors
from icecore.errors import InvalidParameter, MissingParameter, UnknownAction

TEXT_LENGTH = 128  # of a value for which the contract gives no other limit
ITEM_LIMIT = 50  # of a list for which the contract gives no other limit

_WORD_ENDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?Z")
_INT = re.compile(r"-?[0-9]{1,18}")
_ASCII = re.compile(r"[ -~]*")
# C0, DEL, C1 and what cannot be written as UTF-8 or XML: no database column or answer holds them unchanged
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True)
class Parameter:
    """One request parameter. ``fields`` are the parts of a ``list``'s elements."""

    name: str
    type: str
    required: bool = False
    ignored: bool = False
    signing: bool = False
    private: bool = False  # may hold a secret: not kept in the call log, not shown
    text: bool = False  # any printable Unicode; else ASCII
    values: tuple[str, ...] = ()
    pattern: str = ""
    max_length: int = TEXT_LENGTH
    max_items: int = ITEM_LIMIT
    minimum: int | None = None
    maximum: int | None = None
    default: str = ""
    after: str = ""
    error: str = "InvalidParameter"
    description: str = ""
    example: str = ""
    fields: tuple[Parameter, ...] = ()

    @property
    def snake(self) -> str:
        return snake(self.name)

    def refusal(self) -> errors.IcecoreError:
        """The error that refuses a value of this parameter."""
        kind: type[errors.IcecoreError] = getattr(errors, self.error)
        return kind(parameter=self.name)


@dataclass(frozen=True)
class Field:
    """One field of an answer. ``holds``: what a ``str`` is inside (``int``, ``time``); ``item``: of a plain list."""

    name: str
    type: str
    holds: str = ""
    item: str = ""
    secret: bool = False  # given out once, never kept
    description: str = ""
    fields: tuple[Field, ...] = ()

    @property
    def snake(self) -> str:
        return snake(self.name)


@dataclass(frozen=True)
class Operation:
    name: str
    summary: str
    description: str
    extension: bool  # Icecore's own, unknown to PolarDB
    mutates: bool  # closed to the role `reader`
    parameters: tuple[Parameter, ...]
    response: tuple[Field, ...]
    errors: tuple[tuple[str, int], ...]  # code and HTTP status, besides those of the gateway
    example: dict[str, Any]

    def parameter(self, snake_name: str) -> Parameter:
        for parameter in self.parameters:
            if parameter.snake == snake_name and not parameter.ignored:
                return parameter
        raise KeyError(f"{self.name} has no parameter {snake_name}")

    def bound(self) -> tuple[Parameter, ...]:
        return tuple(parameter for parameter in self.parameters if not parameter.ignored)


@dataclass(frozen=True)
class Call:
    """One bound call. ``params`` has every parameter the operation looks at; None: not given and without default."""

    action: str
    params: dict[str, Any] = field(default_factory=dict)

    @property
    def operation(self) -> Operation:
        return operation(self.action)

    def refuse(self, snake_name: str) -> errors.IcecoreError:
        """The error for a value that only the operation can find wrong."""
        return self.operation.parameter(snake_name).refusal()


# ---------------------------------------------------------------- the contract as objects


def snake(wire_name: str) -> str:
    """``DBClusterId`` -> ``db_cluster_id``. Mechanical; no two names of one request or object give the same."""
    return _WORD_ENDS.sub("_", wire_name).lower()


@cache
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(__file__).with_name("contract.json").read_bytes())
    return loaded


@cache
def operations() -> Mapping[str, Operation]:
    """All operations by wire name, in the contract's order."""
    return {
        raw["name"]: Operation(
            name=raw["name"],
            summary=raw["summary"],
            description=raw.get("description", ""),
            extension=raw["extension"],
            mutates=raw["mutates"],
            parameters=_parameters(raw["parameters"]),
            response=_fields(raw["response"]),
            errors=tuple((error["code"], error["status"]) for error in raw["errors"]),
            example=raw["example"],
        )
        for raw in document()["operations"]
    }


@cache
def common_parameters() -> tuple[Parameter, ...]:
    """Parameters that every operation takes; those with ``signing`` belong to a V1 signature."""
    return _parameters(document()["common_parameters"])


@cache
def gateway_errors() -> tuple[tuple[str, int], ...]:
    """Codes and HTTP statuses that any operation can answer, besides ``Invalid<Parameter>.Malformed``."""
    return tuple((error["code"], error["status"]) for error in document()["gateway_errors"])


def operation(action: str) -> Operation:
    """``UnknownAction`` if there is none of this name."""
    found = operations().get(action)
    if found is None:
        raise UnknownAction()
    return found


def documented_errors(action: str) -> frozenset[tuple[str, int]]:
    """Every code with its HTTP status that a call of ``action`` may be answered with."""
    op = operation(action)
    refusals = {(error.wire_code(), error.status) for error in (p.refusal() for p in op.bound())}
    return frozenset(refusals | set(op.errors) | set(gateway_errors()))


def _parameters(raw: Iterable[dict[str, Any]]) -> tuple[Parameter, ...]:
    return tuple(
        Parameter(
            **{
                **entry,
                "values": tuple(entry.get("values", ())),
                "fields": _parameters(entry.get("fields", ())),
            }
        )
        for entry in raw
    )


def _fields(raw: Mapping[str, dict[str, Any]]) -> tuple[Field, ...]:
    return tuple(
        Field(**{"name": name, **entry, "fields": _fields(entry.get("fields", {}))}) for name, entry in raw.items()
    )


# ---------------------------------------------------------------- requests: wire -> inside


def bind(action: str, pairs: Iterable[tuple[str, str]]) -> Call:
    """The call that ``pairs`` (query and form merged) mean. Unknown parameters are ignored.

    Errors: ``UnknownAction``; ``MissingParameter`` for a required one that is absent or empty; the parameter's own
    refusal for a wrong value or for two different ones.
    """
    op = operation(action)

    # an empty value counts as not given: Terraform always sends CloneDataPoint
    given: dict[str, set[str]] = {}
    for name, value in pairs:
        if value:
            given.setdefault(name, set()).add(value)

    # each parameter for itself, in the contract's order
    params = {parameter.snake: _bound(parameter, given) for parameter in op.bound()}

    # then those that depend on each other
    for parameter in op.bound():
        if parameter.after and params[parameter.snake] <= params[snake(parameter.after)]:
            raise parameter.refusal()
    return Call(action, params)


def _bound(parameter: Parameter, given: Mapping[str, set[str]], prefix: str = "") -> Any:
    """The typed value of one parameter, None if it was not given and has no default."""
    name = prefix + parameter.name
    if parameter.type == "list":
        return _bound_list(parameter, given) or None
    texts = given.get(name) or {parameter.default}
    if len(texts) > 1:
        raise parameter.refusal()
    (text,) = texts
    if not text:
        if parameter.required:
            raise MissingParameter(parameter=name)
        return None
    return bind_one(parameter, text)


def _bound_list(parameter: Parameter, given: Mapping[str, set[str]]) -> list[dict[str, Any]]:
    """``Tag.1.Key=a`` and so on as ``[{"key": "a", "value": None}]``, in the order of the numbers."""
    numbers = set()
    for name in given:
        if name.startswith(f"{parameter.name}."):
            number = name.split(".")[1]
            if not re.fullmatch("[1-9][0-9]{0,2}", number) or int(number) > parameter.max_items:
                raise parameter.refusal()
            numbers.add(int(number))
    try:
        return [
            {part.snake: _bound(part, given, prefix=f"{parameter.name}.{number}.") for part in parameter.fields}
            for number in sorted(numbers)
        ]
    except InvalidParameter as e:
        raise parameter.refusal() from e


def bind_one(parameter: Parameter, text: str) -> Any:
    """``text`` checked against everything the contract says and turned into its inner type."""
    if len(text) > parameter.max_length or _CONTROL.search(text):
        raise parameter.refusal()
    if not parameter.text and not _ASCII.fullmatch(text):
        raise parameter.refusal()
    if parameter.values and text not in parameter.values:
        raise parameter.refusal()
    parts = text.split(",") if parameter.type == "ids" else [text]
    if len(parts) > parameter.max_items:
        raise parameter.refusal()
    if parameter.pattern and not all(re.fullmatch(parameter.pattern, part) for part in parts):
        raise parameter.refusal()
    match parameter.type:
        case "ids":
            return list(dict.fromkeys(parts))
        case "int":
            if not _INT.fullmatch(text):
                raise parameter.refusal()
            number = int(text)
            if parameter.minimum is not None and number < parameter.minimum:
                raise parameter.refusal()
            if parameter.maximum is not None and number > parameter.maximum:
                raise parameter.refusal()
            return number
        case "bool":
            if text.lower() not in ("true", "false"):
                raise parameter.refusal()
            return text.lower() == "true"
        case "time":
            try:
                return parse_time(text)
            except ValueError:
                raise parameter.refusal() from None
        case _:
            return text


def parse_time(text: str) -> int:
    """Unix seconds of ``YYYY-MM-DDThh:mmZ`` or with seconds; ``ValueError`` if it is neither or before 1970."""
    if not _TIME.fullmatch(text):
        raise ValueError(f"{text!r} is not a UTC time")
    at = timegm(datetime.fromisoformat(text[:-1]).timetuple())
    if at < 0:
        raise ValueError(f"{text!r} is before 1970")
    return at


def write_time(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def to_pairs(action: str, params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The parameters to send for a call; None is left out. ``KeyError`` for a name the operation does not take."""
    op = operation(action)
    pairs: list[tuple[str, str]] = []
    for name, value in params.items():
        parameter = op.parameter(name)
        if value is None:
            continue
        if parameter.type != "list":
            pairs.append((parameter.name, text_of(parameter, value)))
            continue
        for number, element in enumerate(value, start=1):
            for part in parameter.fields:
                if element.get(part.snake) is not None:
                    pairs.append((f"{parameter.name}.{number}.{part.name}", text_of(part, element[part.snake])))
    return pairs


def text_of(parameter: Parameter, value: Any) -> str:
    """One value as it goes over the wire: the reverse of ``bind_one``."""
    return write_time(value) if parameter.type == "time" and not isinstance(value, str) else _text(value)


# ---------------------------------------------------------------- answers: inside <-> wire


def render(action: str, result: Mapping[str, Any], request_id: str) -> dict[str, Any]:
    """The answer in wire names, the contract's order and types. ``None`` and absent fields are left out.

    ``KeyError`` for a name that the contract does not have (A3), ``TypeError`` for a value of the wrong shape.
    """
    return _render(operation(action).response, {**result, "request_id": request_id}, action)


def _render(fields: tuple[Field, ...], result: Mapping[str, Any], place: str) -> dict[str, Any]:
    unknown = set(result) - {f.snake for f in fields}
    if unknown:
        raise KeyError(f"{place} has no {', '.join(sorted(unknown))}")  # A3
    return {
        f.name: _render_value(f, result[f.snake], f"{place}.{f.name}")
        for f in fields
        if result.get(f.snake) is not None
    }


def _render_value(f: Field, value: Any, place: str) -> Any:
    if f.type == "list":
        if isinstance(value, str | Mapping):
            raise TypeError(f"{place} is a list")
        return [_render(f.fields, one, place) if f.fields else str(one) for one in value]
    if f.type == "object":
        return _render(f.fields, value, place)
    if f.type == "int":
        return int(value)
    if f.type == "bool":
        return bool(value)
    if isinstance(value, list | dict | tuple):
        raise TypeError(f"{place} is text")
    if f.holds == "time" and not isinstance(value, str):
        return write_time(value)
    return _text(value)


def parse(action: str, wire: Mapping[str, Any]) -> dict[str, Any]:
    """``render`` backwards: an answer in snake_case with inner types. What the contract does not know is left out."""
    return _parse(operation(action).response, wire)


def _parse(fields: tuple[Field, ...], wire: Mapping[str, Any]) -> dict[str, Any]:
    return {f.snake: _parse_value(f, wire[f.name]) for f in fields if wire.get(f.name) is not None}


def _parse_value(f: Field, value: Any) -> Any:
    if f.type == "list":
        return [_parse(f.fields, one) if f.fields else one for one in value]
    if f.type == "object":
        return _parse(f.fields, value)
    if f.holds and value != "":
        return parse_time(value) if f.holds == "time" else int(value)
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return ",".join(value)
    return str(value)
