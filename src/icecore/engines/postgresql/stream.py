"""A backup of a server whose files cannot be read here: ``BASE_BACKUP``, with the same result as ``session``.

The server walks its data directory and sends tar archives, tablespaces first, ``global/pg_control`` last. What
``walk`` leaves out is left out here, too. Page checksums are verified on this side (``VERIFY_CHECKSUMS`` is off): the
server's own check names the file in its log only and, with a single bad page, fails the whole backup after everything
was sent, so that a slightly damaged cluster could never be backed up. A page that fails is read again through SQL
where the role may do that; else a page changed since the backup began, by its own log position, counts as being
written just then.
"""

from __future__ import annotations

import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from icecore.engines import SourceFile
from icecore.engines.postgresql.connect import ReplicationConnection, query, table
from icecore.engines.postgresql.control import CONTROL_PATH, lsn_number, parse
from icecore.engines.postgresql.guard import Guard
from icecore.engines.postgresql.memory import MemoryFile, NoContent
from icecore.engines.postgresql.pages import bad_pages
from icecore.engines.postgresql.source import require
from icecore.engines.postgresql.tarstream import Archive, ByteStream, Member, cut_short
from icecore.engines.postgresql.walk import Relation, holds_relations, left_out, relation_of
from icecore.errors import Damaged, EngineFailed
from icecore.model import Boundary, FileKind, FileMeta

SAMPLE_S = 0.5
LOOK_UP_S = 0.5
SILENCE_S = 300.0  # a stream that sends nothing for so long is dead
_IN_MEMORY = ("backup_label", "tablespace_map")
_WHOLE_BYTES = 64 * 1024**2  # no label is larger


