"""pgbench as fast as it goes while a tool makes a backup: what the backup takes from it.

Transactions are counted by the server's transaction ids: each of pgbench's takes one, a backup none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import psycopg
from source_server import SourceServer

CLIENTS = 2
WARM_S, WINDOW_S = 4.0, 8.0
SAMPLE_EVERY_S = 0.1
Given = TypeVar("Given")


class Counter(threading.Thread):
    """How many transactions there were, ten times a second."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self._dsn = dsn
        self._seen: list[tuple[float, int]] = []
        self._ended = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._ended.is_set():
                row = connection.execute("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint").fetchone()
                assert row is not None
                self._seen.append((time.monotonic(), int(row[0])))
                self._ended.wait(SAMPLE_EVERY_S)

    def stop(self) -> None:
        self._ended.set()
        self.join(10)

    def rate(self, since: float, until: float) -> float:
        """Transactions a second between two moments of the monotonic clock."""
        return (self._at(until) - self._at(since)) / (until - since)

    def slowest(self, since: float, until: float) -> float:
        """The rate of the worst whole second."""
        starts = [since + second for second in range(int(until - since))] or [since]
        return min(self.rate(start, min(start + 1.0, until)) for start in starts)

    def _at(self, moment: float) -> float:
        before, after = self._seen[0], self._seen[-1]
        for seen in self._seen:
            if seen[0] <= moment:
                before = seen
            else:
                after = seen
                break
        if after[0] <= before[0]:
            return float(before[1])
        share = (moment - before[0]) / (after[0] - before[0])
        return before[1] + share * (after[1] - before[1])


def loss(source: SourceServer, work: Callable[[], Given]) -> tuple[Given, dict[str, float]]:
    """``tps_before``, ``tps_during``, ``tps_after``, ``tps_worst`` (of a second), ``lost_percent`` of the mean of
    before and after, ``lost_transactions``."""
    writer, counter = source.writing(CLIENTS), Counter(source.dsn)
    counter.start()
    try:
        time.sleep(WARM_S + WINDOW_S)
        began = time.monotonic()
        done = work()
        ended = time.monotonic()
        time.sleep(WINDOW_S + 2 * SAMPLE_EVERY_S)
    finally:
        writer.terminate()
        writer.wait(30)
        counter.stop()
    before, after = counter.rate(began - WINDOW_S, began), counter.rate(ended, ended + WINDOW_S)
    during, usual = counter.rate(began, ended), (before + after) / 2
    return done, {
        "tps_before": before,
        "tps_during": during,
        "tps_after": after,
        "tps_worst": counter.slowest(began, ended),
        "lost_percent": 100 * (1 - during / usual),
        "lost_transactions": (usual - during) * (ended - began),
    }
