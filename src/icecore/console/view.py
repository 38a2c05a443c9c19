"""How pages look: the templates with their filters, and the headers that every page has.

A page is HTML made here from data; no style and no script stands in it, and nothing comes from another host.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pygments import highlight as pygmentize
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from starlette.responses import HTMLResponse, Response

from icecore import __version__
from icecore.console import pace

HERE = Path(__file__).parent
POLICY = "; ".join(
    [
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "same-origin",  # "no-referrer" would take the Origin from our own forms
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_STATIC_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def render(template: str, **context: Any) -> str:
    return _environment().get_template(template).render(context)


def page(template: str, status: int = 200, headers: Mapping[str, str] | None = None, **context: Any) -> Response:
    """A whole page with the headers that keep it to itself."""
    return HTMLResponse(render(template, **context), status, {**HEADERS, **(headers or {})})


def static(name: str) -> Response | None:
    """A style sheet or script; None if there is none of this name. Kept for a year: its address has its hash."""
    found = _static().get(name)
    if found is None:
        return None
    body, content_type, _ = found
    headers = {**HEADERS, "content-type": content_type, "cache-control": "public, max-age=31536000, immutable"}
    return Response(body, 200, headers)


@cache
def _static() -> dict[str, tuple[bytes, str, str]]:
    """Name -> bytes, type, hash. Read once; a name is looked up and never joined to a path."""
    found = {}
    for path in sorted((HERE / "static").iterdir()):
        if path.suffix in _STATIC_TYPES:
            body = path.read_bytes()
            found[path.name] = (body, _STATIC_TYPES[path.suffix], hashlib.sha256(body).hexdigest()[:12])
    return found


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=size, ago=ago, lasting=lasting, when=when, iso=iso, plural=plural, code=code, prose=prose, segment=segment
    )
    environment.filters.update(
        pace=pace.pace, steps=pace.steps, task_title=pace.title, said=pace.said, cluster_name=pace.cluster_name
    )
    environment.tests.update(unfinished=pace.unfinished)
    environment.globals.update(asset=_asset, link=link, version=__version__)
    return environment


def load() -> None:
    """Read all templates and static files now: a package that is upgraded under a running server changes no page."""
    _static()
    for name in _environment().list_templates():
        _environment().get_template(name)


def _asset(name: str) -> str:
    return f"/console/static/{name}?v={_static()[name][2]}"


# ---------------------------------------------------------------- filters


def size(count_bytes: int | None) -> str:
    """``212 GiB``: three digits, binary units."""
    if count_bytes is None:
        return "-"
    value, unit = float(count_bytes), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    if unit == 0:
        return plural(count_bytes, "byte")
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {_UNITS[unit]}"


def lasting(seconds: float | None) -> str:
    """``38 s``, ``4 min``, ``3 h 5 min``, ``9 d``."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 90:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 10:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours} h" if hours < 48 else f"{round(whole / 86400)} d"


def ago(at: int | None, now: float) -> str:
    if at is None:
        return "never"
    return "just now" if now - at < 2 else f"{lasting(now - at)} ago"


def when(at: int | None) -> str:
    """``2026-11-24 18:29:30+00:00``: always with its offset."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).isoformat(sep=" ")


def iso(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}".replace(",", "\u202f")


def segment(text: str) -> str:
    """Any text as one part of a path."""
    return quote(text, safe="")


def link(path: str, **query: Any) -> str:
    """``path`` with those of ``query`` that say something."""
    given = {name: value for name, value in query.items() if value not in (None, "", False)}
    return f"{path}?{urlencode(given)}" if given else path


def prose(text: str) -> Markup:
    """A text of ours, with what stands between backticks set as code."""
    parts = [
        Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(text.split("`"))
    ]
    return Markup("").join(parts)


def code(text: str, lexer: str) -> Markup:
    """Highlighted source; the lexer's name is Pygments'. Everything in it is escaped."""
    formatter: HtmlFormatter[str] = HtmlFormatter(nowrap=True)
    shown = pygmentize(text, get_lexer_by_name(lexer, stripnl=False, ensurenl=False), formatter)
    return Markup(re.sub(r'<span class="w">(\s*)</span>', r"\1", shown))
