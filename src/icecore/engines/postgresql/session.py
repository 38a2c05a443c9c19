"""A backup of a server whose data directory is readable here: the low-level interface, step by step.

One guarded SQL session holds the backup from start to stop; a second connection receives the log. Nothing is written
below the source's directory, and nothing stays on the server when this process dies: the session's backup state and
the temporary slot end with their connections.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from icecore.engines import SourceFile
from icecore.engines.postgresql import configuration, facts
from icecore.engines.postgresql.connect import ReplicationConnection, connect_sql, pinned, query
from icecore.engines.postgresql.control import CONTROL_PATH, ControlFile, lsn_number, lsn_text, parse, read_control
from icecore.engines.postgresql.files import LocalFile, PageCheck, PageFaults
from icecore.engines.postgresql.memory import MemoryFile, NoContent, SegmentFile
from icecore.engines.postgresql.source import Source, read_source, require
from icecore.engines.postgresql.wal import LogCapture, check_segment, segment_positions
from icecore.engines.postgresql.walk import Walk
from icecore.errors import Damaged, EngineFailed
from icecore.model import Boundary, FileKind, FileMeta

if TYPE_CHECKING:
    import psycopg

PING_S = 5.0  # alive() asks the server at most this often
LOG_TIMEOUT_S = 120.0

_START = {
    False: "SELECT pg_start_backup(%s, true, false)::text",
    True: "SELECT pg_backup_start(%s, true)::text",
}
_STOP = {
    False: b"SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)",
    True: b"SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)",
}


class Guard:
    """What both ways of copying have in common: the SQL session, the log capture, the clock, the end."""

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
        self._pinged_at = 0.0
        self._sql: psycopg.Connection[Any] | None = None
        self._capture: LogCapture | None = None
        self._source: Source | None = None
        self._warnings: list[str] = []
        self._configuration: dict[str, Any] = {}
        self._started_at = 0
        self._start_lsn = 0
        self._boundary: Boundary | None = None
        self._labels: list[MemoryFile] = []
        self._segments: list[Path] = []

    # ------------------------------------------------------------ contract

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

    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

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


class LocalSession(Guard):
    """Files are read from the data directory by as many threads as the caller likes."""

    ordered = False

    def __init__(self, dsn: str, password: str | None, label: str, scratch: Path, *, retained_limit_bytes: int) -> None:
        super().__init__(dsn, password, label, scratch, retained_limit_bytes, local=True)
        self._faults = PageFaults()
        self._walk: Walk | None = None
        self._omitted: frozenset[str] = frozenset()
        self._control: bytes = b""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._close()
            raise
        return self

    def _start(self) -> None:
        # 1. The log is received before the backup begins: nothing between can be recycled.
        self._open()
        source = self.source
        # 2. A checkpoint, at once; from here on the log holds whole pages.
        modern = source.version_number >= 150000
        rows = query(self.sql, "starting the backup", _START[modern], (self._label,))
        self._start_lsn = lsn_number(rows[0][0])
        self._same_timeline("starting the backup")
        require(
            self._start_lsn >= self.capture.first,
            "starting the backup",
            f"it starts at {lsn_text(self._start_lsn)}, before the captured log ({lsn_text(self.capture.first)})",
        )
        # 3. The capture really is past the start.
        self.capture.wait_for(self._start_lsn, LOG_TIMEOUT_S, "receiving the log of the backup's start")
        # 4. The directory here is the one that this checkpoint went to.
        control = self._read_control()
        require(
            control.redo >= self._start_lsn,
            "starting the backup",
            f"the control file in {source.data_directory} is older than the backup's start: another directory?",
        )
        # 5. Time stamps of files have a second's grain: no file listed below was changed in the start's own second.
        time.sleep(1.0 - time.time() % 1.0)
        self._walk = Walk(
            Path(source.data_directory),
            version_directory=source.version_directory,
            statistics_directory=_below(source.data_directory, source.settings.get("stats_temp_directory", "")),
            secrets=frozenset(configuration.private_files(source)),
        )

    def files(self) -> Iterator[SourceFile]:
        """Directories before their contents. May be run once."""
        check = None
        if self.source.checksums:
            check = PageCheck(
                self._faults,
                page_bytes=self.source.page_bytes,
                pages_per_segment=int(self.source.settings["segment_size"]),
            )
        for found in self.walk.entries():
            if found.meta.kind is FileKind.FILE:
                yield LocalFile(found, check)
            else:
                yield NoContent(found.meta)

    def closing_files(self) -> Iterator[SourceFile]:
        # Last of all: on a standby its minimum recovery point marks where the copied files become consistent.
        status = (Path(self.source.data_directory) / CONTROL_PATH).stat()
        self._read_control()
        yield MemoryFile(CONTROL_PATH, self._control, int(status.st_mtime), status.st_mode & 0o7777)

    def stop(self) -> Boundary:
        source = self.source
        # 1. Relations that turned out to be unlogged while they were read.
        self._omitted = self.walk.omitted()
        # 2. Still the server, the role and the timeline it was.
        self._pinged_at = 0.0
        self.alive()
        # 3. The moment this backup stands for.
        replayed = 0
        if source.in_recovery:
            consistent_at, replayed = self._replayed_moment()
        else:
            consistent_at = int(self._clock())
        # 4. The end, in the same session; labels as the server's own bytes.
        stop_lsn = self._stop_on_server()
        self._same_timeline("stopping the backup")
        if source.in_recovery and self._control:
            minimum = parse(self._control).minimum_recovery_point
            require(
                minimum <= stop_lsn,
                "stopping the backup",
                f"the copied control file needs the log up to {lsn_text(minimum)}, it ends at {lsn_text(stop_lsn)}",
            )
        # 5. The log up to there. A standby's end is its recovery point; commits that it replayed since have their log
        #    behind that, and they were promised.
        boundary = self._bound(max(stop_lsn, replayed), consistent_at)
        self._warnings += self.walk.warnings
        return boundary

    def omitted(self) -> frozenset[str]:
        return self._omitted

    def warnings(self) -> tuple[str, ...]:
        return (*self._warnings, *self._faults.warnings())

    def facts(self) -> dict[str, Any]:
        return facts.collect(
            self.source,
            configuration=self._configuration,
            route="files",
            links=self.walk.links,
            tablespace_bytes=self.walk.tablespace_bytes,
        ) | facts.locales(self.sql)

    # ------------------------------------------------------------ parts

    @property
    def walk(self) -> Walk:
        assert self._walk is not None, "the session is not open"
        return self._walk

    def _read_control(self) -> ControlFile:
        try:
            self._control = read_control(Path(self.source.data_directory))
        except (OSError, Damaged) as error:
            raise EngineFailed(doing=f"reading {CONTROL_PATH}", reason=str(error)) from error
        return parse(self._control)

    def _stop_on_server(self) -> int:
        from psycopg import pq

        pgconn = self.sql.pgconn
        with self._lock:
            # No conversion on the way: a tablespace's path need not be valid in any encoding.
            for command in (b"SET client_encoding = 'SQL_ASCII'", _STOP[self.source.version_number >= 150000]):
                result = pgconn.exec_(command)
                if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                    raise EngineFailed(doing="stopping the backup", reason=" ".join(result.get_error_message().split()))
            pgconn.exec_(b"SET client_encoding = 'UTF8'")
        now = int(time.time())
        self._labels = [MemoryFile("backup_label", result.get_value(0, 1) or b"", now)]
        spaces = result.get_value(0, 2)
        if spaces and spaces.strip():
            self._labels.append(MemoryFile("tablespace_map", spaces, now))
        return lsn_number((result.get_value(0, 0) or b"0/0").decode())


def _below(directory: str, path: str) -> str:
    """``path`` relative to ``directory``; "pg_stat_tmp" when it is elsewhere or unset."""
    if path and not path.startswith("/"):
        return path.rstrip("/")
    if path.startswith(directory.rstrip("/") + "/"):
        return path[len(directory.rstrip("/")) + 1 :].rstrip("/")
    return "pg_stat_tmp"
