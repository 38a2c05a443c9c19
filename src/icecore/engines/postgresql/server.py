"""A restored cluster as a running server with a port, a socket and a log file of its own.

It keeps the source's roles and access rules. What it must not keep (where it listens, whom it replicates from, where
it archives, which libraries it preloads) stands in one marked block at the end of ``postgresql.auto.conf``.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icecore.engines import ServerPlace
from icecore.engines.postgresql import binaries, conffile, place
from icecore.engines.postgresql.control import lsn_number
from icecore.errors import EngineFailed, EngineUnreachable, TargetRefused
from icecore.model import BackupFacts

SOCKET_PATH_BYTES = 107  # sockaddr_un.sun_path less its final zero
_POLL_S = 0.1
_PRELOADS = ("shared_preload_libraries", "session_preload_libraries", "local_preload_libraries")


class PostgresServer:
    def __init__(self, facts: BackupFacts, where: ServerPlace) -> None:
        self._facts = facts
        self._place = where
        self._bin: Path | None = None

    # ------------------------------------------------------------ contract

    def prepare(self) -> None:
        where, known = self._place, self._facts.engine_facts
        data = where.data_directory
        socket_path = where.socket_directory / f".s.PGSQL.{where.port}"
        if len(os.fsencode(socket_path)) > SOCKET_PATH_BYTES:
            raise TargetRefused(f"the socket's path {socket_path} is too long", "Use a directory with a shorter path.")
        # 1. Something was restored, and can be started.
        if not (data / "PG_VERSION").exists():
            raise EngineFailed(doing="preparing the restored server", reason=f"{data} holds no restored files")
        self._programs()
        # 2. Its own socket directory: the only way in without a password, so only its owner may enter.
        where.socket_directory.mkdir(parents=True, exist_ok=True)
        where.socket_directory.chmod(0o700)
        place.give(where.socket_directory, where.owner)
        # 3. All files belong to the user that runs it.
        for link in (data / "pg_tblspc").iterdir():
            place.give_unless_given(Path(os.path.realpath(link)), where.owner)
        place.give_unless_given(data, where.owner)
        # 4. Where it listens and what it must not do.
        path = data / "postgresql.auto.conf"
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
        place.write(path, conffile.block(text, "server settings", self._settings(known)), where.owner)
        # 5. Access: ours first, for the bootstrap role through that socket; then the source's rules.
        hba = data / "pg_hba.conf"
        rules = hba.read_text(encoding="utf-8", errors="surrogateescape") if hba.exists() else ""
        place.write(hba, _with_own_rule(rules, known["role"]), where.owner)
        # 6. What it says goes to one file.
        where.log_file.parent.mkdir(parents=True, exist_ok=True)
        where.log_file.touch(mode=0o600)
        place.give(where.log_file, where.owner)

    def start(self, timeout_s: float, still_wanted: Callable[[], None] = lambda: None) -> None:
        deadline = time.monotonic() + timeout_s
        # 1. Nothing to do for a server that runs; it may still be recovering.
        if not self.running():
            self._drop_stale_lock()
            self._launch()
        # 2. Recovered, past the backup's end, and taking writes.
        self._wait_until_writable(deadline, still_wanted)

    def running(self) -> bool:
        return binaries.postmaster_of(self._place.data_directory) != 0

    def stop(self, timeout_s: float) -> None:
        """A fast shutdown: sessions are ended, everything is written. Nothing happens if it does not run."""
        if not self.running():
            return
        patience = str(max(int(timeout_s), 1))
        command: list[str | Path] = [self._programs() / "pg_ctl", "stop", "-w", "-m", "fast", "-t", patience]
        self._run([*command, "-D", self._place.data_directory], "stopping the restored server", timeout_s + 10)

    def dsn(self) -> str:
        role = str(self._facts.engine_facts["role"])
        socket = str(self._place.socket_directory)
        return f"host={_dsn_value(socket)} port={self._place.port} user={_dsn_value(role)} dbname={self._database()}"

    # ------------------------------------------------------------ settings

    def _settings(self, known: Mapping[str, Any]) -> list[str]:
        where = self._place
        settings = {
            "port": str(where.port),
            "listen_addresses": "'127.0.0.1'",
            "unix_socket_directories": conffile.quoted(str(where.socket_directory)),
            "cluster_name": conffile.quoted(f"icecore {self._facts.cluster_name}"[:63]),
            "archive_mode": "off",
            "primary_conninfo": "''",
            "hot_standby": "on",
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
        if not self._has_key():
            settings["ssl"] = "off"
        for name in _PRELOADS:
            wanted = [each.strip().strip('"') for each in known.get("settings", {}).get(name, "").split(",")]
            kept = [each for each in wanted if each and binaries.library_exists(self._programs(), each)]
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
            self._bin = binaries.find(str(known["major"]), known)
        return self._bin

    def _drop_stale_lock(self) -> None:
        """A lock file from before the machine's last start. PostgreSQL would take any process that now has the
        recorded number for its server, so one that cannot be alive is removed; every other case is left to it."""
        lock = self._place.data_directory / "postmaster.pid"
        try:
            written_at = int(lock.read_text().splitlines()[2])
        except (OSError, ValueError, IndexError):
            return
        if written_at < binaries.booted_at():
            lock.unlink(missing_ok=True)

    def _launch(self) -> None:
        where = self._place
        command: list[str | Path] = [self._programs() / "pg_ctl", "start", "-W", "-l", where.log_file]
        self._run([*command, "-D", where.data_directory], "starting the restored server", 60)

    def _run(self, command: Sequence[str | Path], doing: str, timeout_s: float) -> None:
        uid, gid = self._place.owner
        drop: dict[str, Any] = {}
        if os.geteuid() == 0 and uid != 0:
            # PostgreSQL does not run as root; neither does any program of its.
            name = pwd.getpwuid(uid).pw_name
            drop = {"user": uid, "group": gid, "extra_groups": os.getgrouplist(name, gid)}
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
                **drop,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EngineFailed(doing=doing, reason=str(error)) from error
        if done.returncode != 0:
            raise EngineFailed(
                doing=doing, reason=f"{done.stdout.decode(errors='replace').strip()} {self._last_words()}"
            )

    def _wait_until_writable(self, deadline: float, still_wanted: Callable[[], None]) -> None:
        from icecore.engines.postgresql.connect import connect_sql, query

        doing = "waiting for the restored server"
        reason = "it has not answered"
        started = time.monotonic()
        while time.monotonic() < deadline:
            still_wanted()
            if not self.running() and time.monotonic() - started > 2:
                raise EngineFailed(doing=doing, reason=f"it ended: {self._last_words()}")
            if self._status() not in ("ready", "standby"):
                # Knocking earlier would only fill its log with refusals.
                time.sleep(_POLL_S)
                continue
            try:
                with connect_sql(self.dsn(), None) as connection:
                    ((recovering,),) = query(connection, doing, "SELECT pg_is_in_recovery()")
                    if not recovering:
                        ((position,),) = query(connection, doing, "SELECT pg_current_wal_lsn()::text")
                        stop = self._facts.boundary.stop_position
                        if lsn_number(position) < lsn_number(stop):
                            raise EngineFailed(doing=doing, reason=f"recovery ended at {position}, before {stop}")
                        # A transaction number is given out by a server that takes writes only.
                        query(connection, doing, "SELECT txid_current()")
                        return
                    reason = "it is still recovering"
            except EngineUnreachable as error:
                reason = str(error.fields["reason"])
            time.sleep(_POLL_S)
        raise EngineFailed(doing=doing, reason=f"{reason} {self._last_words()}")

    def _status(self) -> str:
        """What the postmaster says of itself in the last line of its lock file."""
        try:
            return (self._place.data_directory / "postmaster.pid").read_text().splitlines()[7].strip()
        except (OSError, IndexError):
            return ""

    def _last_words(self) -> str:
        try:
            lines = self._place.log_file.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        telling = [line for line in lines[-50:] if "FATAL" in line or "PANIC" in line or "ERROR" in line]
        return " | ".join(telling[-3:] or lines[-3:])


def _dsn_value(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _with_own_rule(rules: str, role: str) -> str:
    begin, end = "# begin of icecore's rule", "# end of icecore's rule"
    kept: list[str] = []
    inside = False
    for line in rules.splitlines():
        if line == begin:
            inside = True
        if not inside:
            kept.append(line)
        if line == end:
            inside = False
    name = role.replace('"', '""')
    return "\n".join([begin, f'local all "{name}" trust', end, *kept]) + "\n"
