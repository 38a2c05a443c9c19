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

from icecore import errors, idle, tasks
from icecore.archiver import Archiver
from icecore.catalog import JOB_VERSION, QUEUE, WORKFLOW, Catalog, jobs
from icecore.catalog.jobs import Claim, NotYet
from icecore.config import Config
from icecore.keeper import Keeper
from icecore.scheduler import Scheduler
from icecore.watch import Interrupted, JobWatch

log = structlog.get_logger()

QUEUE_POLL_S = 0.08  # a queued job starts within 0.1 s
CLAIM_POLL_S = 0.1
LET_GO_AFTER_S = 5.0  # longer than the queue takes to hand a job out or to record its end
STRANDED_EVERY_S = 60.0
RECOVER_EVERY_S = 1.0
CONCURRENT_JOBS = 4
RETRY_AFTER_S = (1.0, 3.0)  # then a cause in the world counts as one that persists
LEASE_PATIENCE_S = 600.0  # another process (a CLI) may hold a cluster's lease for a while

_current: Worker | None = None  # DBOS keeps one registry a process, so there is one worker a process


class Worker:
    """Start once per process; ``stop`` hands running jobs over, to be taken up by the next worker."""

    def __init__(self, config: Config, catalog: Catalog, *, archives: bool = False) -> None:
        """``archives``: also carry the clusters' logs. Only for a process that stays: one that ends with its command
        would leave servers keeping log for nobody."""
        self.config = config
        self.catalog = catalog
        self.executor_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._locks = config.run / "workers"
        self._stopping = threading.Event()
        self._active: set[str] = set()  # jobs claimed by this worker
        self._dispatched: set[str] = set()  # workflows that the queue has handed to this worker
        self._let_go: dict[str, float] = {}
        self._stranded_next = 0.0
        self._threads: list[threading.Thread] = []
        self._keeper = Keeper(config, catalog, self._stopping)
        self._scheduler = Scheduler(catalog, self._stopping)
        self._archiver = Archiver(config, catalog, self._stopping) if archives else None

    def start(self) -> None:
        from dbos import DBOS

        global _current
        _current = self
        self._lock = _take_lock(self._locks, self.executor_id)
        dbos = DBOS(
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
        idle.sleep_on((*dbos.background_thread_stop_events, dbos._background_jobs_stop_event), self.catalog.queued)
        bodies = [self._recover_dead, self._scheduler.run, self._keeper.run]
        for body in bodies + ([self._archiver.run] if self._archiver is not None else []):
            thread = threading.Thread(target=body, name=body.__qualname__, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, timeout_s: float = 20.0) -> None:
        """Take no new job, let running ones reach their next step and hand them over."""
        from dbos import DBOS

        self._stopping.set()
        # DBOS looks once a second whether it may go; with nothing at work there is nothing to wait for
        DBOS.destroy(workflow_completion_timeout_sec=int(timeout_s) if self._dispatched else 0)
        for thread in self._threads:
            thread.join(timeout=5)
        if self.idle():
            self._lock.close()
            (self._locks / self.executor_id).unlink(missing_ok=True)
        # else the kernel frees the lock when this process is gone: until then nobody may take its jobs

    def idle(self) -> bool:
        """Whether no job is at work here. After ``stop`` a job that heard nothing may still be."""
        return not self._active

    # ------------------------------------------------------------ one job

    def dispatched(self, workflow_id: str, job_id: str) -> None:
        """Called by the queue, once for each time it hands a job out."""
        self._dispatched.add(workflow_id)
        try:
            self.run(job_id)
        finally:
            self._dispatched.discard(workflow_id)

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
        except Exception as error:  # nothing may leave a job running that nobody works on
            log.exception("job failed", job=job_id, kind=held.kind)
            reason = _described(error)
            _insist(lambda: jobs.fail(self.catalog, held, reason))
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
            except Exception as error:
                if not isinstance(error, errors.IcecoreError):
                    log.exception("job met an error of no known kind", job=held.job_id, kind=held.kind)
                reason = _described(error)
                with contextlib.suppress(errors.WorldError):
                    watch.tell()
            if isinstance(reason, errors.LeaseHeld) and time.monotonic() - began < LEASE_PATIENCE_S:
                wait_s = 1.0
            elif reason.retry and tries < len(RETRY_AFTER_S):
                log.warning("job is tried again", job=held.job_id, kind=held.kind, reason=reason.message)
                wait_s, tries = RETRY_AFTER_S[tries], tries + 1
            else:
                return self._fail(held, task, reason)
            try:
                watch.pause(wait_s)
            except errors.Cancelled as cancelled:
                return self._fail(held, task, cancelled)
        with contextlib.suppress(errors.WorldError):
            watch.tell()
        _insist(finish)
        log.info("job done", job=held.job_id, kind=held.kind, took_s=round(time.monotonic() - began, 3))
        task.tidy()
        return None

    def _fail(self, held: Claim, task: tasks.Task, error: errors.IcecoreError) -> None:
        log.warning("job ended", job=held.job_id, kind=held.kind, code=error.wire_code(), reason=error.message)
        _insist(lambda: jobs.require_held(self.catalog, held))  # C4: a stale worker undoes nothing
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
        while not self._stopping.is_set():
            try:
                for workflow_id, executor_id in self.catalog.pending():
                    if self._is_abandoned(workflow_id, executor_id):
                        log.info("taking up what was left", workflow=workflow_id, executor=executor_id)
                        self.catalog.take_up(workflow_id, executor_id)
                        if executor_id != self.executor_id:
                            (self._locks / executor_id).unlink(missing_ok=True)
                self._stranded()
            except Exception as error:
                log.warning("looking for abandoned jobs failed", reason=str(error))
            self._stopping.wait(RECOVER_EVERY_S)

    def _is_abandoned(self, workflow_id: str, executor_id: str) -> bool:
        """Its executor is dead, or is this one and has let go of it without being able to say so."""
        if executor_id != self.executor_id:
            return _lock_is_free(self._locks / executor_id)
        if workflow_id in self._dispatched:
            self._let_go.pop(workflow_id, None)
            return False
        since = self._let_go.setdefault(workflow_id, time.monotonic())
        return time.monotonic() - since > LET_GO_AFTER_S

    def _stranded(self) -> None:
        """Jobs that the catalog calls unfinished but the queue has forgotten: queue them again. Seldom, for safety."""
        if time.monotonic() < self._stranded_next:
            return
        self._stranded_next = time.monotonic() + STRANDED_EVERY_S
        for job_id in jobs.stranded(self.catalog):
            if job_id not in self._active:
                log.warning("queueing a forgotten job again", job=job_id)
                jobs.put_back(self.catalog, job_id)


def _run_job(job_id: str) -> None:
    from dbos import DBOS

    assert _current is not None, "a job was dispatched before the worker started"
    _current.dispatched(str(DBOS.workflow_id), job_id)


def _described(error: Exception) -> errors.IcecoreError:
    """The error itself, or what no edge translated as one that names its cause."""
    if isinstance(error, errors.IcecoreError):
        return error
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