class StreamSession(Guard):
    """Files come one after the other, each to be read wholly before the next."""

    ordered = True

    def __init__(self, dsn: str, password: str | None, label: str, scratch: Path, *, retained_limit_bytes: int) -> None:
        super().__init__(dsn, password, label, scratch, retained_limit_bytes, local=False)
        self._backup: ReplicationConnection | None = None
        self._archives: list[tuple[str, str]] = []  # tablespace oid ("" for the main directory) and location
        self._control: MemoryFile | None = None
        self._sampled_at = 0.0
        self._consistent_at = 0
        self._replayed = 0
        self._tablespace_bytes: dict[str, int] = {}
        self._listed: dict[str, dict[int, list[str]]] = {}  # directory -> relation -> its files without an init fork
        self._init_seen: dict[str, set[int]] = {}
        self._end: list[bytes | None] | None = None

    # ------------------------------------------------------------ contract

    def files(self) -> Iterator[SourceFile]:
        yield from self._tablespace_entries()
        seen = {f"pg_tblspc/{oid}" for oid, _ in self._archives if oid} | {"pg_tblspc"}
        for prefix, archive in self._streamed_archives():
            for member in archive.members():
                path = f"{prefix}/{member.name}" if prefix else member.name
                self._sample()
                # 1. What must come last, or is asked for after the end, is kept until then.
                if path == CONTROL_PATH:
                    content = _whole(archive, member)
                    try:
                        parse(content)
                    except Damaged as error:  # a torn read on the server's side; it has one try only
                        raise EngineFailed(doing=f"receiving {path}", reason=error.message) from error
                    self._control = MemoryFile(path, content, member.mtime_s, member.mode)
                    return
                if path in _IN_MEMORY:
                    self._labels.append(MemoryFile(path, _whole(archive, member), member.mtime_s))
                    continue
                # 2. The server sends more than belongs into a backup: `standby.signal`, for one.
                folder, _, name = path.rpartition("/")
                if path in seen or name in ("", ".") or left_out(folder, name):
                    continue
                if member.kind is FileKind.DIRECTORY:
                    yield NoContent(FileMeta(path, member.kind, member.mode, member.mtime_s))
                elif member.kind is FileKind.FILE:
                    relation = relation_of(name) if holds_relations(folder) else None
                    self._note(folder, name, relation)
                    if path.startswith("pg_tblspc/"):
                        oid = path.split("/")[1]
                        self._tablespace_bytes[oid] = self._tablespace_bytes.get(oid, 0) + member.size_bytes
                    yield StreamFile(self, archive, member, path, relation)
                else:
                    self._warnings.append(f"{path}: a link to {member.target}; what it leads to is not in the backup")

    def closing_files(self) -> Iterator[SourceFile]:
        if self._control is None:
            raise EngineFailed(doing="reading the backup stream", reason=f"it ended without {CONTROL_PATH}")
        yield self._control

    def stop(self) -> Boundary:
        source, doing = self.source, "ending the backup stream"
        # 1. Nothing but padding is left in the archive; then the server stops the backup and names its end.
        while self._message() is not None:
            pass
        end = self._end_row()
        stop_lsn = lsn_number((end[0] or b"0/0").decode())
        require(int(end[1] or 0) == self.capture.timeline, doing, "the server changed its timeline during the backup")
        self._same_timeline(doing)
        if source.in_recovery:
            # Commits up to the sampled moment may lie after the standby's recovery point: their log belongs to us.
            stop_lsn = max(stop_lsn, self._replayed)
        # 2. Relations whose init fork was seen too late.
        self._omitted = self._late_unlogged()
        # 3. The log up to there.
        return self._bound(stop_lsn, self._consistent_at)

    def facts(self) -> dict[str, Any]:
        return self._facts("stream", {}, self._tablespace_bytes)

    # ------------------------------------------------------------ start

    def _start(self) -> None:
        # 1. The log is received before the backup begins.
        self._open()
        self._consistent_at = self._moment()
        # 2. The backup, on a walsender of its own; its first answer comes after the checkpoint.
        self._backup = ReplicationConnection(self._dsn, self._password)
        self._backup.pgconn.send_query(self._command().encode())
        ((position, _),) = self._rows("starting the backup")
        # 3. Its archives: one for each tablespace, the main directory last.
        for oid, location, _ in self._rows("listing the tablespaces"):
            self._archives.append(((oid or b"").decode(), (location or b"").decode("utf-8", "surrogateescape")))
        self._begins_at((position or b"0/0").decode())

    def _command(self) -> str:
        label = "'" + self._label.replace("'", "''") + "'"
        if self.source.version_number >= 150000:
            return (
                f"BASE_BACKUP (LABEL {label}, CHECKPOINT 'fast', WAIT 0, TABLESPACE_MAP 1, MANIFEST 'no', "
                "VERIFY_CHECKSUMS 0)"
            )
        return f"BASE_BACKUP LABEL {label} FAST NOWAIT TABLESPACE_MAP NOVERIFY_CHECKSUMS"

    def _rows(self, doing: str) -> list[list[bytes | None]]:
        from psycopg import pq

        result = self.backup.pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            raise EngineFailed(doing=doing, reason=self.backup.reason(result))
        return table(result)

    @property
    def backup(self) -> ReplicationConnection:
        assert self._backup is not None, "the session is not open"
        return self._backup

    def _close(self) -> None:
        if self._backup is not None:
            # An unfinished stream ends with its connection, and with it the backup on the server.
            self._backup.close()
            self._backup = None
        super()._close()

    # ------------------------------------------------------------ the stream

    def _tablespace_entries(self) -> Iterator[SourceFile]:
        mode = int(self.source.settings.get("data_directory_mode", "0700"), 8)
        yield NoContent(FileMeta("pg_tblspc", FileKind.DIRECTORY, mode, self._started_at))
        for oid, location in self._archives:
            if location.startswith("/"):
                yield NoContent(
                    FileMeta(f"pg_tblspc/{oid}", FileKind.SYMLINK, 0o777, self._started_at, target=location)
                )
            elif oid:  # in place: a plain directory
                yield NoContent(FileMeta(f"pg_tblspc/{oid}", FileKind.DIRECTORY, mode, self._started_at))

    def _streamed_archives(self) -> Iterator[tuple[str, Archive]]:
        """Each archive with the path that its names stand below."""
        if self.source.version_number < 150000:
            # One copy stream for each archive, in the order announced.
            for oid, _ in self._archives:
                self._expect_copy()
                yield (f"pg_tblspc/{oid}" if oid else ""), Archive(ByteStream(self._message))
            return
        # One copy stream for all; a message says where the next archive begins.
        self._expect_copy()
        while (message := self._message()) is not None:
            if message[0] != ord("n"):
                continue  # the empty blocks at the end of the archive before, or progress
            name = bytes(message[1:]).split(b"\0", 1)[0].decode()
            oid = name.split(".", 1)[0]
            yield (f"pg_tblspc/{oid}" if oid != "base" else ""), Archive(ByteStream(self._archive_data))

    def _archive_data(self) -> memoryview | None:
        """Content of the present archive."""
        while True:
            message = self._message()
            if message is None:
                return None
            if message[0] == ord("d"):
                return message[1:]
            require(message[0] == ord("p"), "reading the backup stream", "an archive ended too early")

    def _expect_copy(self) -> None:
        from psycopg import pq

        result = self.backup.pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_OUT:
            raise EngineFailed(doing="reading the backup stream", reason=self.backup.reason(result))

    def _message(self) -> memoryview | None:
        """The next message of the copy stream, nothing at its end."""
        from psycopg import errors as server_errors

        pgconn = self.backup.pgconn
        silent_since = time.monotonic()
        try:
            while True:
                size, data = pgconn.get_copy_data(1)
                if size > 0:
                    return memoryview(data)
                if size < 0:
                    return None
                readable, _, _ = select.select([pgconn.socket], [], [], LOOK_UP_S)
                if readable:
                    pgconn.consume_input()
                    silent_since = time.monotonic()
                self.capture.check()
                require(not self._given_up.is_set(), "reading the backup stream", "it is not wanted any more")
                require(
                    time.monotonic() - silent_since < SILENCE_S,
                    "reading the backup stream",
                    f"the server sent nothing for {SILENCE_S:.0f} s",
                )
        except server_errors.Error as error:
            raise EngineFailed(doing="reading the backup stream", reason=" ".join(str(error).split())) from error

    def _end_row(self) -> list[bytes | None]:
        """After the last copy stream: the end's position and timeline."""
        from psycopg import pq

        rows: list[list[bytes | None]] = []
        while (result := self.backup.pgconn.get_result()) is not None:
            if result.status == pq.ExecStatus.COPY_OUT:
                while self._message() is not None:
                    pass
            elif result.status == pq.ExecStatus.TUPLES_OK:
                rows = table(result)
            elif result.status != pq.ExecStatus.COMMAND_OK:
                raise EngineFailed(doing="ending the backup stream", reason=self.backup.reason(result))
        if not rows:
            raise cut_short()
        return rows[0]

    # ------------------------------------------------------------ time

    def _sample(self) -> None:
        """The backup's moment: the server's clock while it was still sending files, hence before it stopped.

        Asking when everything has arrived would be too late: the server stops the backup by itself, and what it
        sent before that may still be under way.
        """
        if time.monotonic() - self._sampled_at < SAMPLE_S:
            return
        moment = self._moment()
        phases = query(
            self.sql,
            "asking for the backup's phase",
            "SELECT phase FROM pg_stat_progress_basebackup WHERE pid = %s",
            (self.backup.pgconn.backend_pid,),
        )
        if phases and phases[0][0] == "streaming database files":
            self._consistent_at = moment
        self._sampled_at = time.monotonic()

    def _moment(self) -> int:
        if not self.source.in_recovery:
            return int(self._clock())
        moment, self._replayed = self._replayed_moment()
        return moment

    # ------------------------------------------------------------ pages and unlogged relations

    def _note(self, folder: str, name: str, relation: Relation | None) -> None:
        if relation is None or folder == "global":
            return
        if relation.fork == "init":
            self._init_seen.setdefault(folder, set()).add(relation.number)
        else:
            self._listed.setdefault(folder, {}).setdefault(relation.number, []).append(name)

    def _late_unlogged(self) -> frozenset[str]:
        """Files sent as ordinary ones of relations that have an init fork: in the stream, or by now on the server."""
        found: set[str] = set()
        may_list = True
        for folder, relations in self._listed.items():
            late = set(self._init_seen.get(folder, ()))
            if may_list:
                try:
                    names = query(self.sql, "listing a directory", "SELECT pg_ls_dir(%s, true, false)", (folder,))
                    listed = [relation_of(name) for (name,) in names]
                    late |= {each.number for each in listed if each is not None and each.fork == "init"}
                except EngineFailed:
                    may_list = False  # the role has no right to; the stream's own order has to do
            for number in late & relations.keys():
                found |= {f"{folder}/{name}" for name in relations[number]}
        return frozenset(found)

    def verify(self, path: str, view: memoryview, first_block: int, offset: int) -> None:
        """Whole pages of a relation file that were just received, from ``offset`` of that file."""
        page_bytes = self.source.page_bytes
        count = view.nbytes // page_bytes
        pages = view[: count * page_bytes]
        damaged = []
        for index in bad_pages(pages, first_block, page_bytes):
            page = pages[index * page_bytes : (index + 1) * page_bytes]
            if self._really_damaged(path, page, offset + index * page_bytes):
                damaged.append(first_block + index)
        if damaged:
            self._faults.add(path, damaged)

    def _really_damaged(self, path: str, page: memoryview, offset: int) -> bool:
        try:
            rows = query(
                self.sql,
                "reading a page again",
                "SELECT pg_read_binary_file(%s, %s, %s, true)",
                (path, offset, len(page)),
            )
            again = rows[0][0]
            return again is not None and bytes(again) == bytes(page)
        except EngineFailed:
            high, low = struct.unpack_from("<II", page)
            return not self._start_lsn <= (high << 32 | low) <= self.capture.received + 16 * 1024**2


