"""Nonces and the call log, in a database of their own: every request writes here, and none may wait for the disk.

A commit survives the death of the process but not a power cut. What a power cut could cost is that a request of
the last 15 minutes is accepted twice; ClientToken and the quota hold all the same, they live in the catalog.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from icecore.catalog import database
from icecore.catalog.paging import Page, cut, write_marker
from icecore.config import Config

NONCE_KEPT_S = 31 * 60  # a timestamp may lie 15 minutes ahead and is then good for 15 more
CALLS_KEPT = 100_000  # of those that change something, and as many of the others

metadata = sa.MetaData()

nonce = sa.Table(
    "nonce",
    metadata,
    sa.Column("access_key_id", sa.Text, primary_key=True),
    sa.Column("nonce", sa.Text, primary_key=True),
    sa.Column("used_at", sa.BigInteger, nullable=False, index=True),
)

call = sa.Table(
    "call",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),  # SQLite's row id: every index below ends with it
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("access_key_id", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),  # "OK", or the error's
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("called_at", sa.BigInteger, nullable=False),
    sa.Column("took_ms", sa.Integer, nullable=False),
    # from here on later than the first version: each with a default, for rows and writers of that time
    sa.Column("message", sa.Text, nullable=False, server_default=""),
    sa.Column("source", sa.Text, nullable=False, server_default=""),
    sa.Column("origin", sa.Text, nullable=False, server_default="api"),
    sa.Column("mutates", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("params", sa.Text, nullable=False, server_default="[]"),  # JSON: [[name, value], ...], without secrets
    # one index for each way to filter the list, so that no page reads more rows than it shows
    sa.Index("ix_call_request_id", "request_id"),
    sa.Index("calls_of_key", "access_key_id"),
    sa.Index("calls_of_action", "action"),
    sa.Index("calls_that_change", "mutates"),
    sa.Index("calls_of_key_and_action", "access_key_id", "action"),
    sa.Index("calls_of_key_that_change", "access_key_id", "mutates"),
)

key_use = sa.Table(  # outlives the log's oldest lines, and spares reading it
    "key_use",
    metadata,
    sa.Column("access_key_id", sa.Text, primary_key=True),
    sa.Column("used_at", sa.BigInteger, nullable=False),
)


class Calls:
    def __init__(self, config: Config) -> None:
        path = config.home / "calls.db"
        try:
            self._engine = self._open(config.calls_url)
        except sa.exc.DatabaseError:
            # nothing in it is needed: a damaged one is set aside rather than keep the server from starting
            path.replace(path.with_name("calls.damaged.db"))
            for name in ("calls.db-wal", "calls.db-shm"):
                (config.home / name).unlink(missing_ok=True)
            self._engine = self._open(config.calls_url)
        self._since_sweep = 0

    @staticmethod
    def _open(url: str) -> sa.Engine:
        engine = database.make_engine(url, synchronous="NORMAL")
        with engine.begin() as tx:
            _bring_up_to_date(tx)
        return engine

    def close(self) -> None:
        self._engine.dispose()

    def use_nonce(self, access_key_id: str, value: str, now: int) -> bool:
        """A2: True the first time a key uses a nonce, False ever after (while its timestamp could be valid)."""
        with database.transaction(self._engine) as tx:
            self._sweep(tx, now)
            try:
                tx.execute(sa.insert(nonce).values(access_key_id=access_key_id, nonce=value, used_at=now))
            except sa.exc.IntegrityError:
                return False
        return True

    def note(
        self,
        *,
        request_id: str,
        action: str,
        access_key_id: str,
        code: str,
        status: int,
        called_at: int,
        took_ms: int,
        message: str = "",
        source: str = "",
        origin: str = "api",
        mutates: bool = False,
        params: Sequence[tuple[str, str]] = (),
    ) -> None:
        """``params``: wire pairs from which secrets were taken out."""
        values = {
            "request_id": request_id,
            "action": action,
            "access_key_id": access_key_id,
            "code": code,
            "status": status,
            "called_at": called_at,
            "took_ms": took_ms,
            "message": message,
            "source": source,
            "origin": origin,
            "mutates": mutates,
            "params": json.dumps([list(pair) for pair in params], ensure_ascii=False, separators=(",", ":")),
        }
        with database.transaction(self._engine) as tx:
            tx.execute(sa.insert(call).values(values))
            if access_key_id:
                used = sqlite.insert(key_use).values(access_key_id=access_key_id, used_at=called_at)
                later = {"used_at": sa.func.max(key_use.c.used_at, used.excluded.used_at)}
                tx.execute(used.on_conflict_do_update(index_elements=[key_use.c.access_key_id], set_=later))

    def last_used(self) -> dict[str, int]:
        """Access key id -> when it last made a call."""
        with database.transaction(self._engine, read=True) as tx:
            return {row.access_key_id: row.used_at for row in tx.execute(sa.select(key_use)).all()}

    def page(
        self,
        *,
        access_key_id: str = "",
        action: str = "",
        only_changes: bool = False,
        request_id: str = "",
        before: int | None = None,
        limit: int = 30,
    ) -> Page:
        """The log, newest first. ``before``: the number of the last line seen. ``action`` and ``only_changes`` are not
        asked for together."""
        query = sa.select(call).order_by(call.c.number.desc()).limit(limit + 1)
        for column, wanted in ((call.c.access_key_id, access_key_id), (call.c.action, action)):
            if wanted:
                query = query.where(column == wanted)
        if only_changes:
            query = query.where(call.c.mutates == sa.true())
        if request_id:
            query = query.where(call.c.request_id == request_id)
        if before is not None:
            query = query.where(call.c.number < before)
        with database.transaction(self._engine, read=True) as tx:
            rows = tx.execute(query).all()
        return cut(rows, limit, lambda row: write_marker("call", row.number))

    def _sweep(self, tx: sa.Connection, now: int) -> None:
        self._since_sweep += 1
        if self._since_sweep % 1000 != 1:
            return
        tx.execute(sa.delete(nonce).where(nonce.c.used_at < now - NONCE_KEPT_S))
        # changes are counted by themselves: a flood of reads, or of strangers' calls, does not wash away who did what
        for changes in (sa.false(), sa.true()):
            same = sa.select(call.c.number).where(call.c.mutates == changes).order_by(call.c.number.desc())
            first_dropped = tx.execute(same.offset(CALLS_KEPT).limit(1)).scalar()
            if first_dropped is not None:
                tx.execute(sa.delete(call).where(call.c.mutates == changes, call.c.number <= first_dropped))


def _bring_up_to_date(tx: sa.Connection) -> None:
    """Make what is missing: this database has no revisions, and one of an earlier version lacks columns and indexes."""
    present = sa.inspect(tx)
    new_key_use = not present.has_table(key_use.name)
    if present.has_table(call.name):
        columns = {column["name"] for column in present.get_columns(call.name)}
        for column in call.c:
            if column.name not in columns:
                definition = sa.schema.CreateColumn(column).compile(dialect=tx.dialect)
                tx.exec_driver_sql(f"ALTER TABLE {call.name} ADD COLUMN {definition}")
    metadata.create_all(tx)
    for index in call.indexes:
        index.create(tx, checkfirst=True)
    if new_key_use:
        used = sa.select(call.c.access_key_id, sa.func.max(call.c.called_at)).where(call.c.access_key_id != "")
        tx.execute(sa.insert(key_use).from_select(["access_key_id", "used_at"], used.group_by(call.c.access_key_id)))
