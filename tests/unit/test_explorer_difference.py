"""Two strings to sign: the first byte that differs is found exactly, and the rule that was broken is named."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from urllib.parse import quote, unquote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icecore.api import answer, contract
from icecore.api.signature import AccessKey
from icecore.console import explorer_difference, explorer_signing
from icecore.console.explorer_difference import explain, taken
from icecore.console.explorer_rules import RULES
from icecore.console.explorer_signing import Plan, sign
from icecore.errors import SignatureMismatch

NOW = 1795500000
NONCE = "5330ad7d22070a7d2348d6f02cf93dfc"
KEY = AccessKey("testid", "testsecret-not-shown", True, None, "admin")
WITH_TOKEN = AccessKey("stsid", "testsecret-not-shown", True, "token/+=", "admin")
PAIRS = [
    ("DBClusterId", "pc-1"),
    ("Comment", "a b*~/(ü'&=) %2F"),
    ("ClientToken", "T:1"),
]
HOST = "127.0.0.1:8080"


def plan(version: str, send: str = "POST", pairs: list[tuple[str, str]] | None = None, form: str = "JSON") -> Plan:
    return Plan(HOST, "CreateBackup", PAIRS if pairs is None else pairs, version, form, send)


# ---------------------------------------------------------------- where two strings part


def _v1(**changes: str) -> str:
    return sign(plan("V1", pairs=[*PAIRS, *changes.items()]), KEY, NOW, NONCE).strings[0]


V1 = _v1()
V1_QUERY = sign(plan("V1"), KEY, NOW, NONCE).strings[1]
CANONICAL, V3 = sign(plan("V3"), KEY, NOW, NONCE).strings
CANONICAL_FORM = sign(plan("V3", "FORM"), KEY, NOW, NONCE).strings[0]


def _mistaken(encode: Callable[[str], str], levels: int) -> str:
    """The string of somebody who encodes names and values by ``encode``."""
    query = V1_QUERY if levels == 2 else CANONICAL.split("\n")[2]
    pairs = [part.split("=", 1) for part in query.split("&")]
    made = "&".join(f"{encode(unquote(name))}={encode(unquote(value))}" for name, value in pairs)
    if levels == 2:
        return "POST&%2F&" + quote(made, safe="~")
    lines = CANONICAL.split("\n")
    return "\n".join([*lines[:2], made, *lines[3:]])


def _percent(text: str) -> str:
    return quote(text, safe="~")


ENCODINGS = {
    "plus": lambda text: _percent(text).replace("%20", "+"),
    "star": lambda text: _percent(text).replace("%2A", "*"),
    "tilde": lambda text: _percent(text).replace("~", "%7E"),
    "slash": lambda text: quote(text, safe="/~"),
    "marks": lambda text: quote(text, safe="~!'()*"),
    "double": lambda text: _percent(_percent(text)),
    "hex": lambda text: re.sub("%..", lambda m: m[0].lower(), _percent(text)),
}


@pytest.mark.parametrize("rule", ENCODINGS)
@pytest.mark.parametrize("levels", [1, 2])
def test_an_encoding_that_is_wrong_everywhere(rule: str, levels: int):
    ours = V1 if levels == 2 else CANONICAL
    found = explain(ours, _mistaken(ENCODINGS[rule], levels))
    assert found is not None and (found.rule, found.alone) == (rule, True)


def test_a_value_that_was_not_encoded():
    once = explain(V1, _mistaken(lambda text: text, 2))
    raw = explain(CANONICAL, _mistaken(lambda text: text, 1))
    assert once is not None and once.rule == "once"
    assert raw is not None and raw.rule == "raw"


def _swapped(string: str, first: str, second: str, joiner: str) -> str:
    a = next(part for part in string.split(joiner) if part.startswith(first))
    b = next(part for part in string.split(joiner) if part.startswith(second))
    return string.replace(a, "\0").replace(b, a).replace("\0", b)


LINES = CANONICAL.split("\n")
DIGEST = LINES[-1]

# what somebody did -> rule, whether that alone explains it
MISTAKES: dict[str, tuple[str, str, str, bool]] = {
    # V1, as a whole
    "method in small letters": (V1, V1.replace("POST", "post"), "method", True),
    "another method": (V1, V1.replace("POST", "GET"), "method", True),
    "no path": (V1, V1.replace("&%2F&", "&"), "path", True),
    "a bare path": (V1, V1.replace("&%2F&", "&/&"), "path", True),
    "an empty path": (V1, V1.replace("&%2F&", "&&"), "path", True),
    "small hex in the path": (V1, V1.replace("%2F&", "%2f&"), "hex", True),
    "query not encoded again": (V1, "POST&%2F&" + V1_QUERY, "whole", True),
    "small hex everywhere": (V1, "POST&%2F&" + re.sub("%[0-9A-F]{2}", lambda m: m[0].lower(), V1[9:]), "hex", True),
    "small hex once": (V1, V1.replace("%3D", "%3d", 1), "hex", True),
    "an ampersand in the query": (V1, V1.replace("%26", "&", 1), "whole", True),
    "a newline behind": (V1, V1 + "\n", "newline", True),
    "a space behind": (V1, V1 + " ", "space", True),
    "cut off": (V1, V1[:-5], "value", True),
    # V1, one place
    "one plus": (V1, V1.replace("%2520", "%2B"), "plus", True),
    "one bare plus": (V1, V1.replace("%2520", "+"), "plus", True),
    "one bare space": (V1, V1.replace("%2520", " "), "raw", True),
    "one star": (V1, V1.replace("%252A", "*"), "star", True),
    "one star encoded once": (V1, V1.replace("%252A", "%2A"), "star", True),
    "one tilde": (V1, V1.replace("~", "%257E"), "tilde", True),
    "the colon once": (V1, V1.replace("%253A", "%3A"), "once", True),
    "the colon thrice": (V1, V1.replace("%253A", "%25253A"), "double", True),
    "two mistakes": (V1, V1.replace("%252A", "*").replace("%2520", "%2B"), "plus", False),
    # V1, parameters
    "order": (V1, _swapped(V1, "Comment", "DBClusterId", "%26"), "order", True),
    "a parameter missing": (V1, re.sub("Format%3DJSON%26", "", V1), "missing", True),
    "the last missing": (V1, V1.rpartition("%26")[0], "missing", True),
    "a parameter too many": (V1, _v1(RegionId="cn-hangzhou"), "extra", True),
    "the signature signed": (V1, V1.replace("SignatureMethod", "Signature%3Dabc%26SignatureMethod"), "signature", True),
    "a name in small letters": (V1, V1.replace("DBClusterId", "DbClusterId"), "name", True),
    "a name misspelled": (V1, V1.replace("ClientToken", "ClientTokne"), "name", True),
    "no equals sign": (V1.replace("pc-1", ""), V1.replace("DBClusterId%3Dpc-1", "DBClusterId"), "equals", True),
    "another value": (V1, V1.replace("pc-1", "pc-2"), "value", True),
    "another nonce": (V1, V1.replace(NONCE, NONCE[::-1]), "nonce", True),
    "another time": (V1, V1.replace("Timestamp%3D2026", "Timestamp%3D2025"), "timestamp", True),
    "another key": (V1, V1.replace("testid", "otherid"), "key", True),
    "V3 in place of V1": (V1, V3, "version", False),
    "V1's query": (V1_QUERY, V1_QUERY.replace("%20", "+"), "plus", True),
    "a question mark": (V1_QUERY, "?" + V1_QUERY, "question", True),
    # V3, canonical request
    "v3 method": (CANONICAL, CANONICAL.replace("POST", "post", 1), "method", True),
    "v3 no path": (CANONICAL, "\n".join([LINES[0], *LINES[2:]]), "path", True),
    "v3 empty path": (CANONICAL, "\n".join([LINES[0], "", *LINES[2:]]), "path", True),
    "v3 parameters in the body": (CANONICAL, CANONICAL.replace(LINES[2], ""), "place", False),
    "v3 parameters in the query": (CANONICAL_FORM, CANONICAL, "place", False),
    "v3 one plus": (CANONICAL, CANONICAL.replace("%20", "+"), "plus", True),
    "v3 one plus encoded": (CANONICAL, CANONICAL.replace("a%20b", "a%2Bb"), "plus", True),
    "v3 one small hex": (CANONICAL, CANONICAL.replace("%3A", "%3a"), "hex", True),
    "v3 one double": (CANONICAL, CANONICAL.replace("%3A", "%253A"), "double", True),
    "v3 umlaut": (CANONICAL, CANONICAL.replace("%C3%BC", "ü"), "raw", False),
    "v3 order": (CANONICAL, CANONICAL.replace(LINES[2], "&".join(reversed(LINES[2].split("&")))), "order", True),
    "v3 question mark": (CANONICAL, CANONICAL.replace("\nClientToken", "\n?ClientToken"), "question", True),
    "v3 header in capitals": (CANONICAL, CANONICAL.replace("\nhost:", "\nHost:"), "header case", True),
    "v3 space behind the colon": (CANONICAL, CANONICAL.replace("\nhost:", "\nhost: "), "header space", True),
    "v3 host without port": (CANONICAL, CANONICAL.replace(HOST, "127.0.0.1"), "host", True),
    "v3 another date": (CANONICAL, CANONICAL.replace("x-acs-date:2026", "x-acs-date:2025"), "timestamp", True),
    "v3 another nonce": (CANONICAL, CANONICAL.replace(NONCE, NONCE[::-1]), "nonce", True),
    "v3 another version": (CANONICAL, CANONICAL.replace("2017-08-01", "2017-08-02"), "header value", True),
    "v3 headers unsorted": (CANONICAL, "\n".join([*LINES[:3], LINES[4], LINES[3], *LINES[5:]]), "header order", False),
    "v3 header missing": (CANONICAL, "\n".join(LINES[:4] + LINES[5:]), "header missing", True),
    "v3 header too many": (CANONICAL, "\n".join([*LINES[:3], "accept:*/*", *LINES[3:]]), "header extra", True),
    "v3 no empty line": (CANONICAL, "\n".join([*LINES[:-3], *LINES[-2:]]), "blank", True),
    "v3 signed headers by comma": (CANONICAL, CANONICAL.replace(";", ","), "signed headers", True),
    "v3 signed headers short": (CANONICAL, CANONICAL.replace("host;x-acs-action;", "host;"), "signed headers", True),
    "v3 hash in capitals": (CANONICAL, CANONICAL[:-64] + DIGEST.upper(), "hash case", True),
    "v3 hash in base64": (
        CANONICAL,
        CANONICAL[:-64] + "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
        "hash form",
        True,
    ),
    "v3 hash of something": (CANONICAL, CANONICAL[:-64] + hashlib.sha256(b"{}").hexdigest(), "body", True),
    "v3 hash of nothing": (CANONICAL_FORM, CANONICAL_FORM[:-64] + DIGEST, "body", True),
    "v3 no newline behind": (CANONICAL + "\n", CANONICAL, "no newline", True),
    "v3 newline behind": (CANONICAL, CANONICAL + "\n", "newline", True),
    "v3 crlf": (CANONICAL, CANONICAL.replace("\n", "\r\n"), "crlf", True),
    "v3 backslashes": (CANONICAL, CANONICAL.replace("\n", "\\n"), "escaped", True),
    "v3 cut off": (CANONICAL, CANONICAL.rpartition("\n")[0], "end", False),
    # V3, string to sign
    "v3 algorithm": (V3, V3.replace("SHA256", "SM3"), "algorithm", True),
    "v3 digest in capitals": (V3, V3[:17] + V3[17:].upper(), "hash case", True),
    "v3 digest in base64": (V3, V3[:17] + "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", "hash form", False),
    "v3 another digest": (V3, V3[:17] + DIGEST, "canonical", False),
    "v1 in place of v3": (V3, V1, "version", False),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_and_the_rule_it_breaks(name: str):
    ours, theirs, rule, alone = MISTAKES[name]
    assert ours != theirs
    found = explain(ours, theirs)
    assert found is not None and (found.rule, found.alone) == (rule, alone), found


def test_every_rule_is_broken_by_somebody():
    assert set(RULES) - {rule for _, _, rule, _ in MISTAKES.values()} - set(ENCODINGS) == {"other"}


def test_equal_strings_have_no_difference():
    for string in (V1, V1_QUERY, CANONICAL, V3):
        assert explain(string, string) is None


@settings(deadline=None)
@given(
    ours=st.sampled_from([V1, V1_QUERY, CANONICAL, CANONICAL_FORM, V3]),
    at=st.integers(0, 2000),
    kind=st.sampled_from(["replace", "insert", "delete"]),
    letter=st.characters(exclude_categories=["Cs"]),
)
def test_any_single_mutation_is_located_exactly(ours: str, at: int, kind: str, letter: str):
    at %= len(ours)
    theirs = {
        "replace": ours[:at] + letter + ours[at + 1 :],
        "insert": ours[:at] + letter + ours[at:],
        "delete": ours[:at] + ours[at + 1 :],
    }[kind]
    found = explain(ours, theirs)
    if ours == theirs:
        assert found is None
        return
    assert found is not None
    assert ours.encode()[: found.offset] == theirs.encode()[: found.offset]
    assert ours.encode()[found.offset :][:1] != theirs.encode()[found.offset :][:1]
    # what is marked is the character in which that byte lies, on its line and column
    lines = ours.split("\n")
    before = "".join(line + "\n" for line in lines[: found.line - 1]) + lines[found.line - 1][: found.column - 1]
    assert len(before.encode()) <= found.offset < len((before + (found.ours or "\0")).encode())
    assert theirs.startswith(before) and before.endswith(found.before)
    assert found.ours + found.ours_after == ours[len(before) :][: 1 + len(found.ours_after)]
    assert found.theirs + found.theirs_after == theirs[len(before) :][: 1 + len(found.theirs_after)]
    assert bytes.fromhex(found.ours_hex) == ours.encode()[found.offset :][:4]
    assert found.says and found.rule in RULES and "{name}" not in found.says and "{theirs}" not in found.says


@settings(deadline=None)
@given(st.text(), st.text())
def test_nothing_that_is_pasted_breaks_it(ours: str, theirs: str):
    found = explain(ours, theirs)
    assert (found is None) == (ours == theirs)
    assert explain(V1, theirs) and explain(CANONICAL, theirs) and explain(V3, theirs)
    assert explorer_difference.nearest((CANONICAL, V3), theirs) in (CANONICAL, V3)
    taken(theirs)


def test_timestamp_and_nonce_are_taken_however_they_are_encoded():
    at = contract.write_time(NOW)
    for string in (V1, V1_QUERY, CANONICAL, V1.replace("%253A", "%25253A"), "POST&%2F&" + V1_QUERY):
        assert taken(string) == (at, NONCE)
    assert taken(V3) == ("", "")
    assert taken("") == ("", "")


@pytest.mark.parametrize("mistake", ["one plus", "order", "v3 no empty line", "v3 host without port"])
def test_with_their_timestamp_and_nonce_only_the_mistake_remains(mistake: str):
    _, theirs, rule, alone = MISTAKES[mistake]
    version = "V3" if mistake.startswith("v3") else "V1"
    ours = explorer_signing.sign_at(plan(version), KEY, *taken(theirs))
    found = explain(explorer_difference.nearest(ours.strings, theirs), theirs)
    assert found is not None and (found.rule, found.alone) == (rule, alone)


def test_the_servers_string_is_found_in_its_message():
    message = f"Specified signature is not matched with our calculation. server string to sign is:{V1}"
    assert explorer_difference.cleaned(message) == V1
    assert explorer_difference.cleaned(f'{{"Message":"{message}","Recommend":"x"}}') == V1
    for xml in (False, True):
        for string in (V1, V3):
            error = SignatureMismatch(string_to_sign=string)
            body = answer.failure(error, "ID", host=HOST, base_url="http://x", xml=xml).body.decode()
            assert explorer_difference.cleaned(body) == string
    assert explorer_difference.cleaned(CANONICAL.replace("\n", "\r\n")) == CANONICAL
