"""A text as a literal of each language. A value is whatever a caller typed: it can neither end its literal early nor be
read as something else.

What a reader can see stays as it is where the language's sources are UTF-8 by definition; what cannot be seen (control
characters, marks that turn the direction of writing) is always escaped, so that a sample is what it looks like.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping

# what every language with double quotes and backslashes shares
_COMMON = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def shell(text: str) -> str:
    """POSIX: nothing is special within single quotes."""
    return shlex.quote(text)


def python(text: str) -> str:
    """``repr``, with double quotes where it has no reason to choose."""
    literal = repr(text)
    return literal if "'" in text or '"' in text else f'"{literal[1:-1]}"'


def javascript(text: str) -> str:
    """JavaScript and TypeScript: a JSON string, with U+2028 and its like escaped."""
    return "".join(c if c.isprintable() else _utf16(c) for c in json.dumps(text, ensure_ascii=False))


def java(text: str) -> str:
    """ASCII only: javac before 18 reads a source in the machine's encoding. An escape is decoded before anything else
    is read, so none may stand for a quote, a backslash or the end of a line."""
    return _double_quoted(text, _COMMON, _utf16, ascii_only=True)


def go(text: str) -> str:
    return _double_quoted(text, _COMMON, lambda c: f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}")


def csharp(text: str) -> str:
    return _double_quoted(text, _COMMON, _utf16)


def cpp(text: str) -> str:
    """Bytes in three octal digits, which no digit behind them can prolong. ``??/`` is a backslash until C++17."""
    octal = _double_quoted(text, _COMMON, lambda c: "".join(f"\\{byte:03o}" for byte in c.encode()))
    return re.sub(r"(?<=\?)\?", r"\\?", octal)


def php(text: str) -> str:
    """Single quotes know two escapes; only text that cannot be seen needs double ones."""
    if text.isprintable():
        return _single_quoted(text)
    return _double_quoted(text, {**_COMMON, "$": "\\$"}, _braced)


def ruby(text: str) -> str:
    if text.isprintable():
        return _single_quoted(text)
    return _double_quoted(text, {**_COMMON, "#": "\\#"}, _braced)


def _single_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _double_quoted(
    text: str, table: Mapping[str, str], other: Callable[[str], str], *, ascii_only: bool = False
) -> str:
    """``table``: characters with an escape of their own; ``other``: the escape of what is not shown as it is."""

    def written(c: str) -> str:
        shown = c.isprintable() and (c.isascii() or not ascii_only)
        return table.get(c) or (c if shown else other(c))

    return '"' + "".join(map(written, text)) + '"'


def _utf16(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def _braced(c: str) -> str:
    return f"\\u{{{ord(c):x}}}"
