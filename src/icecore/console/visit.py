"""One visit to a page: who comes, what was asked, and the checks that every page has before it is made.

``Site.private`` and ``Site.open`` turn a plain function of a ``Visit`` into an endpoint. What it raises becomes a page
with the error's code, message and hint, and its status.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote

import anyio
import anyio.to_thread
import structlog
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response

from icecore.api import answer, contract, signature
from icecore.api.samples import sample
from icecore.api.server import CallRecord, Gateway, read_body
from icecore.console import session, view
from icecore.console.doors import ConsoleBackend, Doors
from icecore.errors import Forbidden, IcecoreError, InvalidParameter, RequestTooLarge

FORM_LIMIT_BYTES = 256 * 1024
FIELDS_AT_MOST = 300
QUERY_LIMIT_BYTES = 16 * 1024
THREADS = 32
HOST_LENGTH = 300  # the longest name there can be, with a port
HOST_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-:[]")

log = structlog.get_logger("icecore.console")


@dataclass
class Visit:
    """``query`` and ``form``: last value of each name. ``doors`` is None before somebody has signed in."""

    method: str
    path: str
    scheme: str
    host: str
    address: str
    now: int
    query: Mapping[str, str]
    form: Mapping[str, str]
    part: Mapping[str, str]  # of the path
    token: str = ""
    doors_or_none: Doors | None = None
    raw_query: str = ""
    language: str = ""  # of samples, as the Explorer remembered it
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def doors(self) -> Doors:
        assert self.doors_or_none is not None, "this page is for those who signed in"
        return self.doors_or_none

    @property
    def signed_in(self) -> bool:
        return self.doors_or_none is not None

    @property
    def may_change(self) -> bool:
        return self.doors_or_none is not None and self.doors_or_none.key.role == "admin"

    @property
    def endpoint(self) -> str:
        return f"{self.scheme}://{self.host}"

    @property
    def form_token(self) -> str:
        return session.form_token(self.token) if self.signed_in else ""

    @property
    def here(self) -> str:
        return f"{self.path}?{self.raw_query}" if self.raw_query else self.path

    def page(self, template: str, status: int = 200, **context: Any) -> Response:
        """The page, with what the layout needs."""
        return view.page(template, status, visit=self, now=self.now, **context)

    def calls(self, action: str, **params: Any) -> list[tuple[str, str, str]]:
        """The same action elsewhere, for the *show the call* drawer: label, text, Pygments' lexer."""
        pairs = contract.to_pairs(action, params)
        call = contract.bind(action, pairs)
        query = signature.canonical_query([("Action", action), *pairs])
        return [
            ("API", f"POST {self.endpoint}/?{query}&<common parameters>", "text"),
            ("icecore", sample(call, self.endpoint, "icecore"), "bash"),
            ("curl", sample(call, self.endpoint, "curl"), "bash"),
        ]


Page = Callable[[Visit], Response]


