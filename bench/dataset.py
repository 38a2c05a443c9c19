"""The source of a benchmark: a server with pgbench's tables and others of which half does not compress, many small
files beside them if wanted, changes to one per cent of its pages, and what proves that a restore holds the same.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from contenders import NO_ARCHIVE, ROLE, Round
from source_server import SourceServer, as_server_user, free_port, server_user

PGBENCH_BYTES = 17_000_000  # a unit of scale
LARGEST_TABLE_BYTES = 1 << 30  # of the others
BULK_ROWS_A_PAGE = 3  # of 1.9 KB each; a changed row stays in its page
LOADING = ("wal_level=minimal", "max_wal_senders=0", "archive_mode=off", "fsync=off", "max_wal_size=20GB")
PROVEN_BYTES = 3_000_000_000  # rows of more than that are compared by a sample of pages
SMALL_A_DIRECTORY = 1000


@dataclass
class Dataset:
    source: SourceServer
    plain: bool
    small_files: int = 0
    small_bytes: int = 4096
    scale: int = 0
    bulk_tables: int = 0

    @property
    def words(self) -> str:
        size_bytes = int(self.source.sql("SELECT pg_database_size('postgres')")[0][0])
        told = f"{size_bytes / 1e9:.2f} GB: pgbench scale {self.scale}"
        told += f" and {self.bulk_tables} tables whose rows are half random bytes" if self.bulk_tables else ""
        if self.small_files:
            told += (
                f"; {self.small_files:,} files of {self.small_bytes} bytes, half random, in a directory of the data "
                "directory that is not PostgreSQL's: all tools copy it"
            )
        return told

    # ------------------------------------------------------------ making it

    def create(self, size_bytes: int) -> None:
        """A third of the first 3 GB are pgbench's tables. Nothing changes pages later but what is asked for."""
        self.source.create(
            shared_buffers="'256MB'",
            max_wal_size="'2GB'",
            autovacuum="off",
            archive_mode="on",
            archive_command=f"'{NO_ARCHIVE}'",
            log_line_prefix="'%n '",  # Unix time with milliseconds: see Told
        )
        if self.plain:  # the only way to have no tool check them
            as_server_user([self.source.bin / "pg_checksums", "--disable", "-D", self.source.data])
        self.scale = max(1, min(size_bytes, 3_000_000_000) // 3 // PGBENCH_BYTES)
        self.source.start(*LOADING)
        self.source.pgbench("-i", "-q", "-F", "90", "-s", str(self.scale))
        self.source.sql("CREATE EXTENSION pgcrypto")
        self.source.sql(f"CREATE ROLE {ROLE} SUPERUSER LOGIN")
        self.source.sql(f"ALTER ROLE {ROLE} SET log_min_duration_statement = 0")
        self._bulk(size_bytes)
        self._small()
        self._restart()

    def grow(self, size_bytes: int) -> None:
        self.source.shut_down()
        self.source.start(*LOADING)
        self._bulk(size_bytes)
        self._restart()

    def _bulk(self, size_bytes: int) -> None:
        """Two tables at a time, as there are two cores; not through the log, frozen while they are in memory."""
        missing = size_bytes - int(self.source.sql("SELECT pg_database_size('postgres')")[0][0])
        count = max(2, -(-missing // LARGEST_TABLE_BYTES))
        pages = max(64, missing // count // 8192)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(partial(self._bulk_table, pages), range(self.bulk_tables, self.bulk_tables + count)))
        self.bulk_tables += count

    def _bulk_table(self, pages: int, number: int) -> None:
        name = f"bulk_{number}"
        self.source.sql(
            f"CREATE TABLE {name} WITH (fillfactor = 80) AS SELECT i AS id, gen_random_bytes(1000) AS bytes,"
            f" repeat(md5(i::text), 28) AS words FROM generate_series(1, {pages * BULK_ROWS_A_PAGE}) i"
        )
        self.source.sql(f"VACUUM (FREEZE, ANALYZE) {name}")
        self.source.sql(f"ALTER TABLE {name} ADD PRIMARY KEY (id)")

    def _small(self) -> None:
        _, uid, gid = server_user()
        draw = random.Random(self.small_files)
        for number, path in enumerate(self._small_paths()):
            if number % SMALL_A_DIRECTORY == 0:
                for directory in (path.parent.parent, path.parent):
                    directory.mkdir(mode=0o700, exist_ok=True)
                    os.chown(directory, uid, gid)
            self._write_small(path, draw, (uid, gid))

    def _write_small(self, path: Path, draw: random.Random, owner: tuple[int, int]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.fchown(descriptor, *owner)
        os.write(descriptor, draw.randbytes(self.small_bytes // 2).ljust(self.small_bytes, b"."))
        os.close(descriptor)

    def _small_paths(self, root: Path | None = None) -> Iterator[Path]:
        above = (root or self.source.data) / "small"
        for number in range(self.small_files):
            yield above / f"{number // SMALL_A_DIRECTORY:04}" / f"{number % SMALL_A_DIRECTORY:03}"

    def _restart(self) -> None:
        self.source.shut_down()
        os.sync()
        self.source.start()

    # ------------------------------------------------------------ changing it

    def archive(self, command: str) -> None:
        self.source.sql(f"ALTER SYSTEM SET archive_command = '{command}'")
        self.source.sql("SELECT pg_reload_conf()")
        time.sleep(0.5)

    def settle(self) -> None:
        """Whatever reading would still write to a page is written now, and all log is archived."""
        self.source.sql("VACUUM (FREEZE)")
        self.source.sql("CHECKPOINT")
        # A segment that holds something, so that there is one to archive
        at = self.source.sql("SELECT pg_logical_emit_message(false, 'bench', 'settled')::text")[0][0]
        wal = self.source.sql("SELECT pg_walfile_name(pg_switch_wal())")[0][0]
        self._await(f"SELECT 1 FROM pg_stat_archiver WHERE last_archived_wal >= '{wal}'", wal)
        # Nor has who follows the log anything left to do
        self._await(f"SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_stat_replication WHERE flush_lsn < '{at}')", at)

    def _await(self, question: str, what: str) -> None:
        until = time.monotonic() + 120
        while not self.source.sql(question):
            if time.monotonic() > until:
                raise RuntimeError(f"{what} is not archived; see {self.source.place / 'server.log'}")
            time.sleep(0.05)

    def change(self, share: float, *, in_one_run: bool) -> None:
        """One row in each of so many pages of each table, at random or side by side: in place of an old version,
        without an index's page. Of small files so many, evenly spread or side by side."""
        for table in self._tables():
            key, change = (
                ("aid", "filler = md5(random()::text)")
                if table == "pgbench_accounts"
                else ("id", "bytes = gen_random_bytes(1000)")
            )
            pages = int(self.source.sql(f"SELECT pg_relation_size('{table}') / 8192")[0][0])
            rows = int(self.source.sql(f"SELECT max({key}) FROM {table}")[0][0])
            some, step = max(1, int(pages * share)), max(1, rows // pages)
            if in_one_run:
                first = random.randrange(max(1, rows - some * step))
                chosen = f"SELECT g FROM generate_series({first + 1}, {first + some * step}, {step}) g"
            else:
                chosen = f"SELECT 1 + floor(random() * {rows})::int FROM generate_series(1, {some})"
            by_key = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;"
            self.source.sql(f"{by_key} UPDATE {table} SET {change} WHERE {key} IN ({chosen})")
        few = int(self.small_files * share)
        for number, path in enumerate(self._small_paths()):
            if number < few if in_one_run else few and number % (self.small_files // few) == 0:
                self._write_small(path, random.Random(), server_user()[1:])
        self.settle()

    def _tables(self) -> list[str]:
        return ["pgbench_accounts", *(f"bulk_{number}" for number in range(self.bulk_tables))]

    # ------------------------------------------------------------ proof

    def prove(self, go: Round) -> None:
        """A backup counts when a server starts on its restore and holds what the source holds."""
        copy = SourceServer(go.place, free_port(), go.source.bin, go.restored.name)
        with (go.restored / "postgresql.auto.conf").open("a") as file:
            file.write(
                f"archive_mode = 'off'\nport = {copy.port}\nunix_socket_directories = '{go.place}'\n"
                "recovery_init_sync_method = 'syncfs'\n"
            )
        try:
            copy.start()
        except SystemExit as error:
            raise Differs(f"no server starts on the restore in {go.place}: {error}") from error
        try:
            same = self.fingerprint(copy) == self.fingerprint(go.source)
        finally:
            copy.stop()
        if not same or not self._same_small(go.restored):
            raise Differs(f"the restore in {go.place} differs from its source")

    def fingerprint(self, server: SourceServer) -> list[tuple[Any, ...]]:
        """Of all rows, or of those in the same pages on both sides."""
        size_bytes = self.source.sql("SELECT pg_database_size('postgres')")[0][0]
        percent = min(100.0, 100.0 * PROVEN_BYTES / size_bytes)
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(partial(_sum_of, server, percent), self._tables()))

    def _same_small(self, restored: Path) -> bool:
        """All sizes; the bytes of each, or of every tenth of many."""
        each = 10 if self.small_files > 50_000 else 1
        for number, (path, copy) in enumerate(zip(self._small_paths(), self._small_paths(restored), strict=True)):
            if copy.stat().st_size != self.small_bytes or (
                number % each == 0 and copy.read_bytes() != path.read_bytes()
            ):
                return False
        return True


class Differs(Exception):
    """A restore that is not its source."""


def _sum_of(server: SourceServer, percent: float, table: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] = server.sql(
        f"SELECT count(*), sum(hashtextextended({table}::text, 0)::numeric) FROM {table}"
        f" TABLESAMPLE SYSTEM ({percent}) REPEATABLE (1)"
    )[0]
    return row


class Told:
    """What the server's log says of the backup that a tool made meanwhile: seen from outside of the tool."""

    def __init__(self, source: SourceServer) -> None:
        self._log = source.place / "server.log"
        self._from = self._log.stat().st_size

    def times(self) -> dict[str, float]:
        """``checkpoint_s``: how long the start took; ``held_s``: from there to the end's call. Empty for a tool that
        does not use these calls."""
        with self._log.open(errors="replace") as file:
            file.seek(self._from)
            entries = _ENTRY.split(file.read())
        calls = [(call[3], float(call[1]), float(call[2]) / 1000) for call in map(_CALL.match, entries) if call]
        found: dict[str, float] = {}
        for kind, ended_at, took_s in calls:
            if kind == "start":
                started_at = ended_at
                found = {"checkpoint_s": took_s}
            elif found:
                found["held_s"] = ended_at - took_s - started_at
        return found


_ENTRY = re.compile(r"^(?=\d+\.\d{3} )", re.MULTILINE)
_CALL = re.compile(
    r"(\d+\.\d+) .*?duration: (\d+\.\d+) ms +(?:statement|execute [^:]*): .*pg_(?:backup_)?(start|stop)(?:_backup)?\(",
    re.DOTALL,
)
