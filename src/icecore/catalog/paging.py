"""Keyset paging: a page begins where the last one ended, so it reads the rows it shows and no others, and what is
inserted meanwhile neither hides a row nor shows one twice.

A marker names the last row shown by the list's own order: ``job:1795500000:4182``. It is opaque to callers (base64url)
and no more than values for a comparison, so a made-up one can at worst begin somewhere else in the same list.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

_NUMBER = ("[0-9]{1,15}", int)
_KEYS: dict[str, tuple[tuple[str, Callable[[str], Any]], ...]] = {  # kind of list -> the parts of its key
    "backup": (_NUMBER, ("[0-9]{1,20}", str)),  # Unix seconds, id
    "job": (_NUMBER, ("[0-9]{1,20}", str)),
    "call": (_NUMBER,),
    "cluster": (("[A-Za-z0-9._-]{1,64}", str),),
}


@dataclass(frozen=True)
class Page:
    rows: Sequence[sa.Row[Any]]
    next_marker: str  # "" on the last page


def write_marker(kind: str, *key: object) -> str:
    return base64.urlsafe_b64encode(":".join([kind, *map(str, key)]).encode()).decode().rstrip("=")


def read_marker(kind: str, marker: str) -> tuple[Any, ...]:
    """The key in a marker of that kind of list; ``ValueError`` for anything that ``write_marker`` does not give."""
    try:
        text = base64.b64decode(marker + "=" * (-len(marker) % 4), altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("not a marker") from error
    found, *key = text.split(":")
    parts = _KEYS[kind]
    if found != kind or len(key) != len(parts) or write_marker(kind, *key) != marker:
        raise ValueError(f"not a marker of a {kind}")
    if not all(re.fullmatch(shape, text) for (shape, _), text in zip(parts, key, strict=True)):
        raise ValueError(f"not a marker of a {kind}")
    return tuple(typed(text) for (_, typed), text in zip(parts, key, strict=True))


def cut(rows: Sequence[sa.Row[Any]], limit: int, marker_of: Callable[[sa.Row[Any]], str]) -> Page:
    """A page from up to ``limit + 1`` rows: the one too many says that there is another page."""
    shown = rows[:limit]
    return Page(shown, marker_of(shown[-1]) if len(rows) > limit else "")
