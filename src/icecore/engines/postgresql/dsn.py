"""What a registered DSN says without connecting: where it leads, and that it holds no secret."""

from __future__ import annotations

from typing import Any

from icecore.errors import InvalidParameter, Refused


def parsed(dsn: str) -> dict[str, Any]:
    """libpq's own reading of it. ``InvalidParameter`` for what it cannot read."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    try:
        return dict(conninfo_to_dict(dsn))
    except ProgrammingError as error:
        raise InvalidParameter(parameter="DSN") from error


def address(dsn: str) -> tuple[str, int]:
    """Host (or socket directory) and port; the first pair where several hosts are named."""
    found = parsed(dsn)
    host = str(found.get("host") or found.get("hostaddr") or "localhost").split(",")[0]
    port = str(found.get("port") or "").split(",")[0]
    return host or "localhost", int(port) if port.isdecimal() else 5432


def refuse_secret(dsn: str) -> None:
    """Raise ``Refused`` where a password would get into the catalog."""
    found = parsed(dsn)
    for name in ("password", "sslpassword"):
        if found.get(name):
            raise Refused(
                f"the DSN holds a {name}",
                hint="Give it by PGPASSWORD, a passfile or the prompt of `icecore cluster add`.",
            )
