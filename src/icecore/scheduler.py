"""The scheduler: gives each slot of a policy its backup, has one verified now and then, lets backups expire. Does
nothing itself: it accepts what a person could have asked for, and the jobs do it.

Any number may run: a slot is taken in the transaction that queues its backup, and a removal is accepted once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from icecore import errors
from icecore.catalog import Catalog, intents, policies

log = structlog.get_logger()

LOOK_EVERY_S = 5.0


class Scheduler:
    def __init__(self, catalog: Catalog, stopping: threading.Event, clock: Callable[[], float] = time.time) -> None:
        self._catalog, self._stopping, self._clock = catalog, stopping, clock

    def run(self) -> None:
        """Look until told to stop."""
        while not self._stopping.wait(LOOK_EVERY_S):
            try:
                self.look()
            except Exception as error:  # the next look does what this one could not
                log.warning("looking at the backup policies failed", reason=str(error))

    def look(self) -> None:
        """Each cluster on its own: the trouble of one is not the others'."""
        moment = int(self._clock())
        for cluster_id in policies.every(self._catalog):
            try:
                backup_id = policies.take_slot(self._catalog, cluster_id, moment)
                if backup_id:
                    log.info("automatic backup queued", cluster=cluster_id, backup=backup_id)
                drill_id = policies.take_drill(self._catalog, cluster_id, moment)
                if drill_id:
                    log.info("drill queued", cluster=cluster_id, job=drill_id)
                for expired in policies.mark(self._catalog, cluster_id, moment):
                    self._remove(cluster_id, expired)
            except errors.IcecoreError as error:
                log.warning("a backup policy could not be kept", cluster=cluster_id, reason=error.message)

    def _remove(self, cluster_id: str, backup_id: str) -> None:
        """One by one: a backup that is being restored from waits, the others do not."""
        try:
            intents.accept_deletion(self._catalog, cluster_id, [backup_id])
            log.info("expired backup is removed", cluster=cluster_id, backup=backup_id)
        except (errors.BackupStatusDenied, errors.BackupNotFound) as error:
            log.info("expired backup stays for now", backup=backup_id, reason=error.message)
