"""A backup of a server whose data directory is readable here: the low-level interface, step by step.

Nothing is written below the source's directory. ``guard`` has the session and the log capture.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from icecore.engines import SourceFile
from icecore.engines.postgresql import configuration
from icecore.engines.postgresql.connect import query
from icecore.engines.postgresql.control import CONTROL_PATH, ControlFile, lsn_number, lsn_text, parse, read_control
from icecore.engines.postgresql.files import LocalFile, PageCheck
from icecore.engines.postgresql.guard import Guard
from icecore.engines.postgresql.memory import MemoryFile, NoContent
from icecore.engines.postgresql.source import require
from icecore.engines.postgresql.walk import Walk, found_again
from icecore.errors import Damaged, EngineFailed
from icecore.model import Boundary, FileKind, FileMeta

_START = {
    False: "SELECT pg_start_backup(%s, true, false)::text",
    True: "SELECT pg_backup_start(%s, true)::text",
}
_STOP = {
    False: b"SELECT lsn::text, labelfile, spcmapfile FROM pg_stop_backup(false, false)",
    True: b"SELECT lsn::text, labelfile, spcmapfile FROM pg_backup_stop(false)",
}


class LocalSession(Guard):
    """Files are read from the data directory by as many threads as the caller likes."""

    ordered = False

    def __init__(self, dsn: str, password: str | None, label: str, scratch: Path, *, retained_limit_bytes: int) -> None:
        super().__init__(dsn, password, label, scratch, retained_limit_bytes, local=True)
        self._checks: PageCheck | None = None  # where the server has page checksums
        self._walk: Walk | None = None
        self._control: bytes = b""

    def _start(self) -> None:
        # 1. The log is received before the backup begins: nothing between can be recycled.
        self._open()
        source = self.source
        # 2. A checkpoint, at once; from here on the log holds whole pages.
        modern = source.version_number >= 150000
        rows = query(self.sql, "starting the backup", _START[modern], (self._label,))
        self._same_timeline("starting the backup")
        # 3. The capture really is past the start.
        self._begins_at(rows[0][0])
        # 4. The directory here is the one that this checkpoint went to.
        control = self._read_control()
        require(
            control.redo >= self._start_lsn,
            "starting the backup",
            f"the control file in {source.data_directory} is older than the backup's start: another directory?",
        )
        if source.checksums:
            self._checks = PageCheck(
                self._faults,
                page_bytes=source.page_bytes,
                pages_per_segment=int(source.settings["segment_size"]),
            )
        self._walk = Walk(
            Path(source.data_directory),
            version_directory=source.version_directory,
            statistics_directory=_below(source.data_directory, source.settings.get("stats_temp_directory", "")),
            secrets=frozenset(configuration.private_files(source)),
        )

    def neighbours(self) -> tuple[Path, ...]:
        """Beside the data directory and beside each tablespace, where that is the same file system (behind a mount
        point it is not) and not the data directory itself (a tablespace may lie inside)."""
        data = Path(os.path.realpath(self.source.data_directory))
        spaces = [Path(os.path.realpath(link)) for link in sorted((data / "pg_tblspc").iterdir(), key=_by_number)]
        places = (place for place in (data, *spaces) if not place.parent.is_relative_to(data))
        return tuple(dict.fromkeys(place.parent for place in places if _beside(place)))

    def files(self) -> Iterator[SourceFile]:
        """Directories before their contents. May be run once."""
        for found in self.walk.entries():
            if found.meta.kind is FileKind.FILE:
                yield LocalFile(found, self._checks)
            else:
                yield NoContent(found.meta)

    def file(self, meta: FileMeta) -> SourceFile:
        if meta.kind is not FileKind.FILE:
            return NoContent(meta)
        return LocalFile(found_again(meta, f"{self.source.data_directory}/{meta.path}"), self._checks)

    def cloned(self, meta: FileMeta, clone: str) -> SourceFile:
        return LocalFile(found_again(meta, clone), self._checks, may_vanish=False)

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

    def facts(self) -> dict[str, Any]:
        return self._facts("files", self.walk.links, self.walk.tablespace_bytes)

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


def _by_number(link: Path) -> tuple[int, str]:
    """A newer tablespace comes later: where images lie does not change with it."""
    return len(link.name), link.name


def _beside(place: Path) -> bool:
    """Whether the directory above is on the same file system."""
    try:
        return place.stat().st_dev == place.parent.stat().st_dev
    except OSError:
        return False  # a tablespace that cannot be seen: the walk says so


def _below(directory: str, path: str) -> str:
    """``path`` relative to ``directory``; "pg_stat_tmp" when it is elsewhere or unset."""
    if path and not path.startswith("/"):
        return path.rstrip("/")
    if path.startswith(directory.rstrip("/") + "/"):
        return path[len(directory.rstrip("/")) + 1 :].rstrip("/")
    return "pg_stat_tmp"
