"""The source's configuration as text, wherever it lies: Debian keeps it in ``/etc/postgresql``, outside the data.

Private keys are never taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icecore.engines.postgresql.conffile import flattened, with_lists
from icecore.engines.postgresql.connect import query
from icecore.engines.postgresql.source import Source
from icecore.errors import EngineFailed

if TYPE_CHECKING:
    import psycopg

FILES = ("config_file", "hba_file", "ident_file")


def collect(connection: psycopg.Connection[Any], source: Source, local: bool) -> tuple[dict[str, Any], list[str]]:
    """``{"config_file": {"path": …, "inside": bool, "text": … or None}, …}`` and what could not be read.

    The text has every include directive replaced by the file it names.
    """
    read, names_in = _local() if local else _remote(connection)
    found: dict[str, Any] = {}
    notes = []
    for name in FILES:
        path = source.settings.get(name, "")
        if not path:
            continue
        inside = os.path.realpath(path).startswith(os.path.realpath(source.data_directory) + "/")
        text, missing = flattened(path, read, names_in)
        if path in missing:
            found[name] = {"path": path, "inside": inside, "text": None}
            if not inside:
                notes.append(f"{path} cannot be read: the server's {name} is not in this backup")
            continue
        if name != "config_file":
            text, unread = with_lists(path, text, read)
            missing += unread
        notes += [f"{each} cannot be read and is not in this backup" for each in missing]
        found[name] = {"path": path, "inside": inside, "text": text}
    return found, notes


def private_files(source: Source) -> list[str]:
    """Real paths of key files that lie outside the data directory."""
    key = source.settings.get("ssl_key_file", "")
    if not key:
        return []
    real = os.path.realpath(Path(source.data_directory, key))
    return [real] if not real.startswith(os.path.realpath(source.data_directory) + "/") else []


Read = Callable[[str], str | None]
NamesIn = Callable[[str], Iterable[str]]


def _local() -> tuple[Read, NamesIn]:
    def read(path: str) -> str | None:
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def names_in(path: str) -> Iterable[str]:
        try:
            return [entry.name for entry in Path(path).iterdir()]
        except OSError:
            return ()

    return read, names_in


def _remote(connection: psycopg.Connection[Any]) -> tuple[Read, NamesIn]:
    """Through SQL; only roles that may read the server's files get an answer."""
    doing = "reading the server's configuration"

    def read(path: str) -> str | None:
        try:
            rows = query(connection, doing, "SELECT pg_read_binary_file(%s)", (path,))
        except EngineFailed:
            return None
        return bytes(rows[0][0]).decode("utf-8", "replace")

    def names_in(path: str) -> Iterable[str]:
        try:
            return [name for (name,) in query(connection, doing, "SELECT pg_ls_dir(%s)", (path,))]
        except EngineFailed:
            return ()

    return read, names_in
