"""What a running PostgreSQL says about itself: one reading, used by the probe, the session and the manifest's facts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icecore.engines.postgresql.connect import query
from icecore.engines.postgresql.control import ControlFile, parse, read_control
from icecore.errors import Damaged, EngineFailed

if TYPE_CHECKING:
    import psycopg

SUPPORTED_MAJORS = ("13", "14", "15", "16", "17", "18")

# fmt: off
_SETTINGS = (
    "archive_command", "archive_mode", "block_size", "cluster_name", "config_file", "data_checksums",
    "data_directory", "data_directory_mode", "external_pid_file", "fsync", "full_page_writes", "hba_file",
    "ident_file", "listen_addresses", "local_preload_libraries", "max_connections", "max_locks_per_transaction",
    "max_prepared_transactions", "max_replication_slots", "max_slot_wal_keep_size", "max_wal_senders",
    "max_worker_processes", "port", "segment_size", "server_encoding", "server_version",
    "session_preload_libraries", "shared_preload_libraries", "ssl", "ssl_ca_file", "ssl_cert_file", "ssl_key_file",
    "stats_temp_directory", "synchronous_standby_names", "wal_block_size", "wal_level", "wal_segment_size",
    "wal_keep_size",
)
# fmt: on
# Recovery pauses or refuses where these are lower than on the server that wrote the log.
STANDBY_MINIMUMS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
)


@dataclass(frozen=True)
class Tablespace:
    oid: int
    name: str
    location: str  # "" for an in-place tablespace


@dataclass(frozen=True)
class Source:
    """A server's own account. Settings that the role may not read are absent."""

    version_number: int
    settings: Mapping[str, str]
    system_identifier: int
    catalog_version: int
    timeline: int
    checkpoint: str
    redo: str
    in_recovery: bool
    role: str
    superuser: bool
    replication: bool
    bootstrap_role: str
    postmaster_started_at: float
    through_socket: bool  # connected through a Unix socket: the server runs on this host
    tablespaces: tuple[Tablespace, ...]
    size_bytes: int

    @property
    def major(self) -> str:
        return str(self.version_number // 10000)

    @property
    def version(self) -> str:
        return f"{self.version_number // 10000}.{self.version_number % 10000}"

    @property
    def data_directory(self) -> str:
        return self.settings.get("data_directory", "")

    @property
    def page_bytes(self) -> int:
        return int(self.settings["block_size"])

    @property
    def segment_bytes(self) -> int:
        """Size of a log segment."""
        return int(self.settings["wal_segment_size"])

    @property
    def checksums(self) -> bool:
        return self.settings.get("data_checksums") == "on"

    @property
    def version_directory(self) -> str:
        """The sub-directory of a tablespace that belongs to this server."""
        return f"PG_{self.major}_{self.catalog_version}"


def read_source(connection: psycopg.Connection[Any]) -> Source:
    """Needs no right beyond connecting; what a role may not see is simply missing."""
    doing = "asking the server about itself"
    settings: dict[str, str] = dict(
        query(connection, doing, "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_SETTINGS),))
    )
    (row,) = query(
        connection,
        doing,
        """SELECT s.system_identifier, s.catalog_version_no, c.timeline_id, c.checkpoint_lsn::text, c.redo_lsn::text,
                  pg_is_in_recovery(), current_user::text,
                  extract(epoch FROM pg_postmaster_start_time())::float8, inet_server_addr() IS NULL
           FROM pg_control_system() s, pg_control_checkpoint() c""",
    )
    (role,) = query(
        connection,
        doing,
        """SELECT r.rolsuper, r.rolreplication, (SELECT rolname FROM pg_roles WHERE oid = 10)::text
           FROM pg_roles r WHERE r.rolname = current_user""",
    )
    tablespaces = query(
        connection,
        doing,
        """SELECT oid::bigint, spcname::text, pg_tablespace_location(oid) FROM pg_tablespace
           WHERE spcname NOT IN ('pg_default', 'pg_global') ORDER BY oid""",
    )
    return Source(
        version_number=connection.info.server_version,
        settings=settings,
        system_identifier=int(row[0]) & 0xFFFFFFFFFFFFFFFF,
        catalog_version=int(row[1]),
        timeline=int(row[2]),
        checkpoint=row[3],
        redo=row[4],
        in_recovery=bool(row[5]),
        role=row[6],
        superuser=bool(role[0]),
        replication=bool(role[1]),
        bootstrap_role=role[2],
        postmaster_started_at=float(row[7]),
        through_socket=bool(row[8]),
        tablespaces=tuple(Tablespace(int(oid), name, location or "") for oid, name, location in tablespaces),
        size_bytes=_size_bytes(connection),
    )


def _size_bytes(connection: psycopg.Connection[Any]) -> int:
    """An estimate for progress; databases that the role may not enter count as nothing."""
    rows = query(
        connection,
        "measuring the cluster",
        """SELECT coalesce(sum(CASE WHEN has_database_privilege(oid, 'CONNECT')
                   OR pg_has_role(current_user, 'pg_read_all_stats', 'USAGE')
                   THEN pg_database_size(oid) ELSE 0 END), 0)::bigint FROM pg_database""",
    )
    return int(rows[0][0])


@dataclass(frozen=True)
class Location:
    """Where the data directory is, seen from here."""

    local: bool
    reason: str = ""  # why not local: the backup is streamed then
    foreign: bool = False  # readable here, but it is not this server's


def locate(source: Source) -> Location:
    """Whether the server's data directory is readable here *and* is this server's.

    Three proofs: the control file's system identifier, the checkpoint in it, and the start time that the postmaster
    wrote into its lock file: a copy or a standby of the same cluster at the same path has the first two at most.
    """
    if not source.data_directory:
        return Location(False, "the role may not read the setting data_directory")
    directory = Path(source.data_directory)
    try:
        control = parse(read_control(directory))
        lock = (directory / "postmaster.pid").read_text().splitlines()
        next((directory / "base").iterdir())
    except PermissionError:
        return Location(False, f"{directory} may not be read by this user")
    except FileNotFoundError:
        return Location(False, f"{directory} does not exist here")
    except (OSError, Damaged) as error:
        return Location(False, f"{directory} cannot be read here: {error}")
    difference = _difference(source, directory, control, lock)
    if difference:
        return Location(False, f"{directory} is another server's: {difference}", foreign=True)
    for space in source.tablespaces:
        own = directory / "pg_tblspc" / str(space.oid) / source.version_directory
        try:
            list(own.iterdir())
        except OSError as error:
            return Location(False, f"tablespace {space.name} cannot be read here: {own}: {error.strerror}")
    return Location(True)


def _difference(source: Source, directory: Path, control: ControlFile, lock: list[str]) -> str:
    if control.system_identifier != source.system_identifier:
        return f"its system identifier is {control.system_identifier}, the server's is {source.system_identifier}"
    if control.catalog_version != source.catalog_version:
        return f"its catalog version is {control.catalog_version}, the server's is {source.catalog_version}"
    try:
        started_at = int(lock[2])
    except (IndexError, ValueError):
        return "its postmaster.pid names no start time"
    with contextlib.suppress(OSError, ValueError):
        # Where the postmaster can be seen, its working directory is the surest sign.
        if not Path(f"/proc/{int(lock[0])}/cwd").samefile(directory):
            return "its postmaster works in another directory"
    # The lock file holds whole seconds and is written just before the time that the server reports.
    if abs(started_at - source.postmaster_started_at) > 5:
        return "its postmaster.pid was written by another start of a server"
    return ""


def binaries_directory(source: Source) -> str:
    """Where the running server's own programs are, "" when this cannot be seen."""
    try:
        pid = int(Path(source.data_directory, "postmaster.pid").read_text().splitlines()[0])
        return str(Path(f"/proc/{pid}/exe").readlink().parent)
    except (OSError, ValueError, IndexError):
        return ""


def require(condition: bool, doing: str, reason: str) -> None:
    if not condition:
        raise EngineFailed(doing=doing, reason=reason)
