"""Who calls: RPC V1 (HMAC-SHA1) and ACS3-HMAC-SHA256 (V3), in named steps. Pure: no clock, no files, no sockets.

The steps, each tested against published vectors::

    V1   parameters -> canonical_query -> string_to_sign_v1 -> signature_v1
    V3   headers, query, body -> canonical_request -> string_to_sign_v3 -> signature_v3

``verify`` follows one order: what is missing, who it is, is the clock near, does the signature match. Using up the
nonce comes after it, since else anyone could burn another's nonce. Nothing but the signing parameters is read before
the signature was found right (A1). A request is V3 if its ``Authorization`` begins with ``ACS3-``, else V1: V1
clients send ``x-acs-*`` headers too, unsigned.

Source: the vendor's "RPC signature" and "V3 request body and signature" pages, and the clients' own code.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from calendar import timegm
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import quote, unquote_to_bytes

from icecore.errors import (
    DisabledAccessKey,
    IncompleteSignature,
    InvalidParameter,
    InvalidSecurityToken,
    InvalidSignatureMethod,
    MalformedRequest,
    MissingCredential,
    SignatureMismatch,
    TimestampExpired,
    TimestampFormat,
    UnknownAccessKey,
)

Pairs = Sequence[tuple[str, str]]

CLOCK_SKEW_S = 15 * 60  # both signature pages: a request is good for 15 minutes
NONCE_LENGTH = 128  # the clients send 32 to 36
PAIRS_LIMIT = 1000  # CreateDBCluster with all tags has about 110
ECHO_LENGTH = 64 * 1024  # of a string to sign in an answer: a body of 1 MiB would come back ninefold
V3_ALGORITHM = "ACS3-HMAC-SHA256"

_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_VISIBLE = re.compile(r"[!-~]{1,128}")
_AUTHORIZATION = re.compile(
    r"(?P<algorithm>ACS3-[A-Z0-9-]+)\s+Credential=(?P<key>[^,\s]+)\s*,"
    r"\s*SignedHeaders=(?P<signed>[^,\s]+)\s*,\s*Signature=(?P<signature>[^,\s]+)"
)
_SIGNING = ("AccessKeyId", "Signature", "SignatureMethod", "SignatureVersion", "SignatureNonce", "Timestamp")
_SIGNING_OPTIONAL = ("SignatureType", "SecurityToken")


@dataclass(frozen=True)
class AccessKey:
    """A key pair as the catalog knows it. ``security_token``: None unless one was issued with it."""

    id: str
    secret: str = field(repr=False)
    enabled: bool
    security_token: str | None = field(repr=False)
    role: str  # "admin", "reader"


@dataclass(frozen=True)
class Request:
    """One HTTP request as it came: ``query`` still encoded, header names in any case, ``body`` whole."""

    method: str
    path: str
    query: str = field(repr=False)
    headers: Pairs = field(repr=False)
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """The value of a header; refused when it is given twice, since only one of them can be meant."""
        found = [value.strip() for key, value in self.headers if key.lower() == name]
        if len(found) > 1:
            raise IncompleteSignature(reason=f"The header {name} is given twice.")
        return found[0] if found else None

    def pairs(self) -> list[tuple[str, str]]:
        """Query and form body as one flat list. The body is read as a form whatever its content type says: that
        header need not be signed, and changing it must not make signed parameters vanish."""
        return parse_pairs(self.query) + parse_pairs(self.body.decode("latin-1"))


@dataclass(frozen=True)
class Verified:
    """A request whose signature is right. Its nonce is still to be used up (A2)."""

    key: AccessKey
    nonce: str
    version: str  # "V1", "V3"


# ---------------------------------------------------------------- reading and writing encoded text


def parse_pairs(encoded: str) -> list[tuple[str, str]]:
    """Name and value pairs of a query or form, in their order; ``+`` is a space; ``MalformedRequest`` if not UTF-8."""
    parts = [part for part in encoded.split("&") if part]
    if len(parts) > PAIRS_LIMIT:
        raise MalformedRequest(reason=f"more than {PAIRS_LIMIT} parameters")
    pairs = []
    for part in parts:
        name, _, value = part.partition("=")
        pairs.append((_decoded(name), _decoded(value)))
    return pairs


def _decoded(text: str) -> str:
    try:
        return unquote_to_bytes(text.replace("+", " ").encode("latin-1")).decode("utf-8")
    except UnicodeError as e:
        raise MalformedRequest(reason="a parameter is not UTF-8") from e


def percent(text: str) -> str:
    """RFC 3986: everything but ``A-Z a-z 0-9 - _ . ~`` as upper-case ``%XX`` of its UTF-8 bytes."""
    return quote(text, safe="-_.~")


def canonical_query(pairs: Pairs) -> str:
    """Sorted by decoded name, then value; a parameter without a value is ``name=``."""
    return "&".join(f"{percent(name)}={percent(value)}" for name, value in sorted(pairs))


# ---------------------------------------------------------------- V1


def string_to_sign_v1(method: str, pairs: Pairs) -> str:
    """``pairs``: all parameters of query and form; ``Signature`` itself is left out here."""
    unsigned = [(name, value) for name, value in pairs if name != "Signature"]
    return f"{method}&%2F&{percent(canonical_query(unsigned))}"


def signature_v1(secret: str, string_to_sign: str) -> str:
    digest = hmac.new(f"{secret}&".encode(), string_to_sign.encode(), hashlib.sha1).digest()
    return base64.b64encode(digest).decode()


# ---------------------------------------------------------------- V3


def body_hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def canonical_request(request: Request, signed_headers: str, payload_hash: str) -> str:
    """``signed_headers`` as the request lists them, ``;``-joined: clients differ in which they sign."""
    lines = []
    for name in signed_headers.split(";"):
        values = sorted(value.strip() for key, value in request.headers if key.lower() == name.lower())
        lines.append(f"{name}:{','.join(values)}\n")
    query = canonical_query(parse_pairs(request.query))
    return "\n".join([request.method, request.path, query, "".join(lines), signed_headers, payload_hash])


def string_to_sign_v3(canonical: str) -> str:
    return f"{V3_ALGORITHM}\n{hashlib.sha256(canonical.encode()).hexdigest()}"


def signature_v3(secret: str, string_to_sign: str) -> str:
    return hmac.new(secret.encode(), string_to_sign.encode(), hashlib.sha256).hexdigest()


# ---------------------------------------------------------------- verification


def is_v3(request: Request) -> bool:
    return (request.header("authorization") or "").startswith("ACS3-")


def verify(request: Request, find_key: Callable[[str], AccessKey | None], now: int) -> Verified:
    """Who signed ``request``; any error class of the gateway that says why not. ``now``: Unix seconds."""
    return _verify_v3(request, find_key, now) if is_v3(request) else _verify_v1(request, find_key, now)


def _verify_v1(request: Request, find_key: Callable[[str], AccessKey | None], now: int) -> Verified:
    pairs = request.pairs()

    # A1: of all parameters, only these are looked at here
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in _SIGNING and name not in _SIGNING_OPTIONAL:
            continue
        if given.setdefault(name, value) != value:
            raise InvalidParameter(parameter=name)
    for name in _SIGNING:
        if not given.get(name):
            raise MissingCredential(parameter=name)

    # the algorithm
    if given["SignatureMethod"] != "HMAC-SHA1":
        raise InvalidSignatureMethod()
    for name, expected in (("SignatureVersion", "1.0"), ("SignatureType", "")):
        if given.get(name, expected) != expected:
            raise InvalidParameter(parameter=name)

    # clock, nonce, key, signature
    _check_clock(given["Timestamp"], now)
    nonce = _checked_nonce(given["SignatureNonce"])
    key = _usable_key(given["AccessKeyId"], find_key)
    string_to_sign = string_to_sign_v1(request.method, pairs)
    _compare(signature_v1(key.secret, string_to_sign), given["Signature"], string_to_sign)
    _check_token(key, given.get("SecurityToken", ""))
    return Verified(key, nonce, "V1")


def _verify_v3(request: Request, find_key: Callable[[str], AccessKey | None], now: int) -> Verified:
    # the Authorization header
    authorization = request.header("authorization") or ""
    if authorization.split(maxsplit=1)[0] != V3_ALGORITHM:
        raise InvalidSignatureMethod()
    match = _AUTHORIZATION.fullmatch(authorization)
    if match is None:
        raise IncompleteSignature(reason="The Authorization header is not well formed.")

    # A1: only these headers are looked at here
    timestamp, nonce, announced_hash, token = (
        request.header(name) or ""
        for name in ("x-acs-date", "x-acs-signature-nonce", "x-acs-content-sha256", "x-acs-security-token")
    )
    for value, parameter in ((timestamp, "Timestamp"), (nonce, "SignatureNonce")):
        if not value:
            raise MissingCredential(parameter=parameter)
    if not announced_hash:
        raise IncompleteSignature(reason="The header x-acs-content-sha256 is missing.")
    _check_signed_headers(request, match["signed"])

    # clock, nonce, key
    _check_clock(timestamp, now)
    _checked_nonce(nonce)
    key = _usable_key(match["key"], find_key)

    # the signature stands over the hash of the body that really came; the announced one must be the same
    real_hash = body_hash(request.body)
    string_to_sign = string_to_sign_v3(canonical_request(request, match["signed"], real_hash))
    _compare(signature_v3(key.secret, string_to_sign), match["signature"], string_to_sign)
    _compare(real_hash, announced_hash, string_to_sign)
    _check_token(key, token)
    return Verified(key, nonce, "V3")


def _check_signed_headers(request: Request, signed_headers: str) -> None:
    """Each name listed is there, and ``host`` and every ``x-acs-*`` header that is there is listed."""
    signed = [name.lower() for name in signed_headers.split(";")]
    present = {key.lower() for key, _ in request.headers}
    if len(set(signed)) != len(signed):
        raise IncompleteSignature(reason="SignedHeaders names a header twice.")
    for name in signed:
        if name not in present:
            raise IncompleteSignature(reason="SignedHeaders names a header that the request does not have.")
    for name in sorted(present | {"host"}):
        if (name == "host" or name.startswith("x-acs-")) and name not in signed:
            raise IncompleteSignature(reason=f"The header {name} must be signed.")


def _check_clock(timestamp: str, now: int) -> None:
    if not _TIMESTAMP.fullmatch(timestamp):
        raise TimestampFormat()
    try:
        signed_at = timegm(datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%SZ").timetuple())
    except ValueError as e:
        raise TimestampFormat() from e
    if abs(now - signed_at) > CLOCK_SKEW_S:
        raise TimestampExpired()


def _checked_nonce(nonce: str) -> str:
    if len(nonce) > NONCE_LENGTH or not _VISIBLE.fullmatch(nonce):
        raise InvalidParameter(parameter="SignatureNonce")
    return nonce


def _usable_key(access_key_id: str, find_key: Callable[[str], AccessKey | None]) -> AccessKey:
    key = find_key(access_key_id) if _VISIBLE.fullmatch(access_key_id) else None
    if key is None:
        raise UnknownAccessKey()
    if not key.enabled:
        raise DisabledAccessKey()
    return key


def _check_token(key: AccessKey, token: str) -> None:
    # a key without a token ignores one: Terraform sends leftovers of other accounts' settings
    if key.security_token is not None and not hmac.compare_digest(key.security_token.encode(), token.encode()):
        raise InvalidSecurityToken()


def _compare(ours: str, theirs: str, string_to_sign: str) -> None:
    if not hmac.compare_digest(ours.encode(), theirs.encode()):  # A2: constant time
        raise SignatureMismatch(string_to_sign=string_to_sign[:ECHO_LENGTH])
