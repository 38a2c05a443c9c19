"""An installation whose Explorer is visited by people, each with a key of their own.

Every byte that the server sends is searched for the secrets of the keys that signed in.
"""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from visitor import Page, Visitor

from icecore import app as application
from icecore import console
from icecore.api import contract
from icecore.api.server import Server, build_app
from icecore.app import App
from icecore.catalog import clusters, keys
from icecore.errors import every_error

PAGE_BYTES = 100 * 1024
# what an answer must never be if the bytes shown are right; access (4) but for a role that may not
OF_THE_SIGNATURE = {kind.code for kind in every_error() if kind.exit == 4 and kind.code != "Forbidden.RAM"} | {
    "MissingParameter.Action",
    "InvalidVersion",
    "InvalidAction.NotFound",
}
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</textarea></pre></option></select>",
    "{{ 7*7 }}{% raw %}",
    "a&b=c;d?e#f%20+g",
    "ünïcödé 漢字 🧊",
    "=-*~!()/\\$`",
    "&lt;&amp;&#39;",
]


@dataclass
class Reader(Visitor):
    """A visitor who keeps all that it was sent."""

    port: int
    key_id: str = ""
    received: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        Visitor.__init__(self, self.port)

    def request(self, *given: Any, **named: Any) -> Page:
        page = super().request(*given, **named)
        self.received += [page.body, repr(page.headers).encode()]
        return page

    def call(self, page: Page, **changes: str) -> Page:
        """Press the button that a page shows."""
        return self.post(urlsplit(form_of(page, "call")[":action"]).path, {**fields_of(page, "call"), **changes})


@dataclass
class Place:
    """One installation for the whole module. Its one cluster has one backup at most; ``fresh`` gives new ones."""

    app: App
    port: int
    clock: list[float]
    secrets: list[str] = field(default_factory=list)
    visitors: list[Reader] = field(default_factory=list)
    made: int = 0
    cluster_id: str = ""

    def call(self, action: str, **wire: str) -> dict[str, Any]:
        return self.app.run(contract.bind(action, list(wire.items())))

    def registered(self, name: str) -> str:
        """A cluster that counts as running and has no backup."""
        wire = {"DBClusterDescription": name, "Engine": "postgresql", "ConnectionString": "host=/nowhere"}
        cluster_id = str(self.call("RegisterDBCluster", **wire)["db_cluster_id"])
        facts = {"major": "15", "version": "15.18", "size_bytes": 1 << 20}
        clusters.observed(self.app.catalog, cluster_id, running=True, reason="", facts=facts)
        return cluster_id

    def signed_in(self, role: str = "admin") -> Reader:
        made = keys.create(self.app.catalog, role, "")
        self.secrets.append(made.secret)
        self.visitors.append(Reader(self.port, made.id))
        self.visitors[-1].sign_in(made.id, made.secret)
        return self.visitors[-1]

    def fresh(self) -> str:
        """A cluster that runs and has no backup."""
        self.made += 1
        return self.registered(f"fresh-{self.made}")

    @contextmanager
    def watched(self) -> Iterator[None]:
        """For one test: none of its people's secrets may come back in any form."""
        self.secrets.clear()
        self.visitors.clear()
        yield
        for secret in self.secrets:
            forms = {secret, quote(secret, safe=""), html.escape(secret), secret[::-1], secret.encode().hex()}
            for received in (each for visitor in self.visitors for each in visitor.received):
                assert not [form for form in forms if form.encode() in received]

    def backups(self, cluster_id: str) -> int:
        return len(self.call("DescribeBackupTasks", DBClusterId=cluster_id)["items"]["backup_job"])


@contextmanager
def opened(home: Path) -> Iterator[Place]:
    application.initialise(home, repository=None, encrypted=True, passphrase=None, listen=None)
    app = application.open_app(home)
    clock = [1795550000.0]
    server = Server(build_app(app, pages=lambda gateway: console.pages(gateway, app), clock=lambda: clock[0]))
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    place = Place(app, server.port, clock)
    place.cluster_id = place.registered("orders")
    yield place
    server.stop()
    thread.join(15)
    app.close()


def form_of(page: Page, do: str) -> dict[str, str]:
    return next(form for form in page.forms() if form.get("do") == do)


def fields_of(page: Page, do: str) -> dict[str, str]:
    return {name: text for name, text in form_of(page, do).items() if not name.startswith(":")}


def address_of(action: str, values: Mapping[str, str] | None = None, **state: str) -> str:
    query = {f"p.{name}": value for name, value in (values or {}).items()} | state
    return f"/console/explorer/{action}?{urlencode(query)}"


def blocks(page: Page) -> list[str]:
    """The text of each <pre>, without its markup."""
    found = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page.text, re.DOTALL)
    return [html.unescape(re.sub(r"<[^>]*>", "", block)) for block in found]


def status(page: Page) -> int:
    found = re.search(r"HTTP/1\.1 (\d+)", page.text)
    assert found, page.text
    return int(found[1])


def code(page: Page) -> str:
    found = re.search(r'<dt>Status</dt>.*?<a href="/errors/([\w.]+)\?RequestId=', page.text)
    return found[1] if found else ""


def steps_of(page: Page) -> dict[str, str]:
    found = re.findall(r"<li><h3>(.*?)</h3>.*?<code>(.*?)</code></pre></li>", page.text, re.DOTALL)
    return {title: html.unescape(text) for title, text in found}


def told_by(page: Page) -> str:
    found = re.search(r'id="compared">(.*?)</div>', page.text, re.DOTALL)
    assert found, page.text
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", found[1])))
