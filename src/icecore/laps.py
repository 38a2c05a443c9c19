"""Where a job's time goes, measured by its threads: each says now and then what it has just been doing.

One reading of the clock each time, a few for each megabyte read (``docs/decisions/pipeline.md``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from icecore.binding import Part


class _Stopwatch:
    __slots__ = ("at_ns", "leads", "spent_ns", "waited_ns")

    def __init__(self, *, leads: bool = False) -> None:
        self.leads = leads
        self.at_ns = self.waited_ns = 0
        self.spent_ns = dict.fromkeys(Part, 0)


class _Current(threading.local):
    watch: _Stopwatch | None = None


_current = _Current()


def lap(part: Part | None) -> None:
    """What the calling thread did since its last lap was this; None: it waited for the others. Nothing happens outside
    of ``Laps.working``."""
    watch = _current.watch
    if watch is not None:
        now = perf_counter_ns()
        if part is None:
            watch.waited_ns += now - watch.at_ns
        else:
            watch.spent_ns[part] += now - watch.at_ns
        watch.at_ns = now


class Laps:
    """Of one job. The procedure's thread says by ``passed`` what it waited for; time in which the others worked is
    shared out as they spent theirs, so that all parts together are the job's own duration.

    Where one thread leads and the others only take what it brings, its time counts, and theirs only tells what it
    waited for: however busy they are, they do not bind while it need not wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._own = threading.local()
        self._watches: list[_Stopwatch] = []
        self._waited = _Stopwatch()
        self._waited.at_ns = perf_counter_ns()
        self._shared_ns = 0

    @contextmanager
    def working(self, *, leading: bool = False) -> Iterator[None]:
        """The calling thread's laps count here. What it did since the last one is lost at the end."""
        watch: _Stopwatch | None = getattr(self._own, "watch", None)
        if watch is None:
            watch = self._own.watch = _Stopwatch(leads=leading)
            with self._lock:
                self._watches.append(watch)
        watch.at_ns = perf_counter_ns()
        _current.watch = watch
        try:
            yield
        finally:
            _current.watch = None

    def passed(self, part: Part | None) -> None:
        """Since the last call the procedure waited for this; None: for the working threads."""
        now = perf_counter_ns()
        if part is None:
            self._shared_ns += now - self._waited.at_ns
        else:
            self._waited.spent_ns[part] += now - self._waited.at_ns
        self._waited.at_ns = now

    def skip(self) -> None:
        """Since the last call nothing was done for the job."""
        self._waited.at_ns = perf_counter_ns()

    def spent_ms(self) -> dict[Part, int]:
        shares = self._shares()
        return {part: round((self._waited.spent_ns[part] + self._shared_ns * shares[part]) / 1e6) for part in Part}

    def worked_ns(self) -> dict[Part, int]:
        """Summed over the threads."""
        with self._lock:
            return _added(self._watches)

    def _shares(self) -> dict[Part, float]:
        """Of the time in which the threads worked; together 1, or nothing."""
        with self._lock:
            watches = list(self._watches)
        leading = [watch for watch in watches if watch.leads]
        others = _added(watch for watch in watches if not watch.leads)
        total = sum(others.values()) or 1
        shares = {part: spent / total for part, spent in others.items()}
        if not leading:
            return shares
        led, waited = _added(leading), sum(watch.waited_ns for watch in leading)
        total = sum(led.values()) + waited or 1
        return {part: (led[part] + waited * shares[part]) / total for part in Part}


def _added(watches: Iterable[_Stopwatch]) -> dict[Part, int]:
    found = list(watches)
    return {part: sum(watch.spent_ns[part] for watch in found) for part in Part}
