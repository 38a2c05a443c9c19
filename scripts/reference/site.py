"""All pages of the reference as ``{file name: text}``: flat, so that each link is a file name and works from a disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pygments import highlight as pygmentize
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

import icecore
from icecore import __version__
from icecore.api import contract, explain, listen, openapi, samples, server, signature
from icecore.api.contract import Field, Operation, Parameter
from reference import signing
from reference.exchanges import Exchange

TEMPLATES = Path(__file__).parent / "templates"
ICON = Path(icecore.__file__).parent / "console" / "static" / "icon.svg"
LANGUAGES = ("curl", "python", "icecore")  # the Explorer of a server has the others
PATTERNS_IN_WORDS = {"[ -~]{1,64}": "printable ASCII", "[0-9]{1,20}": "digits"}
TYPES = {
    "str": "String",
    "int": "Integer",
    "bool": "Boolean",
    "time": "Time",
    "ids": "String, separated by commas",
    "list": "List",
    "object": "Object",
}


@dataclass(frozen=True)
class Row:
    """A line of a table of fields; ``depth``: how far inside other fields."""

    name: str
    type: str
    description: str
    depth: int


def pages(recorded: Mapping[str, list[Exchange]]) -> dict[str, str]:
    """``KeyError`` for an operation of which nothing was recorded."""
    environment = _environment()
    operations = contract.operations()

    def page(template: str, **context: Any) -> str:
        return environment.get_template(template).render(context)

    made = {
        "index.html": page("index.html", here="index"),
        "conventions.html": page("conventions.html", here="conventions", **_conventions(recorded)),
        "signing.html": page("signing.html", here="signing", **_signing()),
        "errors.html": page("errors.html", here="errors", groups=_error_groups()),
        "icon.svg": ICON.read_text(encoding="utf-8"),
        "reference.css": (TEMPLATES / "reference.css").read_text(encoding="utf-8"),
    }
    for op in operations.values():
        made[f"{op.name}.html"] = page("operation.html", here=op.name, **_operation(op, recorded[op.name]))
    return made


# ---------------------------------------------------------------- what each page shows


def _operation(op: Operation, exchanges: list[Exchange]) -> dict[str, Any]:
    first = exchanges[0]
    call = contract.bind(op.name, first.parameters.items())
    pairs = list(first.parameters.items())
    gateway = set(contract.gateway_errors())
    own = sorted(contract.documented_errors(op.name) - gateway)
    rows, left_out = _told(op, exchanges)
    return {
        "op": op,
        "first": first,
        "others": exchanges[1:],
        "query": "\n".join([f"{openapi.ENDPOINT}/?Action={op.name}", *(f"&{name}={value}" for name, value in pairs)]),
        "signed": signing.signed_v3(op.name, pairs),
        "rows": rows,
        "left_out": left_out,
        "ignored": [parameter.name for parameter in op.parameters if parameter.ignored],
        "own_errors": [(code, status, _message(code, status)) for code, status in own],
        "gateway_errors": sorted(gateway),
        "samples": [
            (samples.language(name), samples.sample(call, openapi.ENDPOINT, name).rstrip()) for name in LANGUAGES
        ],
    }


def _told(op: Operation, exchanges: list[Exchange]) -> tuple[list[Row], list[str]]:
    """Fields worth a row, and the paths of those that only PolarDB fills: neither described nor ever recorded."""
    seen = set().union(*(_paths(each.wire) for each in exchanges if each.status == 200))
    rows: list[Row] = []
    left_out: list[str] = []

    def tell(fields: tuple[Field, ...], above: str, depth: int) -> None:
        # of a list that was empty whenever it was recorded, what its elements hold is not known to be left out
        unknown = bool(above) and not any(path.startswith(above) for path in seen)
        for field in fields:
            path = above + field.name
            if not (field.description or unknown or path in seen):
                left_out.append(path)
                continue
            rows.append(Row(field.name, _type(field), field.description, depth))
            tell(field.fields, f"{path}.", depth + 1)

    tell(op.response, "", 0)
    return rows, left_out


def _paths(wire: Any, above: str = "") -> set[str]:
    """``Items.Backup.BackupId`` and so on, of everything in an answer."""
    if isinstance(wire, list):
        return set().union(*(_paths(one, above) for one in wire))
    if not isinstance(wire, Mapping):
        return set()
    own = {above + name for name in wire}
    return own.union(*(_paths(inner, f"{above}{name}.") for name, inner in wire.items()))


def _type(field: Field) -> str:
    if field.type == "list":
        return f"List of {TYPES[field.item] if field.item else 'objects'}"
    held = {"int": "String of digits", "time": "Time"}
    return held.get(field.holds, TYPES[field.type])


def _conventions(recorded: Mapping[str, list[Exchange]]) -> dict[str, Any]:
    success = recorded["CreateBackup"][0]
    refusal = next(each for each in recorded["CreateBackup"] if each.code == "BackupTimesExceeded")
    return {
        "success": success,
        "refusal": refusal,
        "common": contract.common_parameters(),
        "body_limit": _binary(server.BODY_LIMIT_BYTES),
        "query_limit": _binary(server.QUERY_LIMIT_BYTES),
        "head_limit": _binary(listen.HEAD_LIMIT_BYTES),
        "pairs_limit": signature.PAIRS_LIMIT,
        "marked": [op.name for op in contract.operations().values() if any(p.name == "Marker" for p in op.bound())],
        "tokens": [
            op.name for op in contract.operations().values() if any(p.name == "ClientToken" for p in op.bound())
        ],
    }


def _binary(size_bytes: int) -> str:
    return f"{size_bytes >> 20} MiB" if size_bytes % (1 << 20) == 0 else f"{size_bytes >> 10} KiB"


def _signing() -> dict[str, Any]:
    return {
        "v1": signing.steps_v1(),
        "v3": signing.steps_v3(),
        "key": signing.KEY,
        "moment": signing.moment(),
        "nonce": signing.NONCE,
        "pairs": signing.PAIRS,
        "encoded": [(text, signature.percent(text)) for text in signing.SPECIAL],
        "skew_minutes": signature.CLOCK_SKEW_S // 60,
        "nonce_length": signature.NONCE_LENGTH,
    }


def _error_groups() -> list[tuple[str, list[explain.Entry], list[tuple[str, explain.Case, list[explain.Entry]]]]]:
    """Heading; codes with a text of their own; rows of codes such as ``Invalid<Parameter>.Malformed`` with one text."""
    groups = []
    for heading in explain.GROUPS:
        entries = [entry for entry in explain.entries().values() if entry.group == heading]
        rows: dict[str, list[explain.Entry]] = {}
        for entry in entries:
            if entry.pattern:
                rows.setdefault(entry.pattern, []).append(entry)
        told = [(pattern, explain.Case(found[0].cases[-1].kind), found) for pattern, found in sorted(rows.items())]
        groups.append((heading, [entry for entry in entries if not entry.pattern], told))
    return groups


def _message(code: str, status: int) -> str:
    cases = explain.entries()[code].cases
    return next((case for case in cases if case.status == status), cases[0]).shown_message


# ---------------------------------------------------------------- how it is written


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(code=code, ticks=ticks, breakable=breakable, limits=limits, kind=kind)
    operations = list(contract.operations().values())
    environment.globals.update(
        version=__version__,
        endpoint=openapi.ENDPOINT,
        api=contract.document()["version"],
        menu=[
            (name, about, [op for op in operations if openapi.group_of(op) == name])
            for name, about, _ in openapi.GROUPS
        ],
    )
    return environment


def code(text: str, lexer: str, *, wrap: bool = False) -> Markup:
    """Coloured by classes; the block can be reached and scrolled by keyboard. ``wrap``: long lines are broken."""
    body = pygmentize(text, get_lexer_by_name(lexer), HtmlFormatter(nowrap=True)).rstrip("\n")
    return Markup('<pre class="code%s" tabindex="0"><code>%s</code></pre>') % (" wrap" if wrap else "", Markup(body))


def ticks(text: str) -> Markup:
    """Text in which `this` is code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def breakable(name: str) -> Markup:
    """A long name may be broken where a word of it begins."""
    return Markup(re.sub(r"(?<=[a-z.])(?=[A-Z])", "<wbr>", str(escape(name))))


