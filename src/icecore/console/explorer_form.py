"""An operation's parameters as the fields of a form: what each may be, what stands in it, and what is wrong with it.

Pure: made from the contract and the texts that a person typed. Wrong texts stay in the form and in the request, so
that the server's own refusal can be seen; a sample is made of the right ones alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from icecore.api import contract
from icecore.api.contract import Call, Operation, Parameter
from icecore.errors import IcecoreError, MissingParameter

SPARE_ROWS = 1  # empty ones below the filled rows of a list
LONG_TEXT = 200  # letters from which a parameter has a larger box


@dataclass(frozen=True)
class Entry:
    """One control. ``name``: as on the wire (``Tag.1.Key``)."""

    name: str
    parameter: Parameter
    text: str
    problem: str = ""

    @property
    def id(self) -> str:
        """Of the element in the page."""
        return "f-" + self.name.replace(".", "-")

    @property
    def choices(self) -> tuple[str, ...]:
        """Empty: any text. What was typed is among them, right or wrong."""
        values = self.parameter.values or (("true", "false") if self.parameter.type == "bool" else ())
        return values if not values or not self.text or self.text in values else (*values, self.text)


@dataclass(frozen=True)
class Field:
    """One parameter: one row with one entry, or a list's rows with an entry for each part."""

    parameter: Parameter
    rows: tuple[tuple[Entry, ...], ...]

    @property
    def entries(self) -> tuple[Entry, ...]:
        return tuple(entry for row in self.rows for entry in row)

    @property
    def filled(self) -> bool:
        return any(entry.text for entry in self.entries)

    @property
    def problem(self) -> str:
        return next((entry.problem for entry in self.entries if entry.problem), "")


@dataclass(frozen=True)
class Filled:
    """``pairs``: what is sent, right or wrong. ``call``: of the right values, for samples. ``error``: why the server
    would refuse the parameters as they are."""

    fields: tuple[Field, ...]
    pairs: list[tuple[str, str]]
    call: Call
    error: IcecoreError | None


def fill(operation: Operation, texts: Mapping[str, str]) -> Filled:
    """The form of ``operation`` with ``texts`` (by wire name) in it; names that it does not have are left out."""
    fields = tuple(_field(parameter, texts) for parameter in operation.bound())
    pairs = [(entry.name, entry.text) for field in fields for entry in field.entries if entry.text]
    error = _refusal(operation, pairs)
    fields = tuple(_told(field, error) for field in fields)
    params = {field.parameter.snake: _value(field) for field in fields if field.filled and not field.problem}
    return Filled(fields, pairs, Call(operation.name, params), error)


def example(operation: Operation, known: Mapping[str, str]) -> dict[str, str]:
    """Texts to begin with: the contract's examples. ``known``: by inner name, things that exist here."""
    texts: dict[str, str] = {}
    for parameter in operation.bound():
        if parameter.type == "list":
            texts |= {f"{parameter.name}.1.{part.name}": part.example for part in parameter.fields if part.example}
        elif known.get(parameter.snake) or parameter.example:
            texts[parameter.name] = known.get(parameter.snake) or parameter.example
    return texts


def type_words(parameter: Parameter) -> str:
    return {"ids": "list of text", "time": "time", "int": "number", "bool": "true or false", "list": "list"}.get(
        parameter.type, "text"
    )


def limits(parameter: Parameter) -> list[str]:
    """What a value may be, in a few words each; without what the description says already."""
    words = []
    match parameter.type:
        case "time":
            words.append("YYYY-MM-DDThh:mmZ or with seconds")
        case "int":
            low, high = parameter.minimum, parameter.maximum
            if low is not None or high is not None:
                words.append(f"{'' if low is None else low} to {'' if high is None else high}".strip())
        case "ids":
            words.append(f"at most {parameter.max_items}, separated by commas")
        case "list":
            words.append(f"at most {parameter.max_items}")
        case "str" if not parameter.values:
            words.append(f"at most {parameter.max_length} characters")
    if parameter.values:
        words.append("one of " + ", ".join(parameter.values))
    if parameter.pattern:
        words.append(f"matches {parameter.pattern}")
    if parameter.after:
        words.append(f"later than {parameter.after}")
    if parameter.default:
        words.append(f"{parameter.default} if left out")
    return [word for word in words if word.lower() not in parameter.description.lower()]


def _field(parameter: Parameter, texts: Mapping[str, str]) -> Field:
    if parameter.type != "list":
        return Field(parameter, ((_entry(parameter.name, parameter, texts),),))
    pattern = re.compile(rf"{re.escape(parameter.name)}\.([1-9][0-9]{{0,2}})\.\w+")
    numbers = [int(match[1]) for name, text in texts.items() if text and (match := pattern.fullmatch(name))]
    rows = min(max(numbers, default=0) + SPARE_ROWS, parameter.max_items)
    return Field(
        parameter,
        tuple(
            tuple(_entry(f"{parameter.name}.{number}.{part.name}", part, texts) for part in parameter.fields)
            for number in range(1, rows + 1)
        ),
    )


def _entry(name: str, parameter: Parameter, texts: Mapping[str, str]) -> Entry:
    text = texts.get(name, "")
    if not text:
        return Entry(name, parameter, text)
    try:
        contract.bind_one(parameter, text)
    except IcecoreError as error:
        return Entry(name, parameter, text, error.message)
    return Entry(name, parameter, text)


def _refusal(operation: Operation, pairs: list[tuple[str, str]]) -> IcecoreError | None:
    try:
        contract.bind(operation.name, pairs)
    except IcecoreError as error:
        return error
    return None


def _told(field: Field, error: IcecoreError | None) -> Field:
    """What only the whole shows (a time before the other one) stands at its field too. What is merely still missing
    does not: an empty form is no mistake."""
    named = str(error.fields.get("parameter", "")).split(".")[0] if error else ""
    if error is None or field.problem or not field.filled or named != field.parameter.name:
        return field
    first = field.entries[0]
    if isinstance(error, MissingParameter):
        first = next(entry for entry in field.entries if entry.name == error.fields["parameter"])
    told = Entry(first.name, first.parameter, first.text, error.message)
    return Field(field.parameter, tuple(tuple(told if e is first else e for e in row) for row in field.rows))


def _value(field: Field) -> object:
    """The typed value of a field without problems."""
    if field.parameter.type != "list":
        return contract.bind_one(field.parameter, field.entries[0].text)
    return [
        {e.parameter.snake: contract.bind_one(e.parameter, e.text) if e.text else None for e in row}
        for row in field.rows
        if any(e.text for e in row)
    ]