class Site:
    """All pages of one server."""

    def __init__(self, gateway: Gateway, backend: ConsoleBackend) -> None:
        self.gateway = gateway
        self.backend = backend
        self._threads = anyio.CapacityLimiter(THREADS)

    def private(self, page: Page) -> Callable[[HttpRequest], Any]:
        """For those who signed in; others are led to sign in first and come back."""
        return self._endpoint(page, private=True)

    def open(self, page: Page) -> Callable[[HttpRequest], Any]:
        """For anybody; ``visit.signed_in`` tells."""
        return self._endpoint(page, private=False)

    def _endpoint(self, page: Page, *, private: bool) -> Callable[[HttpRequest], Any]:
        async def endpoint(http: HttpRequest) -> Response:
            try:
                body: bytes | IcecoreError = await read_body(http) if http.method == "POST" else b""
            except IcecoreError as error:
                body = error
            except ClientDisconnect:
                return Response(status_code=400)
            return await anyio.to_thread.run_sync(self._answer, page, private, http, body, limiter=self._threads)

        return endpoint

    def _answer(self, page: Page, private: bool, http: HttpRequest, body: bytes | IcecoreError) -> Response:
        visit = self.visit(http)
        try:
            if isinstance(body, IcecoreError):
                raise body
            # Who comes
            self.let_in(visit, http)
            if private and not visit.signed_in:
                return _to_sign_in(visit)
            # A form must be ours, whole and of sensible size
            if http.method == "POST":
                visit.form = self._checked_form(visit, http, body)
            return page(visit)
        except IcecoreError as error:
            return failure(visit, error)
        except Exception:
            request_id = answer.new_request_id()
            log.error("page failed", path=visit.path, request_id=request_id, trace=traceback.format_exc())
            return failure(visit, IcecoreError(), request_id)

    def visit(self, http: HttpRequest) -> Visit:
        raw_query = http.scope["query_string"].decode("latin-1")
        host = http.headers.get("host", "")
        return Visit(
            method=http.method,
            path=http.url.path,
            scheme=http.scope["scheme"],
            # it stands in samples that people run; what is no host's name does not
            host=host if 0 < len(host) <= HOST_LENGTH and set(host) <= HOST_LETTERS else "localhost",
            address=http.client.host if http.client else "",
            now=int(self.gateway.clock()),
            query=_query(raw_query),
            form={},
            part={name: str(value) for name, value in http.path_params.items()},
            raw_query=raw_query,
            language=http.cookies.get("language", ""),
        )

    def let_in(self, visit: Visit, http: HttpRequest, used: bool = True) -> None:
        """Give the visit its doors if its cookie opens a living session. ``used``: see ``session.living_key``."""
        token = session.token_of(http)
        key = session.living_key(self.backend, token, visit.now, used=used)
        if key is not None:
            visit.token = token
            visit.doors_or_none = Doors(self.gateway, self.backend, key, visit.scheme, visit.host, visit.address)

    def _checked_form(self, visit: Visit, http: HttpRequest, body: bytes) -> dict[str, str]:
        if len(body) > FORM_LIMIT_BYTES:
            raise RequestTooLarge(limit_bytes=FORM_LIMIT_BYTES)
        if not session.from_this_host(http):
            raise Forbidden()
        form = _pairs(body.decode("utf-8", "replace"))
        if visit.signed_in and not session.same_form(visit.token, form.pop("form_token", "")):
            raise Forbidden()
        return form

    def note(self, visit: Visit, action: str, access_key_id: str, code: str, status: int) -> None:
        """A line of the audit for what is not a call: signing in and out."""
        record = CallRecord(
            request_id=answer.new_request_id(),
            at=visit.now,
            action=action,
            access_key_id=access_key_id,
            code=code,
            status=status,
            duration_ms=0,
            source=visit.address,
            origin="console",
            # a session begins or ends: it belongs to what an audit shows first. What strangers try does not, since
            # they could wash away with it what others did
            mutates=bool(access_key_id),
        )
        self.backend.note(record)


def failure(visit: Visit, error: IcecoreError, request_id: str = "") -> Response:
    """The page of a refusal: what happened, what to do, and the error center's address."""
    return visit.page("failure.html", error.status, error=error, request_id=request_id, title=error.wire_code())


def _to_sign_in(visit: Visit) -> Response:
    wanted = visit.here if visit.method == "GET" else "/console"
    return RedirectResponse(f"/console/sign-in?next={quote(wanted, safe='')}", 303, {**view.HEADERS})


def _query(raw: str) -> dict[str, str]:
    """Nothing of an address that is too long or has too many fields: the page is shown as if nothing were asked."""
    try:
        return _pairs(raw) if len(raw) <= QUERY_LIMIT_BYTES else {}
    except InvalidParameter:
        return {}


def _pairs(encoded: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(encoded, keep_blank_values=True, max_num_fields=FIELDS_AT_MOST))
    except ValueError as error:
        raise InvalidParameter(parameter="Form") from error