def kind(parameter: Parameter) -> str:
    return TYPES[parameter.type]


def limits(parameter: Parameter) -> list[Markup]:
    """What the value must be, in words; patterns as they are checked."""
    found: list[Markup] = []
    if parameter.values:
        found.append(Markup(", ").join(Markup("<code>%s</code>") % value for value in parameter.values))
    if parameter.minimum is not None and parameter.maximum is not None:
        found.append(Markup("%s to %s") % (f"{parameter.minimum:,}", f"{parameter.maximum:,}"))
    elif parameter.minimum is not None:
        found.append(Markup("at least %s") % f"{parameter.minimum:,}")
    if parameter.type in ("list", "ids"):
        found.append(Markup("at most %s") % parameter.max_items)
    if parameter.pattern in PATTERNS_IN_WORDS:
        found.append(Markup("%s") % PATTERNS_IN_WORDS[parameter.pattern])
    elif parameter.pattern:
        found.append(Markup("<code>%s</code>") % parameter.pattern)
    if parameter.type == "str" and not parameter.values:
        found.append(Markup("at most %s characters") % f"{parameter.max_length:,}")
        if not parameter.text and not parameter.pattern:
            found.append(Markup("ASCII"))
    if parameter.default:
        found.append(Markup("default <code>%s</code>") % parameter.default)
    return found
