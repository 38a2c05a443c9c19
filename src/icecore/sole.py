"""What only one process of a home does at a time."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def sole(path: Path, stopping: threading.Event, again_s: float) -> Iterator[None]:
    """Held by one process; waits while another one has it, and no longer than until ``stopping``."""
    with path.open("w") as file:
        while not stopping.is_set():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                stopping.wait(again_s)
        yield
