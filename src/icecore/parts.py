"""The only place that names concrete parts: which engine, storage and key a configuration means.

Imports happen inside the functions, so that a command pays only for what it uses.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from icecore import config as home
from icecore import errors
from icecore.config import Config

if TYPE_CHECKING:
    from icecore.engines import Engine, RestoreEngine
    from icecore.repository import Repository
    from icecore.repository.sealing import Secret

ENGINES = ("postgresql",)


def engine(config: Config, cluster_id: str, name: str, kind: str, dsn: str) -> Engine:
    """The engine bound to one registered cluster, with its password from the home."""
    return engine_for_dsn(kind, dsn, home.password(config, cluster_id), name=name)


def engine_for_dsn(kind: str, dsn: str, password: str | None, *, name: str) -> Engine:
    if kind != "postgresql":
        raise errors.InvalidParameter(parameter="Engine")
    from icecore.engines.postgresql import PostgresEngine

    return PostgresEngine(dsn, password, name=name)


def address(dsn: str) -> tuple[str, int]:
    """Host (or socket directory) and port that a DSN leads to. Raises InvalidParameter for a malformed one."""
    from icecore.engines.postgresql import address

    return address(dsn)


def refuse_secret(dsn: str) -> None:
    """Raise ``Refused`` for a DSN that carries a password or cannot be read."""
    from icecore.engines.postgresql import refuse_secret

    refuse_secret(dsn)


def restore_engine(kind: str) -> RestoreEngine:
    if kind != "postgresql":
        raise errors.Refused(f"this version cannot restore a backup of engine {kind}", hint="Use a newer Icecore.")
    from icecore.engines.postgresql import PostgresRestore

    return PostgresRestore()


def create_repository(config: Config, secret: Secret | None) -> Repository:
    """Make the home's repository; an encrypted one is refused without a secret."""
    from icecore.repository import Repository

    if config.encrypted and secret is None:
        raise errors.Refused("an encrypted repository needs a key", hint="Give a key file or a passphrase.")
    return Repository.create(_storage(config.repository), secret)


def open_repository(config: Config) -> Repository:
    from icecore.repository.sealing import KeyFile, Passphrase

    if not config.encrypted:
        secret: Secret | None = None
    elif config.repository_key.exists():
        secret = KeyFile(home.read_private(config.repository_key))
    elif (passphrase := home.password(config, "repository")) is not None:
        secret = Passphrase(passphrase)
    else:
        raise errors.WrongKey(reason=f"there is no {config.repository_key}")
    return open_repository_at(config.repository, secret)


def open_repository_at(place: Path, secret: Secret | None) -> Repository:
    from icecore.repository import Repository

    return Repository.open(_storage(place), secret)


def _storage(place: Path) -> Any:
    from icecore.storage.local import LocalStorage

    return LocalStorage(place)
