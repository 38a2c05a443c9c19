"""The half of the engine that needs no source: from a manifest's facts and a directory of files to a cluster.

Which kind of recovery, and why. A restored directory holds ``backup_label`` and, in ``pg_wal``, all log that it needs.
Without ``recovery.signal`` PostgreSQL would recover from there too, and stay on the source's timeline: source and copy
would from then on write *different* log under the *same* names, and whoever archives both (or later backs both up by
log) mixes them beyond repair. With ``recovery.signal`` the copy ends its recovery as a promotion: a new timeline, its
own names for ever. PostgreSQL then insists on a ``restore_command``; ours is ``exit 1``, "the archive has no such
file", so that it takes what lies in ``pg_wal`` and nothing else. That is right for a new cluster beside its source and
for ``restore --to DIR`` alike: a directory that replaces a lost server diverges from the lost one's archive as well.
``recovery.signal`` and the label are gone after the first start. Point-in-time recovery sets other values here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from icecore.engines import LogFile, RecoveryTarget, RestoredServer, RestoreTarget, ServerPlace
from icecore.engines.postgresql import binaries, conffile, existing
from icecore.engines.postgresql import place as places
from icecore.engines.postgresql.control import (
    CONTROL_PATH,
    guarded,
    lsn_number,
    lsn_text,
    parse,
    read_control,
    switch_points,
)
from icecore.engines.postgresql.owner import as_owner, closed_to_others
from icecore.engines.postgresql.records import Records
from icecore.engines.postgresql.wal import segment_name, segment_positions
from icecore.engines.postgresql.walk import EXPECTED_DIRECTORIES
from icecore.errors import Damaged, EngineFailed, TargetRefused
from icecore.model import BackupFacts, LogBase

# A restored tree may hold these from the source or from an earlier attempt; each would change what a start does.
STALE_FILES = (
    *("postmaster.pid", "postmaster.opts", "recovery.done", "standby.signal", "recovery.conf"),
    *("tablespace_map", "tablespace_map.old", "backup_label.old", "backup_manifest"),
)
# fmt: off
_RECOVERY_SETTINGS = frozenset((
    "restore_command", "archive_cleanup_command", "recovery_end_command", "recovery_target",
    "recovery_target_action", "recovery_target_inclusive", "recovery_target_lsn", "recovery_target_name",
    "recovery_target_time", "recovery_target_timeline", "recovery_target_xid", "primary_conninfo",
    "primary_slot_name", "promote_trigger_file", "recovery_min_apply_delay", "standby_mode",
))
# fmt: on
# They name places of the source's machine; a copy that followed them would meet its source there.
# fmt: off
_PLACES = frozenset((
    "data_directory", "hba_file", "ident_file", "config_file", "external_pid_file", "unix_socket_directories",
    "include", "include_if_exists", "include_dir", "stats_temp_directory",
))
# fmt: on
_ARCHIVING = frozenset(("archive_mode", "archive_command", "archive_library"))
_SPARE_BYTES = 64 * 1024**2  # what a first start writes: a log segment or two and its statistics


class PostgresRestore:
    """Stateless; every fact comes from the backup."""

    def check_target(self, facts: BackupFacts, target: RestoreTarget) -> None:
        known = facts.engine_facts
        # 1. Every tablespace has a directory of its own.
        for link in _tablespace_links(known):
            if link not in target.tablespaces:
                raise TargetRefused(f"tablespace {link} has no directory to go to", "Name one for each tablespace.")
        existing.refuse_foreign_places(target)
        # 2. Nothing is there, and it can be written.
        for directory in (target.data_directory, *target.tablespaces.values()):
            _refuse_unless_empty(directory)
            _refuse_inside_source(directory, known)
        # 3. It fits, file system by file system.
        _refuse_without_space(facts, target)

    def check_existing(self, facts: BackupFacts, target: RestoreTarget, *, unfinished: bool) -> None:
        known = facts.engine_facts
        existing.refuse_foreign_places(target)
        existing.refuse_unless_copy(facts, target, unfinished=unfinished)
        # The source's own directory may become its backup again, with its own tablespaces; a copy elsewhere may not
        # reach into the source.
        if os.path.realpath(target.data_directory) != os.path.realpath(known.get("data_directory") or "/nonexistent"):
            for directory in (target.data_directory, *target.tablespaces.values()):
                _refuse_inside_source(directory, known)

    def check_server(self, facts: BackupFacts) -> None:
        """Raise ``TargetRefused`` when no server of this backup's major could be started here. For callers that will
        start one; a restore into a directory does not need it."""
        binaries.find(str(facts.engine_facts["major"]), facts.engine_facts)

    def last_paths(self) -> frozenset[str]:
        return frozenset((CONTROL_PATH,))

    def guarded(self, path: str, content: bytes) -> bytes:
        if path != CONTROL_PATH:
            raise ValueError(f"{path} is not written last")
        return guarded(content)

    def log_base(self, facts: BackupFacts) -> LogBase:
        known, boundary = facts.engine_facts, facts.boundary
        stop, segment_bytes = lsn_number(boundary.stop_position), int(known["log_segment_bytes"])
        last = max(stop - 1, 0)
        # A primary's clock is that of its commits; the second after the stop is past every commit before it
        since_us = 0 if known.get("in_recovery") else (boundary.stopped_at + 1) * 1_000_000
        return LogBase(facts.backup_id, boundary.timeline, last - last % segment_bytes, stop, since_us)

    def log_files(self, facts: BackupFacts, timeline: int, start: int, end: int) -> list[LogFile]:
        size = int(facts.engine_facts["log_segment_bytes"])
        return [
            LogFile(f"pg_wal/{segment_name(position, timeline, size)}", position, size)
            for position in segment_positions(start, end, size)
        ]

    def history_path(self, timeline: int) -> str:
        return f"pg_wal/{timeline:08X}.history"

    def switch_points(self, history: bytes) -> tuple[tuple[int, int], ...]:
        return switch_points(history)

    def commit_after(self, pieces: Iterable[bytes], position: int, moment_us: int, known: Mapping[str, Any]) -> int:
        records = Records(
            position,
            major=str(known["major"]),
            segment_bytes=int(known["segment_bytes"]),
            page_bytes=int(known["page_bytes"]),
        )
        for piece in pieces:
            records.feed(piece)
            later = [commit.position for commit in records.commits if commit.at_us > moment_us]
            if later:
                return later[0]
            records.commits.clear()
        return 0

    def finish_files(self, facts: BackupFacts, target: RestoreTarget, *, durable: bool = True) -> None:
        doing = "finishing the restored files"
        directories = (target.data_directory, *target.tablespaces.values())
        if not target.data_directory.is_dir():
            raise EngineFailed(doing=doing, reason=f"{target.data_directory} is not there")
        owner = places.owner_of(target)
        if owner is None:
            self._finish(facts, target)
        elif all(closed_to_others(each) for each in directories):
            # Below a directory that only root may enter the owner cannot work, and cannot plant anything either.
            self._finish(facts, target)
            for directory in directories:
                places.give(directory, owner)
        else:
            as_owner(owner, doing, lambda: self._finish(facts, target))
        for directory in directories if durable else ():
            places.sync_file_system(directory)

    def _finish(self, facts: BackupFacts, target: RestoreTarget) -> None:
        data, known = target.data_directory, facts.engine_facts
        # 1. A backup that could not be recovered must be noticed now, not by a server that starts on it.
        _require_label(data)
        # 2. Directories that are never in a backup, or were empty.
        for name in EXPECTED_DIRECTORIES:
            (data / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        if int(known["major"]) >= 17:
            (data / "pg_wal" / "summaries").mkdir(mode=0o700, exist_ok=True)
        data.chmod(int(known.get("data_directory_mode", "0700"), 8))
        # 3. Tablespaces: links to their new directories; the map would send the server to the source's.
        for link in _tablespace_links(known):
            place = target.tablespaces[link]
            _point(data / link, place, target.named.get(place, place))
        # 4. Nothing that was left behind may steer the start.
        for name in STALE_FILES:
            (data / name).unlink(missing_ok=True)
        # 5. Configuration that stands on its own.
        places.write_configuration(data, known.get("configuration", {}), _unwanted(data))
        _write_recovery_settings(data, known, target.recovery)
        (data / "recovery.signal").touch(mode=0o600)

    def server(self, facts: BackupFacts, place: ServerPlace) -> RestoredServer:
        from icecore.engines.postgresql.server import PostgresServer

        return PostgresServer(facts, place)


# ---------------------------------------------------------------- target


def _tablespace_links(known: Mapping[str, Any]) -> list[str]:
    return [f"pg_tblspc/{space['oid']}" for space in known.get("tablespaces", ()) if space["location"]]


def _refuse_unless_empty(directory: Path) -> None:
    if directory.is_symlink() and not directory.exists():
        raise TargetRefused(f"{directory} is a link that leads nowhere", "Name another directory.")
    if directory.exists():
        if not directory.is_dir():
            raise TargetRefused(f"{directory} is not a directory", "Name another directory.")
        pid = binaries.postmaster_of(directory)
        if pid:
            raise TargetRefused(f"a server (process {pid}) runs in {directory}", "Name another directory.")
        try:
            names = [entry.name for entry in directory.iterdir() if entry.name != "lost+found"]
        except PermissionError:
            raise TargetRefused(f"{directory} may not be read", "Run as its owner, or as root.") from None
        if names:
            raise TargetRefused(
                f"{directory} is not empty",
                "Name a new or an empty directory. A copy of the same cluster becomes the backup with --delta.",
            )
    above = directory
    while not above.exists() and above != above.parent:
        above = above.parent
    if not os.access(above, os.W_OK | os.X_OK):
        raise TargetRefused(f"{above} may not be written", "Name another directory, or run as its owner.")


def _refuse_inside_source(directory: Path, known: Mapping[str, Any]) -> None:
    """The source may live on this very machine."""
    source = Path(known.get("data_directory") or "/nonexistent")
    places = [Path(space["location"]) for space in known.get("tablespaces", ()) if space["location"]]
    try:
        is_source = str(parse(read_control(source)).system_identifier) == known["system_identifier"]
    except (OSError, Damaged):
        return
    for other in (source, *places):
        if is_source and existing.inside(directory, other):
            raise TargetRefused(
                f"{directory} belongs to the source of this backup ({other})", "Name another directory."
            )


def _refuse_without_space(facts: BackupFacts, target: RestoreTarget) -> None:
    needed: dict[int, list[Any]] = {}
    spaces = {f"pg_tblspc/{s['oid']}": int(s.get("size_bytes", 0)) for s in facts.engine_facts.get("tablespaces", ())}
    rest = max(facts.size_bytes - sum(spaces.values()), 0) + _SPARE_BYTES
    wanted = [(target.data_directory, rest)] + [
        (path, spaces.get(link, 0)) for link, path in target.tablespaces.items()
    ]
    for directory, whole_bytes in wanted:
        size_bytes = _SPARE_BYTES if directory in target.shared else whole_bytes
        above = directory
        while not above.exists() and above != above.parent:
            above = above.parent
        entry = needed.setdefault(above.stat().st_dev, [above, 0])
        entry[1] += size_bytes
    for above, size_bytes in needed.values():
        free = shutil.disk_usage(above).free
        if free < size_bytes:
            raise TargetRefused(
                f"{above} has {free // 2**20} MiB free, {size_bytes // 2**20} MiB are needed",
                "Free space, or name a directory on a larger file system.",
            )


# ---------------------------------------------------------------- files


def _require_label(data: Path) -> None:
    label = data / "backup_label"
    if (data / "recovery.signal").exists() and not label.exists():
        return  # finished before, and started since
    if not label.exists() or not label.read_bytes().startswith(b"START WAL LOCATION: "):
        raise EngineFailed(doing="finishing the restored files", reason=f"{label} is missing or not a label")


def _point(link: Path, directory: Path, named: Path) -> None:
    """A tablespace's link leads to its new directory, by the name that lasts."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    elif link.is_dir():
        if any(link.iterdir()):
            raise EngineFailed(doing="linking a tablespace", reason=f"{link} holds files that belong into {directory}")
        link.rmdir()
    link.symlink_to(named.absolute())


