"""Two strings to sign: where they part, and which rule was broken there. Pure.

``explain(ours, theirs)`` names the first byte that differs and the rule (``explorer_rules``). ``taken`` gives timestamp
and nonce of the other string: with them, what remains different is a mistake.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape
from urllib.parse import unquote

from icecore.console.explorer_rules import RULES, broken, first, kind

CONTEXT = 48  # letters shown on either side


@dataclass(frozen=True)
class Difference:
    """``offset``: bytes before the first that differs; ``line``, ``column``: of its character, from 1. ``alone``: the
    mistake explains all of it; else more may follow."""

    offset: int
    line: int
    column: int
    before: str
    ours: str  # the character; empty at the end
    theirs: str
    ours_after: str
    theirs_after: str
    ours_hex: str
    theirs_hex: str
    rule: str
    says: str
    alone: bool


def explain(ours: str, theirs: str) -> Difference | None:
    """None if they are equal. Which kind of string it is (V1, canonical request, V3) is seen from ``ours``."""
    if ours == theirs:
        return None
    found = broken(ours, theirs)
    at = first(ours, theirs)
    ours_bytes, theirs_bytes = _bytes(ours), _bytes(theirs)
    offset = len(_bytes(ours[:at]))
    # two characters that differ may begin with the same bytes
    shared = min(len(ours_bytes), len(theirs_bytes))
    while offset < shared and ours_bytes[offset] == theirs_bytes[offset]:
        offset += 1
    return Difference(
        offset=offset,
        line=ours.count("\n", 0, at) + 1,
        column=at - (ours.rfind("\n", 0, at) + 1) + 1,
        before=ours[max(0, at - CONTEXT) : at],
        ours=ours[at : at + 1],
        theirs=theirs[at : at + 1],
        ours_after=ours[at + 1 : at + 1 + CONTEXT],
        theirs_after=theirs[at + 1 : at + 1 + CONTEXT],
        ours_hex=ours_bytes[offset : offset + 4].hex(" "),
        theirs_hex=theirs_bytes[offset : offset + 4].hex(" "),
        rule=found.rule,
        says=RULES[found.rule].format(name=found.name, theirs=found.theirs),
        alone=found.alone,
    )


def taken(theirs: str) -> tuple[str, str]:
    """Timestamp and nonce that a string carries, however it is encoded; empty where it has none."""
    plain = theirs
    for _ in range(4):
        plain = unquote(plain, errors="replace")
    timestamp = re.search(r"(?:\bTimestamp=|\bx-acs-date:\s*)([0-9TZ:.+-]{1,40})", plain, re.IGNORECASE)
    nonce = re.search(r"(?:\bSignatureNonce=|\bx-acs-signature-nonce:\s*)([^&\s]{1,128})", plain, re.IGNORECASE)
    return timestamp[1] if timestamp else "", nonce[1] if nonce else ""


def cleaned(pasted: str) -> str:
    """What was pasted, out of a whole error message if need be. Forms send each newline as CRLF."""
    text = pasted.replace("\r\n", "\n")
    _, marker, echoed = text.partition("server string to sign is:")
    if not marker:
        return text
    # the message of an error body goes on behind it, and is escaped as its format wants
    if "</Message>" in echoed:
        return unescape(echoed.partition("</Message>")[0])
    message, *more = re.split(r'"\s*[,}]', echoed, maxsplit=1)
    return message.replace("\\n", "\n") if more else message


def nearest(strings: Sequence[str], theirs: str) -> str:
    """Of our strings the one that ``theirs`` wants to be."""
    for string in strings:
        if kind(string) == kind(theirs):
            return string
    return strings[0]


def visible(text: str) -> str:
    """With signs for what is not seen."""
    return text.translate({10: "↵", 13: "␍", 9: "⇥", 32: "␣"})


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
