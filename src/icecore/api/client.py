"""A signed call to an Icecore server, on the standard library alone: the command line starts with it.

``Client(...).call("CreateBackup", db_cluster_id="pc-...")`` gives the answer in snake_case. An error answer becomes
the same class that the server raised, with its message and fields, so that callers and exit codes do not depend on
where an operation ran.
"""

from __future__ import annotations

import json
import re
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from icecore.api import contract, signature
from icecore.errors import CallerError, IcecoreError, ServerUnreachable, Usage, WorldError, every_error

TIMEOUT_S = 10.0  # what the vendor's clients allow for an answer
_ENDPOINT = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
_VISIBLE = re.compile(r"[!-~]+")
_FIELD = re.compile(r"\\\{(\w+)\\\}")


class RemoteError(IcecoreError):
    """The server answered with an error that this version does not know."""

    def __init__(self, code: str, message: str, status: int) -> None:
        super().__init__()
        family = WorldError if status >= 500 else CallerError
        self.message = message
        self.args = (message,)
        # the instance answers as a class of its family would
        vars(self).update(code=code, status=status, exit=family.exit, retry=family.retry, hint=family.hint)


@dataclass(frozen=True)
class Reply:
    """An answer as it came. ``error`` is set when it is one."""

    status: int
    request_id: str
    content_type: str
    body: bytes
    wire: dict[str, Any]
    error: IcecoreError | None


