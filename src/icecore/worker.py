"""The worker: runs queued jobs on this host, takes over those of dead workers, and keeps an eye on the clusters.

Durability is shared: DBOS remembers that a job is to be run and by whom, the catalog remembers its claim and epoch,
and the procedures can be run again from the start. Each worker holds an ``flock`` on a file named after it; a worker
whose lock is free is dead, and what it had begun is queued again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import structlog

from icecore import errors, tasks
from icecore.catalog import JOB_VERSION, QUEUE, WORKFLOW, Catalog, jobs
from icecore.catalog.jobs import Claim, NotYet
from icecore.config import Config
from icecore.keeper import Keeper
from icecore.watch import Interrupted, JobWatch

log = structlog.get_logger()

QUEUE_POLL_S = 0.08  # a queued job starts within 0.1 s; an idle process takes about 5 % of a core for it
CLAIM_POLL_S = 0.1
RECOVER_EVERY_S = 1.0
CONCURRENT_JOBS = 4
RETRY_AFTER_S = (1.0, 3.0)  # then a cause in the world counts as one that persists
LEASE_PATIENCE_S = 600.0  # another process (a CLI) may hold a cluster's lease for a while

_current: Worker | None = None  # DBOS keeps one registry a process, so there is one worker a process


class Worker:
    """Start once per process; ``stop`` hands running jobs over, to be taken up by the next worker."""

    def __init__(self, config: Config, catalog: Catalog) -> None:
        self.config = config
        self.catalog = catalog
        self.executor_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._locks = config.run / "workers"
        self._stopping = threading.Event()
        self._active: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._keeper = Keeper(config, catalog, self._stopping)

    def start(self) -> None:
        from dbos import DBOS

        global _current
        _current = self
        self._lock = _take_lock(self._locks, self.executor_id)
        DBOS(
            config={
                "name": "icecore",
                "system_database_url": self.config.catalog_url,
                "executor_id": self.executor_id,
                "application_version": JOB_VERSION,
                "log_level": "ERROR",
                "run_migrations": False,
            }
        )
        DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)(_run_job)
        DBOS.launch()
        DBOS.register_queue(
            QUEUE,
            worker_concurrency=CONCURRENT_JOBS,
            partition_concurrency=1,
            polling_interval_sec=QUEUE_POLL_S,
            on_conflict="always_update",
        )
        for body in (self._recover_dead, self._keeper.run):
            thread = threading.Thread(target=body, name=body.__qualname__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout_s: float = 20.0) -> None:
        """Take no new job, let running ones reach their next step and hand them over."""
        from dbos import DBOS

        self._stopping.set()
        DBOS.destroy(workflow_completion_timeout_sec=int(timeout_s))
        for thread in self._threads:
            thread.join(timeout=5)
        self._lock.close()
        (self._locks / self.executor_id).unlink(missing_ok=True)

    # ------------------------------------------------------------ one job

    def run(self, job_id: str) -> None:
        """Claim the job and carry it to its end, or hand it over when this process stops."""
        held = self._claim(job_id)
        if held is None:
            return
        self._active.add(job_id)
        try:
            self._attempts(held, JobWatch(self.catalog, held, self._stopping))
        except Interrupted:
            log.info("job handed over", job=job_id, kind=held.kind)
            _insist(lambda: jobs.hand_over(self.catalog, held))
        except errors.StaleWorker:
            log.warning("job was taken over by another worker", job=job_id)
        finally:
            self._active.discard(job_id)

    def _claim(self, job_id: str) -> Claim | None:
        while True:
            try:
                return jobs.claim(self.catalog, job_id, self.executor_id, lambda other: self._holds(job_id, other))
            except (NotYet, errors.WorldError):
                if self._stopping.wait(CLAIM_POLL_S):
                    _insist(lambda: jobs.put_back(self.catalog, job_id))
                    return None

    def _attempts(self, held: Claim, watch: JobWatch) -> None:
        """Run the task; a cause in the world gets a few more tries, anything else ends the job."""
        task = tasks.TASKS[held.kind](self.config, self.catalog, held, watch)
        began, tries = time.monotonic(), 0
        while True:
            try:
                finish = task.run()
                break
            except (Interrupted, errors.StaleWorker):
                raise
            except errors.LeaseHeld as error:
                if time.monotonic() - began > LEASE_PATIENCE_S:
                    return self._fail(held, task, error)
                watch.pause(1.0)
            except errors.IcecoreError as error:
                if not error.retry or tries >= len(RETRY_AFTER_S):
                    return self._fail(held, task, error)
                log.warning("job is tried again", job=held.job_id, kind=held.kind, reason=error.message)
                watch.pause(RETRY_AFTER_S[tries])
                tries += 1
            except Exception as error:
                log.exception("job failed", job=held.job_id, kind=held.kind)
                return self._fail(held, task, _described(error))
        _insist(finish)
        log.info("job done", job=held.job_id, kind=held.kind)
        task.tidy()
        return None

    def _fail(self, held: Claim, task: tasks.Task, error: errors.IcecoreError) -> None:
        log.warning("job ended", job=held.job_id, kind=held.kind, code=error.wire_code(), reason=error.message)
        task.undo()
        _insist(lambda: jobs.fail(self.catalog, held, error))

    # ------------------------------------------------------------ who is alive

    def _holds(self, job_id: str, executor_id: str) -> bool:
        """Whether that executor is alive and at work on the job."""
        if executor_id == self.executor_id:
            return job_id in self._active
        return not _lock_is_free(self._locks / executor_id)

    def _recover_dead(self) -> None:
        """Queue again what dead workers had begun, for as long as this one lives."""
        from dbos import DBOS

        while not self._stopping.wait(RECOVER_EVERY_S):
            try:
                for executor_id in self.catalog.pending_executors():
                    if executor_id != self.executor_id and _lock_is_free(self._locks / executor_id):
                        log.info("taking over from a dead worker", executor=executor_id)
                        DBOS._recover_pending_workflows([executor_id])
                        (self._locks / executor_id).unlink(missing_ok=True)
            except Exception as error:
                log.warning("looking for dead workers failed", reason=str(error))


def _run_job(job_id: str) -> None:
    assert _current is not None, "a job was dispatched before the worker started"
    _current.run(job_id)


def _described(error: Exception) -> errors.IcecoreError:
    """What no edge translated, as an error that names its cause."""
    if isinstance(error, OSError):
        family = errors.StorageFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else errors.StorageFailed
        return family(doing="use", name=str(error.filename or "a file"), reason=error.strerror or str(error))
    unexpected = errors.IcecoreError()
    unexpected.message = f"{unexpected.message} ({type(error).__name__}: {error})"
    return unexpected


def _insist(write: Callable[[], None]) -> None:
    """A job's end must reach the catalog: while the catalog cannot be written, wait. A crash meanwhile is a rerun."""
    while True:
        try:
            return write()
        except errors.WorldError as error:
            log.warning("the catalog cannot be written; waiting", reason=error.message)
            time.sleep(1.0)


def _take_lock(directory: Path, name: str) -> TextIO:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (directory / name).open("w")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _lock_is_free(path: Path) -> bool:
    with _opened(path) as descriptor:
        if descriptor is None:
            return True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
