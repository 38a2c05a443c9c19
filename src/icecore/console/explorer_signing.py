"""A call as the bytes of a signed request, step by step, so that each step can be read, and compared with one's own.

Pure: clock and nonce are given. The secret goes in and no step shows it. The steps are those of ``api.signature``, so
what is shown is what the server itself computes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass

from icecore.api import contract, signature
from icecore.api.signature import AccessKey, Pairs, Request

VERSIONS = ("V3", "V1")
FORMATS = ("JSON", "XML")
SENDS = {
    "POST": "POST, in the query",
    "FORM": "POST, in a form body",
    "GET": "GET, in the query",
}
FORM_TYPE = "application/x-www-form-urlencoded"
ACCEPT = {"JSON": "application/json", "XML": "application/xml"}


@dataclass(frozen=True)
class Plan:
    """What is to be called and how. ``pairs``: the operation's own parameters, by wire name."""

    host: str
    action: str
    pairs: Pairs
    version: str = "V3"
    format: str = "JSON"
    send: str = "POST"

    @property
    def method(self) -> str:
        return "GET" if self.send == "GET" else "POST"


@dataclass(frozen=True)
class Step:
    title: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Signed:
    """``strings``: what somebody may have at the same point, the first of them most telling."""

    request: Request
    steps: tuple[Step, ...]
    strings: tuple[str, ...]


def sign(plan: Plan, key: AccessKey, now: int, nonce: str) -> Signed:
    """``now``: Unix seconds. A request is good for fifteen minutes around it, and once."""
    return sign_at(plan, key, contract.write_time(now), nonce)


def sign_at(plan: Plan, key: AccessKey, timestamp: str, nonce: str) -> Signed:
    """With the timestamp and nonce of somebody else's string, whatever they are."""
    return _v1(plan, key, timestamp, nonce) if plan.version == "V1" else _v3(plan, key, timestamp, nonce)


# ---------------------------------------------------------------- V1


def _v1(plan: Plan, key: AccessKey, timestamp: str, nonce: str) -> Signed:
    signing = [
        ("AccessKeyId", key.id),
        ("Action", plan.action),
        ("Format", plan.format),
        ("SignatureMethod", "HMAC-SHA1"),
        ("SignatureNonce", nonce),
        ("SignatureVersion", "1.0"),
        ("Timestamp", timestamp),
        ("Version", contract.document()["version"]),
    ]
    if key.security_token:
        signing.append(("SecurityToken", key.security_token))
    everything = [*plan.pairs, *signing]
    query = signature.canonical_query(everything)
    string = signature.string_to_sign_v1(plan.method, everything)
    proof = signature.signature_v1(key.secret, string)
    encoded = signature.canonical_query([*everything, ("Signature", proof)])
    headers = [("host", plan.host)]
    if plan.send == "FORM":
        request = Request(plan.method, "/", "", [*headers, ("content-type", FORM_TYPE)], encoded.encode())
    else:
        request = Request(plan.method, "/", encoded, headers)

    steps = (
        Step(
            "All parameters, sorted",
            "\n".join(f"{name} = {value}" for name, value in sorted(everything)),
            "Those of the operation and the common ones, without Signature, in the order of their bytes: "
            "capitals come before small letters.",
        ),
        Step(
            "Canonicalized query",
            query,
            "Name and value are percent-encoded each for itself (RFC 3986: a space is %20, * is %2A, ~ stays), joined "
            "by = and &.",
        ),
        Step(
            "String to sign",
            string,
            "Method, & and the encoded path %2F, & and the whole query encoded once more.",
        ),
        Step("Key of the HMAC", "AccessKeySecret + &", "The secret with an ampersand behind it."),
        Step("Signature", proof, "Base64 of the HMAC-SHA1 of the string to sign."),
    )
    return Signed(request, steps, (string, query))


# ---------------------------------------------------------------- V3


