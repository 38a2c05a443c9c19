"""Keeps an eye on the clusters: which run, and that restored servers are up again after a reboot.

One keeper a home: whoever holds ``run/keeper``. Looks cost a connection each, so they are spread.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import structlog

from icecore import errors, parts, pinned
from icecore.catalog import Catalog, clones, clusters
from icecore.config import Config
from icecore.engines import Probe
from icecore.model import ClusterStatus
from icecore.sole import sole
from icecore.tasks import servers

log = structlog.get_logger()

TICK_S = 0.5
LOOK_EVERY_S = 5.0
LOOK_AGAIN_S = 1.0
GUARD_EVERY_S = 0.5  # a fast disk fills a tenth of a small file system in a few seconds
MEASURE_EVERY_S = 60.0
MEASURE_SHARE = 0.05  # of the time: every file's map is read
FAILURES_THAT_COUNT = 2
SETTLED = (ClusterStatus.RUNNING, ClusterStatus.STOPPED)
LOOKERS = 4
SEVERITIES = {"refusal": "refusal", "warning": "warning", "ok": "note"}  # of a finding: the engines' word -> ours


class Keeper:
    def __init__(self, config: Config, catalog: Catalog, stopping: threading.Event) -> None:
        self._config, self._catalog, self._stopping = config, catalog, stopping
        self._looked_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._end_clones_at = time.monotonic()
        self._measure_at = time.monotonic() + MEASURE_EVERY_S

    def run(self) -> None:
        """Look until told to stop; waits while another process of this home is the keeper."""
        with sole(self._config.run / "keeper", self._stopping, LOOK_EVERY_S):
            # Images are guarded by a thread of its own: a look waits for a server, room does not
            guarding = threading.Thread(target=self._guard_images, name="guard-images")
            guarding.start()
            with ThreadPoolExecutor(LOOKERS, thread_name_prefix="look") as pool:
                while not self._stopping.wait(TICK_S):
                    try:
                        list(pool.map(self._look, self._due()))
                        self._end_clones()
                        self._measure_images()
                    except Exception as error:
                        log.warning("looking at the clusters failed", reason=str(error))
            guarding.join()

    def _guard_images(self) -> None:
        while not self._stopping.wait(GUARD_EVERY_S):
            pinned.guard(self._config, self._catalog)

    def _measure_images(self) -> None:
        began = time.monotonic()
        if began >= self._measure_at:
            pinned.measure(self._config, self._catalog)
            for row in clones.every(self._catalog):
                clones.pins(self._catalog, row.id, servers.clone_pins(self._config, row.id))
            took_s = time.monotonic() - began
            self._measure_at = began + max(MEASURE_EVERY_S, took_s / MEASURE_SHARE)

    def _end_clones(self) -> None:
        """Their time is up: a job removes each, as if it had been asked for."""
        if time.monotonic() < self._end_clones_at:
            return
        self._end_clones_at = time.monotonic() + LOOK_AGAIN_S
        for clone_id in clones.due(self._catalog):
            with contextlib.suppress(errors.CallerError):  # somebody else has just asked for it, or works on it
                clones.remove(self._catalog, clone_id)
                log.info("a clone's time is up", cluster=clone_id)

    def _due(self) -> list[Any]:
        now = time.monotonic()
        due = [
            row
            for row in clusters.live(self._catalog)
            if row.status in SETTLED and row.dsn and now - self._looked_at.get(row.id, -LOOK_EVERY_S) >= LOOK_EVERY_S
        ]
        self._looked_at.update({row.id: now for row in due})
        return due

    def _look(self, row: Any) -> None:
        """Never raises: one cluster's trouble is not the others'."""
        try:
            if row.origin != "registered":
                self._bring_up(row)
            engine = parts.engine(self._config, row.id, row.name, row.engine, row.dsn)
            facts = observations(engine.probe())
            if row.origin == "registered":
                facts["host"], facts["port"] = parts.address(row.dsn)
            clusters.observed(self._catalog, row.id, running=True, facts=facts)
            self._failures.pop(row.id, None)
        except errors.IcecoreError as error:
            self._failed(row, error.message, error.advice())
        except Exception as error:
            log.exception("looking at a cluster failed", cluster=row.id)
            self._failed(row, str(error), "See the server's log.")

    def _failed(self, row: Any, reason: str, hint: str) -> None:
        """One failed look may be a connection too many; the second in a row, a moment later, is the cluster's state."""
        self._failures[row.id] = self._failures.get(row.id, 0) + 1
        if self._failures[row.id] >= FAILURES_THAT_COUNT:
            clusters.observed(self._catalog, row.id, running=False, reason=reason, hint=hint)
        else:
            self._looked_at[row.id] = time.monotonic() - LOOK_EVERY_S + LOOK_AGAIN_S

    def _bring_up(self, row: Any) -> None:
        """Asked again under the lock: a job may be removing this very server."""
        with servers.server_lock(self._config, row.id):
            if clusters.one(self._catalog, row.id).status not in SETTLED:
                raise errors.ClusterStatusDenied()
            server = servers.bring_up(self._config, row.id, self._still_wanted)
        if server is not None:
            log.info("started a restored server", cluster=row.id)
            _, port = parts.address(server.dsn())
            clusters.moved(self._catalog, row.id, dsn=server.dsn(), host="127.0.0.1", port=port)

    def _still_wanted(self) -> None:
        if self._stopping.is_set():
            raise errors.EngineFailed(doing="starting the server", reason="Icecore is stopping")


def observations(probe: Probe) -> dict[str, Any]:
    """What the registry keeps of a probe."""
    found = [clusters.finding(SEVERITIES[each.level], each.what, each.fix) for each in probe.findings]
    found.sort(key=lambda each: list(SEVERITIES.values()).index(each["severity"]))  # the worst first
    return {
        "major": probe.major,
        "version": probe.version,
        "size_bytes": probe.size_bytes,
        "local": probe.local,
        "data_directory": probe.data_directory,
        "findings": json.dumps(found),
    }
