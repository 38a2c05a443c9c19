"""What a restored server says of itself when it is asked everywhere: amcheck over heaps and B-trees, a count of every
user table's rows by reading it whole, and the user's own assertions.

It is written to (an extension is made, closed databases are opened), so it must be one that nobody needs. Its content
is its source's: an index's expression or a table's type may run code, as it does on the source. The session runs as a
replica does, so that no trigger of the source answers to what is done here.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from icecore.engines import Assertion
from icecore.engines.postgresql.connect import connect_sql, query
from icecore.errors import EngineFailed, EngineUnreachable
from icecore.evidence import NOTES_AT_MOST, ROWS_AT_MOST, Examination, Outcome, bounded

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[Any]

HEAPS, INDEXES, ROWS = "amcheck of heaps", "amcheck of indexes", "rows"
ASSERTION_TIMEOUT_S = 300
COME_BACK_S = 60.0  # a server that crashed over a damaged page restarts by itself
FAULTS_OF_ONE = 5  # reported by amcheck of one table
_LISTEN_S = 0.2
_SCHEMA = "icecore_examination"
_QUIET = (
    "SET lc_messages = 'C'",
    "SET default_transaction_read_only = off",
    "SET session_replication_role = replica",
    # a transaction that was prepared on the source still holds its locks, and nobody will end it here
    "SET lock_timeout = '10s'",
    # a table is counted by reading all of it
    "SET enable_indexscan = off",
    "SET enable_indexonlyscan = off",
    "SET enable_bitmapscan = off",
)


@dataclass
class _Tally:
    """One examination while it goes on. Lists are appended to by several threads."""

    name: str
    of: str
    count: int = 0
    took_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)

    def done(self, *remarks: str) -> Examination:
        outcome = Outcome.FAILED if self.faults else Outcome.PASSED if self.count else Outcome.NOT_RUN
        rows, notes = self.rows, [*self.faults[: NOTES_AT_MOST // 2], *remarks]
        if not self.count and not self.faults and not self.left_out:
            notes.append(f"there are no {self.of}")
        if len(self.faults) > NOTES_AT_MOST // 2:
            notes.append(f"and {len(self.faults) - NOTES_AT_MOST // 2} more faults")
        notes += [*self.left_out[: NOTES_AT_MOST // 4]]
        if len(self.left_out) > NOTES_AT_MOST // 4:
            notes.append(f"and {len(self.left_out) - NOTES_AT_MOST // 4} more were left out")
        if len(rows) > ROWS_AT_MOST:
            largest = sorted(rows, key=lambda name: -rows[name])[:ROWS_AT_MOST]
            notes.append(f"{len(rows)} tables with {sum(rows.values())} rows in all; the largest are listed")
            rows = {name: rows[name] for name in largest}
        return Examination(
            self.name, outcome, self.count, self.of, round(self.took_s, 1), bounded(notes), tuple(sorted(rows.items()))
        )


@dataclass(frozen=True)
class _Relation:
    oid: int
    name: str  # schema.relation, to be shown
    quoted: bytes


class Examiner:
    """One look at one server. ``dsn``: of a database by its name."""

    def __init__(
        self,
        dsn: Callable[[str], str],
        first_database: str,
        known: Mapping[str, Any],
        threads: int,
        still_wanted: Callable[[], None],
    ) -> None:
        self._dsn, self._first, self._known = dsn, first_database, known
        self._threads = threads
        self._still_wanted = still_wanted
        self._heaps = _Tally(HEAPS, "tables")
        self._indexes = _Tally(INDEXES, "indexes")
        self._rows = _Tally(ROWS, "tables")

    def run(self, assertions: Sequence[Assertion], count_for_s: float) -> Iterator[Examination]:
        # 1. Every database, the smallest first, also those that let nobody in.
        left_s = count_for_s
        for database in self._databases():
            self._still_wanted()
            try:
                connections = [self._connect(database) for _ in range(self._threads)]
            except EngineUnreachable as error:
                if not self._answers():
                    raise
                self._rows.faults.append(f"{database}: nobody gets in: {error.fields['reason']}")
                continue
            # 2. Its structures, then its rows for as long as there is time.
            try:
                self._structures(database, connections)
                began = time.monotonic()
                self._count(database, connections, left_s)
                left_s -= time.monotonic() - began
            finally:
                for connection in connections:
                    connection.close()
        yield self._heaps.done()
        yield self._indexes.done(*self._other_libc())
        yield self._rows.done()
        # 3. What the user says must hold.
        for assertion in assertions:
            yield self._assert(assertion)

    def _databases(self) -> list[str]:
        with connect_sql(self._dsn(self._first), None) as connection:
            doing = "listing the databases"
            _do(
                connection,
                doing,
                "SET default_transaction_read_only = off",
                "UPDATE pg_database SET datallowconn = true WHERE NOT datallowconn",
            )
            rows = query(
                connection, doing, "SELECT datname::text, datconnlimit FROM pg_database ORDER BY pg_database_size(oid)"
            )
        gone = [name for name, limit in rows if limit == -2]  # its removal was cut off on the source
        self._rows.left_out += [f"{name}: an invalid database, half removed on the source" for name in gone]
        return [name for name, limit in rows if limit != -2]

    def _connect(self, database: str) -> Connection:
        connection = connect_sql(self._dsn(database), None)
        _do(connection, "preparing a session", *_QUIET)
        if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
            _do(connection, "preparing a session", "SET client_encoding = SQL_ASCII")  # names are any bytes there
        return connection

    def _answers(self) -> bool:
        with contextlib.suppress(EngineUnreachable), connect_sql(self._dsn(self._first), None):
            return True
        return False

    def _come_back(self, database: str) -> Connection:
        """A new session after one was lost. ``EngineUnreachable`` when the server stays away."""
        deadline = time.monotonic() + COME_BACK_S
        while True:
            try:
                return self._connect(database)
            except (EngineUnreachable, EngineFailed) as error:
                if time.monotonic() > deadline:
                    raise EngineUnreachable(reason=str(error.fields["reason"])) from error
                time.sleep(_LISTEN_S)

    # ------------------------------------------------------------ amcheck

    def _structures(self, database: str, connections: list[Connection]) -> None:
        schema = self._amcheck(database, connections[0])
        if not schema:
            return
        version = connections[0].info.server_version
        indexes = _relations(
            connections[0],
            """JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid JOIN pg_catalog.pg_am a ON a.oid = c.relam
               WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisvalid AND i.indisready""",
        )
        tables = _relations(
            connections[0],
            """JOIN pg_catalog.pg_am a ON a.oid = c.relam
               WHERE a.amname = 'heap' AND c.relkind IN ('r', 'm', 't')""",
        )
        for connection in connections:
            # an index's expression was written for the path of those who use it
            _do(connection, "preparing a session", "RESET search_path")
        unique = ", true" if version >= 170000 else ""

        def check_index(connection: Connection, index: _Relation) -> None:
            statement = f"SELECT {schema}.bt_index_check(%s::pg_catalog.oid::pg_catalog.regclass, true{unique})"
            connection.execute(statement.encode(), (index.oid,))

        def check_heap(connection: Connection, table: _Relation) -> None:
            statement = f"""SELECT blkno, offnum, msg FROM {schema}.verify_heapam(
                            %s::pg_catalog.oid::pg_catalog.regclass, check_toast => true) LIMIT {FAULTS_OF_ONE}"""
            for block, item, message in connection.execute(statement.encode(), (table.oid,)).fetchall():
                self._heaps.faults.append(f"{database}.{table.name} block {block}, item {item}: {message}")

        self._all(database, connections, indexes, check_index, self._indexes)
        if version >= 140000:
            self._all(database, connections, tables, check_heap, self._heaps)
        elif not self._heaps.left_out:
            self._heaps.left_out.append("verify_heapam came with PostgreSQL 14")

    def _amcheck(self, database: str, connection: Connection) -> str:
        """The schema that it is in, quoted; "" where there is none."""
        doing = "preparing amcheck"
        available = query(connection, doing, "SELECT default_version FROM pg_available_extensions WHERE name='amcheck'")
        if not available:
            for tally in (self._heaps, self._indexes):
                if not tally.left_out:
                    tally.left_out.append("amcheck is not installed on this host (PostgreSQL's contrib package)")
            return ""
        found = query(
            connection,
            doing,
            """SELECT pg_catalog.quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace
               WHERE extname = 'amcheck'""",
        )
        try:
            if found:  # as old as the source left it
                _do(connection, doing, "ALTER EXTENSION amcheck UPDATE")
                schema = found[0][0]
                return schema.decode() if isinstance(schema, bytes) else str(schema)
            _do(connection, doing, f"CREATE SCHEMA {_SCHEMA}", f"CREATE EXTENSION amcheck SCHEMA {_SCHEMA}")
            return _SCHEMA
        except EngineFailed as error:
            reason = f"{database}: amcheck could not be installed: {error.fields['reason']}"
            for tally in (self._heaps, self._indexes):
                tally.left_out.append(reason)
            return ""

    def _other_libc(self) -> list[str]:
        """Text sorts by the machine's library: an index that another one built may be out of order here alone."""
        here, there = os.confstr("CS_GNU_LIBC_VERSION") or "", str(self._known.get("libc", ""))
        if not self._indexes.faults or not there or here == there:
            return []
        return [f"the source has {there} and this host {here}: text may sort otherwise here, and only here"]

    # ------------------------------------------------------------ rows

    def _count(self, database: str, connections: list[Connection], left_s: float) -> None:
        deadline = time.monotonic() + left_s
        tables = _relations(
            connections[0],
            """WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND n.nspname !~ '^pg_toast'
                 AND n.nspname NOT IN ('pg_catalog', 'information_schema')""",
        )

        def count(connection: Connection, table: _Relation) -> None:
            import psycopg

            name = f"{database}.{table.name}"
            left_ms = int((deadline - time.monotonic()) * 1000)
            try:
                if left_ms <= 0:
                    raise psycopg.errors.QueryCanceled
                connection.execute(f"SET statement_timeout = {left_ms}".encode())
                ((found,),) = connection.execute(b"SELECT pg_catalog.count(*) FROM " + table.quoted).fetchall()
                self._rows.rows[name] = int(found)
            except psycopg.errors.QueryCanceled:
                self._rows.left_out.append(f"{name} was not counted: the time for it was over")

        self._all(database, connections, tables, count, self._rows)

    # ------------------------------------------------------------ assertions

    def _assert(self, assertion: Assertion) -> Examination:
        tally = _Tally(f"assertion: {assertion.name}", "assertions", count=1)
        began = time.monotonic()
        try:
            connection = connect_sql(self._dsn(assertion.database), None)
        except EngineUnreachable as error:
            tally.faults.append(str(error.fields["reason"]))
            return tally.done(assertion.query)
        with connection:
            timeout = f"SET statement_timeout = '{ASSERTION_TIMEOUT_S}s'"
            _do(connection, "preparing a session", "SET lc_messages = 'C'", timeout, "RESET search_path")
            connections = [connection]
            self._side_by_side(assertion.database, connections, [assertion], _holds, tally)
        tally.took_s = time.monotonic() - began
        return tally.done(assertion.query)

    # ------------------------------------------------------------ side by side

    def _all(
        self,
        database: str,
        connections: list[Connection],
        relations: Sequence[_Relation],
        look: Callable[[Connection, _Relation], None],
        tally: _Tally,
    ) -> None:
        began, before = time.monotonic(), len(tally.left_out)
        self._side_by_side(database, connections, relations, look, tally)
        tally.took_s += time.monotonic() - began
        tally.count += len(relations) - (len(tally.left_out) - before)

    def _side_by_side(
        self,
        database: str,
        connections: list[Connection],
        items: Iterable[Any],
        look: Callable[[Connection, Any], None],
        tally: _Tally,
    ) -> None:
        """``look`` at each item, a thread for each connection. What the server refuses is a fault of the item; whoever
        waits is asked all the while whether this is still wanted."""
        import psycopg

        free: SimpleQueue[int] = SimpleQueue()
        for place in range(len(connections)):
            free.put(place)

        def one(item: Any) -> None:
            place = free.get()
            try:
                look(connections[place], item)
            except _NotTrue as error:
                tally.faults.append(str(error))
            except psycopg.errors.LockNotAvailable:
                tally.left_out.append(f"{database}.{item.name} is locked by a prepared transaction of the source")
            except psycopg.Error as error:
                tally.faults.append(f"{database}.{item.name}: {_said(error)}")
                if connections[place].closed:
                    connections[place] = self._come_back(database)
            finally:
                free.put(place)

        with ThreadPoolExecutor(len(connections), thread_name_prefix="examine") as pool:
            waiting: set[Future[None]] = set()
            try:
                for item in items:
                    waiting.add(pool.submit(one, item))
                    while len(waiting) >= len(connections) * 4:
                        waiting = self._listen(waiting)
                while waiting:
                    waiting = self._listen(waiting)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for connection in connections:
                    with contextlib.suppress(psycopg.Error):
                        connection.cancel()
                raise

    def _listen(self, waiting: set[Future[None]]) -> set[Future[None]]:
        done, rest = wait(waiting, _LISTEN_S, return_when="FIRST_COMPLETED")
        for each in done:
            each.result()
        self._still_wanted()
        return rest


