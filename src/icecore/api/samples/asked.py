"""What a sample is made from: one bound call and where it goes, in the forms that the languages need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from icecore.api import contract
from icecore.api.contract import Call, Operation, Parameter
from icecore.api.signature import Pairs

# A value for a vendor's model: text, a number, a truth, or elements with named texts.
Value = str | int | bool | list[dict[str, str]]

_BLANK = re.compile(r"^«(?P<block>\w+)»\n|«(?P<part>\w+)»", re.MULTILINE)


@dataclass(frozen=True)
class Asked:
    """``given``: the parameters by inner name, without those that only repeat a default."""

    action: str
    version: str
    endpoint: str  # without a slash at the end
    given: dict[str, Any]
    operation: Operation

    @property
    def host(self) -> str:
        """With its port, as it stands in the Host header."""
        return urlsplit(self.endpoint).netloc

    @property
    def protocol(self) -> str:
        return urlsplit(self.endpoint).scheme

    @property
    def typed(self) -> bool:
        """Whether the vendor's libraries have a model of the operation; else a sample uses their generic call."""
        return not self.operation.extension

    @property
    def pairs(self) -> Pairs:
        """As they go over the wire."""
        return contract.to_pairs(self.action, self.given)

    @property
    def arguments(self) -> list[tuple[Parameter, Value]]:
        """As the vendor's models take them: numbers and truths as such, a list's elements by wire name, all else as
        the text that goes over the wire."""
        return [(self.operation.parameter(name), self._value(name, value)) for name, value in self.given.items()]

    def _value(self, name: str, value: Any) -> Value:
        parameter = self.operation.parameter(name)
        match parameter.type:
            case "int":
                return int(value)
            case "bool":
                return bool(value)
            case "list":
                return [_texts(parameter.fields, element) for element in value]
            case _:
                return contract.text_of(parameter, value)


def asked(call: Call, endpoint: str) -> Asked:
    defaults = {p.snake: contract.bind_one(p, p.default) for p in call.operation.bound() if p.default}
    given = {name: value for name, value in call.params.items() if value is not None and defaults.get(name) != value}
    return Asked(call.action, contract.document()["version"], endpoint.rstrip("/"), given, call.operation)


def _texts(fields: tuple[Parameter, ...], element: dict[str, Any]) -> dict[str, str]:
    return {f.name: contract.text_of(f, element[f.snake]) for f in fields if element.get(f.snake) is not None}


def fill(template: str, **parts: str) -> str:
    """``template`` with each «name» replaced, in one pass: what comes in is not looked at again. A «name» alone at the
    left edge of its line stands for a block of lines, which may be empty."""

    def replaced(found: re.Match[str]) -> str:
        if found["part"]:
            return parts[found["part"]]
        block = parts[found["block"]]
        return f"{block}\n" if block else ""

    return _BLANK.sub(replaced, template)


def block(items: Iterable[str], indent: str = "") -> str:
    return "\n".join(f"{indent}{item}" for item in items)


def grouped(opening: str, items: Iterable[str], closing: str, indent: str = "", step: str = "    ") -> str:
    """Items between brackets, a line each with a comma behind; nothing but the brackets around none."""
    inside = "".join(f"{indent}{step}{item},\n" for item in items)
    return f"{opening}\n{inside}{indent}{closing}" if inside else opening + closing


def written(value: Value, quote: Callable[[str], str], truths: tuple[str, str] = ("false", "true")) -> str:
    """A plain value as source text."""
    if isinstance(value, bool):
        return truths[value]
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, str)
    return quote(value)
