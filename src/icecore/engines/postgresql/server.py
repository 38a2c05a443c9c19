"""A restored cluster as a running server with a port, a socket and a log file of its own.

It keeps the source's roles and access rules. What it must not keep (where it listens, whom it replicates from, where
it archives, which libraries it preloads) stands in one marked block at the end of ``postgresql.auto.conf``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from icecore.engines import Assertion, ServerPlace
from icecore.engines.postgresql import binaries, conffile, place
from icecore.engines.postgresql.control import lsn_number
from icecore.engines.postgresql.knock import knock
from icecore.engines.postgresql.owner import as_owner, private_directory, private_file, read_small, rights
from icecore.errors import EngineFailed, EngineUnreachable, TargetRefused
from icecore.evidence import Examination, Outcome
from icecore.model import BackupFacts

SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path less its final zero
_POLL_S = 0.1
_LOG_END_BYTES = 65536
# Of a server that is only looked at. The source may have given half its memory to its buffers; this host has other
# things to do.
_SEALED_OFF = {
    "listen_addresses": "''",
    "max_logical_replication_workers": "0",
    "autovacuum": "off",
    "shared_buffers": "'128MB'",
    "maintenance_work_mem": "'128MB'",
    "fsync": "off",
    "restart_after_crash": "on",
}
# It shares a machine with its source, whose memory it must not take, nor the changes that a subscription waits for.
_GUEST = {"max_logical_replication_workers": "0", "shared_buffers": "'128MB'", "huge_pages": "off"}
# They would do by themselves what the source does at this very hour.
_SCHEDULERS = frozenset(("pg_cron", "pg_partman_bgw", "pg_squeeze", "pglogical", "pg_failover_slots"))
_PRELOADS = ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries")


class PostgresServer:
    def __init__(self, facts: BackupFacts, where: ServerPlace) -> None:
        self._facts = facts
        self._place = where
        self._bin: Path | None = None
        self._pages_per_segment = 131072  # a GiB, until the server said otherwise

    # ------------------------------------------------------------ contract

    def prepare(self) -> None:
        where = self._place
        if len(os.fsencode(self._socket())) > SOCKET_PATH_BYTES:
            raise TargetRefused(
                f"the socket's path {self._socket()} is too long", "Use a directory with a shorter path."
            )
        # 1. Where it listens, what it must not do, and who may enter. Every restored file is its owner's already.
        self._programs()
        as_owner(where.owner, "preparing the restored server", self._write_settings)
        # 2. Its own socket directory: the only way in without a password, so only its owner may enter.
        private_directory(where.socket_directory, where.owner)
        # 3. What it says goes to one file.
        private_file(where.log_file, where.owner)

    def start(self, timeout_s: float, still_wanted: Callable[[], None] = lambda: None) -> None:
        deadline = time.monotonic() + timeout_s
        still_wanted()
        # 1. Nothing to do for a server that runs; it may still be recovering.
        launched = not self.running()
        if launched:
            self._drop_stale_lock()
            self._launch()

        def wanted() -> None:
            try:
                still_wanted()
            except BaseException:
                if launched:
                    self._abandon()
                raise

        # 2. Recovered, past the backup's end, and taking writes.
        self._wait_until_writable(deadline, wanted)

    def running(self) -> bool:
        return binaries.postmaster_of(self._place.data_directory) != 0

    def stop(self, timeout_s: float) -> None:
        """A fast shutdown: sessions are ended, everything is written. Where the directory is gone, an immediate one."""
        gone = not self._place.data_directory.is_dir()
        if not self._end(signal.SIGQUIT if gone else signal.SIGINT, timeout_s):
            reason = f"it still runs after {timeout_s:.0f} s {self._last_words()}"
            raise EngineFailed(doing="stopping the restored server", reason=reason)

    def dsn(self) -> str:
        return self._dsn(self._database())

    def version(self) -> str:
        from icecore.engines.postgresql.connect import connect_sql, query

        statement = "SELECT setting, current_setting('server_version') FROM pg_settings WHERE name = 'segment_size'"
        with connect_sql(self.dsn(), None) as connection:
            ((segment, version),) = query(connection, "asking for the version", statement)
        self._pages_per_segment = int(segment)
        return str(version).split(" ", maxsplit=1)[0]

    def examine(
        self,
        assertions: Sequence[Assertion],
        *,
        threads: int,
        count_for_s: float,
        still_wanted: Callable[[], None] = lambda: None,
    ) -> Iterator[Examination]:
        from icecore.engines.postgresql.examine import Examiner

        if not self._place.sealed_off:
            raise ValueError("only a sealed-off server is examined: it is written to")
        yield from Examiner(self._dsn, self._database(), self._facts.engine_facts, threads, still_wanted).run(
            assertions, count_for_s
        )

    def examine_pages(self, still_wanted: Callable[[], None] = lambda: None) -> Examination:
        from icecore.engines.postgresql.rereading import reread

        if not self._facts.engine_facts.get("checksums"):
            return Examination(
                "page checksums", Outcome.NOT_RUN, notes=("the cluster has no page checksums (data_checksums is off)",)
            )
        return reread(
            self._programs(),
            self._place.data_directory,
            self._place.owner,
            still_wanted,
            page_bytes=int(self._facts.engine_facts["page_bytes"]),
            pages_per_segment=self._pages_per_segment,
        )

    def _dsn(self, database: str) -> str:
        role, socket = str(self._facts.engine_facts["role"]), str(self._place.socket_directory)
        return (
            f"host={_dsn_value(socket)} port={self._place.port} user={_dsn_value(role)} dbname={_dsn_value(database)}"
        )

    # ------------------------------------------------------------ settings

    def _write_settings(self) -> None:
        """As the owner. Only what differs is written: the server may run, and ``ALTER SYSTEM`` writes there, too."""
        data, known = self._place.data_directory, self._facts.engine_facts
        if not (data / "PG_VERSION").exists():
            raise EngineFailed(doing="preparing the restored server", reason=f"{data} holds no restored files")
        # 1. Settings.
        path = data / "postgresql.auto.conf"
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        place.write(path, conffile.block(text, "server settings", self._settings(known)))
        # 2. Access: ours first, for the bootstrap role through its own socket; then the source's rules.
        hba = data / "pg_hba.conf"
        rules = hba.read_text(encoding="utf-8", errors="surrogateescape") if hba.exists() else ""
        place.write(hba, _with_own_rule(rules, known["role"]))

    def _socket(self) -> Path:
        return self._place.socket_directory / f".s.PGSQL.{self._place.port}"

    def _settings(self, known: Mapping[str, Any]) -> list[str]:
        where = self._place
        settings = {
            "port": str(where.port),
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": conffile.quoted(str(where.socket_directory)),
            "cluster_name": conffile.quoted(f"icecore {self._facts.cluster_name}"[:63]),
            "archive_mode": "off",
            "primary_conninfo": "''",
            # A hot standby waits for ever where its source raised a limit later; nobody asks before the end anyway
            "hot_standby": "off" if (where.data_directory / "recovery.signal").exists() else "on",
            # One log file, ours: the collector would start another process and write elsewhere.
            "logging_collector": "off",
            "log_destination": "'stderr'",
            # What the source found on its machine need not be free here.
            "huge_pages": "try",
            **place.standby_minimums(known),
        }
        if int(known["major"]) >= 14:
            # One call instead of an fsync for each file before recovery may begin.
            settings["recovery_init_sync_method"] = "syncfs"
        if where.sealed_off:
            settings |= _SEALED_OFF
            if int(known["major"]) >= 17:
                settings["event_triggers"] = "off"  # from then on one may answer to a session's mere beginning
        if where.sealed_off or not self._has_key():
            settings["ssl"] = "off"
        if where.guest:
            settings |= _GUEST
        if not where.durable:
            settings["fsync"] = "off"
        for name in _PRELOADS:
            wanted = [each.strip().strip('"') for each in known.get("settings", {}).get(name, "").split(",")]
            kept = [each for each in wanted if each and binaries.library_exists(self._programs(), each)]
            if where.sealed_off or where.guest:
                kept = [each for each in kept if each.removeprefix("$libdir/") not in _SCHEDULERS]
            if any(wanted):  # also when all are kept: they may have come from the source's command line
                settings[name] = conffile.quoted(", ".join(kept))
        return [f"{name} = {value}" for name, value in settings.items()]

    def _has_key(self) -> bool:
        """Whether the source's encryption can go on with files of this directory alone."""
        data = self._place.data_directory
        conf = data / "postgresql.conf"
        text = conf.read_text(encoding="utf-8", errors="replace") if conf.exists() else ""
        names = (
            conffile.value_of(text, "ssl_key_file") or "server.key",
            conffile.value_of(text, "ssl_cert_file") or "server.crt",
        )
        return all(not name.startswith("/") and (data / name).is_file() for name in names)

    def _database(self) -> str:
        names = [each["name"] for each in self._facts.engine_facts.get("databases", ())]
        return "postgres" if not names or "postgres" in names else "template1"

    # ------------------------------------------------------------ process

    def _programs(self) -> Path:
        if self._bin is None:
            known = self._facts.engine_facts
            self._bin = binaries.find(str(known["major"]), known, self._place.owner)
        return self._bin

    def _drop_stale_lock(self) -> None:
        """A lock file from before the machine's last start. PostgreSQL would take any process that now has the
        recorded number for its server, so one that cannot be alive is removed; every other case is left to it."""
        lock = self._place.data_directory / "postmaster.pid"
        try:
            written_at = int(read_small(lock).splitlines()[2])
        except (OSError, ValueError, IndexError):
            return
        if written_at < binaries.booted_at():
            as_owner(self._place.owner, f"removing {lock}", lambda: lock.unlink(missing_ok=True))

    def _launch(self) -> None:
        where = self._place
        command: list[str | Path] = [self._programs() / "pg_ctl", "start", "-W", "-l", where.log_file]
        self._run([*command, "-D", where.data_directory], "starting the restored server", 60)

    def _run(self, command: Sequence[str | Path], doing: str, timeout_s: float) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        try:
            done = subprocess.run(
                command,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
                start_new_session=True,  # a signal to our terminal is none to the server
                **rights(self._place.owner),  # PostgreSQL does not run as root; neither does any program of its
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EngineFailed(doing=doing, reason=str(error)) from error
        if done.returncode != 0:
            raise EngineFailed(
                doing=doing, reason=f"{done.stdout.decode(errors='replace').strip()} {self._last_words()}"
            )

    def _end(self, how: signal.Signals, timeout_s: float) -> bool:
        """Signal the server and wait; whether none is left."""
        deadline = time.monotonic() + timeout_s
        told = 0
        while pid := binaries.postmaster_of(self._place.data_directory):
            if pid != told:
                # The number comes from the owner's file: root ends none but the owner's own processes.
                if os.geteuid() == 0 and not binaries.belongs_to(pid, self._place.owner[0]):
                    raise EngineFailed(doing="stopping the restored server", reason=f"process {pid} is another user's")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
                told = pid
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    def _abandon(self) -> None:
        """End what was just launched, which may not have its lock file yet. Best effort."""
        deadline = time.monotonic() + 2
        while not self.running() and time.monotonic() < deadline:
            time.sleep(_POLL_S / 2)
        with contextlib.suppress(EngineFailed, OSError):
            self._end(signal.SIGQUIT, 10)

    def _wait_until_writable(self, deadline: float, still_wanted: Callable[[], None]) -> None:
        doing = "waiting for the restored server"
        reason = "it has not answered"
        started = time.monotonic()
        asking: _Asking | None = None
        while True:
            still_wanted()
            if time.monotonic() >= deadline:
                raise EngineFailed(doing=doing, reason=f"{reason} {self._last_words()}")
            if not self.running() and time.monotonic() - started > 2:
                raise EngineFailed(doing=doing, reason=f"it ended: {self._last_words()}")
            # Knocking earlier would only fill its log with refusals.
            if asking is None and self._status() in ("ready", "standby"):
                asking = _Asking(self._not_writable)
            time.sleep(_POLL_S)
            if asking is not None and not asking.is_alive():
                reason = asking.answer()
                if not reason:
                    return
                asking = None

    def _not_writable(self) -> str:
        """Why it does not take writes yet; "" when it does. ``EngineFailed``: it never will."""
        from icecore.engines.postgresql.connect import connect_sql, query

        doing = "waiting for the restored server"
        later = knock(self._socket(), str(self._facts.engine_facts["role"]), self._database())
        if later:
            return later
        try:
            with connect_sql(self.dsn(), None) as connection:
                ((recovering,),) = query(connection, doing, "SELECT pg_is_in_recovery()")
                if recovering:
                    return "it is still recovering"
                ((position,),) = query(connection, doing, "SELECT pg_current_wal_lsn()::text")
                stop = self._facts.boundary.stop_position
                if lsn_number(position) < lsn_number(stop):
                    raise EngineFailed(doing=doing, reason=f"recovery ended at {position}, before {stop}")
                # A transaction number is given out by a server that takes writes only.
                query(connection, doing, "SELECT txid_current()")
                return ""
        except EngineUnreachable as error:
            return str(error.fields["reason"])

    def _status(self) -> str:
        """What the postmaster says of itself in the last line of its lock file."""
        try:
            return read_small(self._place.data_directory / "postmaster.pid").splitlines()[7].strip()
        except (OSError, IndexError):
            return ""

    def _last_words(self) -> str:
        try:
            lines = str(as_owner(self._place.owner, "reading its log", self._log_end)).splitlines()
        except EngineFailed:
            return ""
        telling = [line for line in lines[-50:] if "FATAL" in line or "PANIC" in line or "ERROR" in line]
        return " | ".join(telling[-3:] or lines[-3:])

    def _log_end(self) -> str:
        with self._place.log_file.open("rb") as log:
            log.seek(max(log.seek(0, os.SEEK_END) - _LOG_END_BYTES, 0))
            return log.read(_LOG_END_BYTES).decode(errors="replace")


class _Asking(threading.Thread):
    """A question to a server beside the wait: a connection may hang for seconds, and the wait must stay endable."""

    def __init__(self, ask: Callable[[], str]) -> None:
        super().__init__(name="asking-restored-server", daemon=True)
        self._ask = ask
        self._answer = ""
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._answer = self._ask()
        except BaseException as error:
            self._error = error

    def answer(self) -> str:
        if self._error is not None:
            raise self._error
        return self._answer


def _dsn_value(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_own_rule(rules: str, role: str) -> str:
    name = role.replace('"', '""')
    return conffile.block(rules, "rule", [f'local all "{name}" trust'], first=True)
