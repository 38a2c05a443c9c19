"""Tasks as they run and end, live streams, the repository and the audit: pages of a real server, jobs moved by the
catalog's own functions."""

from __future__ import annotations

import dataclasses
import html
import os
import re
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from visitor import Visitor, visiting

from conftest import Desk
from icecore import app as application
from icecore import errors
from icecore.api import contract
from icecore.api.client import Client
from icecore.api.listen import GRACE_S
from icecore.app import App
from icecore.catalog import jobs, keys, queries, tables
from icecore.console import live, repository
from icecore.model import BackupFacts, BackupMode, Boundary, Phase
from station import Station

GIB = 1 << 30
PAGE_LIMIT_BYTES = 100 * 1024
HOSTILE = "<script>alert(1)</script>\r\ndata: <b>"


# ---------------------------------------------------------------- the world


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


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, App, int]]:
    """One home and server for all: a test has its own cluster and people in it."""
    home = tmp_path_factory.mktemp("house") / "home"
    application.initialise(home, repository=None, encrypted=True, passphrase=None, listen=None)
    app = application.open_app(home)
    with visiting(app) as port:
        yield home, app, port
    app.close()


@pytest.fixture
def office(house: tuple[Path, App, int]) -> Office:
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


# ---------------------------------------------------------------- the list


def test_nothing_done_yet_says_how_to_begin(desk: Desk) -> None:
    key = keys.create(desk.app.catalog, "reader")
    with visiting(desk.app) as port:
        visitor = Visitor(port)
        visitor.sign_in(key.id, key.secret)
        page = visitor.get("/console/tasks")
    assert page.status == 200
    assert "Nothing has been done yet" in page.text
    assert "icecore backup NAME" in plain(page.text)


def test_list_shows_each_state_in_words_and_filters(office: Office) -> None:
    done = office.done()
    failed = office.desk.create()
    office.fail(office.run(failed), errors.StorageFull(doing="write", name="packs/3f.pack", reason="ENOSPC"))
    running = office.desk.create()
    office.progress(office.run(running), 2 * GIB)
    queued = office.desk.create()

    mine = f"cluster={office.desk.cluster_id}"
    text = office.admin.get(f"/console/tasks?{mine}").text
    for job_id, word in ((done, "succeeded"), (failed, "failed"), (running, "Uploading"), (queued, "queued")):
        row = re.search(rf'<tr id="task-{job_id}".*?</tr>', text, re.DOTALL)
        assert row and word in plain(row[0]), (job_id, word)
    assert '<a href="/errors/StorageFull">' in text
    assert f'data-live="/console/tasks/events?list=1&amp;{mine}"' in text
    assert all(f'id="task-{job_id}"' in office.admin.get("/console/tasks").text for job_id in (done, queued))

    for query, shown in (
        ("state=failed", {failed}),
        ("state=queued&kind=backup", {queued}),
        ("kind=restore", set[str]()),
        ("state=running", {running}),
    ):
        page = office.admin.get(f"/console/tasks?{query}&{mine}")
        assert set(re.findall(r'<tr id="task-(\d+)"', page.text)) == shown, query
    assert "No task is like that" in office.admin.get(f"/console/tasks?kind=restore&{mine}").text
    assert office.admin.get("/console/tasks?state=odd").status == 400
    assert office.admin.get("/console/tasks?after=rubbish").status == 400
    # a filter that is chosen stays chosen, and goes along to the stream
    page = office.admin.get("/console/tasks?state=failed")
    assert '<option value="failed" selected>' in page.text
    assert 'data-live="/console/tasks/events?list=1&amp;state=failed"' in page.text


