"""Real servers for tests: made, written to, compared and ended here. Also a driver that copies a backup session into
a directory without any repository, so that an engine is judged by restore and compare alone.

PostgreSQL refuses to run as root and must reach every directory above its data: pytest's own temporary directories are
closed to it, so tests use ``new_place`` (the ``place`` fixture).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg

from icecore.engines import BackupSession, Engine, RestoreEngine, RestoreTarget, ServerPlace, SourceFile, SourceVanished
from icecore.engines.postgresql.pages import bad_pages
from icecore.engines.postgresql.walk import holds_relations, relation_of
from icecore.model import BackupFacts, BackupMode, Boundary, FileKind

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools" / "postgresql"
PIECE_BYTES = 128 * 1024


# ---------------------------------------------------------------- places and programs


def programs_of(major: str) -> Path | None:
    """The directory of a major's programs on this machine: Debian's, else what ``scripts/fetch_postgres.py`` got."""
    for directory in (Path(f"/usr/lib/postgresql/{major}/bin"), TOOLS / major / "bin"):
        if (directory / "postgres").exists() and (directory / "initdb").exists():
            return directory
    return None


def announce_programs() -> None:
    """Tell Icecore (this process and those it starts) where servers are that no package put in its usual place."""
    for major in majors():
        os.environ.setdefault(f"ICECORE_PG_BIN_{major}", str(programs_of(major)))


def majors() -> list[str]:
    return [major for major in ("13", "14", "15", "16", "17", "18") if programs_of(major)]


def database_user() -> tuple[str, int, int]:
    """Name, uid and gid that servers run as: ``postgres`` under root, else the present user."""
    entry = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    return entry.pw_name, entry.pw_uid, entry.pw_gid


def new_place() -> Path:
    """A directory that the database user owns and can reach. Short: a socket's path has at most 107 bytes."""
    place = Path(tempfile.mkdtemp(prefix="icw-", dir="/tmp"))
    place.chmod(0o755)
    _, uid, gid = database_user()
    os.chown(place, uid, gid)
    return place


def own(tree: Path) -> None:
    """All of it belongs to the database user."""
    for each in (tree, *tree.rglob("*")):
        os.chown(each, *database_user()[1:], follow_symlinks=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_as_database_user(command: Sequence[str | Path], **more: Any) -> subprocess.CompletedProcess[str]:
    _, uid, gid = database_user()
    drop: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [str(part) for part in command],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
        **drop,
        **more,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}"
    return done


# ---------------------------------------------------------------- a server


