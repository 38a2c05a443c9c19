"""What the console keeps between two pages: sessions, one-time links, failed sign-ins, and the Explorer's calls.

Beside the call log in ``calls.db``: after a power cut somebody may have to sign in again, and nothing else is lost.
Tokens are kept as digests only; whoever reads the file can sign in with none of them.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import sqlalchemy as sa

from icecore.catalog import database
from icecore.config import Config

IDLE_S = 12 * 3600  # a session that nobody used for a working day is over
SESSION_KEPT_S = 7 * 24 * 3600
LINK_KEPT_S = 10 * 60
ATTEMPTS_IN_S = 10 * 60
EXPLORED_KEPT = 50  # of each key
SEEN_EVERY_S = 60  # how exactly the last use of a session is known

metadata = sa.MetaData()

session = sa.Table(
    "session",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("access_key_id", sa.Text, nullable=False),
    sa.Column("opened_at", sa.BigInteger, nullable=False, index=True),
    sa.Column("seen_at", sa.BigInteger, nullable=False),
)

link = sa.Table(
    "link",
    metadata,
    sa.Column("digest", sa.Text, primary_key=True),
    sa.Column("access_key_id", sa.Text, nullable=False),
    sa.Column("expires_at", sa.BigInteger, nullable=False, index=True),
)

failed_sign_in = sa.Table(
    "failed_sign_in",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Index("failures_of_address", "address", "at"),
    sa.Index("failures_by_time", "at"),
)

explored = sa.Table(
    "explored",
    metadata,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("access_key_id", sa.Text, nullable=False),
    sa.Column("request_id", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),  # of the signature: "V1" or "V3"
    sa.Column("pairs", sa.Text, nullable=False),  # the parameters, as a canonical query
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("content_type", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("called_at", sa.BigInteger, nullable=False),
    sa.Column("took_ms", sa.Integer, nullable=False),
    sa.Index("explored_by_key", "access_key_id", "number"),
)


@dataclass(frozen=True)
class Explored:
    """One call made from the Explorer, with its answer."""

    number: int
    access_key_id: str
    request_id: str
    action: str
    version: str
    pairs: str
    status: int
    content_type: str
    body: str
    called_at: int
    took_ms: int


class ConsoleRecords:
    """Called from many threads. Times are Unix seconds, given by the caller."""

    def __init__(self, config: Config) -> None:
        self._engine = database.make_engine(config.calls_url, synchronous="NORMAL")
        with database.transaction(self._engine) as tx:
            metadata.create_all(tx)

    def close(self) -> None:
        self._engine.dispose()

    # ------------------------------------------------------------ sessions

    def open_session(self, access_key_id: str, now: int) -> str:
        """A new session's token, the only time it is given out."""
        token = secrets.token_urlsafe(32)
        with database.transaction(self._engine) as tx:
            tx.execute(sa.delete(session).where(session.c.opened_at < now - SESSION_KEPT_S))
            tx.execute(
                sa.insert(session).values(
                    digest=_digest(token), access_key_id=access_key_id, opened_at=now, seen_at=now
                )
            )
        return token

    def find_session(self, token: str, now: int, *, used: bool = True) -> str | None:
        """The access key id of a living session. ``used``: somebody does something, so that it lives on."""
        with database.transaction(self._engine, read=True) as tx:
            row = tx.execute(sa.select(session).where(session.c.digest == _digest(token))).first()
        if row is None or row.seen_at < now - IDLE_S or row.opened_at < now - SESSION_KEPT_S:
            return None
        if used and row.seen_at < now - SEEN_EVERY_S:
            with database.transaction(self._engine) as tx:
                tx.execute(sa.update(session).where(session.c.digest == row.digest).values(seen_at=now))
        return str(row.access_key_id)

    def close_session(self, token: str) -> None:
        with database.transaction(self._engine) as tx:
            tx.execute(sa.delete(session).where(session.c.digest == _digest(token)))

    # ------------------------------------------------------------ one-time links

    def make_link(self, access_key_id: str, now: int) -> tuple[str, int]:
        """A token that opens one session, and until when."""
        token = secrets.token_urlsafe(32)
        with database.transaction(self._engine) as tx:
            tx.execute(sa.delete(link).where(link.c.expires_at < now))
            tx.execute(
                sa.insert(link).values(digest=_digest(token), access_key_id=access_key_id, expires_at=now + LINK_KEPT_S)
            )
        return token, now + LINK_KEPT_S

    def use_link(self, token: str, now: int) -> str | None:
        """The key that the link was made for; it works once, also when it is used twice at the same moment."""
        with database.transaction(self._engine) as tx:
            row = tx.execute(sa.select(link).where(link.c.digest == _digest(token))).first()
            tx.execute(sa.delete(link).where(link.c.digest == _digest(token)))
        return None if row is None or row.expires_at < now else str(row.access_key_id)

    # ------------------------------------------------------------ failed sign-ins

    def note_failure(self, address: str, now: int) -> None:
        with database.transaction(self._engine) as tx:
            tx.execute(sa.delete(failed_sign_in).where(failed_sign_in.c.at < now - ATTEMPTS_IN_S))
            tx.execute(sa.insert(failed_sign_in).values(address=address, at=now))

    def failures(self, address: str, now: int) -> int:
        """Failed sign-ins from ``address`` within the last ten minutes."""
        f = failed_sign_in.c
        query = sa.select(sa.func.count()).where(f.address == address, f.at >= now - ATTEMPTS_IN_S)
        with database.transaction(self._engine, read=True) as tx:
            return int(tx.execute(query).scalar_one())

    # ------------------------------------------------------------ the Explorer's calls

    def keep_explored(self, access_key_id: str, **values: str | int) -> None:
        """``values``: the other fields of ``Explored`` but ``number``."""
        e = explored.c
        oldest_kept = (
            sa.select(e.number)
            .where(e.access_key_id == access_key_id)
            .order_by(e.number.desc())
            .limit(1)
            .offset(EXPLORED_KEPT)
            .scalar_subquery()
        )
        with database.transaction(self._engine) as tx:
            tx.execute(sa.insert(explored).values(access_key_id=access_key_id, **values))
            tx.execute(sa.delete(explored).where(e.access_key_id == access_key_id, e.number <= oldest_kept))

    def explored(self, access_key_id: str) -> list[Explored]:
        """A key's last calls, newest first; nobody else's."""
        e = explored.c
        query = sa.select(explored).where(e.access_key_id == access_key_id).order_by(e.number.desc())
        with database.transaction(self._engine, read=True) as tx:
            return [Explored(**row._asdict()) for row in tx.execute(query.limit(EXPLORED_KEPT)).all()]


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
