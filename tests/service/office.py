"""A home with a server before it, and in it for each test a cluster and two people of its own. Jobs are moved by the
catalog's own functions, as a worker would."""

from __future__ import annotations

import html
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa
from visitor import Visitor, visiting

from conftest import Desk
from icecore import app as application
from icecore import errors
from icecore.api import contract
from icecore.api.client import Client
from icecore.app import App
from icecore.catalog import jobs, keys, tables
from icecore.model import BackupFacts, BackupMode, Boundary, Phase

GIB = 1 << 30
PAGE_LIMIT_BYTES = 100 * 1024
HOSTILE = "<script>alert(1)</script>\r\ndata: <b>"


@dataclass
class Office:
    """A cluster of its own in a home with a server before it, and two people: an admin and a reader."""

    desk: Desk
    port: int
    name: str
    admin: Visitor
    reader: Visitor
    admin_key: keys.StoredKey
    reader_key: keys.StoredKey

    def run(self, job_id: str) -> jobs.Claim:
        held = jobs.claim(self.desk.app.catalog, job_id, "test", lambda _: False)
        assert held is not None
        return held

    def progress(self, held: jobs.Claim, done: int, *, phase: Phase = Phase.UPLOADING, total: int = 4 * GIB) -> None:
        jobs.progress(self.desk.app.catalog, held, phase=phase, done=done, total=total, new=done // 3)

    def finish(self, held: jobs.Claim) -> None:
        with self.desk.app.catalog.read() as tx:
            job_uuid = tx.execute(sa.select(tables.backup.c.job_uuid).where(tables.backup.c.id == held.job_id)).scalar()
        at = int(time.time())
        boundary = Boundary("0/3000028", "0/3000100", 1, at, at, at)
        facts = BackupFacts(
            held.job_id,
            held.cluster_id,
            self.name,
            str(job_uuid),
            BackupMode.MANUAL,
            boundary,
            "postgresql",
            "15.18",
            4 * GIB,
            1200,
            "0.1.0",
        )
        jobs.finish_backup(self.desk.app.catalog, held, facts, GIB)

    def fail(self, held: jobs.Claim, error: errors.IcecoreError) -> None:
        jobs.fail(self.desk.app.catalog, held, error)

    def done(self) -> str:
        job_id = self.desk.create()
        self.finish(self.run(job_id))
        return job_id

    def restore(self, backup_id: str, name: str) -> str:
        made = self.desk.call(
            "CreateDBCluster",
            RegionId="local",
            DBType="PostgreSQL",
            DBVersion="15",
            PayType="Postpaid",
            CreationOption="CloneFromPolarDB",
            SourceResourceId=self.desk.cluster_id,
            CloneDataPoint=backup_id,
            DBClusterDescription=name,
        )["db_cluster_id"]
        return str(self.desk.call("DescribeJobs", DBClusterId=made)["items"]["job"][0]["job_id"])

    def rename(self, name: str) -> None:
        """To something that no call would take."""
        with self.desk.app.catalog.write() as tx:
            tx.execute(sa.update(tables.cluster).where(tables.cluster.c.id == self.desk.cluster_id).values(name=name))

    def client(self, key: keys.StoredKey) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", key.id, key.secret)


@pytest.fixture(scope="module", name="house")
def make_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, App, int]]:
    """One home and server for all: a test has its own cluster and people in it."""
    home = tmp_path_factory.mktemp("house") / "home"
    application.initialise(home, repository=None, encrypted=True, passphrase=None, listen=None)
    app = application.open_app(home)
    with visiting(app) as port:
        yield home, app, port
    app.close()


@pytest.fixture(name="office")
def make_office(house: tuple[Path, App, int]) -> Office:
    home, app, port = house
    name = f"orders{uuid.uuid4().hex[:8]}"
    pairs = [("DBClusterDescription", name), ("Engine", "postgresql"), ("ConnectionString", "host=/nowhere")]
    desk = Desk(home, app, app.run(contract.bind("RegisterDBCluster", pairs))["db_cluster_id"])
    desk.seen_running()
    admin, reader = (keys.create(app.catalog, role, f"the {role}") for role in ("admin", "reader"))
    people = Visitor(port), Visitor(port)
    for visitor, key in zip(people, (admin, reader), strict=True):
        assert visitor.sign_in(key.id, key.secret).status == 200
    return Office(desk, port, name, *people, admin, reader)


def plain(text: str) -> str:
    """What a person reads: without marks, entities and line breaks."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())