def test_pages_of_the_list_show_each_task_once_and_stay_small(office: Office) -> None:
    office.rename(office.name + "&" * 240)
    made = []
    for _ in range(65):
        made.append(office.desk.create())
        office.fail(office.run(made[-1]), errors.EngineFailed(doing="reading", reason="<x>" * 400))
    seen: list[str] = []
    address = f"/console/tasks?state=failed&cluster={office.desk.cluster_id}"
    while address:
        page = office.admin.get(address)
        assert page.status == 200 and len(page.body) < PAGE_LIMIT_BYTES
        seen += re.findall(r'<tr id="task-(\d+)"', page.text)
        older = re.search(r'<a href="([^"]*)" rel="next">Older</a>', page.text)
        address = html.unescape(older[1]) if older else ""
        if "after=" in address:
            assert "state=failed" in address
    assert seen == made[::-1]
    assert "data-live" not in page.text  # an old page stands still


# ---------------------------------------------------------------- one task


def test_running_task_shows_steps_numbers_and_cancel(office: Office) -> None:
    job_id = office.desk.create()
    held = office.run(job_id)
    office.progress(held, 1 * GIB)
    with office.desk.app.catalog.write() as tx:  # as if it had begun ten seconds ago
        began = {"started_at": int(time.time()) - 10}
        tx.execute(sa.update(tables.job).where(tables.job.c.id == job_id).values(**began))

    page = office.admin.get(f"/console/tasks/{job_id}")
    text = plain(page.text)
    assert f"Backup of {office.name}" in text
    assert re.search(r'<li class="now" aria-current="step">.*Uploading', page.text)
    assert page.text.count('<li class="done">') == 3 and page.text.count('<li class="next">') == 2
    assert "1.00 GiB of 4.00 GiB" in text and "341 MiB had to be stored" in text
    assert re.search(r"Rate (9\d|10\d)(\.\d)? MiB/s", text), text
    assert re.search(r"Time left about 3\d s", text), text
    assert '<noscript><meta http-equiv="refresh"' in page.text and "live.js" in page.text

    # Cancel asks first; the job ends when it looks
    ask = re.search(r'href="(/console/confirm[^"]*CancelJob[^"]*)"', page.text)
    assert ask
    confirm = office.admin.get(html.unescape(ask[1]))
    form = next(form for form in confirm.forms() if form[":action"] == "/console/act")
    acted = office.admin.post("/console/act", {k: v for k, v in form.items() if k[0] != ":"})
    assert (acted.status, acted.location) == (303, f"/console/tasks/{job_id}")
    assert jobs.progress(office.desk.app.catalog, held, phase=Phase.UPLOADING, done=GIB, total=4 * GIB, new=0)
    office.fail(held, errors.Cancelled())
    text = plain(office.admin.get(f"/console/tasks/{job_id}").text)
    assert "Cancelled" in text and "JobCancelled" in text and "Try again" in text

    # a reader sees the same and can do nothing
    seen = office.reader.get(f"/console/tasks/{job_id}").text
    assert "JobCancelled" in seen and "Try again" not in seen


def test_queued_task_says_what_it_waits_for(office: Office) -> None:
    running, queued = office.desk.create(), office.desk.create()
    office.progress(office.run(running), GIB)
    page = office.admin.get(f"/console/tasks/{queued}")
    assert f'Waits until <a href="/console/tasks/{running}">Backup of {office.name}</a> has ended' in page.text
    with office.desk.app.catalog.write() as tx:
        tx.execute(sa.delete(tables.job).where(tables.job.c.id == running))
        earlier = {"queued_at": int(time.time()) - 60}
        tx.execute(sa.update(tables.job).where(tables.job.c.id == queued).values(**earlier))
    assert "No worker has taken it yet" in office.admin.get(f"/console/tasks/{queued}").text


