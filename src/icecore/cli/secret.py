"""Secrets that a person brings: from the environment, a file or a prompt; never from a flag."""

from __future__ import annotations

import os
import stat
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icecore import errors
from icecore.cli.output import Output

if TYPE_CHECKING:
    from icecore.repository.sealing import Secret

KEY_BYTES = 32
PASSPHRASE_VARIABLE = "ICECORE_PASSPHRASE"


# ---------------------------------------------------------------- of a repository


def new_passphrase(output: Output) -> str:
    """Typed twice, or from the environment."""
    given = os.environ.get(PASSPHRASE_VARIABLE, "")
    if given:
        return given
    first = output.ask_secret("New passphrase of the repository", PASSPHRASE_VARIABLE)
    if first != output.ask_secret("Once more", PASSPHRASE_VARIABLE):
        raise errors.Usage(reason="the two passphrases differ")
    return first


def given_secret(options: Namespace, output: Output) -> Secret | None:
    """What opens ``--repo``: ``--key-file``, a passphrase, or nothing for one that is not encrypted."""
    from icecore.repository.sealing import KeyFile, Passphrase

    if options.key_file:
        return KeyFile(read_key(options.key_file))
    given = os.environ.get(PASSPHRASE_VARIABLE, "")
    if given or options.passphrase:
        return Passphrase(given or output.ask_secret("Passphrase of the repository", PASSPHRASE_VARIABLE))
    return None


def read_key(path: Path) -> bytes:
    """A key as ``repo key export`` wrote it: 32 bytes, or the same as 64 hexadecimal digits."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise errors.WrongKey(reason=f"{path} cannot be read: {error.strerror}") from error
    if len(data) == KEY_BYTES:
        return data
    try:
        key = bytes.fromhex(data.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise errors.WrongKey(reason=f"{path} holds neither {KEY_BYTES} bytes nor {KEY_BYTES * 2} hexadecimal digits")
    return key


# ---------------------------------------------------------------- of a database server


def server_password(parts: Mapping[str, Any], *, ask: bool, output: Output) -> str | None:
    """For a parsed DSN: asked for, else ``PGPASSWORD``, else the passfile's, else None (trust, peer, certificate).

    Errors: Usage for a DSN that holds one itself: it would be seen in the list of processes and in the catalog.
    """
    if parts.get("password"):
        raise errors.Usage(
            reason="the DSN holds a password: leave it out, and give it by PGPASSWORD, a passfile or --ask-password"
        )
    if ask:
        return output.ask_secret("Password of the database user", "PGPASSWORD")
    if "PGPASSWORD" in os.environ:
        return os.environ["PGPASSWORD"]
    file = Path(parts.get("passfile") or os.environ.get("PGPASSFILE") or Path.home() / ".pgpass")
    try:
        mode, text = file.stat().st_mode, file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if stat.S_IMODE(mode) & 0o077:
        output.warn(f"{file} can be read by others and is not used (chmod 600 {file})")
        return None
    user = str(parts.get("user") or os.environ.get("PGUSER") or _user())
    wanted = (
        _host(str(parts.get("host") or os.environ.get("PGHOST") or "")),
        str(parts.get("port") or os.environ.get("PGPORT") or "5432"),
        str(parts.get("dbname") or os.environ.get("PGDATABASE") or user),
        user,
    )
    return passfile_entry(text, wanted)


def passfile_entry(text: str, wanted: tuple[str, str, str, str]) -> str | None:
    """The password of the first line that fits (host, port, database, user). libpq's rules, PostgreSQL manual 34.16:
    ``*`` fits all, ``\\`` escapes ``:`` and itself, ``#`` starts a comment line."""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        fields = _fields(line)
        if len(fields) >= 5 and all(
            raw == "*" or value == want for (raw, value), want in zip(fields[:4], wanted, strict=True)
        ):
            return fields[4][1]
    return None


def _fields(line: str) -> list[tuple[str, str]]:
    """``(as written, without escapes)`` for each part of a line."""
    fields, raw, value, escaped = [], "", "", False
    for letter in line:
        if escaped:
            raw, value, escaped = raw + letter, value + letter, False
        elif letter == "\\":
            raw, escaped = raw + letter, True
        elif letter == ":":
            fields.append((raw, value))
            raw = value = ""
        else:
            raw, value = raw + letter, value + letter
    fields.append((raw, value))
    return fields


def _host(host: str) -> str:
    """libpq looks a default socket directory up as localhost."""
    return "localhost" if host in ("", "/var/run/postgresql", "/tmp") else host


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.geteuid()).pw_name
