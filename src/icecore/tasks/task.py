"""What every task is, and what most share."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

from icecore.catalog import Catalog
from icecore.catalog.jobs import Claim
from icecore.config import Config
from icecore.watch import JobWatch

log = structlog.get_logger()

Finish = Callable[[], None]


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
