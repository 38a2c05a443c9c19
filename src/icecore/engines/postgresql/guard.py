"""What both ways of copying a server have in common: one guarded SQL session, the log capture, the clock, the end.

The session holds the backup from start to stop; a second connection receives the log. Nothing stays on the server when
this process dies: the session's backup state and the temporary slot end with their connections.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from icecore.engines import SourceFile
from icecore.engines.postgresql import configuration, facts
from icecore.engines.postgresql.connect import ReplicationConnection, connect_sql, pinned, query
from icecore.engines.postgresql.control import lsn_number, lsn_text
from icecore.engines.postgresql.files import PageFaults
from icecore.engines.postgresql.memory import MemoryFile, SegmentFile
from icecore.engines.postgresql.source import Source, read_source, require
from icecore.engines.postgresql.wal import LogCapture, check_segment, segment_positions
from icecore.errors import Damaged, EngineFailed
from icecore.model import Boundary, FileKind, FileMeta

if TYPE_CHECKING:
    import psycopg

PING_S = 5.0  # alive() asks the server at most this often
LOG_TIMEOUT_S = 120.0


class Guard:
    """``LocalSession`` and ``StreamSession`` add how files are read and how the server is told to start and stop."""

    def __init__(
        self, dsn: str, password: str | None, label: str, scratch: Path, retained_limit_bytes: int, local: bool
    ) -> None:
        self._dsn = dsn
        self._password = password
        self._label = label
        self._scratch = scratch
        self._retained_limit_bytes = retained_limit_bytes
        self._local = local
        self._lock = threading.RLock()
        self._given_up = threading.Event()
        self._pinged_at = 0.0
        self._sql: psycopg.Connection[Any] | None = None
        self._capture: LogCapture | None = None
        self._source: Source | None = None
        self._warnings: list[str] = []
        self._faults = PageFaults()
        self._omitted: frozenset[str] = frozenset()
        self._configuration: dict[str, Any] = {}
        self._started_at = 0
        self._start_lsn = 0
        self._boundary: Boundary | None = None
        self._labels: list[MemoryFile] = []
        self._segments: list[Path] = []

    # ------------------------------------------------------------ contract

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def give_up(self) -> None:
        self._given_up.set()

    def alive(self) -> None:
        """Raise ``EngineFailed`` when the session is lost, the server was promoted, or it keeps too much log for us."""
        if self._boundary is not None:
            return  # the backup has ended on the server, and with it the slot
        self.capture.check()
        with self._lock:
            if time.monotonic() - self._pinged_at < PING_S:
                return
            doing = "keeping the backup's session"
            self._same_timeline(doing)
            ((retained, status, synchronous),) = query(
                self.sql,
                doing,
                """SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                               ELSE pg_current_wal_lsn() END, s.restart_lsn)::bigint,
                          coalesce(s.wal_status, 'lost'), current_setting('synchronous_standby_names')
                   FROM (SELECT) one LEFT JOIN pg_replication_slots s ON s.slot_name = %s""",
                (self.capture.slot,),
            )
            require(
                status not in ("lost", "unreserved"), doing, f"the log for this backup is no longer kept ({status})"
            )
            if synchronous and not self.source.in_recovery:
                self.capture.report_flush = False
            limit = self._retained_limit_bytes
            require(
                int(retained or 0) <= limit,
                doing,
                f"the server keeps {int(retained or 0) // 2**20} MiB of log for this backup, more than the limit of "
                f"{limit // 2**20} MiB: the log grows faster than it is received",
            )
            self._pinged_at = time.monotonic()

    def tail_files(self) -> Iterator[SourceFile]:
        """The labels, the log's segments, the histories of this timeline and its ancestors."""
        yield from self._labels
        source = self.source
        positions = segment_positions(self._start_lsn, lsn_number(self.boundary.stop_position), source.segment_bytes)
        for position, path in zip(positions, self._segments, strict=True):
            with (
                path.open("rb") as file,
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
                memoryview(mapped) as view,
            ):
                try:
                    check_segment(
                        view,
                        position=position,
                        stop=lsn_number(self.boundary.stop_position),
                        major=source.major,
                        timeline=self.capture.timeline,
                        system_identifier=source.system_identifier,
                        segment_bytes=source.segment_bytes,
                        page_bytes=int(source.settings["wal_block_size"]),
                    )
                except Damaged as error:  # of the server's doing, not the repository's: another attempt may do better
                    raise EngineFailed(doing="checking the captured log", reason=error.message) from error
            meta = FileMeta(f"pg_wal/{path.name}", FileKind.FILE, 0o600, self.boundary.stopped_at, source.segment_bytes)
            yield SegmentFile(meta, path)
        for name, content in sorted(self.capture.history.items()):
            yield MemoryFile(f"pg_wal/{name}", content, self.boundary.stopped_at)

    def omitted(self) -> frozenset[str]:
        return self._omitted

    def warnings(self) -> tuple[str, ...]:
        return (*self._warnings, *self._faults.warnings())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    # ------------------------------------------------------------ parts

    @property
    def sql(self) -> psycopg.Connection[Any]:
        assert self._sql is not None, "the session is not open"
        return self._sql

    @property
    def capture(self) -> LogCapture:
        assert self._capture is not None, "the session is not open"
        return self._capture

    @property
    def source(self) -> Source:
        assert self._source is not None, "the session is not open"
        return self._source

    @property
    def boundary(self) -> Boundary:
        assert self._boundary is not None, "the backup has not been stopped"
        return self._boundary

    def _start(self) -> None:
        """Up to the first file."""
        raise NotImplementedError

    def _begins_at(self, position: str) -> None:
        """Where the server says that the backup begins: the log from there on is captured, and some of it is here."""
        self._start_lsn = lsn_number(position)
        require(
            self._start_lsn >= self.capture.first,
            "starting the backup",
            f"it starts at {position}, before the captured log ({lsn_text(self.capture.first)})",
        )
        self.capture.wait_for(self._start_lsn, LOG_TIMEOUT_S, "receiving the log of the backup's start")

    def _facts(self, route: str, links: Mapping[str, str], tablespace_bytes: Mapping[str, int]) -> dict[str, Any]:
        found = facts.collect(
            self.source,
            configuration=self._configuration,
            route=route,
            links=links,
            tablespace_bytes=tablespace_bytes,
        )
        return found | facts.locales(self.sql)

    def _open(self) -> None:
        """Connection, the server's account of itself, and a log capture that is proven to run."""
        self._sql = connect_sql(self._dsn, self._password)
        self._dsn = pinned(self._sql, self._dsn)
        self._source = read_source(self._sql)
        self._configuration, notes = configuration.collect(self._sql, self._source, self._local)
        self._warnings += notes
        self._capture = LogCapture(
            lambda: ReplicationConnection(self._dsn, self._password),
            self._scratch,
            segment_bytes=self._source.segment_bytes,
            report_flush=self._source.in_recovery or not self._source.settings.get("synchronous_standby_names"),
        )
        self._capture.start(self._redo if self._source.in_recovery else None, LOG_TIMEOUT_S)
        self._warnings += [f"{name} is no longer kept by the server" for name in self._capture.missing_history]
        self._started_at = int(self._clock())

    def _redo(self) -> int:
        rows = query(self.sql, "reading the checkpoint", "SELECT redo_lsn::text FROM pg_control_checkpoint()")
        return lsn_number(rows[0][0])

    def _clock(self) -> float:
        rows = query(self.sql, "reading the clock", "SELECT extract(epoch FROM clock_timestamp())::float8")
        return float(rows[0][0])

    def _replayed_moment(self) -> tuple[int, int]:
        """On a standby: the second of the last commit it replayed (of its checkpoint when it replayed none), and a
        log position after that commit."""
        doing = "reading the last replayed commit"
        ((moment,),) = query(
            self.sql,
            doing,
            """SELECT extract(epoch FROM coalesce(pg_last_xact_replay_timestamp(), c.checkpoint_time))::float8
               FROM pg_control_checkpoint() c""",
        )
        ((position,),) = query(self.sql, doing, "SELECT pg_last_wal_replay_lsn()::text")
        return int(float(moment)), lsn_number(position)

    def _bound(self, stop_lsn: int, consistent_at: int) -> Boundary:
        """The log up to the end is here; what the backup spans."""
        source = self.source
        self._segments = self.capture.finish(self._start_lsn, stop_lsn, LOG_TIMEOUT_S, switched=not source.in_recovery)
        self._boundary = Boundary(
            start_position=lsn_text(self._start_lsn),
            stop_position=lsn_text(stop_lsn),
            timeline=self.capture.timeline,
            started_at=self._started_at,
            stopped_at=int(self._clock()),
            consistent_at=consistent_at,
        )
        return self._boundary

    def _same_timeline(self, doing: str) -> None:
        """A promotion ends the backup's worth. A primary's timeline is in its log file's name; a standby's control
        file may lag behind what its receiver knows."""
        ((in_recovery,),) = query(self.sql, doing, "SELECT pg_is_in_recovery()")
        require(in_recovery == self.source.in_recovery, doing, "the server was promoted during the backup")
        ((timeline,),) = query(
            self.sql,
            doing,
            """SELECT coalesce(max(received_tli), max(c.timeline_id))
               FROM pg_control_checkpoint() c LEFT JOIN pg_stat_wal_receiver ON true"""
            if in_recovery
            else "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int",
        )
        require(timeline == self.capture.timeline, doing, "the server changed its timeline during the backup")

    def _close(self) -> None:
        # The slot goes with the capture's connection, an unfinished backup with the session's.
        if self._capture is not None:
            self._capture.close()
        if self._sql is not None:
            self._sql.close()
        for path in self._scratch.glob("*"):
            path.unlink(missing_ok=True)
