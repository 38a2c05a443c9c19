"""The tools that are compared, each used as its manual says, with the same freedom: two cores, any compression, one
fresh destination a round. All run as the database's user, against the same server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from measure import Measured, run, tree_bytes
from source_server import SourceServer, server_user

ICECORE = Path(sys.executable).with_name("icecore")
PROCESSES = 2


@dataclass
class Round:
    """One tool's go: its own empty directory, and where its restore must lie."""

    place: Path
    source: SourceServer

    @property
    def restored(self) -> Path:
        return self.place / "restored"

    def run(self, *command: str | Path, resident: int = 0) -> Measured:
        return run(command, self._user, self._environment, resident)

    def begin(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """A process that stays; its log goes into the round's directory."""
        drop: dict[str, Any] = {}
        if self._user:
            drop = {"user": self._user[0], "group": self._user[1], "extra_groups": []}
        with (self.place / "begun.log").open("wb") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env=self._environment,
                **drop,
            )

    @property
    def _user(self) -> tuple[int, int] | None:
        _, uid, gid = server_user()
        return (uid, gid) if os.geteuid() == 0 else None

    @property
    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.place), "LANG": "C.UTF-8"}


class Contender(Protocol):
    name: str
    note: str

    def prepare(self, go: Round) -> None: ...
    def backup(self, go: Round) -> Measured: ...
    def stored_bytes(self, go: Round) -> int: ...
    def restore(self, go: Round) -> Measured: ...
    def end(self) -> None: ...


@dataclass
class Icecore:
    """A server is running, as on a host that is in use; the backup is asked for on the command line."""

    name: str = "icecore"
    note: str = (
        "zstd-1, AES-256-GCM, keyed hashes; `icecore backup` with `icecore serve` running, whose CPU and memory are "
        "counted; `icecore restore --to DIR`"
    )
    server: subprocess.Popen[bytes] | None = None

    def prepare(self, go: Round) -> None:
        go.run(ICECORE, "--home", go.place / "home", "init")
        self.server = go.begin(ICECORE, "--home", go.place / "home", "serve", "--listen", "127.0.0.1:0", "--quiet")
        assert self.server.stdout is not None
        self.server.stdout.readline()  # it answers
        go.run(ICECORE, "--home", go.place / "home", "cluster", "add", "source", "--dsn", go.source.dsn)

    def backup(self, go: Round) -> Measured:
        assert self.server is not None
        return go.run(ICECORE, "--home", go.place / "home", "backup", "source", "--quiet", resident=self.server.pid)

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(go.place / "home" / "repository")

    def restore(self, go: Round) -> Measured:
        return go.run(ICECORE, "--home", go.place / "home", "restore", "source", "--to", go.restored, "--quiet")

    def end(self) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server = None


@dataclass
class PgBaseBackup:
    name: str = "pg_basebackup"
    note: str = "plain directory, no compression, no encryption; its restore is `cp -a` and `sync -f`"

    def prepare(self, go: Round) -> None: ...

    def backup(self, go: Round) -> Measured:
        source = go.source
        where = ["-h", str(source.place), "-p", str(source.port), "-U", "postgres"]
        return go.run(source.bin / "pg_basebackup", *where, "-D", go.place / "base", "-c", "fast", "-X", "stream")

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(go.place / "base")

    def restore(self, go: Round) -> Measured:
        base, restored = go.place / "base", go.restored
        return go.run("sh", "-c", f"cp -a --reflink=never {base} {restored} && sync -f {restored}")

    def end(self) -> None: ...


@dataclass
class PgBackRest:
    """Needs a server that archives into its repository: ``archive_command`` reads the configuration of the round."""

    config: Path  # what the server's archive_command names; rewritten each round
    name: str = "pgBackRest"
    encrypted: bool = True

    @property
    def note(self) -> str:
        return f"zst-1, {'AES-256-CBC, ' if self.encrypted else ''}bundles, {PROCESSES} processes, fast start"

    def prepare(self, go: Round) -> None:
        cipher = "repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=a-pass-of-the-benchmark\n" if self.encrypted else ""
        self.config.write_text(
            f"[global]\nrepo1-path={go.place / 'repo'}\n{cipher}repo1-bundle=y\n"
            f"compress-type=zst\ncompress-level=1\nprocess-max={PROCESSES}\nstart-fast=y\n"
            f"log-path={go.place}\nlog-level-file=off\nspool-path={go.place}\nlock-path={go.place / 'lock'}\n"
            f"[main]\npg1-path={go.source.data}\npg1-port={go.source.port}\npg1-socket-path={go.source.place}\n"
            "pg1-user=postgres\n"
        )
        self.config.chmod(0o644)
        self._run(go, "stanza-create")

    def backup(self, go: Round) -> Measured:
        return self._run(go, "backup", "--type=full")

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(go.place / "repo")

    def restore(self, go: Round) -> Measured:
        go.restored.mkdir(mode=0o700)
        _, uid, gid = server_user()
        os.chown(go.restored, uid, gid)
        return self._run(go, "restore", f"--pg1-path={go.restored}")

    def end(self) -> None: ...

    def _run(self, go: Round, *words: str) -> Measured:
        return go.run("pgbackrest", f"--config={self.config}", "--stanza=main", "--log-level-console=warn", *words)


def versions(source: SourceServer) -> dict[str, str]:
    def told(*command: str | Path) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split()[-1]

    return {
        "icecore": told(ICECORE, "--version"),
        "PostgreSQL": source.version,
        "pgBackRest": told("pgbackrest", "version"),
    }


def machine() -> dict[str, Any]:
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        "?",
    )
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    kind = json.loads(
        subprocess.run(["findmnt", "-J", "-T", "/tmp"], capture_output=True, text=True, check=True).stdout
    )
    return {
        "cores": os.cpu_count(),
        "processor": model,
        "memory_gb": int(memory.split()[1]) // 1_000_000,
        "file_system": kind["filesystems"][0]["fstype"],
    }
