"""Calls that were made from the Explorer before: to fill the form again, and to compare two of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from icecore.api import contract, signature
from icecore.console import explorer_shown, view
from icecore.console.doors import Explored
from icecore.console.explorer_chosen import Chosen
from icecore.console.explorer_shown import MASK


@dataclass(frozen=True)
class Past:
    """``refill``: the address of the form with the same values, for the same person; empty if the operation does not
    exist any more."""

    number: int
    at: int
    action: str
    version: str
    format: str
    pairs: list[tuple[str, str]]
    status: int
    code: str
    request_id: str
    took_ms: int
    content_type: str
    body: str
    refill: str

    @property
    def shown(self) -> explorer_shown.Body:
        return explorer_shown.body(self.content_type, self.body)


def past(call: Explored) -> Past:
    pairs = signature.parse_pairs(call.pairs)
    form = "XML" if "xml" in call.content_type else "JSON"
    known = call.action in contract.operations()
    return Past(
        number=call.number,
        at=call.called_at,
        action=call.action,
        version=call.version,
        format=form,
        pairs=pairs,
        status=call.status,
        code=explorer_shown.code_of(call.content_type, call.body) if call.status >= 400 else "",
        request_id=call.request_id,
        took_ms=call.took_ms,
        content_type=call.content_type,
        body=call.body,
        refill=view.link(f"/console/explorer/{call.action}", refill=call.number) if known else "",
    )


def refill(chosen: Chosen, calls: Sequence[Past], number: str) -> Chosen:
    """The form as it was for the call of this number, if there is one of the same operation."""
    for call in calls:
        if str(call.number) == number and call.action == chosen.operation.name:
            texts = {name: value for name, value in call.pairs if value != MASK}
            return replace(chosen, texts=texts, version=call.version, format=call.format)
    return chosen


def pick(calls: Sequence[Past], first: str, second: str) -> tuple[Past, Past] | None:
    """The two calls of these numbers, if both are there."""
    by_number = {str(call.number): call for call in calls}
    if first in by_number and second in by_number and first != second:
        return by_number[first], by_number[second]
    return None


def compare(first: Past, second: Past) -> list[tuple[str, str]]:
    """Lines of both, as ``explorer_shown.compared`` gives them; empty if they are equal."""
    return explorer_shown.compared(_text(first), _text(second))


def _text(call: Past) -> str:
    lines = [
        call.action,
        f"signature {call.version}, {call.format}",
        *(f"{name} = {value}" for name, value in call.pairs),
        "",
        f"HTTP {call.status}",
    ]
    indented = explorer_shown.indented_xml if call.format == "XML" else explorer_shown.indented_json
    return "\n".join(lines) + "\n" + indented(call.body)