def test_failed_backup_names_code_cause_and_hint_and_is_tried_again_once(office: Office) -> None:
    job_id = office.desk.create()
    held = office.run(job_id)
    office.progress(held, GIB)
    office.fail(held, errors.StorageFull(doing="write", name=HOSTILE, reason="ENOSPC"))
    page = office.admin.get(f"/console/tasks/{job_id}")
    text = plain(page.text)
    assert "StorageFull" in text and "no space left to write" in text and "Free space" in text
    assert '<a href="/errors/StorageFull">' in page.text
    assert "<script>alert" not in page.text
    report = re.search(r"<textarea[^>]*readonly[^>]*>(.*?)</textarea>", page.text, re.DOTALL)
    assert report
    told = html.unescape(report[1])
    for word in (job_id, "StorageFull", office.desk.cluster_id, "Attempts", "ENOSPC", "Icecore"):
        assert word in told

    # pressed twice, it is one backup
    form = next(form for form in page.forms() if form.get("Action") == "CreateBackup")
    fields = {name: value for name, value in form.items() if name[0] != ":"}
    first, second = (office.admin.post("/console/act", fields) for _ in range(2))
    assert first.status == second.status == 303
    assert first.location == second.location != f"/console/tasks/{job_id}"


def test_failed_restore_leads_to_a_new_plan(office: Office) -> None:
    backup_id = office.done()
    job_id = office.restore(backup_id, f"{office.name}-2")
    office.fail(office.run(job_id), errors.TargetRefused("no room", "Free some."))
    page = office.admin.get(f"/console/tasks/{job_id}")
    again = f"/console/restore?cluster={office.desk.cluster_id}&amp;backup={backup_id}&amp;name={office.name}-2"
    assert f'href="{again}"' in page.text
    assert "OperationDenied.RestoreTarget" in page.text
    # the cluster never came to be: nothing leads to it
    assert "/console/clusters/pc-" not in page.text.replace(office.desk.cluster_id, "")
    # and when its backup is gone there is nothing to try
    office.desk.call("DeleteBackup", DBClusterId=office.desk.cluster_id, BackupId=backup_id)
    assert "Try again" not in office.admin.get(f"/console/tasks/{job_id}").text


def test_success_leads_to_what_was_made(office: Office) -> None:
    backup_id = office.done()
    page = office.admin.get(f"/console/tasks/{backup_id}")
    assert f'<a href="/console/backups/{backup_id}">' in page.text
    assert f"/console/restore?cluster={office.desk.cluster_id}&amp;backup={backup_id}" in page.text
    assert "live.js" not in page.text

    job_id = office.restore(backup_id, f"{office.name}-2")
    held = office.run(job_id)
    jobs.finish_restore(office.desk.app.catalog, held, dsn="host=/x", host="127.0.0.1", port=5444)
    page = office.admin.get(f"/console/tasks/{job_id}")
    assert f'<a href="/console/clusters/{held.cluster_id}">' in page.text

    office.desk.call("DeleteBackup", DBClusterId=office.desk.cluster_id, BackupId=backup_id)
    assert "has been deleted since" in office.admin.get(f"/console/tasks/{backup_id}").text


def test_failed_removal_can_be_asked_for_again(office: Office) -> None:
    backup_id = office.done()
    office.desk.call("DeleteBackup", DBClusterId=office.desk.cluster_id, BackupId=backup_id)
    removal = office.desk.call("DescribeJobs", JobKind="delete-backup", MaxResults="1")["items"]["job"][0]["job_id"]
    assert "CancelJob" not in office.admin.get(f"/console/tasks/{removal}").text  # it cannot be cancelled
    office.fail(office.run(removal), errors.StorageFailed(doing="remove", name="x", reason="EIO"))
    page = office.admin.get(f"/console/tasks/{removal}")
    form = next(form for form in page.forms() if form.get("Action") == "DeleteBackup")
    assert office.admin.post("/console/act", {k: v for k, v in form.items() if k[0] != ":"}).status == 303


@pytest.mark.parametrize("job_id", ["1", "x" * 64, "x" * 65, "%00", "..%2f", "%3Cscript%3E"])
def test_unknown_task_is_a_page_that_says_so(office: Office, job_id: str) -> None:
    page = office.admin.get(f"/console/tasks/{job_id}")
    assert page.status in (400, 404)
    assert "<script>" not in page.text.replace('<script src="', "")