class Client:
    """Calls one endpoint with one key. Holds no connection; safe for threads."""

    def __init__(
        self,
        endpoint: str,
        access_key_id: str,
        secret: str,
        version: str = "V3",
        *,
        ca_file: Path | None = None,
        security_token: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        """``endpoint``: ``http://127.0.0.1:8080``. ``ca_file``: trusted for https instead of the system's CAs."""
        url = urlsplit(endpoint)
        if not _ENDPOINT.fullmatch(endpoint):
            raise Usage(reason=f"{endpoint!r} is not an endpoint: http://HOST:PORT or https://HOST:PORT")
        if not all(_VISIBLE.fullmatch(part) for part in (access_key_id, secret)):
            raise Usage(reason="an access key is one word of ASCII: is the environment variable set?")
        self.endpoint = endpoint.rstrip("/")
        self._host = url.netloc
        self._tls = url.scheme == "https"
        self._key = (access_key_id, secret, security_token)
        self._version = version
        self._ca_file = ca_file
        self._timeout_s = timeout_s

    def call(self, action: str, **params: Any) -> dict[str, Any]:
        """The answer in snake_case, ``request_id`` included; raises what the server answered."""
        reply = self.send(action, **params)
        if reply.error is not None:
            raise reply.error
        return contract.parse(action, reply.wire)

    def send(self, action: str, **params: Any) -> Reply:
        """The answer as it came, an error too. ``ServerUnreachable`` if there was none."""
        return self.send_pairs(action, contract.to_pairs(action, params))

    def send_pairs(self, action: str, pairs: signature.Pairs) -> Reply:
        """Like ``send``, with parameters in the wire's names and as text."""
        now, nonce = int(time.time()), secrets.token_hex(16)
        sign = sign_v1 if self._version == "V1" else sign_v3
        request = sign(self._host, action, pairs, self._key, now, nonce)
        status, headers, body = self._exchange(request)
        return _reply(status, headers, body)

    def _exchange(self, request: signature.Request) -> tuple[int, Mapping[str, str], bytes]:
        connection = self._connection()
        try:
            connection.request(request.method, f"/?{request.query}", request.body, dict(request.headers))
            response: HTTPResponse = connection.getresponse()
            return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
        except (OSError, HTTPException) as e:
            raise ServerUnreachable(endpoint=self.endpoint, reason=str(e) or type(e).__name__) from e
        finally:
            connection.close()

    def _connection(self) -> HTTPConnection:
        if not self._tls:
            return HTTPConnection(self._host, timeout=self._timeout_s)
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except OSError as e:
            raise Usage(reason=f"cannot read the CA file {self._ca_file}: {e}") from e
        return HTTPSConnection(self._host, timeout=self._timeout_s, context=context)


def sign_v3(
    host: str, action: str, pairs: signature.Pairs, key: tuple[str, str, str], now: int, nonce: str
) -> signature.Request:
    """A V3 request with all parameters in its query. ``key``: id, secret, security token or empty."""
    access_key_id, secret, security_token = key
    headers = {
        "host": host,
        "x-acs-action": action,
        "x-acs-content-sha256": signature.body_hash(b""),
        "x-acs-date": contract.write_time(now),
        "x-acs-signature-nonce": nonce,
        "x-acs-version": contract.document()["version"],
    }
    if security_token:
        headers["x-acs-security-token"] = security_token
    signed = ";".join(sorted(headers))
    unsigned = signature.Request("POST", "/", signature.canonical_query(pairs), list(headers.items()))
    canonical = signature.canonical_request(unsigned, signed, headers["x-acs-content-sha256"])
    proof = signature.signature_v3(secret, signature.string_to_sign_v3(canonical))
    headers["authorization"] = (
        f"{signature.V3_ALGORITHM} Credential={access_key_id},SignedHeaders={signed},Signature={proof}"
    )
    return signature.Request("POST", "/", unsigned.query, list(headers.items()))


def sign_v1(
    host: str, action: str, pairs: signature.Pairs, key: tuple[str, str, str], now: int, nonce: str
) -> signature.Request:
    """A V1 request with all parameters in its query."""
    access_key_id, secret, security_token = key
    signing = {
        "AccessKeyId": access_key_id,
        "Action": action,
        "Format": "JSON",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": nonce,
        "SignatureVersion": "1.0",
        "Timestamp": contract.write_time(now),
        "Version": contract.document()["version"],
    }
    if security_token:
        signing["SecurityToken"] = security_token
    everything = [*pairs, *signing.items()]
    proof = signature.signature_v1(secret, signature.string_to_sign_v1("POST", everything))
    query = signature.canonical_query([*everything, ("Signature", proof)])
    return signature.Request("POST", "/", query, [("host", host)])


def _reply(status: int, headers: Mapping[str, str], body: bytes) -> Reply:
    names = contract.document()["envelope"]
    try:
        wire = json.loads(body)
    except ValueError:
        wire = None
    if not isinstance(wire, dict):
        error: IcecoreError | None = RemoteError("InvalidAnswer", "the server's answer is not JSON", 502)
        return Reply(status, headers.get("x-acs-request-id", ""), headers.get("content-type", ""), body, {}, error)
    error = None
    if status >= 400 or names["code"] in wire:
        error = rebuild(str(wire.get(names["code"], "")), str(wire.get(names["message"], "")), status)
    request_id = str(wire.get(names["request_id"], headers.get("x-acs-request-id", "")))
    return Reply(status, request_id, headers.get("content-type", ""), body, wire, error)


def rebuild(code: str, message: str, status: int) -> IcecoreError:
    """The error that a server answered, as the class it raised, or ``RemoteError`` if this version has none."""
    best: tuple[tuple[bool, bool, bool], type[IcecoreError], dict[str, str]] | None = None
    for kind in every_error():
        in_code = _fields(kind.code, code)
        if in_code is None or kind is RemoteError:
            continue
        # several classes can have a code: the literal one before a pattern, then by message, then by status
        in_message = _fields(" ".join((kind.__doc__ or "").split("\n\n")[0].split()), message)
        rank = (kind.code == code, in_message is not None, kind.status == status)
        if best is None or rank > best[0]:
            best = (rank, kind, {**(in_message or {}), **in_code})
    if best is None:
        return RemoteError(code or "InvalidAnswer", message, status)

    # the message is the server's; fields that its text does not give back are empty in code and hint
    _, kind, fields = best
    error = kind.__new__(kind, message)
    names = re.findall(r"\{(\w+)\}", kind.code + kind.hint)
    error.message, error.fields = message, {**dict.fromkeys(names, ""), **fields}
    return error


def _fields(template: str, text: str) -> dict[str, str] | None:
    """What stands in ``text`` where ``template`` has ``{name}``; None if it was not made from it."""
    pattern = _FIELD.sub(r"(?P<\1>.*)", re.escape(template))
    match = re.fullmatch(pattern, text, re.DOTALL)
    return match.groupdict() if match else None
