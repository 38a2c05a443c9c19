"""Somebody who visits the console over HTTP: keeps cookies, fills in the form token, follows nothing by itself."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode

from icecore import console
from icecore.api.server import Server, build_app


@dataclass
class Page:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8")

    @property
    def location(self) -> str:
        return self.headers.get("location", "")

    def forms(self) -> list[dict[str, str]]:
        """The fields of each form, with ``action`` and ``method`` beside them as ``:action`` and ``:method``."""
        reader = _Forms()
        reader.feed(self.text)
        return reader.forms


class _Forms(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[dict[str, str]] = []
        self._open = False
        self._text_of = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        if tag == "form":
            self.forms.append({":action": given.get("action", ""), ":method": given.get("method", "get")})
            self._open = True
        elif self._open and tag == "input" and "name" in given:
            if given.get("type") in ("checkbox", "radio") and "checked" not in given:
                return
            self.forms[-1][given["name"]] = given.get("value", "")
        elif self._open and tag == "textarea":
            self._text_of = given.get("name", "")
            self.forms[-1][self._text_of] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = False
        elif tag == "textarea":
            self._text_of = ""

    def handle_data(self, data: str) -> None:
        if self._text_of:
            self.forms[-1][self._text_of] += data


class Visitor:
    def __init__(self, port: int, host: str = "") -> None:
        self.port = port
        self.host = host or f"127.0.0.1:{port}"
        self.cookies: dict[str, str] = {}
        self.form_token = ""

    def get(self, path: str, **headers: str) -> Page:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, fields: Mapping[str, str] | None = None, **headers: str) -> Page:
        """A form of the site: with its token, unless ``fields`` has one."""
        filled = {"form_token": self.form_token, **(fields or {})}
        sent = {"content-type": "application/x-www-form-urlencoded", "origin": f"http://{self.host}", **headers}
        return self.request("POST", path, urlencode(filled).encode(), sent)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Page:
        """``headers``: underscores in names stand for hyphens."""
        named = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if self.cookies:
            named["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body, {"host": self.host, **named})
            response = connection.getresponse()
            found = Page(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
            for line in response.headers.get_all("set-cookie") or []:
                for name, morsel in SimpleCookie(line).items():
                    self.cookies[name] = morsel.value
                    if morsel["max-age"] == "0":
                        del self.cookies[name]
        finally:
            connection.close()
        token = re.search(r'name="form_token" value="([^"]*)"', found.body.decode("utf-8", "replace"))
        if token:
            self.form_token = token[1]
        return found

    def sign_in(self, access_key_id: str, secret: str) -> Page:
        """The page that signing in leads to."""
        given = {"access_key_id": access_key_id, "access_key_secret": secret}
        answered = self.post("/console/sign-in", given)
        assert answered.status == 303, answered.text
        return self.get(answered.location)


@contextmanager
def visiting(app: Any) -> Iterator[int]:
    """The port of a real server with endpoint and console around ``app``."""
    server = Server(build_app(app, pages=lambda gateway: console.pages(gateway, app)))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server.port
    finally:
        server.stop()
        thread.join(15)
        assert not thread.is_alive()
