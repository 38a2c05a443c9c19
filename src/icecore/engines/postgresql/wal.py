"""The write-ahead log from a backup's start to its end, captured through a temporary slot while the files are read.

No ``archive_command`` is needed. The slot lives and dies with its connection, so nothing stays on the server after
a failure or a kill. ``check_segment`` and the names are pure; ``LogCapture`` is the thread that receives.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import shutil
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from icecore.engines.postgresql.connect import ReplicationConnection
from icecore.engines.postgresql.control import lsn_number, lsn_text
from icecore.errors import Damaged, EngineFailed, IcecoreError

# XLOG_PAGE_MAGIC of src/include/access/xlog_internal.h, by major.
PAGE_MAGIC = {"13": 0xD106, "14": 0xD10D, "15": 0xD110, "16": 0xD113, "17": 0xD116, "18": 0xD118}
_LONG_HEADER = struct.Struct("<HHIQI4xQII")  # magic, info, timeline, address, remaining, system, segment, page bytes
_SHORT_HEADER = struct.Struct("<HHIQ")
_LONG_HEADER_FLAG = 0x0002
_EPOCH_2000_US = 946_684_800_000_000
FEEDBACK_S = 5.0
NO_DETAILS = "no error details available"  # psycopg's words for an empty message
SETTLE_S = 10.0
SCRATCH_SPARE_BYTES = 128 * 1024**2


def segment_name(position: int, timeline: int, segment_bytes: int) -> str:
    """Hexadecimal throughout: timeline, then the segment's number in two halves."""
    number = position // segment_bytes
    per_high = 0x1_0000_0000 // segment_bytes
    return f"{timeline:08X}{number // per_high:08X}{number % per_high:08X}"


def segment_positions(start: int, stop: int, segment_bytes: int) -> Iterator[int]:
    """First positions of the segments that hold the log from ``start`` up to the byte before ``stop``."""
    first = start - start % segment_bytes
    yield from range(first, max(stop - 1, start) + 1, segment_bytes)


def check_segment(
    content: memoryview | bytes,
    *,
    position: int,
    stop: int,
    major: str,
    timeline: int,
    system_identifier: int,
    segment_bytes: int,
    page_bytes: int = 8192,
) -> None:
    """``Damaged`` unless this is that segment of that server, whole and contiguous up to ``stop``.

    After a segment switch the rest of a segment may be zero; a hole before ``stop`` may not be, nor a foreign page.
    """
    name = segment_name(position, timeline, segment_bytes)
    view = memoryview(content)
    if view.nbytes != segment_bytes:
        raise Damaged(name=name, reason=f"it has {view.nbytes} bytes instead of {segment_bytes}")
    magic, info, segment_timeline, address, _, system, stored_bytes, stored_page = _LONG_HEADER.unpack_from(view, 0)
    if magic != PAGE_MAGIC[major] or not info & _LONG_HEADER_FLAG:
        raise Damaged(name=name, reason=f"its header is not one of PostgreSQL {major} (magic {magic:04X})")
    if system != system_identifier:
        raise Damaged(name=name, reason=f"it belongs to system {system}, not to {system_identifier}")
    if segment_timeline > timeline or address != position:  # a promotion copies its first segment from the ancestor's
        raise Damaged(name=name, reason=f"it says timeline {segment_timeline} position {lsn_text(address)}")
    if stored_bytes != segment_bytes or stored_page != page_bytes:
        raise Damaged(name=name, reason=f"it says segments of {stored_bytes} and pages of {stored_page} bytes")
    for offset in range(page_bytes, min(segment_bytes, max(stop - position, 0)), page_bytes):
        magic, _, page_timeline, address = _SHORT_HEADER.unpack_from(view, offset)
        if magic == 0 and stop >= position + segment_bytes and bytes(view[offset:]).count(0) == segment_bytes - offset:
            return
        if magic != PAGE_MAGIC[major] or address != position + offset or page_timeline > timeline:
            raise Damaged(name=name, reason=f"page {offset // page_bytes} says {lsn_text(address)}")


