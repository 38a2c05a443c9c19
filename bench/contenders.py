"""The tools that are compared, each used as its manual says, with the same freedom: two cores, any compression, one
fresh destination a round. All run as the database's user, against the same server.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from measure import Measured, run, tree_bytes
from places import kind_of
from source_server import SourceServer, server_user

ICECORE = Path(sys.executable).with_name("icecore")
PROCESSES = 2
BLOCK_INCREMENTAL_FROM = (2, 46)  # pgBackRest's


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
    increments: bool  # whether a later backup builds on an earlier one

    @property
    def note(self) -> str: ...
    def prepare(self, go: Round) -> None: ...
    def backup(self, go: Round) -> Measured: ...
    def backup_again(self, go: Round) -> Measured: ...
    def stored_bytes(self, go: Round) -> int: ...
    def restore(self, go: Round) -> Measured: ...
    def end(self, go: Round) -> None: ...


@dataclass
class Icecore:
    """A server is running, as on a host that is in use; the backup is asked for on the command line."""

    plain: bool
    name: str = "icecore"
    increments: bool = True
    server: subprocess.Popen[bytes] | None = None

    @property
    def note(self) -> str:
        return (
            f"zstd-1, {'unencrypted' if self.plain else 'AES-256-GCM, keyed hashes'}; `icecore backup` with "
            "`icecore serve` running, whose CPU and memory are counted; each backup is a full one; "
            "`icecore restore --to DIR`"
        )

    def prepare(self, go: Round) -> None:
        go.run(ICECORE, "--home", go.place / "home", "init", *(["--unencrypted"] if self.plain else []))
        self.server = go.begin(ICECORE, "--home", go.place / "home", "serve", "--listen", "127.0.0.1:0", "--quiet")
        assert self.server.stdout is not None
        self.server.stdout.readline()  # it answers
        go.run(ICECORE, "--home", go.place / "home", "cluster", "add", "source", "--dsn", go.source.dsn)

    def backup(self, go: Round) -> Measured:
        assert self.server is not None
        return go.run(ICECORE, "--home", go.place / "home", "backup", "source", "--quiet", resident=self.server.pid)

    def backup_again(self, go: Round) -> Measured:
        return self.backup(go)

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(go.place / "home" / "repository")

    def restore(self, go: Round) -> Measured:
        return go.run(ICECORE, "--home", go.place / "home", "restore", "source", "--to", go.restored, "--quiet")

    def end(self, go: Round) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server = None
        shutil.rmtree(go.source.place / ".icecore-images", ignore_errors=True)  # they lie beside the data


@dataclass
class PgBaseBackup:
    plain: bool
    name: str = "pg_basebackup"
    increments: bool = False

    @property
    def note(self) -> str:
        return (
            "plain directory, no compression, no encryption; its restore is `cp -a` (which shares blocks where the "
            "file system can) and `sync -f`"
        )

    def prepare(self, go: Round) -> None: ...

    def backup(self, go: Round) -> Measured:
        source = go.source
        where = ["-h", str(source.place), "-p", str(source.port), "-U", "postgres"]
        return go.run(source.bin / "pg_basebackup", *where, "-D", go.place / "base", "-c", "fast", "-X", "stream")

    def backup_again(self, go: Round) -> Measured:
        return self.backup(go)

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(go.place / "base")

    def restore(self, go: Round) -> Measured:
        base, restored = go.place / "base", go.restored
        return go.run("sh", "-c", f"cp -a --reflink=auto {base} {restored} && sync -f {restored}")

    def end(self, go: Round) -> None: ...


@dataclass
class PgBackRest:
    """Needs a server that archives into its repository: ``archive_command`` reads the configuration of the round."""

    config: Path  # what the server's archive_command names; rewritten each round
    plain: bool
    name: str = "pgBackRest"
    increments: bool = True

    @property
    def note(self) -> str:
        secrecy = "unencrypted, checksum-page=n" if self.plain else "AES-256-CBC"
        unit = "block" if self._by_block else "file (before 2.46)"
        return f"zst-1, {secrecy}, bundles, {PROCESSES} processes, fast start; later backups are incremental, by {unit}"

    @property
    def _by_block(self) -> bool:
        return pgbackrest_version() >= BLOCK_INCREMENTAL_FROM

    def prepare(self, go: Round) -> None:
        more = (
            "checksum-page=n\n" if self.plain else "repo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=of-a-benchmark\n"
        )
        more += "repo1-block=y\n" if self._by_block else ""
        self.config.write_text(
            f"[global]\nrepo1-path={go.place / 'repo'}\n{more}repo1-bundle=y\n"
            f"compress-type=zst\ncompress-level=1\nprocess-max={PROCESSES}\nstart-fast=y\n"
            f"log-path={go.place}\nlog-level-file=off\nspool-path={go.place}\nlock-path={go.place / 'lock'}\n"
            f"[main]\npg1-path={go.source.data}\npg1-port={go.source.port}\npg1-socket-path={go.source.place}\n"
            "pg1-user=postgres\n"
        )
        self.config.chmod(0o644)
        self._run(go, "stanza-create")

    def backup(self, go: Round) -> Measured:
        return self._run(go, "backup", "--type=full")

    def backup_again(self, go: Round) -> Measured:
        return self._run(go, "backup", "--type=incr")

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(go.place / "repo")

    def restore(self, go: Round) -> Measured:
        go.restored.mkdir(mode=0o700)
        _, uid, gid = server_user()
        os.chown(go.restored, uid, gid)
        return self._run(go, "restore", f"--pg1-path={go.restored}")

    def end(self, go: Round) -> None: ...

    def _run(self, go: Round, *words: str) -> Measured:
        return go.run(pgbackrest(), f"--config={self.config}", "--stanza=main", "--log-level-console=warn", *words)


def pgbackrest() -> str:
    """The program, by its path."""
    found = shutil.which(os.environ.get("ICECORE_BENCH_PGBACKREST", "pgbackrest"))
    if not found:
        raise SystemExit("no pgbackrest here (Debian: apt-get install pgbackrest; or set ICECORE_BENCH_PGBACKREST)")
    return str(Path(found).resolve())


def pgbackrest_version() -> tuple[int, ...]:
    """``(2, 45)``; for one in development, ``2.59.0dev``, too."""
    return tuple(int(number) for number in re.findall(r"\d+", _told(pgbackrest(), "version")))


def versions(source: SourceServer) -> dict[str, str]:
    return {
        "icecore": _told(ICECORE, "--version"),
        "PostgreSQL": source.version,
        "pgBackRest": _told(pgbackrest(), "version"),
    }


def _told(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split()[-1]


def machine(place: Path) -> str:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{os.cpu_count()} cores ({cpu[1] if cpu else '?'}), {memory_bytes / 1e9:.0f} GB, {kind_of(place)}"