class StreamFile:
    def __init__(
        self, session: StreamSession, archive: Archive, member: Member, path: str, relation: Relation | None
    ) -> None:
        self.meta = FileMeta(path, FileKind.FILE, member.mode, member.mtime_s, member.size_bytes)
        self.session = session
        self.archive = archive
        self.relation = relation if session.source.checksums else None

    def open(self) -> StreamReader:
        return StreamReader(self)


class StreamReader:
    """Forward only."""

    def __init__(self, file: StreamFile) -> None:
        self._file = file
        self._done = 0

    def read(self, offset: int, into: memoryview) -> int:
        if offset != self._done:
            raise ValueError(f"{self._file.meta.path}: a stream is at {self._done}, not at {offset}")
        count = self._file.archive.read_into(into)
        session, relation = self._file.session, self._file.relation
        page_bytes = session.source.page_bytes
        if relation is not None and count and offset % page_bytes == 0:
            first = relation.segment * int(session.source.settings["segment_size"]) + offset // page_bytes
            session.verify(self._file.meta.path, into[:count], first, offset)
        self._done += count
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def _whole(archive: Archive, member: Member) -> bytes:
    require(member.size_bytes < _WHOLE_BYTES, "reading the backup stream", f"{member.name} is too large")
    content = bytearray(member.size_bytes)
    archive.read_into(memoryview(content))
    return bytes(content)