class LogCapture:
    """Receives the log into ``scratch/<segment>`` from before the backup's start until told where it ends.

    ``report_flush`` lets the server forget what arrived. It stays off where ``synchronous_standby_names`` is set: a
    walsender that reports flushed positions could be counted as a synchronous standby, and commits would then be
    acknowledged on the strength of a scratch file.
    """

    def __init__(
        self,
        connect: Callable[[], ReplicationConnection],
        scratch: Path,
        *,
        segment_bytes: int,
        report_flush: bool,
    ) -> None:
        self._connect = connect
        self._scratch = scratch
        self._segment_bytes = segment_bytes
        self.report_flush = report_flush
        self.slot = f"icecore_{uuid.uuid4().hex[:16]}"
        self.timeline = 0  # as the server says: a control file may still name the one before a promotion
        self.first = 0  # position of the first byte captured
        self.received = 0  # position after the last byte captured
        self.history: dict[str, bytes] = {}
        self.missing_history: list[str] = []
        self._reserved = 0  # the slot holds the log from here on, or from a little before
        self._heard = False
        self._error: IcecoreError | None = None
        self._moved = threading.Condition()
        self._closing = False
        self._wake = -1  # an eventfd: the end of the capture does not wait for the server's next word
        self._thread: threading.Thread | None = None
        self._replication: ReplicationConnection | None = None
        self._file = -1
        self._file_position = -1

    # ------------------------------------------------------------ called by the session

    def start(self, earliest: Callable[[], int] | None, timeout_s: float) -> None:
        """Return once the server is proven to send; the slot keeps all that follows.

        ``earliest()`` gives the position from which the log may be needed (the last checkpoint's redo position): on
        a standby a new slot starts at what was replayed, which lies after it. None on a primary: its backup begins
        with a checkpoint that is still to come.
        """
        # 1. The server's identity and, with them, the ancestors of its timeline: without their histories recovery
        #    would not find its way past a promotion.
        self._replication = self._connect()
        self._identify()
        if self.timeline > 1:
            self._fetch_history()
        # 2. A slot that reserves the log at once, and the stream, from the start of the segment that the backup's start
        #    can lie in. A standby's restart point in this very moment may have removed it: then the start lies later,
        #    too. A walsender drops its temporary slot when a command fails, so both are done again.
        for attempt in range(3):
            self._replication.rows(
                "creating a replication slot", f'CREATE_REPLICATION_SLOT "{self.slot}" TEMPORARY PHYSICAL RESERVE_WAL'
            )
            begin = min(earliest(), self._reserved) if earliest is not None else self._reserved
            self.first = self.received = begin - begin % self._segment_bytes
            try:
                self._begin_streaming()
                break
            except EngineFailed:
                if attempt == 2:
                    raise
                self._identify()
        # 3. Proven, not hoped for: an answer must have come over the stream.
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="icecore-log-capture", daemon=True)
        self._thread.start()
        self.wait_for(self._reserved, timeout_s, "starting the log capture")

    def wait_for(self, position: int, timeout_s: float, doing: str) -> None:
        """Return when the stream has spoken and all bytes before ``position`` are in ``scratch``."""
        deadline = time.monotonic() + timeout_s
        with self._moved:
            while self.received < position or not self._heard:
                if self._error is not None:
                    raise self._error
                left = deadline - time.monotonic()
                if left <= 0:
                    raise EngineFailed(
                        doing=doing,
                        reason=f"the log came up to {lsn_text(self.received)} only, "
                        f"{lsn_text(position)} was not sent within {timeout_s:.0f} s",
                    )
                self._moved.wait(min(left, 1.0))

    def check(self) -> None:
        """Raise what ended the capture, if something did."""
        with self._moved:
            if self._error is not None:
                raise self._error

    def finish(self, start: int, stop: int, timeout_s: float, *, switched: bool) -> list[Path]:
        """End the capture at ``stop``; the segments in order, each of full size. ``switched``: the server began a new
        segment at the end of the backup.

        A primary switches segments at the end of a backup, and the rest of the last one arrives at once. An idle
        standby sends no rest, ever: what recovery needs ends at ``stop``, so the rest is zeroes, which recovery reads
        as the end of the log.
        """
        # 1. All that recovery needs.
        self.wait_for(stop, timeout_s, "waiting for the log up to the backup's end")
        # 2. The rest of the last segment, if it is coming.
        last = stop - 1 - (stop - 1) % self._segment_bytes
        with contextlib.suppress(EngineFailed):
            settle_s = SETTLE_S if switched else 0.0
            self.wait_for(last + self._segment_bytes, settle_s, "waiting for the end of the segment")
        # 3. Stop receiving; later segments are not part of this backup.
        self.close()
        names = []
        for position in segment_positions(start, stop, self._segment_bytes):
            path = self._scratch / segment_name(position, self.timeline, self._segment_bytes)
            if not path.exists():
                raise EngineFailed(doing="capturing the log", reason=f"{path.name} is missing")
            if position == last and path.stat().st_size < self._segment_bytes:
                os.truncate(path, self._segment_bytes)
            names.append(path)
        return names

    def close(self) -> None:
        """End thread, connection and with it the slot. Files stay in ``scratch``."""
        self._closing = True
        if self._thread is not None:
            os.eventfd_write(self._wake, 1)
            self._thread.join()
            self._thread = None
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1
        if self._replication is not None:
            self._replication.close()
            self._replication = None
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # ------------------------------------------------------------ the stream

    def _identify(self) -> None:
        assert self._replication is not None
        ((_, timeline, position, _),) = self._replication.rows("identifying the server's log", "IDENTIFY_SYSTEM")
        self.timeline = int(timeline or 0)
        self._reserved = lsn_number((position or b"0/0").decode())

    def _fetch_history(self) -> None:
        assert self._replication is not None
        wanted = [self.timeline]
        for timeline in wanted:  # grows: each history names its ancestors
            try:
                row = self._replication.rows("reading a timeline's history", f"TIMELINE_HISTORY {timeline}")[0]
            except EngineFailed:  # the server no longer keeps it; the youngest history names all switch points
                self.missing_history.append(f"{timeline:08X}.history")
                continue
            self.history[(row[0] or b"").decode()] = content = row[1] or b""
            for line in content.decode("utf-8", "replace").splitlines():
                fields = line.split()
                if fields and fields[0].isdigit() and int(fields[0]) not in (*wanted, 1):
                    wanted.append(int(fields[0]))

    def _begin_streaming(self) -> None:
        from psycopg import pq

        assert self._replication is not None
        pgconn = self._replication.pgconn
        command = f'START_REPLICATION SLOT "{self.slot}" PHYSICAL {lsn_text(self.received)} TIMELINE {self.timeline}'
        result = pgconn.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            raise EngineFailed(doing="starting to stream the log", reason=self._replication.reason(result))

    def _run(self) -> None:
        try:
            self._receive()
        except IcecoreError as error:
            self._fail(error)
        except OSError as error:
            reason = f"{self._scratch}: {error.strerror}"
            self._fail(EngineFailed(doing="writing the captured log", reason=reason))
        except Exception as error:  # a thread must hand its end to the session, whatever it was
            self._fail(EngineFailed(doing="capturing the log", reason=repr(error)))

    def _fail(self, error: IcecoreError) -> None:
        with self._moved:
            self._error = error
            self._moved.notify_all()

    def _receive(self) -> None:
        assert self._replication is not None
        pgconn = self._replication.pgconn
        feedback_at = 0.0
        while not self._closing:
            if time.monotonic() >= feedback_at:
                self._feedback(pgconn)
                feedback_at = time.monotonic() + FEEDBACK_S
            size, data = pgconn.get_copy_data(1)
            if size == 0:
                left_s = max(0.0, feedback_at - time.monotonic())
                readable, _, _ = select.select([pgconn.socket, self._wake], [], [], left_s)
                if pgconn.socket in readable:
                    pgconn.consume_input()
                continue
            if size < 0:
                raise EngineFailed(doing="streaming the log", reason=self._ended())
            message = memoryview(data)
            if not self._heard:
                with self._moved:
                    self._heard = True
                    self._moved.notify_all()
            if message[0] == ord("w"):
                (position,) = struct.unpack_from("!Q", message, 1)
                self._store(position, message[25:])
            elif message[0] == ord("k") and message[17]:
                self._feedback(pgconn)

    def _ended(self) -> str:
        assert self._replication is not None
        result = self._replication.pgconn.get_result()
        message = result.get_error_message() if result is not None else ""
        if not message.strip() or message == NO_DETAILS:
            return "the server ended this timeline (it was promoted, or follows another server)"
        return " ".join(message.split())

    def _feedback(self, pgconn: object) -> None:
        # A position before the slot's would move the slot back, to log that the next checkpoint removes: the server
        # then ends the stream. Zero leaves it where it is.
        flushed = self.received if self.report_flush and self.received > self._reserved else 0
        now_us = int(time.time() * 1_000_000) - _EPOCH_2000_US
        # Until the stream has spoken, ask it to: an idle server at a segment's edge has no log to send.
        message = b"r" + struct.pack("!QQQQB", self.received, flushed, 0, now_us, not self._heard)
        pgconn.put_copy_data(message)  # type: ignore[attr-defined]
        pgconn.flush()  # type: ignore[attr-defined]

    def _store(self, position: int, data: memoryview) -> None:
        if position != self.received:
            raise EngineFailed(
                doing="streaming the log",
                reason=f"expected position {lsn_text(self.received)}, got {lsn_text(position)}",
            )
        while data.nbytes:
            offset = position % self._segment_bytes
            if self._file_position != position - offset:
                self._next_file(position - offset)
            part = data[: self._segment_bytes - offset]
            done = os.pwrite(self._file, part, offset)
            position += done
            data = data[done:]
        with self._moved:
            self.received = position
            self._moved.notify_all()

    def _next_file(self, position: int) -> None:
        if self._file >= 0:
            os.close(self._file)
        # Scratch space is often the file system of the catalog: leave it room.
        free = shutil.disk_usage(self._scratch).free
        if free < SCRATCH_SPARE_BYTES + self._segment_bytes:
            raise OSError(errno.ENOSPC, f"{free // 2**20} MiB are left for the captured log")
        name = segment_name(position, self.timeline, self._segment_bytes)
        self._file = os.open(self._scratch / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file_position = position
