"""The endpoint: bytes of a signed call in, an answer out, and nothing that is not documented.

    read      the body up to ``BODY_LIMIT_BYTES``                            async
    answer    signature -> nonce -> contract -> role -> operation -> body    in a thread

``Gateway.answer`` is a plain function of a ``signature.Request``. Every refusal carries a documented code and a
``RequestId``; what nobody foresaw becomes ``InternalError`` and one line with the trace in the log. Secrets,
signatures and strings to sign are not logged.
"""

from __future__ import annotations

import asyncio
import functools
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
import anyio.to_thread
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from icecore.api import answer, contract, recorded, signature
from icecore.api.answer import Answer
from icecore.api.contract import Call
from icecore.api.listen import HEAD_LIMIT_BYTES, Server, run_server, self_signed
from icecore.api.signature import AccessKey
from icecore.errors import (
    Forbidden,
    IcecoreError,
    InvalidFormat,
    InvalidParameter,
    InvalidVersion,
    MalformedRequest,
    MissingParameter,
    NonceUsed,
    RequestTooLarge,
    UnknownAction,
    UnsupportedMethod,
)

BODY_LIMIT_BYTES = 1024 * 1024
BODY_TIMEOUT_S = 20  # a call is a few hundred bytes; clients give up after 10 s themselves
QUERY_LIMIT_BYTES = 32 * 1024
THREADS = 64  # waiting for the catalog, mostly
FRONT_PAGE = "/console"

__all__ = [
    "AccessKey",
    "Backend",
    "CallRecord",
    "Caller",
    "Gateway",
    "Server",
    "build_app",
    "run_server",
    "self_signed",
]

log = structlog.get_logger("icecore.api")


@dataclass(frozen=True)
class Caller:
    """Who makes a call that was let in."""

    access_key_id: str
    role: str


@dataclass(frozen=True)
class CallRecord:
    """One line of the call history. ``code``: ``OK`` or the error's; ``access_key_id``: empty if not verified."""

    request_id: str
    at: int
    action: str
    access_key_id: str
    code: str
    status: int
    duration_ms: int
    origin: str = "api"  # or "console", "explorer"
    source: str = ""  # the address that the connection came from; empty: the call was made inside the server
    message: str = ""  # the error's, without what was signed
    mutates: bool = False  # by the contract, whether or not this call did
    params: tuple[tuple[str, str], ...] = ()  # as sent, if the call was verified and bound; see ``recorded``


class Backend(Protocol):
    """What the gateway needs of the system behind it. Called from many threads at once."""

    def find_key(self, access_key_id: str) -> AccessKey | None: ...

    def use_nonce(self, access_key_id: str, nonce: str, now: int) -> bool:
        """Durably take ``nonce``; False if this key used it before (A2). It must be remembered for twice the clock
        skew: a timestamp may lie 15 minutes ahead and is then good for 15 more."""

    def run(self, call: Call, caller: Caller) -> dict[str, Any]:
        """The operation's result in snake_case; raises ``IcecoreError``."""

    def ready(self) -> list[str]:
        """Reasons why calls cannot be served now; empty: ready."""

    def note(self, record: CallRecord) -> None:
        """Keep a line of the call history."""


@dataclass
class _Known:
    """What is known of a call while it is answered, for its error body and its record."""

    request_id: str
    host: str
    base_url: str
    origin: str
    source: str
    xml: bool = False
    action: str = ""
    access_key_id: str = ""
    pairs: signature.Pairs = field(default_factory=list)  # only those of a verified call (A1)
    bound: bool = False
    message: str = ""