# ---------------------------------------------------------------- live


class Stream:
    """An open event stream; ``event`` waits for the next fragment, ``line`` for whatever comes."""

    def __init__(self, visitor: Visitor, query: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", visitor.port, timeout=15)
        cookie = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
        self._connection.request("GET", f"/console/tasks/events?{query}", headers={"cookie": cookie})
        self.response: HTTPResponse = self._connection.getresponse()

    @property
    def status(self) -> int:
        return self.response.status

    def line(self) -> str | None:
        """None at the end."""
        read = self.response.readline()
        return read.decode().rstrip("\n") if read else None

    def event(self) -> str | None:
        """The fragment of the next event; None when the stream has ended."""
        data: list[str] = []
        while (line := self.line()) is not None:
            if line.startswith("data: "):
                data.append(line.removeprefix("data: "))
            if not line and data:
                return "\n".join(data)
        return None

    def close(self) -> None:
        self._connection.close()
        self.response.close()


@pytest.fixture
def watch(office: Office) -> Iterator[Callable[..., Stream]]:
    opened: list[Stream] = []

    def open_(query: str, visitor: Visitor | None = None) -> Stream:
        opened.append(Stream(visitor or office.admin, query))
        return opened[-1]

    yield open_
    for stream in opened:
        stream.close()


Watch = Callable[..., Stream]


def test_stream_sends_what_the_page_shows_and_then_what_changes(office: Office, watch: Watch) -> None:
    job_id = office.desk.create()
    held = office.run(job_id)
    office.progress(held, GIB)
    stream = watch(f"task={job_id}")
    assert stream.status == 200
    assert stream.response.headers["content-type"].startswith("text/event-stream")
    assert stream.response.headers["x-accel-buffering"] == "no"
    assert stream.response.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in stream.response.headers["content-security-policy"]
    first = stream.event()
    assert first and "Uploading" in first and "data-ended" not in first
    page = office.admin.get(f"/console/tasks/{job_id}").text
    assert "".join(re.sub(r"\d+ s", "", plain(first)).split()) in "".join(re.sub(r"\d+ s", "", plain(page)).split())

    # the next event with other bytes comes within two seconds
    office.progress(held, 3 * GIB)
    asked = time.monotonic()
    while "3.00 GiB" not in (told := stream.event() or ""):
        assert told
    assert time.monotonic() - asked < 2

    # and its end, after which nothing changes any more
    office.finish(held)
    while "data-ended" not in (told := stream.event() or ""):
        assert told
    assert "Finished" in told


def test_rows_of_unfinished_tasks(office: Office, watch: Watch) -> None:
    office.done()
    running, queued = office.desk.create(), office.desk.create()
    held = office.run(running)
    office.progress(held, GIB)
    told = watch(f"cluster={office.desk.cluster_id}").event() or ""
    assert re.findall(r'data-job="(\d+)"', told) == [running, queued]
    assert "data-ended" not in told
    assert f'data-newest="{queued}"' in told  # so that one too short to be seen is known to have been
    assert {running, queued} <= set(re.findall(r'data-job="(\d+)"', watch("running=1").event() or ""))
    assert re.findall(r'data-job="(\d+)"', watch(f"job={running}").event() or "") == [running]
    office.finish(held)
    told = watch(f"job={running}").event() or ""
    assert "data-ended" in told and "succeeded" in told


def test_hostile_names_end_no_event(office: Office, watch: Watch) -> None:
    office.rename(HOSTILE)
    job_id = office.desk.create()
    office.progress(office.run(job_id), GIB)
    stream = watch(f"job={job_id}")
    lines: list[str] = []
    while (line := stream.line()) is not None and (line or "event: rows" not in lines):
        lines.append(line)
    told = lines[lines.index("event: rows") + 1 :]
    assert len(told) > 3 and all(line.startswith("data: ") for line in told)
    assert "<script>" not in "".join(told) and "\r" not in "".join(told)


def test_nothing_is_sent_while_nothing_changes(office: Office, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_IDLE_S", 0.3)
    monkeypatch.setattr(live, "HEARTBEAT_S", 0.6)
    monkeypatch.setattr(live, "LIFE_S", 2.6)
    stream = watch(f"cluster={office.desk.cluster_id}")
    lines = []
    while (line := stream.line()) is not None:
        lines.append(line)
    assert lines.count("event: rows") == 1
    assert 2 <= lines.count(": still here") <= 4
    assert lines[0] == f"retry: {live.RETRY_MS}"
    # it ended by itself: the browser comes again after `retry`


def test_stream_ends_with_its_session(office: Office, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SESSION_EVERY_S", 0.5)
    mine, readers = watch("running=1"), watch("running=1", office.reader)
    assert mine.event() and readers.event()
    asked = time.monotonic()
    office.admin.post("/console/sign-out")
    keys.revoke(office.desk.app.catalog, office.reader_key.id)
    assert mine.event() is None and readers.event() is None
    assert time.monotonic() - asked < 3
    # and neither comes back
    assert watch("running=1").status == 401
    assert watch("running=1", office.reader).status == 401
    assert watch("running=1", Visitor(office.port)).status == 401


def test_watching_does_not_keep_a_session_alive(office: Office, watch: Watch) -> None:
    records = office.desk.app.records
    token = next(iter(office.admin.cookies.values()))
    late = int(time.time()) + 11 * 3600
    assert records.find_session(token, late, used=False)
    assert records.find_session(token, late + 2 * 3600, used=False) is None
    assert records.find_session(token, late)  # used: it lives on
    assert records.find_session(token, late + 2 * 3600)


def test_no_more_streams_than_there_are_seats(office: Office, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [watch("running=1") for _ in range(live.STREAMS_OF_SESSION)]
    assert {stream.status for stream in taken} == {200}
    assert watch("running=1").status == 429
    assert watch("running=1", office.reader).status == 200
    # who leaves makes room
    for stream in taken:
        stream.close()
    deadline = time.monotonic() + 5
    while watch("running=1").status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_seats_of_the_whole_server() -> None:
    seats = live.Seats()
    for number in range(live.STREAMS):
        assert seats.take(f"token-{number // 4}")
    assert not seats.take("another")
    seats.leave("token-0")
    assert seats.take("another")
    assert seats.total() == live.STREAMS


@pytest.mark.parametrize(
    ("query", "status"),
    [("task=1", 400), ("job=1", 400), ("list=1&state=odd", 400), ("cluster=%3Cx%3E", 400), ("task=" + "9" * 400, 400)],
)
def test_wrong_addresses_are_refused_before_the_stream(office: Office, watch: Watch, query: str, status: int) -> None:
    assert watch(query).status == status


def test_server_stops_at_once_though_somebody_watches(tmp_path: Path) -> None:
    """SIGTERM with an open stream, a real process."""
    station = Station(tmp_path)
    with station:
        visitor = Visitor(int(station.endpoint.rsplit(":", 1)[1]))
        visitor.sign_in(station.access_key_id, station.access_key_secret)
        stream = Stream(visitor, "running=1")
        assert stream.event()
        asked = time.monotonic()
        os.kill(station.pid, signal.SIGTERM)
        while stream.event():
            pass  # ended, not broken off: that would raise
        assert time.monotonic() - asked < 2
        assert station.stop() == 0
        assert time.monotonic() - asked < GRACE_S  # the process did not wait for the watcher either
        stream.close()


# ---------------------------------------------------------------- repository


def test_repository_says_what_needs_a_person(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    text = plain(office.admin.get("/console/repository").text)
    assert "The only copy of the repository's key is on this machine" in text
    assert "icecore repo key export" in text
    assert "It is empty" in text and "Not enough history yet" in text
    assert "none known" in text

    application.mark_key_exported(office.desk.app.config)
    now = int(time.time())
    for days in range(40, -1, -1):
        size = (50 - days) * GIB
        queries.note_repository_day(
            office.desk.app.catalog, noted_at=now - days * 86_400, stored_bytes=size, logical_bytes=9 * size
        )
    facts: dict[str, Any] = {
        **office.desk.app._read_repository(),
        "stored_bytes": 50 * GIB,
        "logical_bytes": 450 * GIB,
        "free_bytes": 20 * GIB,
        "damaged_count": 2,
        "backup_count": 9,
        "clusters": [
            {"db_cluster_id": "pc-a", "db_cluster_name": "orders", "stored_bytes": 10 * GIB, "backup_count": 4},
            {"db_cluster_id": "pc-b", "db_cluster_name": "", "stored_bytes": 40 * GIB, "backup_count": 5},
        ],
    }
    monkeypatch.setattr(
        office.desk.app,
        "_context",
        dataclasses.replace(office.desk.app._context, repository=lambda: facts),
    )
    page = office.admin.get("/console/repository")
    text = plain(page.text)
    assert "The only copy" not in text
    assert "2 backups cannot be read" in text
    assert "9.0 : 1" in text
    assert "1.00 GiB a day" in text
    assert re.search(r"will be full in about (19|20) d", text), text
    assert text.index("pc-b") < text.index("orders")  # the largest first
    assert len(page.body) < PAGE_LIMIT_BYTES


def test_repository_numbers() -> None:
    assert repository.factor({"stored_bytes": 0, "logical_bytes": 0}) is None
    assert repository.factor({"stored_bytes": 2, "logical_bytes": 9}) == 4.5
    assert repository.used({"stored_bytes": 30, "free_bytes": 70}) == 30
    assert repository.used({"stored_bytes": 30}) is None
    words = {None: "unknown", 0: "still", 5: "grows", -5: "shrinks"}
    assert {days: repository.growth({"growth_bytes_per_day": days}) for days in words} == words
    assert [each["share"] for each in repository.by_size([])] == []


# ---------------------------------------------------------------- access


def rows(text: str) -> list[str]:
    """The audit's rows as they are read."""
    table = re.search(r'<table class="stack audit".*?</table>', text, re.DOTALL)
    return [plain(row) for row in re.findall(r"<tr>(.*?)</tr>", table[0], re.DOTALL)[1:]] if table else []


def test_keys_are_listed_and_revoked_after_asking(office: Office) -> None:
    page = office.admin.get("/console/access")
    text = plain(page.text)
    assert "the admin" in text and "the reader" in text and office.admin_key.id in text
    assert "icecore key create" in text
    for key in (office.admin_key, office.reader_key):
        assert key.secret not in page.text
    ask = f"/console/confirm?Action=RevokeAccessKey&amp;p.key_id={office.reader_key.id}"
    assert ask in page.text
    confirm = office.admin.get(html.unescape(ask))
    form = next(form for form in confirm.forms() if form[":action"] == "/console/act")
    acted = office.admin.post("/console/act", {k: v for k, v in form.items() if k[0] != ":"})
    assert (acted.status, acted.location) == (303, "/console/access"), acted.text
    # keys are shown in pages, the revoked ones last
    seen, address = "", "/console/access"
    while address:
        page = office.admin.get(address)
        assert len(page.body) < PAGE_LIMIT_BYTES
        seen += plain(page.text)
        further = re.search(r'<a href="([^"]*)">[^<]* more keys?</a>', page.text)
        address = html.unescape(further[1]) if further else ""
    assert f"{office.reader_key.id} reader – revoked" in seen
    assert office.reader.get("/console/access").status == 303  # to sign in

    # a reader is not offered it
    other = keys.create(office.desk.app.catalog, "reader", "another")
    visitor = Visitor(office.port)
    visitor.sign_in(other.id, other.secret)
    assert "RevokeAccessKey&" not in visitor.get("/console/access").text


def test_audit_shows_changes_first_and_every_call_when_asked(office: Office) -> None:
    client = office.client(office.admin_key)
    job_id = client.call("CreateBackup", db_cluster_id=office.desk.cluster_id, comment=HOSTILE.replace("\r\n", " "))
    client.call("DescribeRegions")
    with pytest.raises(errors.IcecoreError):
        client.call("DeleteBackup", db_cluster_id=office.desk.cluster_id, backup_id="99")
    assert job_id

    page = office.admin.get("/console/access")
    shown = rows(page.text)
    assert "DeleteBackup" in shown[0] and "400" in shown[0] and "InvalidBackupSetID.NotFound" in shown[0]
    assert "CreateBackup" in shown[1] and "OK" in shown[1] and "127.0.0.1" in shown[1] and "the admin" in shown[1]
    assert any("ConsoleSignIn" in row and "the reader" in row for row in shown)
    assert not any("DescribeRegions" in row for row in shown)
    assert "<script>alert" not in page.text
    # a verdict leads to its code and its call
    assert re.search(r'href="/errors/InvalidBackupSetID.NotFound\?RequestId=[0-9A-F-]{36}"', page.text)
    # and the call can be made again with its parameters
    assert f"/console/explorer/DeleteBackup?p.BackupId=99&amp;p.DBClusterId={office.desk.cluster_id}" in page.text

    assert any("DescribeRegions" in row for row in rows(office.admin.get("/console/access?show=every").text))
    for query, name in (("action=DescribeRegions", "DescribeRegions"), ("action=ConsoleSignIn", "ConsoleSignIn")):
        found = rows(office.admin.get(f"/console/access?{query}").text)
        assert found and all(name in row for row in found), query
    found = rows(office.admin.get(f"/console/access?key={office.reader_key.id}").text)
    assert found and all("the reader" in row for row in found)
    assert "No call is like that" in office.admin.get("/console/access?action=RegisterDBCluster").text


def test_a_reader_sees_its_own_calls_only(office: Office) -> None:
    office.client(office.admin_key).call("CreateBackup", db_cluster_id=office.desk.cluster_id)
    office.client(office.reader_key).call("DescribeRegions")
    found = rows(office.reader.get("/console/access?show=every").text)
    assert any("DescribeRegions" in row for row in found)
    assert all("the reader" in row for row in found)
    for query in (f"key={office.admin_key.id}", "action=CreateBackup"):
        assert rows(office.reader.get(f"/console/access?show=every&{query}").text) == []


def test_audit_pages_stay_small_and_lose_nothing(office: Office) -> None:
    app = office.desk.app
    for number in range(70):
        app.calls.note(
            request_id=f"F3322AFE-083E-4D77-A074-{number:012d}",
            action="CreateBackup",
            access_key_id=office.admin_key.id,
            code="OK",
            status=200,
            called_at=int(time.time()),
            took_ms=3,
            mutates=True,
            params=[("Comment", "<&>" * 85), ("ClientToken", "t" * 64), ("DBClusterId", "pc-icemwv")],
        )
    seen: list[str] = []
    address = f"/console/access?key={office.admin_key.id}"
    while address:
        page = office.admin.get(address)
        assert page.status == 200 and len(page.body) < PAGE_LIMIT_BYTES, len(page.body)
        seen += re.findall(r"<code>F3322AFE-083E-4D77-A074-(\d{12})</code>", page.text)
        older = re.search(r'<a href="([^"]*)" rel="next">Older</a>', page.text)
        address = html.unescape(older[1]) if older else ""
    assert [int(number) for number in seen] == list(range(69, -1, -1))
