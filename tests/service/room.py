"""A place to try the console's pages in: a served home, a cluster, an admin and a reader, and a worker's deeds."""

from __future__ import annotations

import html
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from visitor import Page, Visitor, visiting

from conftest import Desk
from icecore import app as application
from icecore import errors
from icecore.api import contract
from icecore.app import App
from icecore.catalog import jobs, keys, tables
from icecore.model import BackupFacts, BackupMode, Boundary

GIB = 1 << 30
PAGE_LIMIT_BYTES = 100 * 1024
HOSTILE = """<script>alert(1)</script>'"&amp;{{ 7 * 7 }}"""

House = tuple[Path, App, int]  # a home, opened, and the port it is served on


@dataclass
class Room:
    """A cluster of its own in a home with a server before it, and two people: an admin and a reader."""

    desk: Desk
    name: str
    admin: Visitor
    reader: Visitor

    @property
    def here(self) -> str:
        return f"/console/clusters/{self.desk.cluster_id}"

    # what a worker does

    def claim(self, job_id: str) -> jobs.Claim:
        held = jobs.claim(self.desk.app.catalog, job_id, "test", lambda _: False)
        assert held is not None
        return held

    def finish(self, job_id: str, *, at: int = 0, warnings: tuple[str, ...] = ()) -> str:
        with self.desk.app.catalog.read() as tx:
            row = tx.execute(sa.select(tables.backup).where(tables.backup.c.id == job_id)).one()
        at = at or int(time.time())
        boundary = Boundary("0/3000028", "0/3000100", 1, at, at, at)
        facts = BackupFacts(
            job_id,
            row.cluster_id,
            self.name,
            row.job_uuid,
            BackupMode(row.mode),
            boundary,
            "postgresql",
            "15.18",
            4 * GIB,
            1200,
            "0.1.0",
            comment=row.comment,
            client_token=row.client_token,
            warnings=warnings,
        )
        jobs.finish_backup(self.desk.app.catalog, self.claim(job_id), facts, GIB)
        return job_id

    def backup(self, at: int = 0) -> str:
        return self.finish(self.desk.create(), at=at)

    def fail(self) -> str:
        job_id = self.desk.create()
        error = errors.StorageFull(doing="write", name="packs/3f.pack", reason="ENOSPC")
        jobs.fail(self.desk.app.catalog, self.claim(job_id), error)
        return job_id

    def restored(self, cluster_id: str) -> None:
        job = self.desk.call("DescribeJobs", DBClusterId=cluster_id)["items"]["job"][0]
        jobs.finish_restore(
            self.desk.app.catalog, self.claim(job["job_id"]), dsn="host=/x", host="127.0.0.1", port=5439
        )

    def removed(self) -> None:
        for job in self.desk.call("DescribeJobs", DBClusterId=self.desk.cluster_id, JobState="queued")["items"]["job"]:
            held = self.claim(job["job_id"])
            if job["job_kind"] == "delete-backup":
                jobs.finish_deletion(self.desk.app.catalog, held)
            else:
                jobs.finish_cluster_removal(self.desk.app.catalog, held)

    def rename(self, name: str) -> None:
        """To something that no call would take."""
        with self.desk.app.catalog.write() as tx:
            tx.execute(sa.update(tables.cluster).where(tables.cluster.c.id == self.desk.cluster_id).values(name=name))

    # what a person does

    def form(self, path: str, action: str) -> dict[str, str]:
        """The fields of the form of this action on that page, as the page fills them in."""
        page = self.admin.get(path)
        assert page.status == 200, page.text
        found = [form for form in page.forms() if form.get("Action") == action]
        assert found, (path, action)
        return {name: value for name, value in found[0].items() if not name.startswith(":")}

    def press(self, path: str, action: str, **more: str) -> Page:
        return self.admin.post("/console/act", self.form(path, action) | more)

    def jobs(self, cluster_id: str = "") -> int:
        found = self.desk.call("DescribeJobs", DBClusterId=cluster_id or self.desk.cluster_id)
        return int(found["total_record_count"])


@contextmanager
def serving(place: Path) -> Iterator[House]:
    """A new home below ``place``."""
    home = place / "home"
    application.initialise(home, repository=None, encrypted=True, passphrase=None, listen=None)
    app = application.open_app(home)
    with visiting(app) as port:
        yield home, app, port
    app.close()


def enter(house: House) -> Room:
    """A room of its own: a running cluster, and two people who signed in."""
    home, app, port = house
    name = f"orders{uuid.uuid4().hex[:8]}"
    desk = Desk(home, app, register(app, name))
    desk.seen_running()
    return Room(desk, name, signed_in(app, port, "admin"), signed_in(app, port, "reader"))


def register(app: App, name: str) -> str:
    pairs = [("DBClusterDescription", name), ("Engine", "postgresql"), ("ConnectionString", "host=/nowhere")]
    return str(app.run(contract.bind("RegisterDBCluster", pairs))["db_cluster_id"])


def signed_in(app: App, port: int, role: str) -> Visitor:
    key, visitor = keys.create(app.catalog, role, f"the {role}"), Visitor(port)
    assert visitor.sign_in(key.id, key.secret).status == 200
    return visitor


def plain(text: str) -> str:
    """What a person reads: without marks, entities and line breaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def reads(page: Page, status: int = 200) -> str:
    assert page.status == status, page.text
    assert len(page.body) < PAGE_LIMIT_BYTES
    return plain(page.text)
