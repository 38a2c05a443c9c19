"""Signatures: published vectors stage by stage, and every way to be wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from simulated_backend import KEYS

from icecore.api import signature
from icecore.api.client import sign_v1, sign_v3
from icecore.api.signature import Request
from icecore.errors import IcecoreError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "signatures.json").read_text())
NOW = 1795492800  # 2026-11-24T04:00:00Z
PAIRS = [("DBClusterId", "pc-test0001"), ("ClientToken", "tok ~*+/é!'()")]


@pytest.mark.parametrize("vector", VECTORS["v1"], ids=lambda v: v["name"])
def test_v1_stages(vector: dict[str, Any]) -> None:
    pairs = signature.parse_pairs(vector["query"])
    assert signature.string_to_sign_v1(vector["method"], pairs) == vector["string_to_sign"]
    assert signature.signature_v1(vector["secret"], vector["string_to_sign"]) == vector["signature"]


@pytest.mark.parametrize("vector", VECTORS["v3"], ids=lambda v: v["name"])
def test_v3_stages(vector: dict[str, Any]) -> None:
    body = vector["body"].encode()
    request = Request(vector["method"], "/", vector["query"], list(vector["headers"].items()), body)
    assert signature.body_hash(body) == vector["headers"]["x-acs-content-sha256"]
    canonical = signature.canonical_request(request, ";".join(sorted(vector["headers"])), signature.body_hash(body))
    if vector["request_hash"]:
        assert hashlib.sha256(canonical.encode()).hexdigest() == vector["request_hash"]
    proof = signature.signature_v3(vector["secret"], signature.string_to_sign_v3(canonical))
    assert proof == vector["signature"]


def test_canonical_query_sorts_decoded_names_and_keeps_empty_values() -> None:
    assert signature.canonical_query([("b", ""), ("a", "2 *"), ("a", "1"), ("B", "~")]) == "B=~&a=1&a=2%20%2A&b="
    assert signature.parse_pairs("a=1+2&&b&c=%2B=") == [("a", "1 2"), ("b", ""), ("c", "+=")]


# ---------------------------------------------------------------- verification


def v1(key: str = "testid", token: str = "") -> Request:
    return sign_v1("host:1", "CreateBackup", PAIRS, (key, KEYS[key].secret if key in KEYS else "x", token), NOW, "n-1")


def v3(key: str = "testid", token: str = "") -> Request:
    return sign_v3("host:1", "CreateBackup", PAIRS, (key, KEYS[key].secret if key in KEYS else "x", token), NOW, "n-1")


def verify(request: Request, now: int = NOW) -> str:
    """The code of the refusal, or ``OK``."""
    try:
        verified = signature.verify(request, KEYS.get, now)
    except IcecoreError as error:
        return error.wire_code()
    assert verified.nonce == "n-1"
    return "OK"


def query(old: str, new: str) -> Callable[[Request], Request]:
    def tamper(request: Request) -> Request:
        changed = re.sub(old, new, request.query)
        assert changed != request.query
        return dataclasses.replace(request, query=changed)

    return tamper


def header(name: str, value: str | None) -> Callable[[Request], Request]:
    """Set a header, or take it away."""

    def tamper(request: Request) -> Request:
        kept = [(key, old) for key, old in request.headers if key != name]
        return dataclasses.replace(request, headers=kept + ([(name, value)] if value is not None else []))

    return tamper


def authorization(old: str, new: str) -> Callable[[Request], Request]:
    def tamper(request: Request) -> Request:
        before = dict(request.headers)["authorization"]
        after = re.sub(old, new, before)
        assert after != before
        return header("authorization", after)(request)

    return tamper


def body(content: bytes) -> Callable[[Request], Request]:
    return lambda request: dataclasses.replace(request, body=content)


def method(name: str) -> Callable[[Request], Request]:
    return lambda request: dataclasses.replace(request, method=name)


def again(name: str, value: str) -> Callable[[Request], Request]:
    return lambda request: dataclasses.replace(request, headers=[*request.headers, (name, value)])


def test_untouched_requests_verify() -> None:
    for request in (v1(), v3(), v1("stsid", "testtoken"), v3("stsid", "testtoken")):
        assert verify(request) == "OK"


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (query("pc-test0001", "pc-test0002"), "SignatureDoesNotMatch"),
        (query("DBClusterId=[^&]*&", ""), "SignatureDoesNotMatch"),
        (query("$", "&Extra=1"), "SignatureDoesNotMatch"),
        (query("CreateBackup", "DeleteBackup"), "SignatureDoesNotMatch"),
        (body(b"DBClusterId=pc-other"), "SignatureDoesNotMatch"),
        (method("GET"), "SignatureDoesNotMatch"),
        (query("Signature=[^&]*", "Signature=AAAA"), "SignatureDoesNotMatch"),
        (query("Signature=[^&]*", "Signature=%C3%A9"), "SignatureDoesNotMatch"),
        (query("Signature=[^&]*", "Signature="), "MissingSignature"),
        (query("Signature=[^&]*&", ""), "MissingSignature"),
        (query("AccessKeyId=testid&", ""), "MissingAccessKeyId"),
        (query("SignatureNonce=[^&]*&", ""), "MissingSignatureNonce"),
        (query("Timestamp=[^&]*&", ""), "MissingTimestamp"),
        (query("SignatureMethod=[^&]*&", ""), "MissingSignatureMethod"),
        (query("SignatureVersion=[^&]*&", ""), "MissingSignatureVersion"),
        (query("HMAC-SHA1", "HMAC-MD5"), "InvalidSignatureMethod"),
        (query("SignatureVersion=1.0", "SignatureVersion=2.0"), "InvalidSignatureVersion.Malformed"),
        (query("$", "&SignatureType=BEARERTOKEN"), "InvalidSignatureType.Malformed"),
        (query("SignatureNonce=n-1", "SignatureNonce=" + "n" * 129), "InvalidSignatureNonce.Malformed"),
        (query("SignatureNonce=n-1", "SignatureNonce=n%001"), "InvalidSignatureNonce.Malformed"),
        (query("AccessKeyId=testid", "AccessKeyId=nobody"), "InvalidAccessKeyId.NotFound"),
        (query("AccessKeyId=testid", "AccessKeyId=a%00b"), "InvalidAccessKeyId.NotFound"),
        (query("AccessKeyId=testid", "AccessKeyId=oldid"), "InvalidAccessKeyId.Inactive"),
        (query("$", "&AccessKeyId=other"), "InvalidAccessKeyId.Malformed"),
        (query("Timestamp=[^&]*", "Timestamp=yesterday"), "InvalidTimeStamp.Format"),
        (query("Timestamp=[^&]*", "Timestamp=2026-13-24T04:00:00Z"), "InvalidTimeStamp.Format"),
        (query("Timestamp=[^&]*", "Timestamp=2026-11-24T03:00:00Z"), "InvalidTimeStamp.Expired"),
        (query("tok", "%FF"), "InvalidParameter"),
        (query("$", "&x=1" * 1001), "InvalidParameter"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_v1_refusals(tamper: Callable[[Request], Request], code: str) -> None:
    assert verify(tamper(v1())) == code


@pytest.mark.parametrize(
    ("tamper", "code"),
    [
        (query("pc-test0001", "pc-test0002"), "SignatureDoesNotMatch"),
        (query("$", "&Extra=1"), "SignatureDoesNotMatch"),
        (body(b"ClientToken=tok-2"), "SignatureDoesNotMatch"),
        (method("GET"), "SignatureDoesNotMatch"),
        (header("x-acs-content-sha256", "0" * 64), "SignatureDoesNotMatch"),
        (header("x-acs-content-sha256", None), "IncompleteSignature"),
        (header("x-acs-action", "DeleteBackup"), "SignatureDoesNotMatch"),
        (header("x-acs-version", "2017-08-02"), "SignatureDoesNotMatch"),
        (header("x-acs-signature-nonce", "n-2"), "SignatureDoesNotMatch"),
        (header("x-acs-signature-nonce", None), "MissingSignatureNonce"),
        (header("x-acs-date", None), "MissingTimestamp"),
        (header("x-acs-date", "24.11.2026"), "InvalidTimeStamp.Format"),
        (header("x-acs-date", "2026-11-24T04:20:00Z"), "InvalidTimeStamp.Expired"),
        (header("host", "other:1"), "SignatureDoesNotMatch"),
        (header("host", None), "IncompleteSignature"),
        (again("x-acs-extra", "1"), "IncompleteSignature"),
        (again("X-Acs-Date", "2026-11-24T04:00:00Z"), "IncompleteSignature"),
        (again("x-acs-action", "DeleteBackup"), "SignatureDoesNotMatch"),
        (again("Authorization", "ACS3-HMAC-SHA256 x"), "IncompleteSignature"),
        (authorization("host;", ""), "IncompleteSignature"),
        (authorization("host;", "host;host;"), "IncompleteSignature"),
        (authorization("host;", "host;cookie;"), "IncompleteSignature"),
        (authorization(";x-acs-date", ""), "IncompleteSignature"),
        (authorization("SignedHeaders=[^,]*,", ""), "IncompleteSignature"),
        (authorization("Credential=[^,]*,", ""), "IncompleteSignature"),
        (authorization("Signature=.*", ""), "IncompleteSignature"),
        (authorization("Signature=.*", "Signature=0"), "SignatureDoesNotMatch"),
        (authorization("Credential=", "Credential="[:-1]), "IncompleteSignature"),
        (authorization("testid", "nobody"), "InvalidAccessKeyId.NotFound"),
        (authorization("testid", "oldid"), "InvalidAccessKeyId.Inactive"),
        (authorization("testid", "readerid"), "SignatureDoesNotMatch"),
        (authorization("ACS3-HMAC-SHA256", "ACS3-RSA-SHA256"), "InvalidSignatureMethod"),
        (authorization("^.+", "ACS3-HMAC-SHA256"), "IncompleteSignature"),
        (authorization("^.+", "ACS3-"), "InvalidSignatureMethod"),
        (authorization("ACS3-", "ACS4-"), "MissingAccessKeyId"),
        (header("authorization", None), "MissingAccessKeyId"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_v3_refusals(tamper: Callable[[Request], Request], code: str) -> None:
    assert verify(tamper(v3())) == code


@pytest.mark.parametrize("make", [v1, v3])
def test_clock_is_good_for_fifteen_minutes_either_way(make: Callable[..., Request]) -> None:
    for skew_s, code in (
        (900, "OK"),
        (-900, "OK"),
        (901, "InvalidTimeStamp.Expired"),
        (-901, "InvalidTimeStamp.Expired"),
    ):
        assert verify(make(), NOW + skew_s) == code


@pytest.mark.parametrize("make", [v1, v3])
def test_token_of_a_key_must_match(make: Callable[..., Request]) -> None:
    assert verify(make("stsid", "othertoken")) == "InvalidSecurityToken.Malformed"
    assert verify(make("stsid")) == "InvalidSecurityToken.Malformed"
    # a key without one ignores it
    assert verify(make("testid", "leftover")) == "OK"


@pytest.mark.parametrize("make", [v1, v3])
def test_mismatch_says_what_the_server_signed(make: Callable[..., Request]) -> None:
    with pytest.raises(IcecoreError) as caught:
        signature.verify(query("pc-test0001", "pc-test0002")(make()), KEYS.get, NOW)
    prefix, _, ours = caught.value.message.partition(":")
    assert prefix == "Specified signature is not matched with our calculation. server string to sign is"
    if make is v1:
        assert ours.startswith("POST&%2F&AccessKeyId%3Dtestid%26") and "pc-test0002" in ours
    else:
        assert re.fullmatch(r"ACS3-HMAC-SHA256\n[0-9a-f]{64}", ours)


def test_the_echo_of_a_huge_request_is_short() -> None:
    request = dataclasses.replace(v1(), body=b"x=" + b"%25" * 300_000)
    with pytest.raises(IcecoreError) as caught:
        signature.verify(request, KEYS.get, NOW)
    assert len(caught.value.message) < 70_000


@pytest.mark.parametrize("make", [v1, v3])
def test_A1_only_signing_parameters_are_read_before_the_signature(make: Callable[..., Request]) -> None:
    """Whatever the other parameters say, a wrong signature is all that is noticed."""
    for junk in (
        "&Action=Nothing&Action=Other",
        "&PageSize=abc",
        "&Version=1&DBClusterId=" + "x" * 5000,
        "&Format=PDF",
    ):
        assert verify(query("$", junk)(make())) == "SignatureDoesNotMatch"


def test_A2_signatures_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    real = signature.hmac.compare_digest
    monkeypatch.setattr(signature.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    signature.verify(v1(), KEYS.get, NOW)
    assert len(compared) == 1
    signature.verify(v3(), KEYS.get, NOW)
    assert len(compared) == 3  # signature and body hash


def test_secrets_are_not_in_representations() -> None:
    request = v3("stsid", "testtoken")
    shown = repr(request) + repr(KEYS["stsid"]) + repr(signature.verify(request, KEYS.get, NOW))
    for secret in ("stssecret", "testtoken", "Signature=", "tok"):
        assert secret not in shown
