"""The log of a server, received without end through a slot of its own that outlives connections.

What the slot holds back the server keeps, whoever is away for how long: ``acknowledge`` only moves it on for what is
durable elsewhere. psycopg speaks the replication protocol at libpq's level.
"""

from __future__ import annotations

import contextlib
import re
import select
import struct
import time
from typing import TYPE_CHECKING, Any

from icecore.engines import LogChunk, LogServer, TimelineEnded
from icecore.engines.postgresql.connect import ReplicationConnection, connect_sql, pinned, query
from icecore.engines.postgresql.control import lsn_number, lsn_text, switch_points
from icecore.engines.postgresql.records import EPOCH_2000_US, Records
from icecore.engines.postgresql.wal import FEEDBACK_S, NO_DETAILS
from icecore.errors import EngineFailed, LogGone

if TYPE_CHECKING:
    import psycopg

_GONE = "has already been removed"  # the server's words for log it no longer has


class LogStream:
    """One connection's life; ``close`` leaves the slot. Not shared between threads."""

    def __init__(self, dsn: str, password: str | None, slot: str) -> None:
        self._dsn, self._password, self._slot = dsn, password, slot
        self._sql: psycopg.Connection[Any] | None = None
        self._replication: ReplicationConnection | None = None
        self._received = self._durable = self._reserved = 0
        self._feedback_at = 0.0
        self._in_recovery = False

    # ------------------------------------------------------------ before streaming

    def open(self) -> LogServer:
        """Connect, and make sure of the slot. A slot that lost its log is made anew."""
        # 1. Who the server is
        self._sql = connect_sql(self._dsn, self._password)
        dsn = pinned(self._sql, self._dsn)
        ((version, segment_bytes, page_bytes, self._in_recovery),) = query(
            self._sql,
            "asking the server about its log",
            """SELECT current_setting('server_version_num')::int,
                      (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
                      current_setting('wal_block_size')::int, pg_is_in_recovery()""",
        )
        self._replication = ReplicationConnection(dsn, self._password)
        ((system, timeline, position, _),) = self._replication.rows("identifying the server's log", "IDENTIFY_SYSTEM")
        # 2. Its slot for us
        reserved = self._slot_position()
        if not reserved:
            with contextlib.suppress(EngineFailed):
                self._replication.rows("dropping a slot", f'DROP_REPLICATION_SLOT "{self._slot}"')
            self._replication.rows("making a slot", f'CREATE_REPLICATION_SLOT "{self._slot}" PHYSICAL RESERVE_WAL')
            reserved = self._slot_position()
        self._reserved = reserved
        # 3. Where its timeline comes from
        history = self.history(int(timeline or 0)) if int(timeline or 0) > 1 else b""
        return LogServer(
            identity=(system or b"").decode(),
            major=str(int(version) // 10000),
            timeline=int(timeline or 0),
            position=lsn_number((position or b"0/0").decode()),
            reserved=reserved - reserved % int(segment_bytes),
            segment_bytes=int(segment_bytes),
            page_bytes=int(page_bytes),
            switches=switch_points(history),
            history=history,
        )

    def _slot_position(self) -> int:
        assert self._sql is not None
        rows = query(
            self._sql,
            "looking at our slot",
            """SELECT restart_lsn::text FROM pg_replication_slots
               WHERE slot_name = %s AND coalesce(wal_status, 'lost') <> 'lost'""",
            (self._slot,),
        )
        return lsn_number(rows[0][0]) if rows and rows[0][0] else 0

    def history(self, timeline: int) -> bytes:
        assert self._replication is not None
        row = self._replication.rows("reading a timeline's history", f"TIMELINE_HISTORY {timeline}")[0]
        return row[1] or b""

    def start(self, timeline: int, position: int) -> None:
        """Errors: LogGone: the server no longer has the log from there on."""
        from psycopg import pq

        assert self._replication is not None
        command = f'START_REPLICATION SLOT "{self._slot}" PHYSICAL {lsn_text(position)} TIMELINE {timeline}'
        result = self._replication.pgconn.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            reason = self._replication.reason(result)
            if _GONE in reason:
                raise LogGone(reason=reason)
            raise EngineFailed(doing="starting to stream the log", reason=reason)
        self._received = position

    def records(self, server: LogServer, position: int) -> Records:
        return Records(position, major=server.major, segment_bytes=server.segment_bytes, page_bytes=server.page_bytes)

    # ------------------------------------------------------------ streaming

    def receive(self, timeout_s: float) -> LogChunk | None:
        """The next piece; None when nothing came in time. Errors: TimelineEnded, LogGone."""
        assert self._replication is not None
        pgconn = self._replication.pgconn
        deadline = time.monotonic() + timeout_s
        while True:
            if time.monotonic() >= self._feedback_at:
                self._feedback()
            size, data = pgconn.get_copy_data(1)
            if size < 0:
                self._ended()
            if size > 0:
                message = memoryview(data)
                if message[0] == ord("w"):
                    position, server_end, sent = struct.unpack_from("!QQq", message, 1)
                    if position != self._received:
                        reason = f"expected position {lsn_text(self._received)}, got {lsn_text(position)}"
                        raise EngineFailed(doing="streaming the log", reason=reason)
                    self._received += len(message) - 25
                    return LogChunk(position, bytes(message[25:]), server_end, sent + EPOCH_2000_US)
                if message[0] == ord("k") and message[17]:
                    self._feedback()
                continue
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            wait_s = max(0.0, min(left_s, self._feedback_at - time.monotonic()))
            if select.select([pgconn.socket], [], [], wait_s)[0]:
                try:
                    pgconn.consume_input()
                except Exception as error:  # libpq's only word for a lost connection
                    raise EngineFailed(doing="streaming the log", reason=" ".join(str(error).split())) from error

    def acknowledge(self, position: int) -> None:
        """All before ``position`` is durable elsewhere: the server may forget it."""
        self._durable = position
        self._feedback()

    def quiet_at_us(self, position: int) -> int:
        """The server's clock, if it had written nothing after ``position`` at that moment; else 0. A standby's clock is
        not the one that its commits were timed with."""
        assert self._sql is not None
        if self._in_recovery:
            ((still,),) = query(self._sql, "asking for the server's role", "SELECT pg_is_in_recovery()")
            self._in_recovery = bool(still)
            return 0
        # The clock first: whoever was answered before it had inserted what it wrote
        ((now_us,),) = query(
            self._sql,
            "reading the clock",
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
        )
        ((written,),) = query(self._sql, "asking how far the log is", "SELECT pg_current_wal_insert_lsn()::text")
        # At a page's end the server already counts the next page's header
        beyond = lsn_number(written) - position
        return int(now_us) if beyond == 0 or (0 < beyond <= 40 and position % 8192 == 0) else 0

    def server_position(self) -> int:
        assert self._sql is not None
        ((written,),) = query(
            self._sql,
            "asking how far the log is",
            """SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_receive_lsn()
                            ELSE pg_current_wal_insert_lsn() END)::text""",
        )
        return lsn_number(written) if written else 0

    def _feedback(self) -> None:
        assert self._replication is not None
        # A position before the slot's would move the slot back, to log that may be gone. Zero leaves it where it is.
        flushed = self._durable if self._durable > self._reserved else 0
        now_us = int(time.time() * 1_000_000) - EPOCH_2000_US
        try:
            self._replication.pgconn.put_copy_data(
                b"r" + struct.pack("!QQQQB", max(self._received, flushed), flushed, 0, now_us, 0)
            )
            self._replication.pgconn.flush()
        except Exception as error:
            raise EngineFailed(doing="streaming the log", reason=" ".join(str(error).split())) from error
        self._feedback_at = time.monotonic() + FEEDBACK_S

    def _ended(self) -> None:
        """Why the stream came to its end: the timeline's, or a failure."""
        from psycopg import pq

        assert self._replication is not None
        pgconn = self._replication.pgconn
        result = pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.COPY_IN:  # ours to end, too
            pgconn.put_copy_end()
            result = pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.TUPLES_OK and result.ntuples:
            following, position = result.get_value(0, 0), result.get_value(0, 1)
            while pgconn.get_result() is not None:
                pass
            raise TimelineEnded(int(following or 0), lsn_number((position or b"0/0").decode()))
        reason = self._replication.reason(result)
        if _GONE in reason:
            raise LogGone(reason=reason)
        if not reason.strip() or reason == NO_DETAILS:
            reason = "the server ended the stream"
        raise EngineFailed(doing="streaming the log", reason=reason)

    def close(self) -> None:
        if self._replication is not None:
            self._replication.close()
            self._replication = None
        if self._sql is not None:
            self._sql.close()
            self._sql = None


def slot_of(cluster_id: str) -> str:
    """A slot's name has lower-case letters, digits and underscores."""
    return "icecore_log_" + re.sub(r"[^a-z0-9]", "_", cluster_id)[-50:]


def drop_slot(dsn: str, password: str | None, slot: str) -> None:
    """The server need not keep log for us any more. EngineFailed while somebody still receives from it."""
    with connect_sql(dsn, password) as connection:
        query(
            connection,
            "dropping our slot",
            """SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
               WHERE slot_name = %s AND NOT active""",
            (slot,),
        )
        if query(
            connection, "looking for our slot", "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", (slot,)
        ):
            raise EngineFailed(doing="dropping our slot", reason="it is still received from")