def _v3(plan: Plan, key: AccessKey, timestamp: str, nonce: str) -> Signed:
    encoded = signature.canonical_query(plan.pairs)
    body = encoded.encode() if plan.send == "FORM" else b""
    payload_hash = signature.body_hash(body)
    signing = {
        "host": plan.host,
        "x-acs-action": plan.action,
        "x-acs-content-sha256": payload_hash,
        "x-acs-date": timestamp,
        "x-acs-signature-nonce": nonce,
        "x-acs-version": contract.document()["version"],
    }
    if key.security_token:
        signing["x-acs-security-token"] = key.security_token
    if plan.send == "FORM":
        signing["content-type"] = FORM_TYPE
    headers = dict(sorted(signing.items()))
    signed = ";".join(headers)
    unsigned = Request(plan.method, "/", "" if body else encoded, list(headers.items()), body)
    canonical = signature.canonical_request(unsigned, signed, payload_hash)
    string = signature.string_to_sign_v3(canonical)
    proof = signature.signature_v3(key.secret, string)
    authorization = f"{signature.V3_ALGORITHM} Credential={key.id},SignedHeaders={signed},Signature={proof}"
    sent = [*headers.items(), ("accept", ACCEPT[plan.format]), ("authorization", authorization)]
    request = Request(plan.method, "/", unsigned.query, sent, body)

    steps = (
        Step(
            "Canonical query",
            unsigned.query,
            ("" if unsigned.query else "Empty here. ")
            + "Sorted by name; name and value percent-encoded each (RFC 3986: a space is %20, * is %2A, ~ stays).",
        ),
        Step(
            "Canonical headers",
            "".join(f"{name}:{value}\n" for name, value in headers.items()),
            "host and every x-acs-* header: names in small letters, sorted, each line ended by a newline.",
        ),
        Step("Signed headers", signed, "The same names, joined by semicolons."),
        Step("Hashed payload", payload_hash, f"SHA-256 of the body ({len(body)} bytes), hex in small letters."),
        Step(
            "Canonical request",
            canonical,
            "Method, path, query, headers, signed headers, hashed payload, joined by newlines. The headers end with a "
            "newline of their own, so an empty line follows them. No newline at the end.",
        ),
        Step("Hash of the canonical request", hashlib.sha256(canonical.encode()).hexdigest(), "SHA-256, hex."),
        Step("String to sign", string, "The algorithm, a newline, that hash."),
        Step("Signature", proof, "HMAC-SHA256 with the AccessKeySecret as it is, hex in small letters."),
        Step("Authorization header", f"Authorization: {authorization}"),
    )
    return Signed(request, steps, (canonical, string))


# ---------------------------------------------------------------- a signature of somebody else


def judge(version: str, secret: str, strings: tuple[str, ...], theirs: str) -> str:
    """What is wrong with a signature of a right string, in a sentence; empty if nothing is. ``strings``: the string to
    sign, then what people sign in its place. The right signature itself is not given away."""
    theirs = "".join(theirs.split())
    for says, made in _signatures(version, secret, strings):
        if hmac.compare_digest(made.encode(), theirs.encode("utf-8", "replace")):
            return says
    return (
        "The string is right and the signature is not: another AccessKeySecret was used, or something other than "
        "this string was signed."
    )


def _signatures(version: str, secret: str, strings: tuple[str, ...]) -> list[tuple[str, str]]:
    """Signatures as people get them, each with what went wrong; the right one first."""
    string = strings[0]
    v1 = version == "V1"
    key, other_key = (f"{secret}&", secret) if v1 else (secret, f"{secret}&")
    method, other_method = ("sha1", "sha256") if v1 else ("sha256", "sha1")

    def digest(key: str = key, text: str = string, method: str = method) -> bytes:
        return hmac.new(key.encode(), text.encode(), method).digest()

    def forms(says: str, raw: bytes) -> list[tuple[str, str]]:
        """The mistake in the form that is asked for, and together with the other form."""
        right, wrong = (_base64(raw), raw.hex()) if v1 else (raw.hex(), _base64(raw))
        also = "It is written in Base64, not in hex." if not v1 else "It is written in hex, not in Base64."
        return [(says, right), (f"{says} {also}".strip(), wrong)]

    ampersand = (
        "The key of the HMAC lacks the ampersand behind the AccessKeySecret."
        if v1
        else "The key of the HMAC has an ampersand behind the AccessKeySecret: that belongs to V1."
    )
    encoded = re.sub(r"[+/=]", lambda letter: f"%{ord(letter[0]):02X}", _base64(digest()))
    return [
        *forms("", digest()),
        ("It is percent-encoded: that belongs to the query it is sent in, not to the signature itself.", encoded),
        ("It is in capitals: hex is written in small letters.", digest().hex().upper()),
        ("The hex digits were put into Base64; the bytes of the HMAC belong there.", _base64(digest().hex().encode())),
        ("The padding = at its end is missing.", _base64(digest()).rstrip("=")),
        ("It is in the URL alphabet of Base64: + and / belong there.", base64.urlsafe_b64encode(digest()).decode()),
        *forms(ampersand, digest(key=other_key)),
        *forms(f"It was made with HMAC-{other_method.upper()}.", digest(method=other_method)),
        *forms(f"{ampersand} It was made with HMAC-{other_method.upper()}.", digest(other_key, method=other_method)),
        *forms("A newline was signed at the end of the string.", digest(text=string + "\n")),
        *forms(
            "A newline stands behind the AccessKeySecret in the key.",
            digest(key=f"{secret}\n&" if v1 else f"{secret}\n"),
        ),
        *(
            entry
            for text in strings[1:]
            for entry in forms("Another step was signed in place of the string to sign.", digest(text=text))
        ),
        *forms("Key and string changed places.", digest(key=string, text=key)),
    ]


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
