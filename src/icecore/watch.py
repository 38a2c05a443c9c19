"""The eye of a job: carries phases and bytes into the catalog, and cancel, pace, stop and kill out of it."""

from __future__ import annotations

import os
import signal
import threading
import time

from icecore import errors
from icecore.binding import Part
from icecore.catalog import Catalog, jobs
from icecore.catalog.jobs import Claim
from icecore.laps import Laps
from icecore.model import Phase
from icecore.pace import Pace

TELL_EVERY_S = 0.5

# After these the effect is there: stopping would only undo it, so a cancel counts as too late
POINTS_OF_NO_RETURN = frozenset({"committed", "restored", "evidence-kept"})

# What the procedure waited for before it came to a step; elsewhere it waits for its working threads
WAITED_FOR = {
    "probed": Part.SERVER,
    "leased": Part.READ,
    "started": Part.SERVER,
    "imaged": Part.READ,
    "stopped": Part.SERVER,
    "session-closed": Part.SERVER,
    "blocks-finished": Part.WRITE,
    "checked": Part.READ,
    "committed": Part.WRITE,
    "directories-made": Part.WRITE,
    "files-finished": Part.WRITE,
    "restored": Part.WRITE,
    "awaiting": Part.SERVER,
    "server-started": Part.SERVER,
}


class Interrupted(Exception):
    """This process is to stop: the job is handed over at this step and goes on elsewhere."""


class JobWatch:
    """Called by the one thread that runs the procedure.

    Two switches for tests: ``ICECORE_FAIL_AT=<step>[:<n>]`` kills the process at the n-th passing of a step, as a
    power cut would; ``ICECORE_PAUSE_AT=<step>:<seconds>`` makes a step last, so that it can be interrupted.
    """

    def __init__(self, catalog: Catalog, held: Claim, stopping: threading.Event) -> None:
        self._catalog = catalog
        self._held = held
        self._stopping = stopping
        self.laps = Laps()
        self.pace = Pace()  # the cluster's, as of the last time the catalog was told
        self._phase = Phase.NO_START
        self._total = self._done = self._new = 0
        self._told_at = 0.0
        self._cancelled = False
        self._fail_at, _, count = os.environ.get("ICECORE_FAIL_AT", "").partition(":")
        self._fail_in = int(count or 1)
        self._pause_at, _, seconds = os.environ.get("ICECORE_PAUSE_AT", "").partition(":")
        self._pause_s = float(seconds or 0)

    def phase(self, phase: Phase, total_bytes: int = 0) -> None:
        self._phase, self._total = phase, max(total_bytes, self._done)
        self.tell()

    def advance(self, done_bytes: int, new_bytes: int) -> None:
        self._done, self._new = done_bytes, new_bytes
        self._total = max(self._total, done_bytes)
        if time.monotonic() - self._told_at >= TELL_EVERY_S:
            self.tell()

    def step(self, name: str) -> None:
        self.laps.passed(WAITED_FOR.get(name))
        if self._fail_at == name:
            self._fail_in -= 1
            if self._fail_in == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        if self._pause_at == name:
            self.pause(self._pause_s)
        if name in POINTS_OF_NO_RETURN:
            return
        if time.monotonic() - self._told_at >= TELL_EVERY_S:
            self.tell()
        if self._cancelled:
            raise errors.Cancelled()
        if self._stopping.is_set():
            raise Interrupted

    def pause(self, seconds: float) -> None:
        """Wait between two tries, still listening."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._stopping.wait(0.1)
            self.laps.skip()
            self.step("pausing")

    def tell(self) -> None:
        """Now, whether it is due or not."""
        self._told_at = time.monotonic()
        try:
            wishes = jobs.progress(
                self._catalog,
                self._held,
                phase=self._phase,
                done=self._done,
                total=self._total,
                new=self._new,
                spent_ms=self.laps.spent_ms(),
            )
        except errors.Busy:
            return  # progress can wait; a lost claim cannot and is raised
        self._cancelled |= wishes.cancelled
        rate, background, home = wishes.max_rate_bytes_s, wishes.background, self._catalog.config
        self.pace.set(
            home.max_rate_bytes_s if rate is None else rate,
            background=home.background if background is None else background,
        )
