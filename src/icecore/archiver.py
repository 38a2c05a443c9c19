"""Log backup in the worker's process: a thread for each cluster that wants it, and what the catalog is told of it.

One archiver a home: whoever holds ``run/archiver``. The repository's own lease keeps other homes out.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import structlog

from icecore import archive, errors, moments, parts
from icecore.archive import LogProgress
from icecore.catalog import Catalog, logs
from icecore.config import Config
from icecore.engines import LogEngine
from icecore.model import ClusterStatus
from icecore.recovery import Window
from icecore.sole import sole

log = structlog.get_logger()

LOOK_EVERY_S = 2.0
TELL_EVERY_S = 2.0
WINDOWS_EVERY_S = 10.0
AGAIN_AFTER_S = (0.5, 1.0, 2.0, 5.0, 15.0)  # then every 15 s; a failed try costs the server a connection
LET_GO_S = 20.0
FORGET_EVERY_S = 60.0


class Archiver:
    def __init__(self, config: Config, catalog: Catalog, stopping: threading.Event) -> None:
        self._config, self._catalog, self._stopping = config, catalog, stopping
        self._running: dict[str, _Archiving] = {}
        self._forget_next = 0.0

    def run(self) -> None:
        """Until told to stop; waits while another process of this home is the archiver."""
        with sole(self._config.run / "archiver", self._stopping, LOOK_EVERY_S):
            while not self._stopping.is_set():
                try:
                    self._look()
                except Exception as error:
                    log.warning("looking after log backup failed", reason=str(error))
                self._stopping.wait(LOOK_EVERY_S)
            for each in self._running.values():
                each.end()

    def _look(self) -> None:
        """Begin what is wanted, end what is not. A cluster whose address changed begins anew."""
        wanted = {row.id: row for row in logs.wanted(self._catalog)} if self._config.log_backup else {}
        for cluster_id, archiving in list(self._running.items()):
            if cluster_id not in wanted or wanted[cluster_id].dsn != archiving.row.dsn:
                archiving.end()
                del self._running[cluster_id]
                self._forget_next = 0.0
        for cluster_id, row in wanted.items():
            if cluster_id not in self._running:
                engine = parts.engine(self._config, row.id, row.name, row.engine, row.dsn)
                if isinstance(engine, LogEngine):
                    self._running[cluster_id] = _Archiving(self._config, self._catalog, row, engine, self._stopping)
        if time.monotonic() >= self._forget_next:
            self._forget(set(wanted))
            self._forget_next = time.monotonic() + FORGET_EVERY_S

    def _forget(self, wanted: set[str]) -> None:
        """A server must not keep log for ever for a cluster that is not archived any more."""
        for row in logs.left_over(self._catalog):
            if row.id in wanted or row.status == ClusterStatus.CREATING:
                continue
            engine = parts.engine(self._config, row.id, row.name, row.engine, row.dsn)
            try:
                if isinstance(engine, LogEngine):
                    engine.forget_log(row.id)
                logs.forgotten(self._catalog, row.id)
            except errors.IcecoreError as error:
                log.warning("the slot of log backup is still on the server", cluster=row.id, reason=error.message)


class _Archiving:
    """One cluster's, in a thread of its own."""

    def __init__(
        self, config: Config, catalog: Catalog, row: Any, engine: LogEngine, stopping: threading.Event
    ) -> None:
        self.row = row
        self._config, self._catalog, self._engine, self._stopping = config, catalog, engine, stopping
        self._ended = threading.Event()
        self._tries = 0
        self._told_at = self._windows_at = float("-inf")
        self._windows: list[Window] = []
        self._thread = threading.Thread(target=self._run, name=f"log of {row.name}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(LET_GO_S)

    def _run(self) -> None:
        while self.wanted():
            try:
                repository = parts.open_repository(self._config)
                archive.run(self._engine.log_stream(self.row.id), repository, self.row.id, self)
            except errors.IcecoreError as error:
                self._failed(error.wire_code(), error.message)
            except Exception as error:
                log.exception("log backup failed", cluster=self.row.id)
                self._failed("InternalError", str(error))

    def _failed(self, code: str, message: str) -> None:
        log.warning("log backup is interrupted", cluster=self.row.id, code=code, reason=message)
        with contextlib.suppress(errors.WorldError):
            logs.failed(self._catalog, self.row.id, code, message)
        wait_s = AGAIN_AFTER_S[min(self._tries, len(AGAIN_AFTER_S) - 1)]
        self._tries += 1
        deadline = time.monotonic() + wait_s
        while self.wanted() and time.monotonic() < deadline:
            self._ended.wait(0.25)

    # ------------------------------------------------------------ archive.LogWatch

    def wanted(self) -> bool:
        return not (self._ended.is_set() or self._stopping.is_set())

    def progressed(self, progress: LogProgress) -> None:
        self._tries = 0
        now = time.monotonic()
        if now - self._told_at < TELL_EVERY_S:
            return
        with self._telling():
            if not self._windows or now - self._windows_at >= WINDOWS_EVERY_S:
                engine = parts.restore_engine(self.row.engine)
                self._windows = moments.windows(parts.open_repository(self._config), self.row.id, engine)
                self._windows_at = now
            elif self._windows and self._windows[-1].timeline == progress.timeline:
                # Since then the log went on without a hole
                last = self._windows[-1]
                self._windows[-1] = Window(last.since_us, max(last.until_us, progress.known_at_us), last.timeline)
            logs.told(
                self._catalog,
                self.row.id,
                self._windows,
                timeline=progress.timeline,
                durable=progress.durable,
                server_position=progress.server_position,
                known_at_us=progress.known_at_us,
                quiet=progress.quiet,
            )
            self._told_at = now

    def gap(self, timeline: int, start: int, end: int) -> None:
        log.error("the log has a gap: take a backup", cluster=self.row.id, timeline=timeline, start=start, end=end)
        self._windows_at = float("-inf")
        with self._telling():
            logs.gap(self._catalog, self.row.id, timeline, start, end)

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """The log goes on whether or not anybody can be told."""
        try:
            yield
        except errors.IcecoreError as error:
            log.warning("the state of log backup was not noted", cluster=self.row.id, reason=error.message)
