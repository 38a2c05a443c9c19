"""The catalog: sole owner of what was asked for and how far it got.

``intents`` holds the transactions of requests, ``jobs`` those of workers, ``keys`` the access keys, ``clusters``
the registry. Each public function is one transaction and keeps the laws C1–C5 by a constraint or by being serialised.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from icecore.catalog import database, tables
from icecore.config import Config
from icecore.model import RUNS_BESIDE, JobKind

if TYPE_CHECKING:
    from dbos import DBOSClient

QUEUE = "jobs"
WORKFLOW = "icecore.run_job"
# DBOS strands jobs when its application version (by default a hash of the sources) changes; ours changes only
# when a queued job of the previous version could not be run by this one
JOB_VERSION = "1"
# the second condition is that of the queue's index
_QUEUED = (
    "SELECT workflow_uuid FROM workflow_status"
    " WHERE queue_name = ? AND status = 'ENQUEUED' AND status IN ('ENQUEUED', 'PENDING') LIMIT 1"
)
_PENDING = "SELECT workflow_uuid, executor_id FROM workflow_status WHERE status = 'PENDING' AND executor_id IS NOT NULL"


class Catalog:
    """Cheap to make: connections are opened when first used."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._durable = database.make_engine(config.catalog_url, synchronous="FULL")
        self._brief = database.make_engine(config.catalog_url, synchronous="NORMAL")
        self._glance: sqlite3.Connection | None = None
        self._glancing = threading.Lock()

    def migrate(self) -> None:
        database.migrate(self._durable, self.config.home, self.config.catalog_url)

    def close(self) -> None:
        self._durable.dispose()
        self._brief.dispose()
        with self._glancing:
            if self._glance is not None:
                self._glance.close()
                self._glance = None

    @contextlib.contextmanager
    def write(self) -> Iterator[sa.Connection]:
        """A serialised transaction that survives a power cut once it returned (C1)."""
        with database.transaction(self._durable) as tx:
            yield tx

    @contextlib.contextmanager
    def note(self) -> Iterator[sa.Connection]:
        """A transaction whose loss in a power cut would not matter: progress, probes."""
        with database.transaction(self._brief) as tx:
            yield tx

    @contextlib.contextmanager
    def read(self) -> Iterator[sa.Connection]:
        with database.transaction(self._brief, read=True) as tx:
            yield tx

    @functools.cached_property
    def _queue(self) -> DBOSClient:
        from dbos import DBOSClient  # imported here: commands that only read need not pay for it

        # a client only: a process that enqueues must never become an executor by accident
        return DBOSClient(system_database_url=self.config.catalog_url, system_database_engine=self._durable, lazy=True)

    def enqueue(self, tx: sa.Connection, job_id: str, kind: JobKind, cluster_id: str, *, again: bool = False) -> None:
        """Queue the job inside the caller's transaction: they commit together or not at all.

        ``again``: the job was dequeued before and goes back; its first workflow counts as done.
        """
        options: dict[str, Any] = {
            "workflow_name": WORKFLOW,
            "queue_name": QUEUE,
            "workflow_id": f"job-{job_id}" + (f"-{secrets.token_hex(4)}" if again else ""),
            "app_version": JOB_VERSION,
            # one at a time of each: what must not run side by side waits here, not in a worker's slot
            "queue_partition_key": cluster_id + ("/removals" if kind is RUNS_BESIDE else ""),
        }
        self._queue.enqueue_in_transaction(tx, options, job_id)  # type: ignore[arg-type]

    def mark(self, name: str) -> None:
        with self.write() as tx:
            tx.execute(sa.delete(tables.meta).where(tables.meta.c.name == name))
            tx.execute(sa.insert(tables.meta).values(name=name, value="yes"))

    def unmark(self, name: str) -> None:
        with self.write() as tx:
            tx.execute(sa.delete(tables.meta).where(tables.meta.c.name == name))

    def marked(self, name: str) -> bool:
        with self.read() as tx:
            return tx.execute(sa.select(tables.meta.c.value).where(tables.meta.c.name == name)).first() is not None

    def pending(self) -> list[tuple[str, str]]:
        """Workflows that were handed out and have not ended, with the executor that has them."""
        return [(str(workflow_id), str(executor_id)) for workflow_id, executor_id in self._look(_PENDING)]

    def queued(self) -> bool:
        """Whether a job waits in the queue. Asked many times a second. When in doubt, yes."""
        try:
            return bool(self._look(_QUEUED, QUEUE))
        except sqlite3.Error:
            return True

    def _look(self, query: str, *values: str) -> list[Any]:
        """On a connection of its own without a layer on top: 0.03 ms."""
        with self._glancing:
            if self._glance is None:
                place = self.config.home / "catalog.db"
                self._glance = sqlite3.connect(place, isolation_level=None, check_same_thread=False)
            return self._glance.execute(query, values).fetchall()

    def take_up(self, workflow_id: str, executor_id: str) -> None:
        """Queue again what that executor had, unless somebody did already."""
        self._queue._sys_db.reenqueue_for_recovery(workflow_id, [executor_id], QUEUE)


def new_id(tx: sa.Connection) -> str:
    """A number never given before, also not by a catalog that was lost: it follows the clock in milliseconds, and
    adopting a backup from the repository raises it above that backup's."""
    number = max(_last_id(tx) + 1, time.time_ns() // 1_000_000)
    raise_last_id(tx, number)
    return str(number)


def raise_last_id(tx: sa.Connection, number: int) -> None:
    if number > _last_id(tx):
        tx.execute(sa.delete(tables.meta).where(tables.meta.c.name == "last_id"))
        tx.execute(sa.insert(tables.meta).values(name="last_id", value=str(number)))


def _last_id(tx: sa.Connection) -> int:
    return int(tx.execute(sa.select(tables.meta.c.value).where(tables.meta.c.name == "last_id")).scalar() or 0)
