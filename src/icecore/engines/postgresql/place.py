"""Putting a restored cluster in order on disk: configuration, ownership, durability."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icecore.engines import RestoreTarget
from icecore.engines.postgresql import conffile
from icecore.engines.postgresql.source import STANDBY_MINIMUMS
from icecore.errors import EngineFailed

_DEFAULT_NAMES = {"config_file": "postgresql.conf", "hba_file": "pg_hba.conf", "ident_file": "pg_ident.conf"}
_LIBC = ctypes.CDLL(None, use_errno=True)


def write(path: Path, content: str) -> None:
    """Whole or not at all; left alone where it is so already."""
    with contextlib.suppress(FileNotFoundError):
        if path.read_text(encoding="utf-8", errors="surrogateescape") == content:
            return
    temporary = path.with_name(path.name + ".icecore")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
    temporary.rename(path)


def write_configuration(data: Path, configuration: Mapping[str, Any], unwanted: Callable[[str, str], str]) -> None:
    """The three configuration files inside the data directory, complete in themselves.

    A file that the source kept elsewhere is written from the manifest's text. One that lies inside is taken as it was
    restored where the manifest has no text (a remote source that did not let us read it).
    """
    for kind, name in _DEFAULT_NAMES.items():
        path = data / name
        known = configuration.get(kind) or {}
        text = known.get("text")
        if text is None:
            text, missing = conffile.flattened(str(path), _reader_below(data), _lister_below(data))
            if str(path) in missing:
                # Nothing is known: nobody gets in but through the private socket, and PostgreSQL's defaults hold.
                text = "# not in the backup\n"
        if kind == "config_file":
            text = conffile.without(text, unwanted)
        write(path, text)


def _reader_below(data: Path) -> Callable[[str], str | None]:
    """Reads restored files only: an include that leads out of the directory leads to the source's machine."""

    def read(path: str) -> str | None:
        if not _below(path, data):
            return None
        try:
            return Path(path).read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return None

    return read


def _lister_below(data: Path) -> Callable[[str], list[str]]:
    def names_in(path: str) -> list[str]:
        try:
            return [entry.name for entry in Path(path).iterdir()] if _below(path, data) else []
        except OSError:
            return []

    return names_in


def _below(path: str, data: Path) -> bool:
    return os.path.realpath(path).startswith(os.path.realpath(data) + "/")


def standby_minimums(known: Mapping[str, Any]) -> dict[str, str]:
    """A server in recovery needs at least what its source had."""
    settings = known.get("settings", {})
    return {name: settings[name] for name in STANDBY_MINIMUMS if str(settings.get(name, "")).isdigit()}


def owner_of(target: RestoreTarget) -> tuple[int, int] | None:
    """Who the files should belong to: whoever has the data directory. Nothing to do unless we are root."""
    status = target.data_directory.stat()
    return (status.st_uid, status.st_gid) if os.geteuid() == 0 else None


def give(directory: Path, owner: tuple[int, int]) -> None:
    """Everything below ``directory``, itself last, to its owner. Only where nobody else can plant anything."""
    for folder, names, files in os.walk(directory):
        for name in (*names, *files):
            os.lchown(Path(folder, name), *owner)
    os.lchown(directory, *owner)


def sync_file_system(directory: Path) -> None:
    """One call for all files of the file system: thousands of fsyncs would take minutes."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise EngineFailed(doing=f"making {directory} durable", reason=os.strerror(number))
    finally:
        os.close(descriptor)
