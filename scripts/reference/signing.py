"""One call signed step by step, by the very functions that the server verifies with. Pure: key, time and nonce are
fixed, so that a reader can compute each value again."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from icecore.api import client, contract, openapi, signature

KEY = ("ICE7Q2M4K1X9", "t0pSecretOfTheReferenceExample", "")  # id, secret, no security token: no real key
NOW = 1795493370  # 2026-11-24T04:09:30Z
NONCE = "5330ad7d22070a7d2348d6f02cf93dfc"
HOST = urlsplit(openapi.ENDPOINT).netloc
PAIRS = [
    ("DBClusterId", "pc-2ze3ngi149b313k7"),
    ("ClientToken", "6000170000591aed949d0f54a343f1a4"),
    ("Comment", "before the upgrade"),
]
SPECIAL = (" ", "+", "*", "~", "/", "&", "=", "é", "€")


@dataclass(frozen=True)
class Step:
    title: str
    rule: str
    result: str


def steps_v1(action: str = "CreateBackup") -> list[Step]:
    signed = client.sign_v1(HOST, action, PAIRS, KEY, NOW, NONCE)
    pairs = [(name, value) for name, value in signed.pairs() if name != "Signature"]
    canonical = signature.canonical_query(pairs)
    to_sign = signature.string_to_sign_v1(signed.method, pairs)
    proof = signature.signature_v1(KEY[1], to_sign)
    assert ("Signature", proof) in signed.pairs()
    return [
        Step(
            "Collect the parameters",
            "All of them: the operation's own, `Action`, `Version`, and those that describe the signature. Parameters "
            "of a form body belong to them too.",
            "\n".join(f"{name}={value}" for name, value in sorted(pairs)),
        ),
        Step(
            "Make the canonical query",
            "Percent-encode names and values (RFC 3986, upper-case hexadecimal), sort by name, join with `=` and `&`.",
            canonical,
        ),
        Step(
            "Make the string to sign",
            "The method, `&`, the path `/` encoded, `&`, and the canonical query encoded once more.",
            to_sign,
        ),
        Step("Sign it", "Base64 of HMAC-SHA1. The key is the AccessKeySecret followed by `&`.", proof),
        Step(
            "Send it",
            "The signature is one more parameter. Everything may stand in the query or in a form body.",
            http_text(signed),
        ),
    ]


def steps_v3(action: str = "CreateBackup") -> list[Step]:
    signed = client.sign_v3(HOST, action, PAIRS, KEY, NOW, NONCE)
    headers = [(name, value) for name, value in signed.headers if name != "authorization"]
    names = ";".join(sorted(name for name, _ in headers))
    empty = signature.body_hash(b"")
    unsigned = signature.Request(signed.method, signed.path, signed.query, headers)
    canonical = signature.canonical_request(unsigned, names, empty)
    to_sign = signature.string_to_sign_v3(canonical)
    proof = signature.signature_v3(KEY[1], to_sign)
    authorization = signed.header("authorization") or ""
    assert authorization.endswith(f"Signature={proof}")
    return [
        Step("Hash the body", "SHA-256 in hexadecimal, of an empty body too.", empty),
        Step(
            "Set the headers",
            "`host` and the `x-acs-*` headers. `x-acs-action` and `x-acs-version` may be the parameters `Action` and "
            "`Version` instead.",
            "\n".join(f"{name}: {value}" for name, value in headers),
        ),
        Step(
            "Make the canonical request",
            "Method, path, sorted query, each signed header on a line of its own, an empty line, the names of the "
            "signed headers, the hash of the body.",
            canonical,
        ),
        Step(
            "Make the string to sign",
            "The name of the algorithm, a line break, the SHA-256 of the canonical request in hexadecimal.",
            to_sign,
        ),
        Step("Sign it", "HMAC-SHA256 in hexadecimal. The key is the AccessKeySecret alone.", proof),
        Step("Set the Authorization header", "Key, names of the signed headers, signature.", authorization),
        Step("Send it", "The path that is signed is the path that is sent.", http_text(signed)),
    ]


def signed_v3(action: str, pairs: list[tuple[str, str]]) -> str:
    """A whole V3 request as text."""
    return http_text(client.sign_v3(HOST, action, pairs, KEY, NOW, NONCE))


def http_text(request: signature.Request) -> str:
    query = f"?{request.query}" if request.query else ""
    lines = [f"{request.method} {request.path}{query} HTTP/1.1"]
    return "\n".join([*lines, *(f"{name}: {value}" for name, value in request.headers)])


def moment() -> str:
    return contract.write_time(NOW)
