"""What a registered DSN says without connecting: where it leads, and that it holds no secret."""

from __future__ import annotations

from typing import Any

from icecore.errors import InvalidParameter, Refused

DEFAULT_PORT = 5432
SECRETS = ("password", "sslpassword", "oauth_client_secret")


def address(dsn: str) -> tuple[str, int]:
    """Host (or socket directory) and port; of several, the first. ``InvalidParameter`` for what libpq would not take:
    one port is for all hosts, several must be as many as the hosts."""
    found = _parsed(dsn)
    if found is None:
        raise InvalidParameter(parameter="DSN")
    hosts = str(found.get("host") or found.get("hostaddr") or "").split(",")
    ports = str(found.get("port") or "").split(",")
    if len(ports) not in (1, len(hosts)) or not all(map(_is_port, ports)):
        raise InvalidParameter(parameter="DSN")
    return hosts[0] or "localhost", int(ports[0] or DEFAULT_PORT)


def refuse_secret(dsn: str) -> None:
    """``Refused`` where a secret would get into the catalog; so is what cannot be read, for it may hide one."""
    found = _parsed(dsn)
    if found is None:
        raise Refused("the DSN cannot be read", "Write it as libpq does: host=db.example port=5432 user=icecore.")
    for name in SECRETS:
        if found.get(name):
            raise Refused(
                f"the DSN holds a secret ({name})",
                hint="Leave it out: give it by PGPASSWORD, a passfile or the prompt of `icecore cluster add`.",
            )


def _parsed(dsn: str) -> dict[str, Any] | None:
    """libpq's own reading of it; None for what it cannot read."""
    from psycopg import Error
    from psycopg.conninfo import conninfo_to_dict

    try:
        if "\0" in dsn:  # the text would end there for libpq, and not for us
            return None
        return dict(conninfo_to_dict(dsn))
    except (Error, ValueError):  # ValueError: not UTF-8
        return None


def _is_port(text: str) -> bool:
    """Empty stands for the default."""
    return not text or (text.isascii() and text.isdecimal() and 0 < int(text) <= 65535)
