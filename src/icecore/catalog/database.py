"""How the catalog's database is opened, written and brought to the present schema.

SQLite, in WAL mode: readers never wait for a writer. A write transaction begins with BEGIN IMMEDIATE, so that two
requests cannot both read "two backups exist" and both add the third. The busy timeout stays below the time within
which an answer is due.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from icecore import errors

BUSY_TIMEOUT_S = 5.0  # clients give up after 10 s
SCHEMA_HEAD = "0009"  # the newest revision in migrations/versions


def make_engine(url: str, *, synchronous: str) -> sa.Engine:
    """``synchronous``: FULL makes a commit survive a power cut, NORMAL a crash of the process only."""
    path = sa.make_url(url).database
    if path and not Path(path).exists():
        # others may pass through the home; SQLite gives its -wal and -shm files the mode of this one
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    engine = sa.create_engine(
        url,
        connect_args={"check_same_thread": False, "timeout": BUSY_TIMEOUT_S},
        pool_size=8,
        max_overflow=64,
    )

    @sa.event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        read_only = connection.get_execution_options().get("icecore_read")
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


@contextlib.contextmanager
def transaction(engine: sa.Engine, *, read: bool = False) -> Iterator[sa.Connection]:
    """One transaction; committed on return, rolled back on any exception. ``Busy``, ``StorageFull``."""
    try:
        with engine.connect() as connection:
            if read:
                connection = connection.execution_options(icecore_read=True)
            with connection.begin():
                yield connection
    except sa.exc.OperationalError as error:
        text = str(error.orig)
        if "locked" in text or "busy" in text:
            raise errors.Busy() from error
        if "full" in text:
            raise errors.StorageFull(doing="write", name="the catalog", reason=text) from error
        raise errors.StorageFailed(doing="use", name="the catalog", reason=text) from error


def schema_version(engine: sa.Engine) -> str | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def migrate(engine: sa.Engine, home: Path, url: str) -> None:
    """Bring a home of this or an earlier version to the present schema; ``Refused`` for a later one."""
    found = schema_version(engine)
    if found == SCHEMA_HEAD:
        return
    # imported here: a command on a present home needs neither
    from alembic import command
    from alembic.config import Config as AlembicConfig
    from alembic.script import ScriptDirectory
    from dbos import run_dbos_database_migrations

    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(__file__).parent.parent / "migrations"))
    known = {script.revision for script in ScriptDirectory.from_config(settings).walk_revisions()}
    if found is not None and found not in known:
        raise errors.Refused(
            f"{home} was made by a later version of Icecore (schema {found}, this one knows {SCHEMA_HEAD})",
            hint="Install that version or a newer one; nothing was changed.",
        )
    run_dbos_database_migrations(url)
    with engine.connect() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")
