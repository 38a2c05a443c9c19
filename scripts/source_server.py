"""A PostgreSQL server to be backed up, for the demo and the benchmarks: made, filled, written to, ended.

PostgreSQL refuses to run as root: then it runs as ``postgres``, and its directory must be one that user can reach.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg


def programs() -> Path:
    """The directory of the newest PostgreSQL here that Icecore knows (13 to 18): Debian's, else what the PATH has."""
    for places in (Path("/usr/lib/postgresql").glob("*/bin"), [Path(shutil.which("initdb") or "/").resolve().parent]):
        found = {
            version(each)[0]: each for each in places if (each / "initdb").exists() and (each / "pgbench").exists()
        }
        known = [major for major in found if 13 <= major <= 18]
        if known:
            return found[max(known)]
    raise SystemExit("no PostgreSQL server programs here (Debian: apt-get install postgresql)")


def version(directory: Path) -> tuple[int, str]:
    """``(15, "15.18")``."""
    told = subprocess.run([directory / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"\(PostgreSQL\) ((\d+)\S*)", told)
    return (int(match[2]), match[1]) if match else (0, "")


def server_user() -> tuple[str, int, int]:
    entry = pwd.getpwnam("postgres") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
    return entry.pw_name, entry.pw_uid, entry.pw_gid


def as_server_user(command: Sequence[str | Path], **more: Any) -> subprocess.CompletedProcess[str]:
    """Run to the end, quietly; what it printed is shown when it fails."""
    _, uid, gid = server_user()
    drop: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
    done = subprocess.run(
        [str(word) for word in command],
        **drop,
        **{"cwd": "/", "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **more},
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed:\n{done.stdout}")
    return done


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class SourceServer:
    """Lives below ``place``; reached through a socket there, without a password."""

    place: Path
    port: int = field(default_factory=free_port)
    bin: Path = field(default_factory=programs)
    data_name: str = "data"

    @property
    def data(self) -> Path:
        return self.place / self.data_name

    @property
    def dsn(self) -> str:
        return f"host={self.place} port={self.port} user=postgres dbname=postgres"

    @property
    def version(self) -> str:
        return version(self.bin)[1]

    def create(self, **settings: str) -> None:
        _, uid, gid = server_user()
        self.place.mkdir(mode=0o755)
        os.chown(self.place, uid, gid)
        as_server_user([self.bin / "initdb", "-D", self.data, "-k", "-A", "trust", "-U", "postgres", "-E", "UTF8"])
        lines = {"port": str(self.port), "listen_addresses": "''", "unix_socket_directories": f"'{self.place}'"}
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = {value}\n" for name, value in (lines | settings).items())

    def start(self, *settings: str) -> None:
        """``settings``: such as ``fsync=off``, for this run only."""
        # Its output must not be our pipe: the server would keep it open for ever. What went wrong is in the log.
        log = self.place / "server.log"
        command: list[str | Path] = [self.bin / "pg_ctl", "-D", self.data, "-l", log, "-w", "-s", "-t", "600"]
        if settings:
            command += ["-o", " ".join(f"-c {each}" for each in settings)]
        command.append("start")
        as_server_user(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        stop_server(self.bin, self.data)

    def shut_down(self) -> None:
        """With a checkpoint: what was loaded without fsync is whole afterwards."""
        as_server_user([self.bin / "pg_ctl", "-D", self.data, "-m", "fast", "-w", "-s", "-t", "600", "stop"])

    def sql(self, statement: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def pgbench(self, *options: str) -> None:
        as_server_user(
            [self.bin / "pgbench", "-h", self.place, "-p", str(self.port), "-U", "postgres", *options, "postgres"]
        )

    def writing(self, clients: int = 2) -> subprocess.Popen[bytes]:
        """pgbench's transactions until it is terminated."""
        _, uid, gid = server_user()
        drop: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []} if os.geteuid() == 0 else {}
        command = [str(self.bin / "pgbench"), "-n", "-c", str(clients), "-T", "86400"]
        command += ["-h", str(self.place), "-p", str(self.port), "-U", "postgres", "postgres"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", **drop)


def stop_server(programs_directory: Path, data: Path) -> None:
    """At once: nothing of it is needed any more."""
    if (data / "postmaster.pid").exists():
        as_server_user([programs_directory / "pg_ctl", "-D", data, "-m", "immediate", "-w", "-s", "stop"])


class Ledger(threading.Thread):
    """Commits numbered rows and remembers outside when each commit was acknowledged (Unix time)."""

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.dsn = dsn
        self.acknowledged: dict[int, float] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            number = 0
            while not self._stopping.is_set():
                number += 1
                connection.execute("INSERT INTO ledger VALUES (%s, md5(%s::text))", (number, number))
                self.acknowledged[number] = time.time()
                time.sleep(0.002)

    def stop(self) -> None:
        self._stopping.set()
        self.join(10)
