"""A request as text that can be shown, carried through a form, and read back as the very same bytes.

``read`` is strict: it takes what ``write`` makes and nothing else, so that a form can carry no request but one to the
endpoint of this server, signed by the key of the session.
"""

from __future__ import annotations

import re

from icecore.api import signature
from icecore.api.server import QUERY_LIMIT_BYTES
from icecore.api.signature import Request
from icecore.errors import MalformedRequest, RequestTooLarge

LENGTH_AT_MOST = 64 * 1024
_HEADERS = ("host", "content-type", "content-length", "accept", "authorization")
_LINE = re.compile(r"(GET|POST) /(?:\?([!-~]*))? HTTP/1\.1")
_HEADER = re.compile(r"([a-z0-9-]{1,64}): ([ -~]*)")
_BODY = re.compile(r"[!-~]*")


def write(request: Request) -> str:
    """Lines end with one newline here and with CRLF on the wire."""
    target = f"/?{request.query}" if request.query else "/"
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in request.headers)]
    if request.method == "POST":
        lines.append(f"content-length: {len(request.body)}")
    return "\n".join(lines) + "\n\n" + request.body.decode("ascii")


def read(text: str, host: str, access_key_id: str) -> Request:
    """``MalformedRequest`` for anything but a request of ``access_key_id`` to the endpoint at ``host``."""
    if len(text) > LENGTH_AT_MOST:
        raise MalformedRequest(reason="the request is too long")
    # forms send every newline as CRLF
    head, separated, body = text.replace("\r\n", "\n").partition("\n\n")
    first, *lines = head.split("\n")
    line = _LINE.fullmatch(first)
    if line is None or not separated or not _BODY.fullmatch(body):
        raise MalformedRequest(reason="it is not a request that this page made")
    if len(line[2] or "") > QUERY_LIMIT_BYTES:
        raise RequestTooLarge(limit_bytes=QUERY_LIMIT_BYTES)
    headers = []
    for one in lines:
        header = _HEADER.fullmatch(one)
        if header is None or not (header[1] in _HEADERS or header[1].startswith("x-acs-")):
            raise MalformedRequest(reason="it has a header that this page does not make")
        headers.append((header[1], header[2]))
    if len(dict(headers)) != len(headers):
        raise MalformedRequest(reason="it has a header twice")
    given = dict(headers)
    if given.get("host") != host:
        raise MalformedRequest(reason="it goes to another host")
    length = given.pop("content-length", "0")
    if length != str(len(body)) or (line[1] == "GET" and body):
        raise MalformedRequest(reason="its length is not that of its body")
    request = Request(line[1], "/", line[2] or "", list(given.items()), body.encode("ascii"))
    if signer(request) != access_key_id:
        raise MalformedRequest(reason="it is signed by another key than the session's")
    return request


def signer(request: Request) -> str:
    """The AccessKeyId that the request names."""
    if signature.is_v3(request):
        match = re.search(r"Credential=([^,\s]+)", request.header("authorization") or "")
        return match[1] if match else ""
    return _one(request, "AccessKeyId")


def action(request: Request) -> str:
    """The operation that the request names; empty if it names none, or two."""
    named = {request.header("x-acs-action") or "", _one(request, "Action")} - {""}
    return named.pop() if len(named) == 1 else ""


def _one(request: Request, name: str) -> str:
    found = {value for known, value in request.pairs() if known == name}
    return found.pop() if len(found) == 1 else ""
