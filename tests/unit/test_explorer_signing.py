"""A request step by step, its bytes there and back, and a signature of somebody else judged."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote

import pytest

from icecore.api import signature
from icecore.api.signature import AccessKey, Request
from icecore.console import explorer_bytes, explorer_signing
from icecore.console.explorer_signing import Plan, judge, sign
from icecore.errors import IcecoreError

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


# ---------------------------------------------------------------- the request


@pytest.mark.parametrize("version", explorer_signing.VERSIONS)
@pytest.mark.parametrize("send", explorer_signing.SENDS)
@pytest.mark.parametrize("form", explorer_signing.FORMATS)
@pytest.mark.parametrize("key", [KEY, WITH_TOKEN])
def test_what_is_shown_is_a_right_request_with_all_parameters(version: str, send: str, form: str, key: AccessKey):
    signed = sign(plan(version, send, form=form), key, NOW, NONCE)
    back = explorer_bytes.read(explorer_bytes.write(signed.request), HOST, key.id)

    verified = signature.verify(back, {key.id: key}.get, NOW)

    assert (verified.key, verified.nonce, verified.version) == (key, NONCE, version)
    assert set(PAIRS) <= set(back.pairs())
    assert explorer_bytes.action(back) == "CreateBackup"
    assert back.body == signed.request.body and back.query == signed.request.query
    assert bool(back.body) == (send == "FORM")


@pytest.mark.parametrize("version", explorer_signing.VERSIONS)
def test_no_step_shows_the_secret(version: str):
    signed = sign(plan(version), KEY, NOW, NONCE)
    shown = "\n".join(step.title + step.text + step.note for step in signed.steps)
    shown += explorer_bytes.write(signed.request) + "".join(signed.strings)
    for form in (
        KEY.secret,
        quote(KEY.secret),
        KEY.secret.encode().hex(),
        base64.b64encode(KEY.secret.encode()).decode(),
    ):
        assert form not in shown


def test_the_steps_of_v1_follow_from_each_other():
    signed = sign(plan("V1"), KEY, NOW, NONCE)
    texts = {step.title: step.text for step in signed.steps}
    listed = [tuple(line.split(" = ", 1)) for line in texts["All parameters, sorted"].split("\n")]
    query = texts["Canonicalized query"]
    assert query == "&".join(f"{quote(a, safe='~')}={quote(b, safe='~')}" for a, b in listed)
    assert texts["String to sign"] == "POST&%2F&" + quote(query, safe="~")
    made = hmac.new(KEY.secret.encode() + b"&", texts["String to sign"].encode(), "sha1").digest()
    assert texts["Signature"] == base64.b64encode(made).decode()
    assert quote(texts["Signature"], safe="") in signed.request.query


def test_the_steps_of_v3_follow_from_each_other():
    signed = sign(plan("V3", "FORM"), KEY, NOW, NONCE)
    texts = {step.title: step.text for step in signed.steps}
    assert texts["Hashed payload"] == hashlib.sha256(signed.request.body).hexdigest()
    lines = ["POST", "/", "", texts["Canonical headers"], texts["Signed headers"], texts["Hashed payload"]]
    assert texts["Canonical request"] == "\n".join(lines)
    assert texts["Hash of the canonical request"] == hashlib.sha256(texts["Canonical request"].encode()).hexdigest()
    assert texts["String to sign"] == "ACS3-HMAC-SHA256\n" + texts["Hash of the canonical request"]
    made = hmac.new(KEY.secret.encode(), texts["String to sign"].encode(), "sha256").hexdigest()
    assert texts["Signature"] == made and made in texts["Authorization header"]


GOOD = explorer_bytes.write(sign(plan("V3", "FORM"), KEY, NOW, NONCE).request)
GOOD_V1 = explorer_bytes.write(sign(plan("V1", "GET"), KEY, NOW, NONCE).request)


@pytest.mark.parametrize(
    "broken",
    [
        "",
        GOOD.replace("POST /", "PUT /"),
        GOOD.replace("POST / ", "POST /console "),
        GOOD.replace("POST / ", "POST //evil/ "),
        GOOD.replace("POST / ", "POST http://evil/ "),
        GOOD.replace("HTTP/1.1", "HTTP/1.0"),
        GOOD.replace(f"host: {HOST}", "host: evil.example"),
        GOOD.replace(f"host: {HOST}\n", ""),
        GOOD.replace("\naccept:", f"\nhost: {HOST}\naccept:"),
        GOOD.replace("\naccept:", "\nx-acs-date: 2026-11-24T00:00:00Z\naccept:"),
        GOOD.replace("\naccept:", "\ncookie: a=b\naccept:"),
        GOOD.replace("\naccept:", "\ntransfer-encoding: chunked\naccept:"),
        GOOD.replace("\naccept:", "\n folded\naccept:"),
        GOOD.replace("\naccept:", "\nx-acs-a: b\rx-acs-c: d\naccept:"),
        GOOD + "\n",
        GOOD + "&More=1",
        GOOD[:-1],
        GOOD + "ü",
        GOOD.replace("Credential=testid", "Credential=otherid"),
        GOOD.split("\n\n")[0],
        GOOD_V1.replace("AccessKeyId=testid", "AccessKeyId=otherid"),
        GOOD_V1.replace("AccessKeyId=testid", "AccessKeyId=testid&AccessKeyId=otherid"),
        GOOD_V1 + "body",
        "POST /?" + "a" * 40_000 + " HTTP/1.1\n\n",
        "x" * 70_000,
    ],
)
def test_bytes_that_no_page_made_are_refused(broken: str):
    assert broken not in (GOOD, GOOD_V1)
    with pytest.raises(IcecoreError):
        explorer_bytes.read(broken, HOST, KEY.id)


def test_forms_send_newlines_as_crlf():
    assert explorer_bytes.read(GOOD.replace("\n", "\r\n"), HOST, KEY.id) == explorer_bytes.read(GOOD, HOST, KEY.id)


def test_the_action_is_the_one_that_the_gateway_would_take():
    """Under V1 a header names nothing; a request with both is one that no page made."""
    request = explorer_bytes.read(GOOD_V1, HOST, KEY.id)
    assert explorer_bytes.action(request) == "CreateBackup"
    both = Request(request.method, "/", request.query, [*request.headers, ("x-acs-action", "DescribeRegions")])
    assert explorer_bytes.action(both) == ""


# ---------------------------------------------------------------- a signature alone


V1, V1_QUERY = sign(plan("V1"), KEY, NOW, NONCE).strings
CANONICAL, V3 = sign(plan("V3"), KEY, NOW, NONCE).strings


def _mac(key: str, text: str, method: str) -> bytes:
    return hmac.new(key.encode(), text.encode(), method).digest()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


SECRET = KEY.secret
RIGHT_V1 = _b64(_mac(SECRET + "&", V1, "sha1"))
RIGHT_V3 = _mac(SECRET, V3, "sha256").hex()


@pytest.mark.parametrize(
    ("version", "theirs", "says"),
    [
        ("V1", RIGHT_V1, ""),
        ("V1", f" {RIGHT_V1}\n", ""),
        ("V3", RIGHT_V3, ""),
        ("V1", _b64(_mac(SECRET, V1, "sha1")), "lacks the ampersand"),
        ("V1", _mac(SECRET + "&", V1, "sha1").hex(), "in hex, not in Base64"),
        ("V1", _mac(SECRET, V1, "sha1").hex(), "lacks the ampersand behind the AccessKeySecret. It is written in hex"),
        ("V1", _b64(_mac(SECRET + "&", V1, "sha256")), "HMAC-SHA256"),
        ("V1", quote(RIGHT_V1, safe=""), "percent-encoded"),
        ("V1", RIGHT_V1.rstrip("="), "padding"),
        ("V1", _b64(_mac(SECRET + "&", V1, "sha1").hex().encode()), "hex digits were put into Base64"),
        ("V1", _b64(_mac(SECRET + "&", V1 + "\n", "sha1")), "newline was signed"),
        ("V1", _b64(_mac(SECRET + "\n&", V1, "sha1")), "newline stands behind the AccessKeySecret"),
        ("V1", _b64(_mac(SECRET + "&", V1_QUERY, "sha1")), "Another step was signed"),
        ("V1", _b64(_mac("another" + "&", V1, "sha1")), "another AccessKeySecret"),
        ("V3", _mac(SECRET + "&", V3, "sha256").hex(), "has an ampersand"),
        ("V3", _b64(_mac(SECRET, V3, "sha256")), "in Base64, not in hex"),
        ("V3", RIGHT_V3.upper(), "in capitals"),
        ("V3", _mac(SECRET, V3, "sha1").hex(), "HMAC-SHA1"),
        ("V3", _mac(SECRET, CANONICAL, "sha256").hex(), "Another step was signed"),
        ("V3", _mac("another", V3, "sha256").hex(), "another AccessKeySecret"),
        ("V3", "ü", "another AccessKeySecret"),
    ],
)
def test_what_is_wrong_with_a_signature_of_the_right_string(version: str, theirs: str, says: str):
    strings = (V1, V1_QUERY) if version == "V1" else (V3, CANONICAL)
    said = judge(version, SECRET, strings, theirs)
    assert says in said and bool(said) == bool(says)
    assert SECRET not in said and RIGHT_V1 not in said and RIGHT_V3 not in said
