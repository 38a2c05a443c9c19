"""Live tasks: what a stream sends, when it ends, and who may have one."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest
from office import GIB, HOSTILE, Office, make_house, make_office, plain
from visitor import Visitor

from icecore.api.listen import GRACE_S
from icecore.catalog import keys
from icecore.console import live
from station import Station

__all__ = ["make_house", "make_office"]  # fixtures


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


def test_asking_for_the_head_opens_no_stream(office: Office) -> None:
    asked = time.monotonic()
    page = office.admin.request("HEAD", "/console/tasks/events?running=1")
    assert (page.status, page.body) == (200, b"") and page.headers["content-type"].startswith("text/event-stream")
    assert time.monotonic() - asked < 5


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
