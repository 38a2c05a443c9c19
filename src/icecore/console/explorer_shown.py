"""Answers and documents as they are read: indented, highlighted, cut to what a page can carry. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.sax.saxutils import escape

from icecore.api import answer, contract, signature
from icecore.api.contract import Field, Operation
from icecore.api.explain import entries

HIGHLIGHTED_LENGTH = 12_000  # markup makes a text about four times as long
SHOWN_LENGTH = 30_000
KEPT_LENGTH = 64_000  # of an answer in the history
LINES_COMPARED = 1_500
DIFFERENCE_LENGTH = 30_000  # of the lines shown, each counted with its markup
LINE_MARKUP = 40
MASK = "***"


@dataclass(frozen=True)
class Body:
    """``text`` is highlighted as ``lexer``, ``more`` follows it plain, ``left_out`` letters are not shown."""

    text: str
    lexer: str
    more: str
    left_out: int


@dataclass(frozen=True)
class Described:
    """One field of an answer, by its path: ``Items.Backup[].BackupId``."""

    path: str
    type: str
    description: str


@dataclass(frozen=True)
class Refusal:
    code: str
    status: int
    message: str


def body(content_type: str, text: str) -> Body:
    xml = "xml" in content_type
    pretty = indented_xml(text) if xml else indented_json(text)
    # the last whole line within the limit
    end = len(pretty) if len(pretty) <= HIGHLIGHTED_LENGTH else pretty.rfind("\n", 0, HIGHLIGHTED_LENGTH) + 1
    more = pretty[end:SHOWN_LENGTH]
    return Body(pretty[:end], "xml" if xml else "json", more, len(pretty) - end - len(more))


def code_of(content_type: str, text: str) -> str:
    """The code of an error answer."""
    found = re.search(r"<Code>([\w.]+)</Code>" if "xml" in content_type else r'"Code"\s*:\s*"([\w.]+)"', text)
    return found[1] if found else ""


def indented_json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def indented_xml(text: str) -> str:
    """Our own XML: elements without attributes, and text in leaves only."""
    lines, depth = [], 0
    for piece in re.split(r"(?<=>)(?=<)", text):
        if piece.startswith("</"):
            depth -= 1
        lines.append("  " * max(depth, 0) + piece)
        if re.match(r"<[^/?!]", piece) and "</" not in piece:
            depth += 1
    return "\n".join(lines)


def example(operation: Operation, *, xml: bool) -> str:
    """The contract's example as the server would answer it."""
    result = contract.parse(operation.name, operation.example)
    request_id = str(result.pop("request_id", ""))
    made = answer.success(operation.name, result, request_id, xml=xml)
    text = made.body.decode("utf-8")
    return indented_xml(text) if xml else indented_json(text)


def described(fields: tuple[Field, ...], above: str = "") -> Iterator[Described]:
    for one in fields:
        path = above + one.name + ("[]" if one.type == "list" else "")
        held = {"time": "a UTC time", "int": "a number"}.get(one.holds, "")
        kind = {"str": "text", "int": "number", "bool": "true or false"}.get(one.type, one.type)
        yield Described(path, f"{kind}, {held}" if held else kind, one.description)
        yield from described(one.fields, f"{path}.")


def refusals(operation: Operation) -> tuple[list[Refusal], list[Refusal]]:
    """What the operation itself may refuse, and what any may."""
    gateway = set(contract.gateway_errors())
    everything = sorted(contract.documented_errors(operation.name), key=lambda pair: pair[0])
    own = [_refusal(code, status) for code, status in everything if (code, status) not in gateway]
    return own, [_refusal(code, status) for code, status in everything if (code, status) in gateway]


def _refusal(code: str, status: int) -> Refusal:
    cases = entries()[code].cases
    case = next((case for case in cases if case.status == status), cases[0])
    return Refusal(code, status, case.message)


# ---------------------------------------------------------------- history


def masked(operation: Operation, content_type: str, text: str) -> str:
    """An answer without what is given out once only."""
    secret = set(_secret_names(operation.response))
    if not secret:
        return text
    names = "|".join(map(re.escape, secret))
    if "xml" in content_type:
        return re.sub(rf"<({names})>[^<]*</\1>", rf"<\1>{MASK}</\1>", text)
    return re.sub(rf'("(?:{names})"\s*:\s*)"(?:[^"\\]|\\.)*"', rf'\1"{MASK}"', text)


def masked_pairs(operation: Operation, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The operation's own parameters, without what may hold a secret."""
    own = {parameter.name: parameter for parameter in operation.bound()}
    found = [(name, value, own.get(name.split(".")[0])) for name, value in pairs]
    return [(name, MASK if p.private else value) for name, value, p in found if p is not None]


def unechoed(operation: Operation, pairs: list[tuple[str, str]], text: str) -> str:
    """An answer without the secrets that the call held: a refusal may say what was signed, each value encoded twice."""
    own = {parameter.name: parameter for parameter in operation.bound()}
    for name, value in pairs:
        parameter = own.get(name.split(".")[0])
        if parameter is None or not parameter.private or not value:
            continue
        once = signature.percent(value)
        written = (signature.percent(once), once, json.dumps(value, ensure_ascii=False)[1:-1], escape(value), value)
        for form in sorted(set(written), key=len, reverse=True):
            text = text.replace(form, MASK)
    return text


def _secret_names(fields: tuple[Field, ...]) -> Iterator[str]:
    for one in fields:
        if one.secret:
            yield one.name
        yield from _secret_names(one.fields)


def compared(one: str, other: str) -> list[tuple[str, str]]:
    """Lines of two texts with ``same``, ``first`` (only in ``one``) or ``second``; ``gap`` where some are left out:
    equal ones, and at the end what would make a page too long."""
    first, second = (text.split("\n")[:LINES_COMPARED] for text in (one, other))
    words = {" ": "same", "-": "first", "+": "second", "@": "gap"}
    unified = list(difflib.unified_diff(first, second, n=2, lineterm=""))[2:]
    lines = [(words[line[0]], line[1:] if line[0] != "@" else "") for line in unified][1:]
    length = 0
    for at, (_, line) in enumerate(lines):
        length += len(line) + LINE_MARKUP
        if length > DIFFERENCE_LENGTH:
            return [*lines[:at], ("gap", "")]
    return lines