class _NotTrue(Exception):
    """An assertion does not hold."""


def _holds(connection: Connection, assertion: Assertion) -> None:
    with connection.transaction():
        connection.execute("SET TRANSACTION READ ONLY")
        # the extended protocol takes one statement: none can end the transaction and begin another
        with connection.cursor(binary=True) as cursor:
            rows = cursor.execute(assertion.query.encode()).fetchmany(2)
    if len(rows) != 1 or len(rows[0]) != 1 or rows[0][0] is not True:
        shown = ", ".join(str(value)[:40] for value in rows[0]) if rows else ""
        found = "no row" if not rows else "more than one row" if len(rows) > 1 else f"({shown})"
        raise _NotTrue(f"it gives {found}, not one row with one true value")


def _do(connection: Connection, doing: str, *statements: str) -> None:
    import psycopg

    try:
        for statement in statements:
            connection.execute(statement.encode())
    except psycopg.Error as error:
        raise EngineFailed(doing=doing, reason=_said(error)) from error


def _relations(connection: Connection, which: str) -> list[_Relation]:
    """The smallest first. Not those of other sessions."""
    rows = query(
        connection,
        "listing relations",
        f"""SELECT c.oid::pg_catalog.int8, n.nspname::text || '.' || c.relname::text,
                   pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace {which}
              AND c.relpersistence <> 't' ORDER BY c.relpages, c.oid""",
    )
    raw = [(oid, *(text if isinstance(text, bytes) else text.encode() for text in texts)) for oid, *texts in rows]
    return [_Relation(oid, name.decode("utf-8", "backslashreplace"), quoted) for oid, name, quoted in raw]


def _said(error: psycopg.Error) -> str:
    primary, detail = error.diag.message_primary, error.diag.message_detail
    return f"{primary} ({detail})" if primary and detail else primary or str(error) or type(error).__name__
