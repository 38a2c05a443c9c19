"""What would make a backup of this server fail or be worth less, found before the first byte is copied.

``findings`` is pure: it judges facts that ``examine`` gathered. A ``refusal`` stops a backup; a ``warning`` does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icecore.engines import Finding, Probe
from icecore.engines.postgresql.connect import ReplicationConnection, pinned, query
from icecore.engines.postgresql.source import SUPPORTED_MAJORS, Location, Source, locate, read_source
from icecore.errors import EngineFailed, EngineUnreachable

if TYPE_CHECKING:
    import psycopg

START_FUNCTION = {
    False: "pg_catalog.pg_start_backup(text,boolean,boolean)",
    True: "pg_catalog.pg_backup_start(text,boolean)",
}
STOP_FUNCTION = {
    False: "pg_catalog.pg_stop_backup(boolean,boolean)",
    True: "pg_catalog.pg_backup_stop(boolean)",
}


@dataclass(frozen=True)
class Examination:
    """Everything the judgement needs."""

    source: Source
    location: Location
    may_start: bool
    may_stop: bool
    reads_settings: bool
    replication_error: str  # "" when a replication connection came about
    senders_in_use: int
    slots_in_use: int
    primary_page_writes: bool  # full_page_writes of the server whose log this is


def examine(connection: psycopg.Connection[Any], dsn: str, password: str | None) -> Examination:
    source = read_source(connection)
    modern = source.version_number >= 150000
    ((may_start, may_stop, reads_settings, senders, slots),) = query(
        connection,
        "asking for rights",
        """SELECT has_function_privilege(current_user, %s, 'EXECUTE'),
                  has_function_privilege(current_user, %s, 'EXECUTE'),
                  pg_has_role(current_user, 'pg_read_all_settings', 'USAGE'),
                  (SELECT count(*) FROM pg_stat_get_wal_senders()), (SELECT count(*) FROM pg_replication_slots)""",
        (START_FUNCTION[modern], STOP_FUNCTION[modern]),
    )
    return Examination(
        source=source,
        location=locate(source),
        may_start=bool(may_start),
        may_stop=bool(may_stop),
        reads_settings=bool(reads_settings),
        replication_error=_replication_error(pinned(connection, dsn), password, source),
        senders_in_use=int(senders),
        slots_in_use=int(slots),
        primary_page_writes=_primary_page_writes(connection, source),
    )


def _replication_error(dsn: str, password: str | None, source: Source) -> str:
    """Try it: rights, pg_hba.conf and free walsenders are proven by a connection only."""
    if source.settings.get("wal_level") == "minimal":
        return ""  # has its own finding
    try:
        replication = ReplicationConnection(dsn, password)
    except EngineUnreachable as error:
        return str(error.fields["reason"])
    try:
        replication.rows("identifying the server", "IDENTIFY_SYSTEM")
    except EngineFailed as error:
        return str(error.fields["reason"])
    finally:
        replication.close()
    return ""


def _primary_page_writes(connection: psycopg.Connection[Any], source: Source) -> bool:
    """On a standby its own setting says nothing; the last checkpoint record carries the primary's."""
    if not source.in_recovery:
        return True  # a backup forces page images while it runs
    rows = query(connection, "reading the checkpoint", "SELECT full_page_writes FROM pg_control_checkpoint()")
    return bool(rows[0][0])


