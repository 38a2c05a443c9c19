"""Which rule of signing a string to sign breaks, and where. Pure.

A rule is found in two ways: by making the mistake on our side and getting exactly the other string, or by what stands
on both sides of the first difference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote

from icecore.api.signature import percent

EMPTY_HASH = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

RULES = {
    "method": "The HTTP method is not the same: sign the method that is sent, in capitals.",
    "path": "The path is missing or another one: the endpoint's is / (in a V1 string %2F, between two ampersands).",
    "plus": "A space became + or its encoding: it must be %20. Form encoding (URLEncoder, urlencode, quote_plus) is "
    "not percent-encoding; replace + by %20 afterwards.",
    "raw": "A character stands unencoded: everything but A-Z a-z 0-9 - _ . ~ is written as %XX of its UTF-8 bytes.",
    "once": "A value was encoded once and must be encoded twice here: each value for itself, then the whole query.",
    "double": "A value was encoded twice before it was signed (%25 in front of the code): encode it once.",
    "whole": "The query was not encoded as a whole: in a V1 string its & are %26 and its = are %3D.",
    "star": "An asterisk stays as it is in your encoding: it must be %2A.",
    "tilde": "A tilde was encoded: it stays as it is. Replace %7E by ~ after URLEncoder.",
    "marks": "One of ! ' ( ) stays as it is in your encoding (encodeURIComponent leaves them): encode them too.",
    "slash": "A slash stays as it is in your encoding (a safe character by default in many libraries): it must be %2F.",
    "hex": "The hexadecimal digits of a %XX are capitals.",
    "order": "The parameters are not in order: sort by name, byte by byte (capitals come before small letters), before "
    "encoding.",
    "missing": "{name} is missing in yours.",
    "extra": "{name} stands in yours and not in ours. That is right only if your request carries it.",
    "signature": "Signature itself is among the signed parameters: leave it out.",
    "name": "The name is {theirs} in yours and {name} in ours; capitals matter too.",
    "value": "The value of {name} is another one.",
    "nonce": "The nonce is another one: compare two strings of the same request.",
    "timestamp": "The timestamp is another one: compare two strings of the same request.",
    "key": "The AccessKeyId is another one: the request was signed for another key.",
    "equals": "A parameter without a value is written with its equals sign: name=.",
    "question": "The question mark does not belong to the query.",
    "place": "One side has the parameters in the query, the other has not: what goes in a form body is signed by its "
    "hash only.",
    "host": "The host is another one: sign the Host header as it is sent, with its port.",
    "header case": "The names of headers are written in small letters.",
    "header space": "Between a header's name, the colon and its value there is no space.",
    "header order": "The headers are not sorted by name.",
    "header value": "The header {name} has another value.",
    "header missing": "The header {name} is missing in yours: host and every x-acs-* header is signed.",
    "header extra": "The header {name} stands in yours and not in ours. That is right only if your request sends it "
    "and SignedHeaders names it.",
    "blank": "The empty line before the signed headers is missing: the headers end with a newline of their own.",
    "signed headers": "The list of signed headers differs: names in small letters, sorted, joined by semicolons.",
    "hash case": "The hash is written in small letters.",
    "hash form": "The hash is written as 64 hexadecimal digits.",
    "body": "The hash of the body is another one: {theirs}",
    "canonical": "The hashes of the canonical requests differ, so these do: paste your canonical request instead, and "
    "the byte is found.",
    "algorithm": "The first line is the algorithm, ACS3-HMAC-SHA256.",
    "version": "Yours is a string of the other signature version: choose it above.",
    "newline": "Yours has a newline more at the end. If pasting brought it, it is no mistake.",
    "no newline": "Yours ends without a newline that belongs there.",
    "crlf": "Lines end with a single newline (LF), not with CRLF.",
    "escaped": "A backslash and an n stand where a newline belongs: single quotes in PHP and Ruby do that, or a log.",
    "space": "There is a space too many.",
    "end": "Yours ends too early.",
    "other": "What stands here is not the same.",
}


@dataclass(frozen=True)
class Broken:
    """``rule`` of ``RULES``, with what its sentence names. ``alone``: it explains the whole difference."""

    rule: str
    name: str = ""
    theirs: str = ""
    alone: bool = False


def kind(text: str) -> str:
    """``v1``, ``v3``: strings to sign; ``canonical``: V3's request; ``query``: neither, so perhaps V1's query."""
    if text.lstrip().upper().startswith("ACS3-"):
        return "v3"
    if re.match(r"\s*[A-Za-z]{3,7}&", text):
        return "v1"
    if re.match(r"\s*[A-Za-z]{3,7}(\r?\n|\\n)", text):
        return "canonical"
    return "query"


def first(ours: str, theirs: str) -> int:
    """Index of the first character that differs."""
    length = min(len(ours), len(theirs))
    return next((at for at in range(length) if ours[at] != theirs[at]), length)


# ---------------------------------------------------------------- which rule


def broken(ours: str, theirs: str) -> Broken:
    """The rule that ``theirs``, which is not ``ours``, breaks."""
    # what changes a string as a whole
    for rule, mended in (
        ("crlf", theirs.replace("\r\n", "\n")),
        ("escaped", theirs.replace("\\r\\n", "\\n").replace("\\n", "\n")),
        ("newline", theirs.rstrip("\r\n")),
        ("space", theirs.strip(" ")),
    ):
        if mended == ours:
            return Broken(rule, alone=True)
    if theirs == ours.rstrip("\n"):
        return Broken("no newline", alone=True)
    own, other = kind(ours), kind(theirs)
    if {own, other} in ({"v1", "v3"}, {"v1", "canonical"}):
        return Broken("version")

    found = {"v1": _rule_v1, "v3": _rule_v3, "canonical": _rule_canonical}.get(own, _rule_of_query)(ours, theirs)
    if found is not None:
        return found
    if "\r" in theirs:
        return Broken("crlf")
    if ours.startswith(theirs):
        return Broken("end")
    if theirs[first(ours, theirs) :][:1] == " ":
        return Broken("space")
    return Broken("other")


def _rule_v1(ours: str, theirs: str) -> Broken | None:
    method, _, rest = ours.partition("&")
    their_method, _, their_rest = theirs.partition("&")
    if method != their_method:
        return Broken("method", alone=rest == their_rest)
    query = rest.removeprefix("%2F&")
    if not their_rest.startswith("%2F&"):
        if re.match(r"(/|%2f|%252F)?&", their_rest, re.IGNORECASE):
            rule = "hex" if their_rest.startswith("%2f&") else "path"
            return Broken(rule, alone=their_rest.partition("&")[2] == query)
        return Broken("path", alone=their_rest == query)
    return _query(query, their_rest.removeprefix("%2F&"), levels=2)


def _rule_of_query(ours: str, theirs: str) -> Broken | None:
    return _query(ours, theirs, levels=1)


def _rule_v3(ours: str, theirs: str) -> Broken | None:
    algorithm, _, digest = ours.partition("\n")
    their_algorithm, _, their_digest = theirs.partition("\n")
    if algorithm != their_algorithm:
        return Broken("algorithm", alone=digest == their_digest)
    if digest == their_digest.lower():
        return Broken("hash case", alone=True)
    if not re.fullmatch("[0-9a-f]{64}", their_digest.strip(), re.IGNORECASE):
        return Broken("hash form")
    return Broken("canonical")


# ---------------------------------------------------------------- queries


def _items(query: str, levels: int) -> list[str]:
    """``name=value`` of a canonical query, encoded once; in a V1 string the whole is encoded once more."""
    plain = unquote(query, errors="replace") if levels == 2 else query
    return plain.split("&") if plain else []


def _name(item: str) -> str:
    return unquote(item.partition("=")[0], errors="replace")


def _js(text: str) -> str:
    return quote(text, safe="-_.~!'()*")


# Encodings that people use instead of RFC 3986's, as what they make of one name or value
_MISTAKES: dict[str, Callable[[str], str]] = {
    "plus": lambda text: percent(text).replace("%20", "+"),
    "star": lambda text: percent(text).replace("%2A", "*"),
    "tilde": lambda text: percent(text).replace("~", "%7E"),
    "slash": lambda text: percent(text).replace("%2F", "/"),
    "marks": _js,
    "double": lambda text: percent(percent(text)),
    "raw": lambda text: text,
    "hex": lambda text: re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), percent(text)),
}


def _query(ours: str, theirs: str, levels: int) -> Broken | None:
    again = percent if levels == 2 else str
    items = _items(ours, levels)
    pairs = [tuple(unquote(part) for part in item.partition("=")[::2]) for item in items]

    # one mistake made everywhere gives exactly theirs
    for rule, encode in _MISTAKES.items():
        made = "&".join(f"{encode(name)}={encode(value)}" for name, value in pairs)
        if again(made) == theirs and made != "&".join(items):
            return Broken("once" if rule == "raw" and levels == 2 else rule, alone=True)
        hexed = _MISTAKES["hex"](made) if rule == "raw" else ""
        if hexed and hexed == theirs:
            return Broken("hex", alone=True)
    if levels == 2:
        plain = "&".join(items)
        if theirs == plain:
            return Broken("whole", alone=True)
        if theirs == _lower(ours):
            return Broken("hex", alone=True)
    if theirs == f"?{ours}":
        return Broken("question", alone=True)

    # else what stands at the first difference: a character's encoding, then the parameters as such
    return _at_token(ours, theirs, levels) or _in_items(items, _items(theirs, levels))


def _lower(text: str) -> str:
    return re.sub("%[0-9A-F]{2}", lambda code: code[0].lower(), text)


def _at_token(ours: str, theirs: str, levels: int) -> Broken | None:
    """The rule that one encoded character breaks."""
    start = _token_start(ours, first(ours, theirs))
    left, right = ours[start:], theirs[start:]
    code = re.match("%25[0-9A-F]{2}", left) if levels == 2 else None
    code = code or re.match("%[0-9A-F]{2}|~", left)
    if code is None:
        return None
    own = code[0]
    character = own if own == "~" else unquote(unquote(own), errors="replace")
    written = [character, percent(character), percent(percent(character))]  # unencoded, once, twice
    candidates: list[tuple[str, str]] = []
    if own == "~":
        candidates = [("tilde", "%257E"), ("tilde", "%7E")]
    elif levels == 2 and own in ("%26", "%3D"):
        candidates = [("whole", character)]
    else:
        if character == " ":
            candidates += [("plus", form) for form in ("%252B", "%2B", "+")]
        special = {"*": "star", "/": "slash", "!": "marks", "'": "marks", "(": "marks", ")": "marks"}.get(character)
        candidates.append(("double", own.replace("%", "%25", 1)))
        candidates += [(special or "once", form) for form in written[levels - 1 : 0 : -1] if form != own]
        if "\ufffd" not in character:
            candidates.append((special or "raw", character))
        elif levels == 2:
            candidates.append(("once", own.replace("%25", "%", 1)))
    for rule, form in candidates:
        if right.startswith(form) and not right.startswith(own):
            # the same mistake may have been made at several places
            alone = right[len(form) :] == left[len(own) :] or right.replace(form, own) == left
            return Broken(rule, alone=alone)
    if right[: len(own)].upper() == own and right[: len(own)] != own:
        return Broken("hex", alone=right[len(own) :] == left[len(own) :])
    # more than one byte of UTF-8, unencoded
    if "\ufffd" in character and right[:1] > "\x7f":
        return Broken("raw")
    return None


def _token_start(text: str, at: int) -> int:
    """The beginning of the encoded character that ``at`` lies in."""
    for match in re.finditer("%25[0-9A-F]{2}|%[0-9A-F]{2}", text):
        if match.start() <= at < match.end():
            return match.start()
        if match.start() > at:
            break
    return at


def _in_items(ours: list[str], theirs: list[str]) -> Broken | None:
    """What is wrong with the parameters: their order, one too many, one too few, a value."""
    if Counter(ours) == Counter(theirs):
        return Broken("order", alone=True)
    names, their_names = [_name(item) for item in ours], [_name(item) for item in theirs]
    missing, extra = Counter(names) - Counter(their_names), Counter(their_names) - Counter(names)
    at = next((at for at, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    own = names[at] if at < len(ours) else ""
    other = their_names[at] if at < len(theirs) else ""

    # a name on one side only
    if own in missing and other in extra and _alike(ours[at], theirs[at]):
        return Broken("name", own, other, alone=sum(missing.values()) == sum(extra.values()) == 1)
    if at < len(theirs) and other in extra:
        rule = "signature" if other == "Signature" else "extra"
        return Broken(rule, other, alone=_without(theirs, at) == ours)
    if at < len(ours) and own in missing:
        return Broken("missing", own, alone=_without(ours, at) == theirs)
    if own != other:
        return Broken("order") if own and other else None

    # the same name with something else behind it
    alone = ours[:at] + theirs[at : at + 1] + ours[at + 1 :] == theirs
    if ours[at].endswith("=") and theirs[at] == ours[at][:-1]:
        return Broken("equals", alone=alone)
    rule = {"SignatureNonce": "nonce", "Timestamp": "timestamp", "AccessKeyId": "key"}.get(own, "value")
    return Broken(rule, own, alone=alone)


def _alike(item: str, other: str) -> bool:
    """Whether two ``name=value`` are the same one with its name spelled differently."""
    (name, _, value), (other_name, _, other_value) = item.partition("="), other.partition("=")
    return value == other_value or name.lower() == other_name.lower()


def _without(items: list[str], at: int) -> list[str]:
    return items[:at] + items[at + 1 :]


# ---------------------------------------------------------------- canonical request


def _rule_canonical(ours: str, theirs: str) -> Broken | None:
    lines, their_lines = ours.split("\n"), theirs.replace("\r\n", "\n").split("\n")
    at = next((at for at, (a, b) in enumerate(zip(lines, their_lines, strict=False)) if a != b), len(lines))
    if at >= min(len(lines), len(their_lines)):
        return None
    line, their_line = lines[at], their_lines[at]
    alone = [*lines[:at], their_line, *lines[at + 1 :]] == their_lines
    last = len(lines) - 1  # hash; before it the signed headers, before these an empty line

    if at == 0:
        return Broken("method", alone=alone)
    if at == 1:
        return Broken("path", alone=alone or _without(lines, 1) == their_lines)
    if at == 2:
        if not line or not their_line:
            return Broken("place")
        found = _query(line, their_line, levels=1)
        return Broken(found.rule, found.name, found.theirs, found.alone and alone) if found else None
    if at == last:
        return _hash(line, their_line, alone)
    if at == last - 1:
        return Broken("signed headers", alone=alone)
    if at == last - 2 and their_line == lines[last - 1]:
        return Broken("blank", alone=_without(lines, at) == their_lines)
    return _headers(lines, their_lines, at, alone)


def _headers(lines: list[str], their_lines: list[str], at: int, alone: bool) -> Broken:
    """What is wrong with the header lines, of which the one at ``at`` is the first that differs."""
    own, other = lines[at].partition(":"), their_lines[at].partition(":")
    if own[0] and own[0] == other[0].strip().lower():
        if own[0] != other[0].strip():
            return Broken("header case", alone=alone)
        if own[2] == other[2].strip():
            return Broken("header space", alone=alone)
        rule = {"host": "host", "x-acs-date": "timestamp", "x-acs-signature-nonce": "nonce"}.get(own[0], "header value")
        if own[0] == "x-acs-content-sha256":
            return _hash(own[2], other[2], alone)
        return Broken(rule, own[0], alone=alone)
    names = [line.partition(":")[0] for line in lines[3:] if ":" in line]
    their_names = [line.partition(":")[0].strip().lower() for line in their_lines[3:] if ":" in line]
    if sorted(names) == sorted(their_names):
        return Broken("header order")
    if other[0] and other[0].lower() not in names:
        return Broken("header extra", other[0], alone=_without(their_lines, at) == lines)
    if own[0] and own[0] not in their_names:
        return Broken("header missing", own[0], alone=_without(lines, at) == their_lines)
    return Broken("other")


def _hash(own: str, other: str, alone: bool) -> Broken:
    if own == other.lower():
        return Broken("hash case", alone=alone)
    if not re.fullmatch("[0-9a-f]{64}", other, re.IGNORECASE):
        return Broken("hash form", alone=alone)
    if other.lower() == EMPTY_HASH:
        return Broken("body", theirs="yours is that of an empty body.", alone=alone)
    if own == EMPTY_HASH:
        return Broken("body", theirs="the body is empty, the parameters are in the query.", alone=alone)
    return Broken("body", theirs="hash the bytes that are sent.", alone=alone)