class PostgresWorld:
    """One server below ``place``: ``place/data``, a private socket directory, an odd port."""

    def __init__(
        self,
        major: str,
        place: Path,
        options: Mapping[str, str] | None = None,
        *,
        checksums: bool = True,
        initdb: Sequence[str] = (),
        name: str = "data",
    ) -> None:
        found = programs_of(major)
        assert found is not None, f"PostgreSQL {major} is not installed"
        self.major = major
        self.bin = found
        self.place = place
        self.data = place / name
        self.sockets = place / f"s-{name}"
        self.log = place / f"{name}.log"
        self.port = free_port()
        self.user = "postgres"
        self._options = dict(options or {})
        self._checksums = checksums
        self._initdb = initdb

    def create(self) -> Self:
        """An empty cluster, not started."""
        if not self.place.exists():
            self.place.mkdir(mode=0o755)
            os.chown(self.place, *database_user()[1:])
        checks = ["-k"] if self._checksums else (["--no-data-checksums"] if int(self.major) >= 18 else [])
        options = ["-U", self.user, "-A", "trust", "-E", "UTF8", "--locale=C", *checks, *self._initdb]
        run_as_database_user([self.bin / "initdb", "-N", "-D", self.data, *options])
        self.configure()
        return self

    def configure(self) -> None:
        _, uid, gid = database_user()
        self.sockets.mkdir(exist_ok=True)
        os.chown(self.sockets, uid, gid)
        settings = {
            "port": str(self.port),
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": f"'{self.sockets}'",
            "shared_buffers": "'32MB'",
            "max_connections": "40",
            "max_wal_size": "'256MB'",
            "log_line_prefix": "'%m %p '",
            **self._options,
        }
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{key} = {value}\n" for key, value in settings.items())

    def start(self, *options: str) -> Self:
        """``options``: for ``pg_ctl``, such as ``-o '-c config_file=…'``."""
        run_as_database_user(
            [self.bin / "pg_ctl", "start", "-w", "-t", "60", "-D", self.data, "-l", self.log, *options]
        )
        return self

    def stop(self, mode: str = "fast") -> None:
        if self.pid():
            run_as_database_user([self.bin / "pg_ctl", "stop", "-w", "-m", mode, "-t", "60", "-D", self.data])

    def pid(self) -> int:
        try:
            pid = int((self.data / "postmaster.pid").read_text().splitlines()[0])
            return pid if Path(f"/proc/{pid}/cwd").samefile(self.data) else 0
        except (OSError, ValueError, IndexError):
            return 0

    def dsn(self, database: str = "postgres", user: str = "") -> str:
        return f"host={self.sockets} port={self.port} user={user or self.user} dbname={database}"

    def tcp_dsn(self, database: str = "postgres", user: str = "") -> str:
        return f"host=127.0.0.1 port={self.port} user={user or self.user} dbname={database}"

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Rows of the (last) statement, each statement on its own transaction."""
        return sql(self.dsn(database), statement)

    def no_slot(self) -> bool:
        return not self.sql("SELECT 1 FROM pg_replication_slots")

    def tablespace(self, name: str) -> Path:
        directory = self.place / f"ts-{self.data.name}-{name}"
        directory.mkdir()
        _, uid, gid = database_user()
        os.chown(directory, uid, gid)
        directory.chmod(0o700)
        self.sql(f"CREATE TABLESPACE {name} LOCATION '{directory}'")
        return directory

    def standby(self, name: str = "standby") -> PostgresWorld:
        """A streaming standby of this server, made from its stopped-for-a-moment files; both run afterwards."""
        other = PostgresWorld(self.major, self.place, self._options, name=name)
        self.stop()
        shutil.copytree(self.data, other.data, symlinks=True, ignore=shutil.ignore_patterns("postmaster.*"))
        own(other.data)
        other.data.chmod(0o700)
        other.configure()
        with (other.data / "postgresql.conf").open("a") as conf:
            conf.write(f"primary_conninfo = 'host={self.sockets} port={self.port} user={self.user}'\n")
        (other.data / "standby.signal").touch()
        own(other.data)
        self.start()
        other.start()
        return other

    def __enter__(self) -> Self:
        return self if self.pid() else self.create().start()

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")


def eventually(condition: Callable[[], bool], timeout_s: float = 15) -> None:
    """A server notices a closed connection in its own time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sql(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
        cursor = connection.execute(statement.encode())
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


# ---------------------------------------------------------------- load


@dataclass
class Ledger:
    """Writers that commit numbered rows into two tables at once; each acknowledged commit is recorded here, outside.

    ``disturb``: statements run round and round beside them (DDL, VACUUM FULL, TRUNCATE). An error ends a disturber's
    statement, never a writer.
    """

    dsn: str
    writers: int = 2
    padding: int = 200
    disturb: Sequence[str] = ()
    acknowledged: list[tuple[int, int, float]] = field(default_factory=list)  # writer, number, when
    errors: list[str] = field(default_factory=list)
    rounds: int = 0
    _threads: list[threading.Thread] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        sql(
            self.dsn,
            """CREATE TABLE IF NOT EXISTS ledger_a (writer int, number int, pad text, PRIMARY KEY (writer, number));
               CREATE TABLE IF NOT EXISTS ledger_b (writer int, number int, pad text, PRIMARY KEY (writer, number))""",
        )
        work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [(self._write, (n,)) for n in range(self.writers)]
        if self.disturb:
            work.append((self._disturb, ()))
        for target, arguments in work:
            thread = threading.Thread(target=target, args=arguments, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(30)

    def wait_for(self, commits: int, timeout_s: float = 30) -> None:
        deadline = time.monotonic() + timeout_s
        while len(self.acknowledged) < commits:
            assert not self.errors, self.errors
            assert time.monotonic() < deadline, f"{len(self.acknowledged)} commits in {timeout_s} s"
            time.sleep(0.02)
        # what is reported is a whole second, and some commits must lie before it
        while time.time() < int(min(at for *_, at in self.acknowledged)) + 1:
            time.sleep(0.02)

    def check(self, dsn: str, consistent_at: int) -> None:
        """Every row acknowledged before ``consistent_at`` is there, none is torn, none came from nowhere."""
        assert not self.errors, self.errors
        first = set(sql(dsn, "SELECT writer, number FROM ledger_a"))
        second = set(sql(dsn, "SELECT writer, number FROM ledger_b"))
        assert first == second, f"torn: {sorted(first ^ second)[:10]}"
        promised = {(writer, number) for writer, number, at in self.acknowledged if at < consistent_at}
        assert promised, "no commit was acknowledged before the reported time: the test shows nothing"
        assert promised <= first, f"lost: {sorted(promised - first)[:10]}"
        for writer in range(self.writers):
            numbers = sorted(number for each, number in first if each == writer)
            assert numbers == list(range(len(numbers))), f"writer {writer} has a gap"

    def _write(self, writer: int) -> None:
        try:
            with psycopg.connect(self.dsn, autocommit=True) as connection:
                (row,) = connection.execute(
                    "SELECT coalesce(max(number) + 1, 0) FROM ledger_a WHERE writer = %s", (writer,)
                ).fetchall()
                number = int(row[0])
                while not self._ended.is_set():
                    pad = "x" * (number % 7 * self.padding // 3 + 1)
                    with connection.transaction():
                        connection.execute("INSERT INTO ledger_a VALUES (%s, %s, %s)", (writer, number, pad))
                        connection.execute("INSERT INTO ledger_b VALUES (%s, %s, %s)", (writer, number, pad))
                    self.acknowledged.append((writer, number, time.time()))
                    number += 1
        except Exception as error:
            if not self._ended.is_set():
                self.errors.append(f"writer {writer}: {error!r}")

    def _disturb(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self._ended.is_set():
                for statement in self.disturb:
                    if self._ended.is_set():
                        return
                    with contextlib.suppress(psycopg.Error):
                        connection.execute(statement.encode())
                self.rounds += 1


# ---------------------------------------------------------------- judgement


def fingerprint(dsn: str) -> dict[str, tuple[int, str]]:
    """``schema.relation`` -> rows and a hash over them, for every table and materialised view of one database."""
    found = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        names = connection.execute(
            """SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
                 AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_toast' ORDER BY 1, 2"""
        ).fetchall()
        for schema, name in names:
            statement = f"""SELECT count(*), coalesce(sum(hashtextextended(t::text, 7)::numeric), 0)::text
                            FROM "{schema}"."{name}" t"""
            (row,) = connection.execute(statement.encode()).fetchall()
            found[f"{schema}.{name}"] = (int(row[0]), str(row[1]))
    return found


def inspect(dsn: str) -> int:
    """Every index against its table: amcheck where the server has it, else both ways of reading compared.

    Returns how many relations were looked at.
    """
    looked_at = 0
    with psycopg.connect(dsn, autocommit=True) as connection:
        has_amcheck = bool(
            connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'").fetchall()
        )
        indexes = connection.execute(
            """SELECT i.indexrelid, i.indrelid::regclass::text, c.relpersistence FROM pg_index i
               JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
               WHERE a.amname = 'btree' AND i.indisvalid AND c.relkind = 'i' AND c.relpersistence <> 't'"""
        ).fetchall()
        if has_amcheck:
            connection.execute("CREATE EXTENSION IF NOT EXISTS amcheck")
        for index, table, _ in indexes:
            if has_amcheck:
                connection.execute("SELECT bt_index_check(%s::oid::regclass, true)", (index,))
            else:
                counts = set()
                for scan in ("SET enable_seqscan = on", "SET enable_seqscan = off"):
                    connection.execute(scan.encode())
                    counts.add(connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchall()[0])
                assert len(counts) == 1, f"{table}: {counts}"
            looked_at += 1
        if has_amcheck and connection.info.server_version >= 140000:
            tables = connection.execute(
                "SELECT oid FROM pg_class WHERE relkind IN ('r', 't', 'm') AND relpersistence <> 't' AND relam = 2"
            ).fetchall()
            for (table,) in tables:
                problems = connection.execute("SELECT * FROM verify_heapam(%s::oid::regclass)", (table,)).fetchall()
                assert not problems, f"{table}: {problems[:3]}"
                looked_at += 1
    return looked_at


def damaged_pages(data: Path) -> list[str]:
    """``path block`` of each page of a *stopped* cluster whose checksum is wrong. At least one page was looked at."""
    found, pages = [], 0
    for folder, _, names in os.walk(data, followlinks=True):
        relative = os.path.relpath(folder, data)
        if not holds_relations(relative):
            continue
        for name in names:
            relation = relation_of(name)
            if relation is None:
                continue
            content = Path(folder, name).read_bytes()
            assert len(content) % 8192 == 0, f"{relative}/{name} has {len(content)} bytes"
            pages += len(content) // 8192
            first = relation.segment * 131072
            found += [f"{relative}/{name} {first + index}" for index in bad_pages(content, first)]
    assert pages > 100
    return found


# ---------------------------------------------------------------- a backup without a repository


@dataclass
class Copy:
    """A backup laid down as plain files, and what a manifest would say of it."""

    facts: BackupFacts
    target: RestoreTarget
    paths: set[str]
    skipped: set[str]


def copy_session(
    engine: Engine,
    restore: RestoreEngine,
    place: Path,
    *,
    label: str = "icecore test",
    threads: int = 2,
    before_stop: Callable[[BackupSession], None] | None = None,
) -> Copy:
    """A backup by the contract's order of calls, straight into ``place/restored``; files are finished, too."""
    data = place / "restored"
    scratch = place / "scratch"
    scratch.mkdir()
    held: dict[str, bytes] = {}
    paths: set[str] = set()
    skipped: set[str] = set()
    size_bytes = 0
    tablespaces: dict[str, Path] = {}
    data.mkdir(mode=0o700)
    with engine.start(label, scratch) as session:

        def lay(source: SourceFile) -> int:
            path = source.meta.path
            where = data / path
            for link, directory in tablespaces.items():
                if path.startswith(link + "/"):
                    where = directory / path[len(link) + 1 :]
            if path in restore.last_paths():
                held[path] = restore.guarded(path, read_all(source))
            else:
                try:
                    write_file(source, where)
                except SourceVanished:
                    skipped.add(path)
                    return 0
            paths.add(path)
            return source.meta.size_bytes

        def plain(sources: Iterator[SourceFile]) -> Iterator[SourceFile]:
            for source in sources:
                meta = source.meta
                assert meta.path not in paths, f"{meta.path} came twice"
                if meta.kind is FileKind.SYMLINK:
                    tablespaces[meta.path] = place / f"restored-{meta.path.split('/')[-1]}"
                    tablespaces[meta.path].mkdir()
                elif meta.kind is FileKind.DIRECTORY:
                    where = data / meta.path
                    for link, directory in tablespaces.items():
                        if meta.path.startswith(link + "/"):
                            where = directory / meta.path[len(link) + 1 :]
                    where.mkdir(mode=meta.mode, exist_ok=True, parents=True)
                    paths.add(meta.path)
                else:
                    yield source

        # 1. All files, side by side where the session allows it.
        if session.ordered:
            for source in plain(session.files()):
                size_bytes += lay(source)
                session.alive()
        else:
            with ThreadPoolExecutor(threads) as pool:
                for count in pool.map(lay, plain(session.files())):
                    size_bytes += count
                    session.alive()
        # 2. The rest, in order.
        size_bytes += sum(lay(source) for source in session.closing_files())
        if before_stop is not None:
            before_stop(session)
        boundary = session.stop()
        size_bytes += sum(lay(source) for source in session.tail_files())
        # 3. What must not be in the backup after all.
        for path in session.omitted():
            (data / path).unlink(missing_ok=True)
            skipped.add(path)
        facts = as_facts(session, boundary, size_bytes, len(paths))
    assert not list(scratch.iterdir()), "the session left scratch files"
    for path, content in held.items():
        (data / path).write_bytes(content)
    # As a restore leaves it: every file is already the user's who will run the server.
    for directory in (data, *tablespaces.values()):
        own(directory)
    target = RestoreTarget(data, tablespaces)
    restore.finish_files(facts, target)
    return Copy(facts, target, paths, skipped)


def as_facts(session: BackupSession, boundary: Boundary, size_bytes: int, file_count: int) -> BackupFacts:
    known = session.facts()
    return BackupFacts(
        backup_id="1",
        cluster_id="pc-test",
        cluster_name="test",
        job_uuid="0",
        mode=BackupMode.MANUAL,
        boundary=boundary,
        engine="postgresql",
        engine_version=str(known["version"]),
        size_bytes=size_bytes,
        file_count=file_count,
        tool_version="test",
        warnings=session.warnings(),
        engine_facts=known,
    )


def read_all(source: SourceFile) -> bytes:
    content = bytearray(source.meta.size_bytes)
    with source.open() as reader:
        done = 0
        while done < len(content):
            count = reader.read(done, memoryview(content)[done : done + PIECE_BYTES])
            if count == 0:
                break
            done += count
    return bytes(content[:done])


def write_file(source: SourceFile, where: Path) -> None:
    where.parent.mkdir(parents=True, exist_ok=True)
    buffer = memoryview(bytearray(PIECE_BYTES))
    with source.open() as reader, where.open("wb") as out:
        done = 0
        while done < source.meta.size_bytes:
            count = reader.read(done, buffer)
            if count == 0:
                break
            out.write(buffer[:count])
            done += count
    where.chmod(source.meta.mode)


def server_place(place: Path, name: str = "restored") -> ServerPlace:
    _, uid, gid = database_user()
    return ServerPlace(place / name, place / f"s-{name}", place / f"{name}.log", free_port(), (uid, gid))


def end_servers_below(directory: Path) -> None:
    """Servers whose data directory lies below ``directory``: those a failed test left behind."""
    for lock in directory.glob("**/postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if not lock.is_file():
                continue
            pid = int(lock.read_text().splitlines()[0])
            if Path(f"/proc/{pid}/cwd").samefile(lock.parent):
                os.kill(pid, signal.SIGQUIT)
                deadline = time.monotonic() + 10
                while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
                    time.sleep(0.05)
