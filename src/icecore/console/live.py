"""Live tasks: a part of a page, rendered here and sent again each time it looks different (server-sent events).

One stream costs one reading of DescribeJobs a second while something runs. It ends by itself after ``LIFE_S``, when its
session ended or its key was revoked, when the browser is gone, and at once when the server is to stop; the browser
comes back by itself where that makes sense. Without script none of this is asked for.
"""

from __future__ import annotations

import functools
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import anyio.to_thread
import structlog
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from icecore.console import pace, session, tasks, view
from icecore.console.visit import Site, Visit
from icecore.errors import IcecoreError, WorldError

STREAMS = 64  # of the whole server
STREAMS_OF_SESSION = 8
THREADS = 4  # reading for all of them; pages have their own
LOOK_EVERY_S, LOOK_IDLE_S = 1.0, 3.0
SESSION_EVERY_S = 5.0
HEARTBEAT_S = 10.0  # proxies close what is silent for half a minute or more
LIFE_S = 600.0
TICK_S = 0.25  # how soon the server's end is seen
RETRY_MS = 2000

HEADERS = {**view.HEADERS, "content-type": "text/event-stream; charset=utf-8", "x-accel-buffering": "no"}

log = structlog.get_logger("icecore.console")


class Seats:
    """How many watch. Taken and given back on the event loop only."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def take(self, token: str) -> bool:
        if self._taken.total() >= STREAMS or self._taken[token] >= STREAMS_OF_SESSION:
            return False
        self._taken[token] += 1
        return True

    def leave(self, token: str) -> None:
        self._taken[token] -= 1
        self._taken += Counter()  # forgets who has none

    def total(self) -> int:
        return self._taken.total()


class Live:
    """The streams of one server."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._threads = anyio.CapacityLimiter(THREADS)
        self.seats = Seats()

    async def events(self, http: HttpRequest) -> Response:
        """A stream, or a status that tells the browser not to come back by itself."""
        visit = self._site.visit(http)
        try:
            # Who comes
            await self._run(self._site.let_in, visit, http, False)
            if not visit.signed_in:
                return Response(status_code=401, headers=HEADERS)
            # A first look, so that a wrong address is told as such
            first, busy = await self._run(_look, visit, visit.now)
        except IcecoreError as error:
            return Response(status_code=error.status, headers=HEADERS)
        if http.method == "HEAD":
            return Response(headers=HEADERS)
        if not self.seats.take(visit.token):
            return Response(status_code=429, headers=HEADERS)
        stopping: Callable[[], bool] = getattr(http.app.state, "stopping", lambda: False)
        leave = functools.partial(self.seats.leave, visit.token)
        return _Stream(self._watch(visit, first, busy, stopping), leave)

    async def _watch(self, visit: Visit, shown: str, busy: bool, stopping: Callable[[], bool]) -> AsyncIterator[str]:
        yield f"retry: {RETRY_MS}\n\n" + event(shown)
        began = looked = checked = sent = time.monotonic()
        while not stopping():
            await anyio.sleep(TICK_S)
            at = time.monotonic()
            # Until it is time to come anew, or nobody may look any more
            if at - began > LIFE_S:
                return
            if at - checked >= SESSION_EVERY_S:
                checked = at
                if not await self._run(self._alive, visit):
                    return
            # Only what looks different is sent
            if at - looked >= (LOOK_EVERY_S if busy else LOOK_IDLE_S):
                looked = at
                try:
                    found, busy = await self._run(_look, visit, int(self._site.gateway.clock()))
                except WorldError:
                    continue  # the catalog is busy: the next look is soon
                except IcecoreError:
                    return
                if found != shown:
                    shown, sent = found, at
                    yield event(shown)
                    continue
            if at - sent >= HEARTBEAT_S:
                sent = at
                yield ": still here\n\n"

    def _alive(self, visit: Visit) -> bool:
        now = int(self._site.gateway.clock())
        try:
            key = session.living_key(self._site.backend, visit.token, now, used=False)
        except WorldError:
            return True  # not known at the moment; asked again
        return key is not None and key.id == visit.doors.key.id

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        return await anyio.to_thread.run_sync(function, *args, limiter=self._threads)


class _Stream(StreamingResponse):
    """Gives its seat back however it ends, and ends where a browser takes nothing any more."""

    def __init__(self, content: AsyncIterator[str], leave: Callable[[], None]) -> None:
        super().__init__(content, 200, HEADERS)
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            with anyio.move_on_after(LIFE_S + HEARTBEAT_S):
                await super().__call__(scope, receive, send)
        finally:
            self._leave()


def _look(visit: Visit, now: int) -> tuple[str, bool]:
    """The fragment as it is now, and whether something in it is unfinished."""
    template, shown = tasks.fragment(visit.doors, visit.query)
    return view.render(template, now=now, **shown), any(pace.unfinished(job) for job in shown["jobs"])


def event(fragment: str) -> str:
    """One event. Whatever ends a line in the fragment begins another line of data, so no name can end the event."""
    lines = re.split(r"\r\n|\r|\n", fragment)
    return "event: rows\n" + "".join(f"data: {line}\n" for line in lines) + "\n"
