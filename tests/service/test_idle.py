"""A process with nothing to do does next to nothing, and takes up what comes at once, whoever queued it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from icecore import idle, worker
from icecore.catalog import Catalog


def test_the_sleep_goes_on_until_something_is_queued_or_the_end(monkeypatch):
    answers = [False, False, True]
    event = threading.Event()
    slept: list[float] = []
    event.wait = lambda timeout=None: slept.append(timeout) or event.is_set()  # type: ignore[method-assign,assignment]
    idle.sleep_on([event], lambda: answers.pop(0))
    assert event.wait(0.08) is False and slept == [0.08] * 3
    monkeypatch.setattr(idle, "LOOK_AT_LEAST_S", 0.0)
    answers[:] = [False] * 9
    assert event.wait(0.08) is False and len(answers) == 9  # now and then it looks without being asked
    event.set()
    assert event.wait(0.08) is True
    slept.clear()
    event.wait(0.0)
    assert slept == [0.0]  # one that does not want to sleep does not


@pytest.fixture
def running(desk, monkeypatch):
    monkeypatch.setattr(worker.Keeper, "run", lambda self: None)
    made = worker.Worker(desk.app.catalog.config, desk.app.catalog)
    made.start()
    time.sleep(1.5)  # the queue's thread is there
    yield made
    made.stop(timeout_s=3)


def test_an_idle_worker_seldom_looks_and_begins_at_once_what_another_process_queued(desk, running, monkeypatch):
    from dbos._dbos import _get_dbos_instance

    database = _get_dbos_instance()._sys_db
    looks: list[str] = []
    real = database.get_queue
    monkeypatch.setattr(database, "get_queue", lambda name, **more: looks.append(name) or real(name, **more))
    began: dict[str, float] = {}
    monkeypatch.setattr(worker.Worker, "run", lambda self, job_id: began.setdefault(job_id, time.time()))
    time.sleep(1.2)
    assert len(looks) <= 2  # fifteen at one each 80 ms

    code = (
        "import sys, time; from pathlib import Path; from icecore import config; from icecore.catalog import Catalog\n"
        "from icecore.model import JobKind\n"
        "catalog = Catalog(config.load(Path(sys.argv[1])))\n"
        "with catalog.write() as tx: catalog.enqueue(tx, sys.argv[2], JobKind.BACKUP, 'pc-1')\n"
        "print(time.time())"
    )
    for job_id in ("101", "102"):
        queued = subprocess.run(
            [sys.executable, "-c", code, str(desk.home), job_id],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ,
        )
        deadline = time.monotonic() + 10
        while job_id not in began:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert began[job_id] - float(queued.stdout) < 1.0  # 0.1 s where nobody else wants the cores


def test_pending_and_queued_are_read_as_the_queue_wrote_them(desk):
    catalog: Catalog = desk.app.catalog
    assert not catalog.queued() and catalog.pending() == []
    job_id = desk.create()
    assert catalog.queued() and catalog.pending() == []
    with catalog.write() as tx:
        tx.exec_driver_sql("UPDATE workflow_status SET status = 'PENDING', executor_id = 'me'")
    assert not catalog.queued() and catalog.pending() == [(f"job-{job_id}", "me")]
    desk.app.close()
    assert not catalog.queued()  # opened again