class Gateway:
    """The endpoint ``/`` as an ASGI application."""

    def __init__(self, backend: Backend, clock: Callable[[], float] = time.time) -> None:
        self.backend = backend
        self.clock = clock
        self.front_page = ""  # where a person who opens "/" in a browser is led, if there is a console
        self._threads = anyio.CapacityLimiter(THREADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = HttpRequest(scope, receive)
        if self.front_page and _opened_by_a_person(http):
            await RedirectResponse(self.front_page, 303)(scope, receive, send)
            return
        close = {}
        try:
            body: bytes | IcecoreError = await read_body(http)
        except RequestTooLarge as e:
            # what is still to come is not read: the connection ends with the answer
            body, close = e, {"connection": "close"}
        except MalformedRequest as e:
            body, close = e, {"connection": "close"}
        except ClientDisconnect:
            return
        # a call that outlasts the grace of a stopping server is left behind: its thread ends by itself
        given = await anyio.to_thread.run_sync(self.serve, http, body, limiter=self._threads, abandon_on_cancel=True)
        headers = {"x-acs-request-id": given.request_id, "content-type": given.content_type, **close}
        await Response(given.body, given.status, headers)(scope, receive, send)

    def serve(self, http: HttpRequest, body: bytes | IcecoreError) -> Answer:
        """The answer to a request whose body was read, or could not be."""
        headers = [(_text(name), _text(value)) for name, value in http.headers.raw]
        query: bytes = http.scope["query_string"]
        raw_path: bytes = http.scope.get("raw_path") or b"/"
        request = signature.Request(http.method, _text(raw_path), query.decode("latin-1"), headers)
        answering = functools.partial(
            self.answer, scheme=http.scope["scheme"], source=http.client.host if http.client else ""
        )
        if isinstance(body, IcecoreError):
            return answering(request, refusal=body)
        # h11 limits a head that is still coming; this one may have come in one piece
        if sum(len(name) + len(value) for name, value in http.headers.raw) > HEAD_LIMIT_BYTES:
            return answering(request, refusal=RequestTooLarge(limit_bytes=HEAD_LIMIT_BYTES))
        if len(query) > QUERY_LIMIT_BYTES:
            return answering(request, refusal=RequestTooLarge(limit_bytes=QUERY_LIMIT_BYTES))
        return answering(signature.Request(request.method, request.path, request.query, headers, body))

    def answer(
        self,
        request: signature.Request,
        *,
        scheme: str = "http",
        refusal: IcecoreError | None = None,
        origin: str = "api",
        source: str = "",
    ) -> Answer:
        """The answer to one call, whatever it is. Does not raise."""
        started_s = time.monotonic()
        host = next((value for name, value in request.headers if name.lower() == "host"), "")
        known = _Known(answer.new_request_id(), host, f"{scheme}://{host}" if host else "", origin, source)
        try:
            if refusal is not None:
                raise refusal
            given = self._answer(request, known)
        except IcecoreError as error:
            given = self._failure(error, known)
            known.message = recorded.message(error, known.action, known.pairs)
            if error.status >= 500:
                log.warning("call failed", request_id=known.request_id, action=known.action, trace=_trace())
        except Exception:
            log.error("call failed", request_id=known.request_id, action=known.action, trace=_trace())
            given = self._failure(IcecoreError(), known)
            known.message = recorded.message(IcecoreError())
        self._note(given, known, round((time.monotonic() - started_s) * 1000))
        return given

    def _answer(self, request: signature.Request, known: _Known) -> Answer:
        if request.method not in ("GET", "POST"):
            raise UnsupportedMethod()

        # the form of the answer, so that refusals have it too; nothing else is taken from the parameters yet (A1)
        pairs = request.pairs()
        asked = {value for name, value in pairs if name == "Format"}
        wanted = answer.wanted_format(asked, _accept(request))
        known.xml = wanted == "XML"

        # who calls
        now = int(self.clock())
        verified = signature.verify(request, self.backend.find_key, now)
        known.access_key_id = verified.key.id

        # the nonce is used up from here on, whatever follows
        if not self.backend.use_nonce(verified.key.id, verified.nonce, now):  # A2
            raise NonceUsed()
        if not wanted:
            raise InvalidFormat()

        # what is called
        action, version = _target(request, pairs, verified.version)
        known.action = action if action in contract.operations() else ""
        if version != contract.document()["version"]:
            raise InvalidVersion() if version else MissingParameter(parameter="Version")
        known.pairs = pairs
        call = contract.bind(action, pairs)
        known.bound = True
        if call.operation.mutates and verified.key.role != "admin":
            raise Forbidden()

        # do it; the reply is built from a result that is committed (C1)
        result = self.backend.run(call, Caller(verified.key.id, verified.key.role))
        return answer.success(action, result, known.request_id, xml=known.xml)

    def _failure(self, error: IcecoreError, known: _Known) -> Answer:
        return answer.failure(error, known.request_id, host=known.host, base_url=known.base_url, xml=known.xml)

    def _note(self, given: Answer, known: _Known, duration_ms: int) -> None:
        try:
            self.backend.note(
                CallRecord(
                    request_id=known.request_id,
                    at=int(self.clock()),
                    action=known.action,
                    access_key_id=known.access_key_id,
                    code=given.code or "OK",
                    status=given.status,
                    duration_ms=duration_ms,
                    origin=known.origin,
                    source=known.source,
                    message=known.message,
                    mutates=bool(known.action) and contract.operation(known.action).mutates,
                    params=tuple(recorded.parameters(known.action, known.pairs)) if known.bound else (),
                )
            )
        except Exception:
            log.error("call not noted", request_id=known.request_id, trace=_trace())


def _target(request: signature.Request, pairs: signature.Pairs, version: str) -> tuple[str, str]:
    """Action and version of a verified call. The headers count under V3 only: under V1 they are not signed."""
    found = []
    for parameter, header in (("Action", "x-acs-action"), ("Version", "x-acs-version")):
        named = {value for name, value in pairs if name == parameter and value}
        if version == "V3" and request.header(header):
            named.add(request.header(header) or "")
        if len(named) > 1:
            raise InvalidParameter(parameter=parameter)
        found.append(named.pop() if named else "")
    if not found[0]:
        raise MissingParameter(parameter="Action")
    return found[0], found[1]


def _opened_by_a_person(http: HttpRequest) -> bool:
    """A browser at ``/``: it asks for HTML and calls no operation. Clients of the API never ask for HTML."""
    return (
        http.method in ("GET", "HEAD")
        and "text/html" in http.headers.get("accept", "")
        and not {"authorization", "x-acs-action"} & set(http.headers.keys())
        and "Action=" not in http.scope["query_string"].decode("latin-1")
    )


def _accept(request: signature.Request) -> str:
    return ",".join(value for name, value in request.headers if name.lower() == "accept")


def _text(raw: bytes) -> str:
    """A header as its sender meant it: clients sign UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _trace() -> str:
    """The current exception's trace without local variables, whatever the log is set to: they hold secrets."""
    return traceback.format_exc()


async def read_body(http: HttpRequest) -> bytes:
    """The whole body. ``RequestTooLarge`` as soon as it is known to be, ``MalformedRequest`` when it does not come."""
    announced = http.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > BODY_LIMIT_BYTES:
        raise RequestTooLarge(limit_bytes=BODY_LIMIT_BYTES)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in http.stream():
                body += chunk
                if len(body) > BODY_LIMIT_BYTES:
                    raise RequestTooLarge(limit_bytes=BODY_LIMIT_BYTES)
    except TimeoutError as e:
        raise MalformedRequest(reason=f"the body did not arrive within {BODY_TIMEOUT_S} s") from e
    return bytes(body)


def build_app(
    backend: Backend,
    *,
    pages: Callable[[Gateway], Sequence[BaseRoute]] = lambda _: (),
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """The whole HTTP surface. ``pages``: gives what lies beside the endpoint (the console). ``clock``: Unix seconds."""
    gateway = Gateway(backend, clock)
    routes = list(pages(gateway))
    if routes:
        gateway.front_page = FRONT_PAGE

    async def alive(_: HttpRequest) -> Response:
        return JSONResponse({"status": "ok"})

    def ready(_: HttpRequest) -> Response:
        try:
            reasons = backend.ready()
        except Exception as e:
            log.error("readiness not known", trace=_trace())
            reasons = [e.message if isinstance(e, IcecoreError) else "an unexpected error; see the server's log"]
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    def refused(error: IcecoreError) -> Callable[[HttpRequest, Exception], Response]:
        """JSON with a code for what never reached the endpoint; an empty or HTML body breaks the V3 clients."""

        def respond(http: HttpRequest, _: Exception) -> Response:
            host = http.headers.get("host", "")
            base_url = f"{http.scope['scheme']}://{host}"
            given = answer.failure(error, answer.new_request_id(), host=host, base_url=base_url, xml=False)
            headers = {"x-acs-request-id": given.request_id, "content-type": given.content_type}
            return Response(given.body, given.status, headers)

        return respond

    app = Starlette(
        routes=[Route("/", gateway), Route("/healthz", alive), Route("/readyz", ready), *routes],
        exception_handlers={
            404: refused(UnknownAction()),
            405: refused(UnsupportedMethod()),
            500: refused(IcecoreError()),
        },
    )
    app.router.redirect_slashes = False
    return app
