"""Log backup, as a runbook: a server's log into the repository, without end, for one cluster.

Joins an engine's log stream and a repository; knows no catalog. It may be killed anywhere: what is durable is listed,
and the next run goes on behind it. The server forgets only what is durable here.

The log goes out in small units, so that little is lost with the host, and small units become large ones, so that a day
does not leave 86 400 objects: ``MERGE_UNITS`` of one size become one, and all within ``STRIDE_BYTES`` become one in the
end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

from icecore import errors
from icecore.engines import LogServer, LogStream, TimelineEnded
from icecore.model import LogUnit
from icecore.repository import STRIDE_BYTES, LogWriter, Repository

UNIT_AFTER_S = 1.0  # what is received is durable after that,
UNIT_BYTES = 4 << 20  # or when it is that much
MARK_AFTER_S = 30.0  # an idle server: how old may be what is known of it
ASK_AGAIN_S = 1.0
MERGE_UNITS = 32


@dataclass(frozen=True)
class LogProgress:
    timeline: int
    durable: int  # position
    known_at_us: int  # the last moment that can be restored, by the server's clock
    server_position: int
    quiet: bool  # the server had written nothing after ``durable`` when last asked


class LogWatch(Protocol):
    def wanted(self) -> bool:
        """False ends the run after what was received is durable."""

    def progressed(self, progress: LogProgress) -> None: ...
    def gap(self, timeline: int, start: int, end: int) -> None:
        """The log from ``start`` up to ``end`` is lost: moments in it cannot be restored."""


def run(stream: LogStream, repository: Repository, cluster_id: str, watch: LogWatch) -> None:
    """Carry the log over until it is not wanted any more.

    Errors: EngineUnreachable, EngineFailed, EngineRefused (another cluster's log), StorageFailed, LeaseHeld.
    """
    # One archiver per cluster; the block writer's lease is another one
    with repository.log_writer(cluster_id) as writer, closing(stream):
        # What the server has, and what is here already
        server = stream.open()
        units = writer.reader.listing.units
        _refuse_foreign(writer, units, server)
        if server.history:
            writer.put_history(server.timeline, server.history)

        # Go on where it ended
        timeline, position = begin_at(units, server)
        try:
            _receive(stream, writer, server, watch, timeline, position, units)
        except errors.LogGone:
            # The server gave up what comes next: a gap, which is said; then with what it keeps now
            timeline, position = begin_at(repository.log(cluster_id).listing.units, server)
            stream.close()
            server = stream.open()
            if server.timeline != timeline or server.reserved > position:
                watch.gap(timeline, position, server.reserved)
            _receive(stream, writer, server, watch, server.timeline, server.reserved, ())


def _receive(
    stream: LogStream,
    writer: LogWriter,
    server: LogServer,
    watch: LogWatch,
    timeline: int,
    position: int,
    units: Sequence[LogUnit],
) -> None:
    """A timeline that ends leads to the next, from the segment on in which it was left."""
    line = _Line(stream, writer, server, watch, timeline, position, units)
    while True:
        line.start()
        try:
            line.follow()
            return
        except TimelineEnded as ended:
            line.flush()
            writer.put_history(ended.following, stream.history(ended.following))
            start = ended.position - ended.position % server.segment_bytes
            line = _Line(stream, writer, server, watch, ended.following, start, ())


def begin_at(units: Sequence[LogUnit], server: LogServer) -> tuple[int, int]:
    """Timeline and position to receive from. Pure."""
    ends: dict[int, int] = {}
    for unit in units:
        ends[unit.timeline] = max(ends.get(unit.timeline, 0), unit.end)
    # 1 the server's own timeline goes on
    if server.timeline in ends:
        return server.timeline, ends[server.timeline]
    # 2 its youngest ancestor that is here: to the point where it was left, then the one after it
    following = server.timeline
    for ancestor, left_at in reversed(server.switches):
        if ancestor in ends:
            if ends[ancestor] < left_at:
                return ancestor, ends[ancestor]
            return following, left_at - left_at % server.segment_bytes
        following = ancestor
    # 3 nothing of it is here: from where the server keeps it for us
    return server.timeline, server.reserved


def contiguous(units: Sequence[LogUnit], timeline: int, position: int) -> list[LogUnit]:
    """Those of a timeline that lead up to ``position`` without a hole, in a listing's order. Pure."""
    found: list[LogUnit] = []
    at = 0
    for unit in (each for each in units if each.timeline == timeline and each.end <= position):
        if unit.start > at:
            found.clear()
        found.append(unit)
        at = max(at, unit.end)
    return found if at == position else []


def _refuse_foreign(writer: LogWriter, units: Sequence[LogUnit], server: LogServer) -> None:
    if not units:
        return
    known = writer.reader.facts(units[-1])
    if known["identity"] != server.identity:
        raise errors.EngineRefused(
            f"the server's log belongs to system {server.identity}, the log in the repository to {known['identity']}",
            "Register the new server as a cluster of its own.",
        )


class _Line:
    """One timeline being received."""

    def __init__(
        self,
        stream: LogStream,
        writer: LogWriter,
        server: LogServer,
        watch: LogWatch,
        timeline: int,
        position: int,
        units: Sequence[LogUnit],
    ) -> None:
        self._stream, self._writer, self._server, self._watch = stream, writer, server, watch
        self._timeline = timeline
        self._durable = position
        self._pending = bytearray()
        self._since = self._asked_at = 0.0
        self._quiet = False
        own = contiguous(units, timeline, position)
        known = writer.reader.facts(own[-1]) if own else {}
        self._known_us = own[-1].known_at_us if own else 0
        self._last_record = int(known.get("last_record", 0))
        # Records are followed from the page in which the next one begins: the server has it, see ``flush``
        self._next_record = int(known.get("next_record", 0)) or position
        self._begins = self._next_record - self._next_record % server.page_bytes
        self._records = stream.records(server, self._begins)
        self._tail = [(unit, 0) for unit in own if unit.start >= position - position % STRIDE_BYTES]
        # What a kill left in small units before
        before = [unit for unit in own if unit.start >= position - position % STRIDE_BYTES - STRIDE_BYTES]
        before = before[: len(before) - len(self._tail)]
        if len(before) > 1:
            writer.merge(before)

    def start(self) -> None:
        """From the page's start: records are followed from there, bytes that are here already are passed over."""
        self._stream.start(self._timeline, self._begins)

    def follow(self) -> None:
        while self._watch.wanted():
            chunk = self._stream.receive(UNIT_AFTER_S / 4 if self._pending else UNIT_AFTER_S)
            if chunk is not None:
                self._take(chunk.position, chunk.data)
            now = time.monotonic()
            if self._pending and (len(self._pending) >= UNIT_BYTES or now - self._since >= UNIT_AFTER_S):
                self.flush()
            elif not self._pending and now - self._asked_at >= (MARK_AFTER_S if self._quiet else ASK_AGAIN_S):
                self._mark()
        self.flush()

    def _take(self, position: int, data: bytes) -> None:
        """Units end with their stride at the latest: what is known of a unit must not come from behind its end."""
        while data:
            part = data[: STRIDE_BYTES - position % STRIDE_BYTES]
            self._records.feed(part)
            fresh = part[max(self._durable + len(self._pending) - position, 0) :]
            if fresh and not self._pending:
                self._since = time.monotonic()
            self._pending += fresh
            self._quiet = False
            position, data = position + len(part), data[len(part) :]
            if position % STRIDE_BYTES == 0:
                self.flush()

    def flush(self) -> None:
        """What was received becomes durable, then the server may forget it: but not the beginning of a record that has
        not ended, for after a kill it has to be followed again."""
        if not self._pending:
            return
        start, end = self._durable, self._durable + len(self._pending)
        self._ask(end)
        scan_from = self._next_record
        self._next_record = self._records.last_end or self._next_record
        unit = self._writer.append(
            self._timeline, start, self._pending, self._known_us, self._facts() | {"scan_from": scan_from}
        )
        self._pending, self._durable = bytearray(), end
        self._stored(unit)
        self._stream.acknowledge(min(end, self._next_record))
        self._tell()

    def _mark(self) -> None:
        """Nothing came: ask whether there is nothing, and leave a mark that says so."""
        before = self._known_us
        self._ask(self._durable)
        if self._known_us > before:
            self._stored(self._writer.append(self._timeline, self._durable, b"", self._known_us, self._facts()))
        self._tell()

    def _ask(self, position: int) -> None:
        self._asked_at = time.monotonic()
        quiet_us = self._stream.quiet_at_us(position)
        self._quiet = quiet_us > 0
        self._known_us = max(self._known_us, self._records.latest_commit_us(), quiet_us)

    def _facts(self) -> dict[str, Any]:
        self._last_record = max(self._last_record, self._records.last_record)
        return {
            "identity": self._server.identity,
            "major": self._server.major,
            "segment_bytes": self._server.segment_bytes,
            "page_bytes": self._server.page_bytes,
            "last_record": self._last_record,  # where the last whole record begins,
            "next_record": self._next_record,  # and the one after it
            "scan_from": self._next_record,  # the first record that ends in the unit begins there or later
        }

    def _tell(self) -> None:
        position = self._durable if self._quiet else self._stream.server_position()
        self._watch.progressed(LogProgress(self._timeline, self._durable, self._known_us, position, self._quiet))

    # ------------------------------------------------------------ small units become large ones

    def _stored(self, unit: LogUnit) -> None:
        # A mark replaces the one before it
        if self._tail and unit.start == unit.end and self._tail[-1][0].start == unit.end:
            self._writer.drop([self._tail.pop()[0]])
        self._tail.append((unit, 0))
        # The stride is full: one unit for all of it
        if unit.end % STRIDE_BYTES == 0 and unit.end > unit.start:
            self._merge(len(self._tail))
            self._tail.clear()
            return
        # Many of one size: one of the next
        size = self._tail[-1][1]
        while len(self._tail) >= MERGE_UNITS and all(each == size for _, each in self._tail[-MERGE_UNITS:]):
            self._merge(MERGE_UNITS)
            size += 1

    def _merge(self, count: int) -> None:
        units = [unit for unit, _ in self._tail[-count:]]
        if len(units) < 2:
            return
        size = 1 + max(each for _, each in self._tail[-count:])
        self._tail[-count:] = [(self._writer.merge(units), size)]
