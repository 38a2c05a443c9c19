"""The worker's own promises, with tasks that do as told: no job is left running that nobody works on, and a stale
worker undoes nothing. One worker a process, hence one for this file."""

from __future__ import annotations

import threading
import time

import pytest
import sqlalchemy as sa

from icecore import errors, tasks, worker
from icecore.catalog import jobs, tables
from icecore.model import JobKind

PATIENCE_S = 20.0


class Script:
    """What the next tasks do: ``run`` is called with the job's watch; ``undone`` collects the jobs undone."""

    def __init__(self) -> None:
        self.run = lambda watch: None
        self.undone: list[str] = []


@pytest.fixture
def script(monkeypatch):
    made = Script()

    class Told:
        def __init__(self, config, catalog, held, watch):
            self.catalog, self.held, self.watch = catalog, held, watch

        def run(self):
            made.run(self.watch)
            return lambda: jobs.finish_deletion(self.catalog, self.held)

        def undo(self):
            made.undone.append(self.held.job_id)

        def tidy(self): ...

    monkeypatch.setitem(tasks.TASKS, JobKind.BACKUP, Told)
    monkeypatch.setattr(worker, "RETRY_AFTER_S", (0.3, 0.3))
    return made


@pytest.fixture
def running(desk, monkeypatch):
    monkeypatch.setattr(worker.Keeper, "run", lambda self: None)
    made = worker.Worker(desk.app.catalog.config, desk.app.catalog)
    made.start()
    yield made
    made.stop(timeout_s=3)


def state(desk, job_id: str) -> str:
    with desk.app.catalog.read() as tx:
        return str(tx.execute(sa.select(tables.job.c.state).where(tables.job.c.id == job_id)).scalar_one())


def wait_for(desk, job_id: str, wanted: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while state(desk, job_id) != wanted:
        assert time.monotonic() < deadline, state(desk, job_id)
        time.sleep(0.05)


def test_a_cancel_during_the_pause_between_two_tries_ends_the_job(desk, script, running, monkeypatch):
    monkeypatch.setattr(worker, "RETRY_AFTER_S", (30.0,))

    def unreachable(watch):
        raise errors.EngineUnreachable(reason="down")

    script.run = unreachable
    job_id = desk.create()
    wait_for(desk, job_id, "running")
    time.sleep(0.5)
    desk.call("CancelJob", JobId=job_id)
    wait_for(desk, job_id, "cancelled")
    assert script.undone == [job_id]


@pytest.mark.parametrize("error", [KeyError("x"), OSError(28, "No space left on device", "/f"), errors.EngineFailed(
    doing="x", reason="y"), errors.Damaged(name="x", reason="y")])  # fmt: skip
def test_whatever_a_task_raises_the_job_ends(desk, script, running, error):
    tries = []

    def fails(watch):
        tries.append(1)
        raise error

    script.run = fails
    job_id = desk.create()
    wait_for(desk, job_id, "failed")
    transient = isinstance(error, OSError | errors.WorldError)
    assert len(tries) == (3 if transient else 1)


def test_even_when_undoing_fails_the_job_ends(desk, script, running, monkeypatch):
    def fails(watch):
        raise errors.Damaged(name="x", reason="y")

    def breaks(self):
        raise RuntimeError("undo")

    script.run = fails
    monkeypatch.setattr(tasks.TASKS[JobKind.BACKUP], "undo", breaks)
    wait_for(desk, desk.create(), "failed")


def test_C4_a_worker_that_lost_its_claim_undoes_nothing(desk, script, running):
    taken, go_on = threading.Event(), threading.Event()

    def fails_late(watch):
        taken.set()
        go_on.wait(PATIENCE_S)
        raise errors.Damaged(name="x", reason="late")

    script.run = fails_late
    job_id = desk.create()
    assert taken.wait(PATIENCE_S)
    other = jobs.claim(desk.app.catalog, job_id, "another", lambda _: False)
    jobs.finish_deletion(desk.app.catalog, other)
    go_on.set()
    time.sleep(1.0)
    assert script.undone == [] and state(desk, job_id) == "succeeded"


def test_a_worker_with_a_job_that_hears_nothing_keeps_its_lock(desk, script, running):
    """Else another worker would take the job while this one still works on it."""
    taken, go_on = threading.Event(), threading.Event()

    def deaf(watch):
        taken.set()
        go_on.wait(PATIENCE_S)

    script.run = deaf
    job_id = desk.create()
    assert taken.wait(PATIENCE_S)
    lock = running._locks / running.executor_id
    try:
        running.stop(timeout_s=1)
        assert not running.idle() and lock.exists() and not worker._lock_is_free(lock)
        with pytest.raises(jobs.NotYet):
            jobs.claim(desk.app.catalog, job_id, "another", lambda other: not worker._lock_is_free(lock))
    finally:
        go_on.set()


def test_a_job_that_the_queue_forgot_is_queued_again(desk, script, running):
    """As after an error between the queue's own commit and ours."""
    job_id = desk.create()
    wait_for(desk, job_id, "succeeded")
    second = desk.create()
    with desk.app.catalog.write() as tx:
        tx.execute(sa.text("DELETE FROM workflow_status WHERE workflow_uuid = :id"), {"id": f"job-{second}"})
        tx.execute(sa.update(tables.job).where(tables.job.c.id == second).values(state="queued", ended_at=None))
    assert jobs.stranded(desk.app.catalog) in ([second], [])
    running._stranded_next = 0.0
    wait_for(desk, second, "succeeded")


def test_a_workflow_whose_end_was_not_recorded_does_not_starve_its_cluster(desk, script, running, monkeypatch):
    monkeypatch.setattr(worker, "LET_GO_AFTER_S", 1.0)
    from dbos._sys_db import SystemDatabase

    first = desk.create()
    wait_for(desk, first, "succeeded")
    failing = {"left": 1}
    whole = SystemDatabase.update_workflow_outcome

    def once_broken(self, *args, **kwargs):
        if failing["left"]:
            failing["left"] -= 1
            raise RuntimeError("disk full")
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(SystemDatabase, "update_workflow_outcome", once_broken)
    second, third = desk.create(), desk.create()
    wait_for(desk, second, "succeeded")
    wait_for(desk, third, "succeeded")
    assert failing["left"] == 0
