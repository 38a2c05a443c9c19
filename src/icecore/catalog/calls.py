"""Nonces and the call log, in a database of their own: every request writes here, and none may wait for the disk.

A commit survives the death of the process but not a power cut. What a power cut could cost is that a request of
the last 15 minutes is accepted twice; ClientToken and the quota hold all the same, they live in the catalog.
"""

from __future__ import annotations

import sqlalchemy as sa

from icecore.catalog import database
from icecore.config import Config

NONCE_KEPT_S = 31 * 60  # a timestamp may lie 15 minutes ahead and is then good for 15 more
CALLS_KEPT = 100_000

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
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("request_id", sa.Text, nullable=False, index=True),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("access_key_id", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),  # "OK", or the error's
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("called_at", sa.BigInteger, nullable=False),
    sa.Column("took_ms", sa.Integer, nullable=False),
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
            metadata.create_all(tx)
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
        self, *, request_id: str, action: str, access_key_id: str, code: str, status: int, called_at: int, took_ms: int
    ) -> None:
        values = {"request_id": request_id, "action": action, "access_key_id": access_key_id, "code": code}
        with database.transaction(self._engine) as tx:
            tx.execute(sa.insert(call).values(status=status, called_at=called_at, took_ms=took_ms, **values))

    def last_used(self) -> dict[str, int]:
        """Access key id -> when it last made a call."""
        with database.transaction(self._engine, read=True) as tx:
            rows = tx.execute(
                sa.select(call.c.access_key_id, sa.func.max(call.c.called_at)).group_by(call.c.access_key_id)
            )
            return {key: at for key, at in rows.all() if key}

    def _sweep(self, tx: sa.Connection, now: int) -> None:
        self._since_sweep += 1
        if self._since_sweep % 1000 != 1:
            return
        tx.execute(sa.delete(nonce).where(nonce.c.used_at < now - NONCE_KEPT_S))
        newest = sa.select(sa.func.max(call.c.number)).scalar_subquery()
        tx.execute(sa.delete(call).where(call.c.number < newest - CALLS_KEPT))