def findings(seen: Examination) -> tuple[Finding, ...]:
    source, settings = seen.source, seen.source.settings
    found: list[Finding] = []

    def refuse(what: str, fix: str) -> None:
        found.append(Finding("refusal", what, fix))

    def warn(what: str, fix: str = "") -> None:
        found.append(Finding("warning", what, fix))

    def fine(what: str) -> None:
        found.append(Finding("ok", what))

    # 1. A server this engine knows.
    if source.major not in SUPPORTED_MAJORS:
        refuse(f"PostgreSQL {source.version} is not supported", f"Versions {', '.join(SUPPORTED_MAJORS)} are.")
    else:
        kind = "standby" if source.in_recovery else "primary"
        fine(f"PostgreSQL {source.version}, {kind}, system identifier {source.system_identifier}")
    # 2. A log that a copy can be recovered with.
    if settings.get("wal_level") == "minimal":
        refuse("wal_level is minimal: the log cannot repair a copy", "Set wal_level = replica and restart the server.")
    if settings.get("fsync") == "off":
        refuse("fsync is off: after a crash the server's own files cannot be trusted", "Set fsync = on and reload.")
    if not seen.primary_page_writes:
        refuse(
            "full_page_writes is off on the primary: a standby's copy could keep torn pages",
            "Set full_page_writes = on on the primary, reload, and let a checkpoint pass.",
        )
    # 3. Rights.
    functions = [
        name
        for allowed, name in (
            (seen.may_start, START_FUNCTION[source.version_number >= 150000]),
            (seen.may_stop, STOP_FUNCTION[source.version_number >= 150000]),
        )
        if not allowed
    ]
    role = '"' + source.role.replace('"', '""') + '"'
    if functions:
        grants = " ".join(f"GRANT EXECUTE ON FUNCTION {name} TO {role};" for name in functions)
        refuse(f"role {source.role} may not run the backup functions", grants)
    if not (seen.reads_settings or source.superuser):
        refuse(f"role {source.role} may not read all settings", f"GRANT pg_read_all_settings TO {role};")
    if not (source.replication or source.superuser):
        refuse(f"role {source.role} may not receive the log", f"ALTER ROLE {role} REPLICATION;")
    # 4. The log can be received: the connection was tried.
    elif seen.replication_error:
        refuse(
            f"no replication connection: {seen.replication_error}",
            f"pg_hba.conf needs a line for database `replication` and role {source.role}; max_wal_senders "
            f"({settings.get('max_wal_senders', '?')}, {seen.senders_in_use} in use) must leave two free.",
        )
    elif settings.get("wal_level") != "minimal":
        fine("the log can be received")
        free = int(settings.get("max_wal_senders", "0")) - seen.senders_in_use
        needed = 1 if seen.location.local else 2
        if free < needed:
            refuse(f"{free} walsenders are free, {needed} needed", "Raise max_wal_senders.")
        if int(settings.get("max_replication_slots", "0")) - seen.slots_in_use < 1:
            refuse("no replication slot is free", "Raise max_replication_slots, or drop a dead slot.")
    # 5. The files.
    if seen.location.local:
        fine(f"data directory {source.data_directory} is readable here")
    elif seen.location.foreign and source.through_socket:
        refuse(
            f"wrong data directory: {seen.location.reason}",
            "Run Icecore where the server's own data directory is mounted, at the path the server uses.",
        )
    else:
        warn(
            f"the data directory is not readable here ({seen.location.reason}); the backup will be streamed",
            "Streaming is slower. Run Icecore on the database host as root or as the server's user for more speed.",
        )
    # 6. Worth knowing.
    if not source.checksums:
        warn("data_checksums is off: damaged pages cannot be told from good ones", "pg_checksums --enable, offline.")
    if settings.get("synchronous_standby_names"):
        warn("synchronous_standby_names is set: the server keeps the log of the whole backup until its end")
    return tuple(found)


def report(seen: Examination) -> Probe:
    source = seen.source
    return Probe(
        engine="postgresql",
        version=source.version,
        major=source.major,
        identity=str(source.system_identifier),
        size_bytes=source.size_bytes,
        local=seen.location.local,
        data_directory=source.data_directory,
        findings=findings(seen),
        details={
            "in_recovery": source.in_recovery,
            "timeline": source.timeline,
            "page_bytes": source.page_bytes,
            "log_segment_bytes": source.segment_bytes,
            "checksums": source.checksums,
            "role": source.role,
            "port": source.settings.get("port", ""),
            "tablespaces": [[space.oid, space.name, space.location] for space in source.tablespaces],
        },
    )