def _unwanted(data: Path) -> Any:
    """Why a setting of the source may not hold for its copy; "" when it may."""

    def reason(name: str, value: str) -> str:
        if name in _RECOVERY_SETTINGS:
            return "recovery settings of the source"
        if name in _PLACES:
            return "a place of the source"
        if name in _ARCHIVING:
            return "a copy must not write into its source's archive"
        if name == "log_directory" and value.startswith("/"):
            return "a place of the source"
        if name.startswith("ssl_") and name.endswith(("_file", "_dir")) and value.startswith("/"):
            return "a place of the source"
        if name == "ssl" and value.lower() in ("on", "true", "yes", "1") and not (data / "server.key").exists():
            return "its key is not in the data directory"
        return ""

    return reason


def _write_recovery_settings(data: Path, known: Mapping[str, Any], recovery: RecoveryTarget | None) -> None:
    """The block at the end of ``postgresql.auto.conf``, which wins over every other file. Recovery to a moment ends at
    a position that was looked up in the log: were the log cut short before it, the server would refuse to start instead
    of ending early.
    """
    path = data / "postgresql.auto.conf"
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    lines = [
        "restore_command = 'exit 1'",
        *(f"{name} = ''" for name in ("recovery_target", "recovery_target_name", "recovery_target_time")),
        "recovery_target_xid = ''",
        f"recovery_target_lsn = '{lsn_text(recovery.position) if recovery else ''}'",
        f"recovery_target_inclusive = {'off' if recovery and not recovery.inclusive else 'on'}",
        f"recovery_target_timeline = '{recovery.timeline if recovery else 'current'}'",
        "recovery_target_action = 'promote'",
        *(["hot_standby = off"] if recovery else []),  # or it waits where the source raised a limit after the backup
        *(f"{name} = ''" for name in ("recovery_end_command", "archive_cleanup_command")),
        *(f"{name} = ''" for name in ("primary_conninfo", "primary_slot_name", "synchronous_standby_names")),
        "archive_mode = off",
        *(f"{name} = {value}" for name, value in places.standby_minimums(known).items()),
    ]
    content = conffile.block(conffile.without(text, _unwanted(data)), "recovery settings", lines)
    places.write(path, content)
