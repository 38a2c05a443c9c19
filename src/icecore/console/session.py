"""Who sits before the screen: signing in and out, the cookie, and what every form must bring along.

A session's token is made anew at each sign-in, and only its digest is kept. A form's token is derived from it, so
that another site can neither read nor guess it; besides, a form must come from this host.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from icecore.api.signature import AccessKey
from icecore.console.doors import ConsoleBackend
from icecore.errors import DisabledAccessKey, UnknownAccessKey

FAILURES_ALLOWED = 10  # of one address, within catalog.console.ATTEMPTS_IN_S
OUR_PATHS = ("/console", "/errors")


def cookie_name(scheme: str) -> str:
    """Over TLS the prefix makes browsers refuse one that another host or an unencrypted page set."""
    return "__Host-icecore" if scheme == "https" else "icecore"


def set_cookie(response: Response, scheme: str, token: str) -> None:
    response.set_cookie(cookie_name(scheme), token, path="/", secure=scheme == "https", httponly=True, samesite="lax")


def drop_cookie(response: Response, scheme: str) -> None:
    response.delete_cookie(cookie_name(scheme), path="/", secure=scheme == "https", httponly=True, samesite="lax")


def token_of(http: HttpRequest) -> str:
    """The cookie's value. Only its exact name counts: readers of cookies strip more than browsers do, and what they
    take for ``__Host-`` may be a name that an unencrypted page was let to set."""
    found = ""
    for line in http.headers.getlist("cookie"):
        for part in line.split(";"):
            name, _, value = part.strip(" \t").partition("=")
            found = value if name == cookie_name(http.scope["scheme"]) else found
    return found


def form_token(token: str) -> str:
    """What the session's forms carry."""
    return hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()


def same_form(token: str, given: str) -> bool:
    return hmac.compare_digest(form_token(token).encode(), given.encode("utf-8", "replace"))


def from_this_host(http: HttpRequest) -> bool:
    """A form's origin is this server. Browsers say it in one of two headers; other clients have no cookie to abuse."""
    origin, host = http.headers.get("origin"), http.headers.get("host")
    # a proxy may have ended TLS before us; what was encrypted up to here never comes from a page that was not
    ours = [f"https://{host}"] if http.scope["scheme"] == "https" else [f"https://{host}", f"http://{host}"]
    if origin is not None and origin not in ours:
        return False
    return http.headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")


def living_key(backend: ConsoleBackend, token: str, now: int, *, used: bool = True) -> AccessKey | None:
    """The key of the session that ``token`` opens; None if it ended or the key was revoked since. ``used`` is False
    for what comes by itself: a page that is left open must not keep its session alive."""
    if not token:
        return None
    access_key_id = backend.records.find_session(token, now, used=used)
    key = backend.find_key(access_key_id) if access_key_id else None
    return key if key is not None and key.enabled else None


def check_secret(backend: ConsoleBackend, access_key_id: str, secret: str) -> AccessKey:
    """The key that both belong to. One answer for an unknown key and a wrong secret; it takes as long for both."""
    key = backend.find_key(access_key_id)
    kept = key.secret if key is not None else ""
    equal = hmac.compare_digest(kept.encode(), secret.encode("utf-8", "replace"))
    if key is None or not equal or not secret:
        raise UnknownAccessKey()
    if not key.enabled:
        raise DisabledAccessKey()
    return key


def open_link(backend: ConsoleBackend, token: str, now: int) -> AccessKey | None:
    """The key that a one-time link was made for; the link is used up."""
    access_key_id = backend.records.use_link(token, now)
    key = backend.find_key(access_key_id) if access_key_id else None
    return key if key is not None and key.enabled else None


def network(address: str) -> str:
    """What counts as one sender: an IPv4 address, or the /64 that an IPv6 one can choose within."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped  # how IPv4 comes to a server that listens on [::]
    if parsed.version == 4 or parsed.is_loopback:
        return str(parsed)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def safe_next(path: str) -> str:
    """Where to go after signing in: a page of ours, whatever was asked for."""
    try:
        parts = urlsplit(path)
    except ValueError:  # half an IPv6 address, letters that look like others
        return "/console"
    plain = all(" " < letter < "\x7f" and letter != "\\" for letter in path)
    ours = any(parts.path == start or parts.path.startswith(start + "/") for start in OUR_PATHS)
    if plain and ours and not parts.scheme and not parts.netloc and "//" not in parts.path:
        return path
    return "/console"
