"""How many threads are at work at a time: as many as there are cores, and more while they wait for a disk far away.

Every two seconds: where at least half of the threads' time went into reading and a quarter of the cores lay idle, there
are twice as many from now on, up to a bound; where that did not bring a tenth more bytes, as many as before, for good.
In the background half of the usual ones.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

from icecore.binding import Part
from icecore.laps import Laps
from icecore.pace import Pace

LOOK_EVERY_S = 2.0
WAITING_SHARE = 0.5
BUSY_SHARE = 0.75
WORTH = 1.1


@dataclass(frozen=True)
class Seen:
    """Since the last look."""

    reading: float  # of the threads' time
    busy: float  # of the cores
    bytes_s: float


class Size:
    """The decision, without clock and threads."""

    def __init__(self, begin: int, at_most: int) -> None:
        self.now = begin
        self._at_most = max(begin, at_most)
        self._before: tuple[int, float] | None = None  # threads and bytes a second before there were more
        self._settled = False

    def look(self, seen: Seen) -> None:
        if self._before is not None:
            fewer, bytes_s = self._before
            self._before = None
            if seen.bytes_s < bytes_s * WORTH:
                self.now, self._settled = fewer, True
        more = min(self.now * 2, self._at_most)
        if not self._settled and more > self.now and seen.reading >= WAITING_SHARE and seen.busy < BUSY_SHARE:
            self._before = (self.now, seen.bytes_s)
            self.now = more


class Crew:
    """``with crew:`` around a piece of work of one thread; it waits there while enough others are at work."""

    def __init__(self, threads: int, at_most: int, cores: int, laps: Laps, pace: Pace) -> None:
        self.at_most = max(threads, at_most)
        self._threads, self._cores, self._laps, self._pace = threads, cores, laps, pace
        self._size = Size(threads, at_most)
        self._changed = threading.Condition()
        self._at_work = 0
        self._bytes = 0
        self._last = self._marks()

    @property
    def size(self) -> int:
        return max(1, self._threads // 2) if self._pace.background else self._size.now

    def __enter__(self) -> None:
        with self._changed:
            while self._at_work >= self.size:
                self._changed.wait()
            self._at_work += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._at_work -= 1
            self._changed.notify()

    def count(self, read_bytes: int) -> None:
        with self._changed:
            self._bytes += read_bytes

    def look(self) -> None:
        """Called often by one thread."""
        if self.at_most == self._threads or time.monotonic() - self._last[0] < LOOK_EVERY_S:
            return
        before, self._last = self._last, self._marks()
        since = (now - then for now, then in zip(self._last, before, strict=True))
        elapsed_s, cpu_s, all_ns, read_ns, read_bytes = since
        self._size.look(Seen(read_ns / (all_ns or 1), cpu_s / elapsed_s / self._cores, read_bytes / elapsed_s))
        with self._changed:
            self._changed.notify_all()

    def _marks(self) -> tuple[float, float, float, float, float]:
        worked = self._laps.worked_ns()
        return time.monotonic(), time.process_time(), sum(worked.values()), worked[Part.READ], self._bytes
