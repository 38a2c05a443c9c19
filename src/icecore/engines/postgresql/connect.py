"""Connections to a PostgreSQL source: one for SQL, and replication connections at libpq's own level.

Foreign exceptions end here: ``EngineUnreachable`` when no connection comes about, ``EngineFailed`` when one breaks.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icecore.errors import EngineFailed, EngineUnreachable

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn, PGresult

CONNECT_TIMEOUT_S = 10
# A dead peer is noticed after 10 + 6 * 10 s, not after the kernel's two hours.
_KEEPALIVE: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 10,
    "keepalives_count": 6,
}
# A backup may run for hours between two statements: no timeout of the server's may end its session.
_PATIENCE = (
    "SET statement_timeout = 0",
    "SET lock_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET max_parallel_workers_per_gather = 0",
    "SET search_path = pg_catalog",
    "SET client_min_messages = warning",
)
_PATIENCE_14 = ("SET idle_session_timeout = 0",)
_PATIENCE_17 = ("SET transaction_timeout = 0",)


def conninfo(dsn: str, password: str | None, **more: Any) -> str:
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    given = conninfo_to_dict(dsn)
    settings: dict[str, Any] = {**_KEEPALIVE, **more}
    settings.setdefault("connect_timeout", given.get("connect_timeout", CONNECT_TIMEOUT_S))
    settings.setdefault("application_name", given.get("application_name", "icecore"))
    if password is not None:
        settings["password"] = password
    return make_conninfo(dsn, **settings)


def pinned(connection: psycopg.Connection[Any], dsn: str) -> str:
    """The DSN for further connections to the very server that ``connection`` reached: one with several hosts could
    lead to a primary now and to its standby a moment later."""
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    given = conninfo_to_dict(dsn)
    if "," not in f"{given.get('host', '')}{given.get('hostaddr', '')}{given.get('port', '')}":
        return dsn
    info = connection.info
    exact: dict[str, Any] = {"host": info.host, "port": str(info.port)}
    if given.get("hostaddr"):
        exact["hostaddr"] = info.hostaddr
    return make_conninfo(dsn, **exact)


def connect_sql(dsn: str, password: str | None) -> psycopg.Connection[Any]:
    """An autocommit session without timeouts."""
    import psycopg

    try:
        connection = psycopg.connect(conninfo(dsn, password, client_encoding="UTF8"), autocommit=True)
    except psycopg.Error as error:
        raise EngineUnreachable(reason=_with_advice(_one_line(str(error)))) from error
    try:
        version = connection.info.server_version
        for statement in (
            *_PATIENCE,
            *(_PATIENCE_14 if version >= 140000 else ()),
            *(_PATIENCE_17 if version >= 170000 else ()),
        ):
            connection.execute(statement)  # type: ignore[arg-type, unused-ignore]
    except psycopg.Error as error:
        connection.close()
        raise EngineUnreachable(reason=_one_line(str(error))) from error
    return connection


def query(
    connection: psycopg.Connection[Any], doing: str, statement: str, arguments: Sequence[Any] = ()
) -> list[tuple[Any, ...]]:
    """All rows. ``EngineFailed`` names what was being done."""
    import psycopg

    try:
        return connection.execute(statement.encode(), arguments or None).fetchall()
    except psycopg.Error as error:
        raise EngineFailed(doing=doing, reason=_one_line(str(error))) from error


class ReplicationConnection:
    """A walsender of our own. Not shared between threads."""

    def __init__(self, dsn: str, password: str | None) -> None:
        from psycopg import pq

        text = conninfo(dsn, password, replication="true")
        self.pgconn: PGconn = pq.PGconn.connect(text.encode())
        if self.pgconn.status != pq.ConnStatus.OK:
            reason = _with_advice(_one_line(self.pgconn.get_error_message()))
            self.pgconn.finish()
            raise EngineUnreachable(reason=reason)

    def rows(self, doing: str, command: str) -> list[list[bytes | None]]:
        """The rows of a replication command, as the server's bytes."""
        from psycopg import pq

        result = self.pgconn.exec_(command.encode())
        if result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            raise EngineFailed(doing=doing, reason=self.reason(result))
        return table(result)

    def reason(self, result: PGresult | None = None) -> str:
        message = result.get_error_message() if result is not None else ""
        return _one_line(message or self.pgconn.get_error_message())

    def close(self) -> None:
        self.pgconn.finish()


def table(result: PGresult) -> list[list[bytes | None]]:
    return [[result.get_value(row, column) for column in range(result.nfields)] for row in range(result.ntuples)]


def _one_line(message: str) -> str:
    lines = (" ".join(line.split()) for line in message.splitlines())
    return "; ".join(filter(None, lines)) or "the connection was lost"


def _with_advice(reason: str) -> str:
    """The first hurdle of a Debian server: its socket lets a role in only from the system account of that name."""
    if "Peer authentication failed" not in reason:
        return reason
    account = pwd.getpwuid(os.geteuid()).pw_name
    return (
        f"{reason} (this is system account {account}: run Icecore as the role's own account, let {account} in through "
        "pg_ident.conf, or connect to 127.0.0.1 with a password)"
    )
