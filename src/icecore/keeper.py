"""Keeps an eye on the clusters: which run, and that restored servers are up again after a reboot.

One keeper a home: whoever holds ``run/keeper``. Looks cost a connection each, so they are spread.
"""

from __future__ import annotations

import fcntl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from icecore import errors, parts, tasks
from icecore.catalog import Catalog, clusters
from icecore.config import Config
from icecore.engines import Probe
from icecore.model import ClusterStatus

log = structlog.get_logger()

TICK_S = 0.5
LOOK_EVERY_S = 5.0
RESTART_TIMEOUT_S = 300.0
LOOKERS = 4


class Keeper:
    def __init__(self, config: Config, catalog: Catalog, stopping: threading.Event) -> None:
        self._config, self._catalog, self._stopping = config, catalog, stopping
        self._looked_at: dict[str, float] = {}

    def run(self) -> None:
        """Look until told to stop; waits while another process of this home is the keeper."""
        with (self._config.run / "keeper").open("w") as file:
            while not self._stopping.is_set():
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._stopping.wait(LOOK_EVERY_S)
            with ThreadPoolExecutor(LOOKERS, thread_name_prefix="look") as pool:
                while not self._stopping.wait(TICK_S):
                    try:
                        list(pool.map(self._look, self._due()))
                    except errors.IcecoreError as error:
                        log.warning("looking at the clusters failed", reason=error.message)

    def _due(self) -> list[Any]:
        now = time.monotonic()
        settled = (ClusterStatus.RUNNING, ClusterStatus.STOPPED)
        due = [
            row
            for row in clusters.live(self._catalog)
            if row.status in settled and row.dsn and now - self._looked_at.get(row.id, -LOOK_EVERY_S) >= LOOK_EVERY_S
        ]
        self._looked_at.update({row.id: now for row in due})
        return due

    def _look(self, row: Any) -> None:
        try:
            if row.origin == "restored":
                self._bring_up(row)
            engine = parts.engine(self._config, row.id, row.name, row.engine, row.dsn)
            facts = observations(engine.probe())
            if row.origin == "registered":
                facts["host"], facts["port"] = parts.address(row.dsn)
            clusters.observed(self._catalog, row.id, running=True, facts=facts)
        except errors.IcecoreError as error:
            clusters.observed(self._catalog, row.id, running=False, reason=error.message)
        except Exception as error:
            log.exception("looking at a cluster failed", cluster=row.id)
            clusters.observed(self._catalog, row.id, running=False, reason=str(error))

    def _bring_up(self, row: Any) -> None:
        server = tasks.restored_server(self._config, row.id)
        if server is not None and not server.running():
            log.info("starting a restored server", cluster=row.id)
            server.start(RESTART_TIMEOUT_S)


def observations(probe: Probe) -> dict[str, Any]:
    """What the registry keeps of a probe."""
    return {"major": probe.major, "version": probe.version, "size_bytes": probe.size_bytes}
