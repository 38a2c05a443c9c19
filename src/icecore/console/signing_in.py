"""Signing in with an access key or a one-time link, and out again. Each leaves a line in the audit."""

from __future__ import annotations

import threading

from starlette.responses import RedirectResponse, Response

from icecore.api.signature import AccessKey
from icecore.console import session, view
from icecore.console.visit import Site, Visit
from icecore.errors import IcecoreError, SignInLinkUsed, TooManySignIns

SIGN_IN, SIGN_OUT = "ConsoleSignIn", "ConsoleSignOut"  # in the audit


class SigningIn:
    def __init__(self, site: Site) -> None:
        self._site = site
        self._backend = site.backend
        self._one_by_one = threading.Lock()

    def form(self, visit: Visit) -> Response:
        """The page to sign in on. A link is used by its button, not by looking: mail programs open every link."""
        if visit.signed_in and not visit.query.get("link"):
            return self._onward(visit, visit.query.get("next", ""))
        return self._page(visit, wanted=visit.query.get("next", ""), link=visit.query.get("link", ""))

    def sign_in(self, visit: Visit) -> Response:
        form = visit.form
        wanted = form.get("next", "")
        sender = session.network(visit.address)
        try:
            with self._one_by_one:
                key = self._allowed(visit, sender)
        except TooManySignIns as error:
            self._site.note(visit, SIGN_IN, "", error.wire_code(), error.status)
            return self._page(visit, error, wanted=wanted)
        except IcecoreError as error:
            # an id that nobody has is not noted: people paste secrets into the wrong field
            known = self._backend.find_key(form.get("access_key_id", "").strip())
            self._site.note(visit, SIGN_IN, known.id if known else "", error.wire_code(), error.status)
            return self._page(visit, error, wanted=wanted)

        # a session of its own for each sign-in; what the browser brought along is ended, never taken over
        if visit.token:
            self._backend.records.close_session(visit.token)
        token = self._backend.records.open_session(key.id, visit.now)
        self._site.note(visit, SIGN_IN, key.id, "OK", 200)
        response = self._onward(visit, wanted)
        session.set_cookie(response, visit.scheme, token)
        return response

    def sign_out(self, visit: Visit) -> Response:
        self._backend.records.close_session(visit.token)
        self._site.note(visit, SIGN_OUT, visit.doors.key.id, "OK", 200)
        response = RedirectResponse("/console/sign-in", 303, view.HEADERS)
        session.drop_cookie(response, visit.scheme)
        return response

    def _allowed(self, visit: Visit, sender: str) -> AccessKey:
        """The key of an attempt, unless its sender had enough of them. A failure is counted before the next attempt is
        looked at: many at the same moment are not more than one after the other."""
        if not visit.form.get("link") and self._backend.records.failures(sender, visit.now) >= session.FAILURES_ALLOWED:
            raise TooManySignIns()
        try:
            return self._key(visit)
        except IcecoreError:
            self._backend.records.note_failure(sender, visit.now)
            raise

    def _key(self, visit: Visit) -> AccessKey:
        form = visit.form
        if form.get("link"):
            key = session.open_link(self._backend, form["link"], visit.now)
            if key is None:
                raise SignInLinkUsed()
            return key
        return session.check_secret(
            self._backend, form.get("access_key_id", "").strip(), form.get("access_key_secret", "").strip()
        )

    def _onward(self, visit: Visit, wanted: str) -> Response:
        return RedirectResponse(session.safe_next(wanted), 303, view.HEADERS)

    def _page(self, visit: Visit, error: IcecoreError | None = None, *, wanted: str, link: str = "") -> Response:
        status = error.status if error else 200
        unsafe = visit.scheme == "http" and visit.address not in ("127.0.0.1", "::1")
        return visit.page("sign_in.html", status, title="Sign in", error=error, next=wanted, link=link, unsafe=unsafe)
