"""What every task is, and what most share."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from icecore import errors
from icecore.catalog import Catalog
from icecore.catalog.jobs import Claim
from icecore.config import Config
from icecore.repository import Repository
from icecore.watch import JobWatch

log = structlog.get_logger()

Finish = Callable[[], None]
LOG_LET_GO_S = 15.0


class Task(Protocol):
    def __init__(self, config: Config, catalog: Catalog, held: Claim, watch: JobWatch) -> None: ...
    def run(self) -> Finish: ...
    def undo(self) -> None: ...
    def tidy(self) -> None: ...


class OneJob:
    """A task with what it was given."""

    def __init__(self, config: Config, catalog: Catalog, held: Claim, watch: JobWatch) -> None:
        self.config, self.catalog, self.held, self.watch = config, catalog, held, watch

    def undo(self) -> None: ...
    def tidy(self) -> None: ...


@contextlib.contextmanager
def best_effort(doing: str) -> Iterator[None]:
    """For what a later run or collection does again; the job's own outcome must not hang on it."""
    try:
        yield
    except Exception as error:
        log.warning(f"{doing} failed", reason=str(error), kind=type(error).__name__)


def remove_log_of(repository: Repository, cluster_id: str, watch: JobWatch) -> None:
    """The log of a removed cluster goes when its last backup has gone, whichever job comes last."""
    damaged: list[errors.Damaged] = []
    deadline = time.monotonic() + LOG_LET_GO_S
    while not list(repository.backups(cluster_id, damaged=damaged)) and not damaged:
        try:
            return repository.delete_log(cluster_id)
        except errors.LeaseHeld:  # the archiver sees within seconds that the cluster goes
            if time.monotonic() >= deadline:
                raise
            watch.pause(0.5)
    return None
