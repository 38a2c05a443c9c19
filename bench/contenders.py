"""The tools that are compared, each used as its manual says, with the same freedom: two cores, any compression, one
fresh destination a round. All run as the database's user, against the same server. Those that know PostgreSQL are
here, those that know files only in ``filewise``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from measure import Measured, ToolFailed, run, tree_bytes
from places import kind_of
from source_server import SourceServer, server_user

ICECORE = Path(sys.executable).with_name("icecore")
PROCESSES = 2
BLOCK_INCREMENTAL_FROM = (2, 46)  # pgBackRest's
NO_ARCHIVE = "/bin/true"
INSTANT = {  # commands that make a server of a backup
    "restore": ("restore", "source", "--to", "{name}"),
    "clone": ("clone", "source", "--name", "{name}"),
}
ROLE = "keeper"  # whose statements the server logs with their times: see dataset.Told


@dataclass
class Round:
    """One tool's go: its own empty directory, and where its restore must lie."""

    place: Path
    source: SourceServer

    @property
    def restored(self) -> Path:
        return self.place / "restored"

    @property
    def dsn(self) -> str:
        return f"host={self.source.place} port={self.source.port} user={ROLE} dbname=postgres"

    def run(self, *command: str | Path, resident: int = 0, more: Mapping[str, str] | None = None) -> Measured:
        return run(command, self._user, self._environment | dict(more or {}), resident)

    def begin(self, *command: str | Path) -> subprocess.Popen[bytes]:
        """A process that stays; its log goes into the round's directory."""
        drop: dict[str, Any] = {}
        if self._user:
            drop = {"user": self._user[0], "group": self._user[1], "extra_groups": []}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd="/",
                env=self._environment,
                **drop,
            )

    @property
    def log(self) -> Path:
        return self.place / "begun.log"

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
    def absent(self) -> str:
        """Why it cannot be measured here; empty when it can."""
        ...

    def archive_command(self, go: Round) -> str: ...
    def prepare(self, go: Round) -> None: ...
    def make_room(self, go: Round) -> None:
        """Before each later backup, unmeasured."""
        ...

    def backup(self, go: Round) -> Measured: ...
    def backup_again(self, go: Round) -> Measured: ...
    def told(self, go: Round) -> dict[str, float]:
        """What else the tool says of its last backup."""
        ...

    def stored_bytes(self, go: Round) -> int: ...
    def restore(self, go: Round) -> Measured: ...
    def end(self, go: Round) -> None: ...


@dataclass
class Tool:
    """What most tools have nothing to say to."""

    plain: bool

    def absent(self) -> str:
        return ""

    def archive_command(self, go: Round) -> str:
        return NO_ARCHIVE

    def make_room(self, go: Round) -> None: ...

    def told(self, go: Round) -> dict[str, float]:
        return {}

    def end(self, go: Round) -> None: ...


@dataclass
class Icecore(Tool):
    """A server is running, as on a host that is in use; the backup is asked for on the command line."""

    name: str = "icecore"
    increments: bool = True
    server: subprocess.Popen[bytes] | None = None
    made: list[str] = field(default_factory=list)  # backups that exist, oldest first

    @property
    def note(self) -> str:
        return (
            f"zstd-1, {'unencrypted' if self.plain else 'AES-256-GCM, keyed hashes'}; `icecore backup` with "
            "`icecore serve` running, whose CPU and memory are counted; log backup is on; each backup is a full one; "
            "`icecore restore --to DIR`"
        )

    def prepare(self, go: Round) -> None:
        self.made.clear()
        self._run(go, "init", *(["--unencrypted"] if self.plain else []))
        self.server = go.begin(ICECORE, "--home", self.home(go), "serve", "--listen", "127.0.0.1:0")
        assert self.server.stdout is not None
        self.server.stdout.readline()  # it answers
        self._run(go, "cluster", "add", "source", "--dsn", go.dsn)

    def make_room(self, go: Round) -> None:
        """At most three manual backups may exist."""
        while len(self.made) > 1:
            self._run(go, "delete", self.made.pop(0), "--yes", "--quiet")

    def backup(self, go: Round) -> Measured:
        assert self.server is not None
        taken = self._run(go, "backup", "source", "--quiet", "--json", resident=self.server.pid)
        self.made.append(_last_json(taken.output)["BackupId"])
        return taken

    def backup_again(self, go: Round) -> Measured:
        return self.backup(go)

    def told(self, go: Round) -> dict[str, float]:
        """``procedure_s``: the job without the queue and the command; of an image, what its manifest says."""
        from icecore import config, parts

        facts = parts.open_repository(config.load(self.home(go))).find(self.made[-1]).engine_facts.get("image", {})
        return {"procedure_s": self._procedure_s(go)} | {name: float(number) for name, number in facts.items()}

    def _procedure_s(self, go: Round) -> float:
        until = time.monotonic() + 5
        while time.monotonic() < until:  # it is logged a moment after the backup is seen
            for line in reversed(go.log.read_text().splitlines()):
                told = json.loads(line) if line.startswith("{") else {}
                if told.get("event") == "job done" and told.get("kind") == "backup" and told["job"] == self.made[-1]:
                    return float(told["took_s"])
            time.sleep(0.05)
        raise ToolFailed(f"{go.log} does not say how long backup {self.made[-1]} took")

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(self.home(go) / "repository")

    def restore(self, go: Round) -> Measured:
        return self._run(go, "restore", "source", "--to", go.restored, "--quiet")

    def instant(self, go: Round, way: str, name: str) -> tuple[Measured, int]:
        """A new server of the newest backup, one of ``INSTANT``; it answers at this port."""
        assert self.server is not None
        words = [word.format(name=name) for word in INSTANT[way]]
        taken = self._run(go, *words, "--quiet", "--json", resident=self.server.pid)
        return taken, int(re.findall(r'"Port": ?"?(\d+)', taken.output)[-1])

    def drop(self, go: Round, way: str, name: str) -> None:
        self._run(go, *(["clone", "delete"] if way == "clone" else ["cluster", "remove"]), name, "--yes", "--quiet")

    def ways(self) -> list[str]:
        """Those of ``INSTANT`` that this version has."""
        return [way for way in INSTANT if f"\n  {way} " in subprocess.getoutput(f"{ICECORE} --help")]

    def image_files(self, go: Round) -> Iterator[Path]:
        """Of the newest backup, where there is an image."""
        for place in (go.source.place / ".icecore-images").glob(f"*/{self.made[-1]}"):
            yield from (path for path in place.rglob("*") if path.is_file())

    def end(self, go: Round) -> None:
        if self.server is not None:
            self.server.terminate()
            self.server.wait(60)
            self.server = None
        self._drop_slots(go.source)
        shutil.rmtree(go.source.place / ".icecore-images", ignore_errors=True)  # they lie beside the data

    def log_backup(self, go: Round, word: str) -> None:
        """``off``: until it holds nothing of the server any more."""
        self._run(go, "cluster", "set", "source", "--log-backup", word)
        until = time.monotonic() + 60
        while word == "off" and go.source.sql("SELECT 1 FROM pg_replication_slots"):
            if time.monotonic() > until:
                raise ToolFailed("log backup is off, its slot is still there")
            time.sleep(0.1)

    def _drop_slots(self, source: SourceServer) -> None:
        """Nobody comes back for the log that they keep."""
        for _ in range(50):  # a walsender takes a moment to see that its client has gone
            source.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active")
            if not source.sql("SELECT 1 FROM pg_replication_slots"):
                return
            time.sleep(0.1)

    def home(self, go: Round) -> Path:
        return go.place / "home"

    def _run(self, go: Round, *words: str | Path, resident: int = 0) -> Measured:
        return go.run(ICECORE, "--home", self.home(go), *words, resident=resident)


@dataclass
class PgBaseBackup(Tool):
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
        where = ["-h", str(source.place), "-p", str(source.port), "-U", ROLE]
        return go.run(source.bin / "pg_basebackup", *where, "-D", go.place / "base", "-c", "fast", "-X", "stream")

    def backup_again(self, go: Round) -> Measured:
        return self.backup(go)

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(go.place / "base")

    def restore(self, go: Round) -> Measured:
        base, restored = go.place / "base", go.restored
        return go.run("sh", "-c", f"cp -a --reflink=auto {base} {restored} && sync -f {restored}")


@dataclass
class PgBackRest(Tool):
    """Needs a server that archives into its repository: ``archive_command`` reads the configuration of the round."""

    config: Path  # what the server's archive_command names; rewritten each round
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

    def absent(self) -> str:
        return "" if pgbackrest() else "not installed (Debian: pgbackrest; or set ICECORE_BENCH_PGBACKREST)"

    def archive_command(self, go: Round) -> str:
        return f"{pgbackrest()} --config={self.config} --stanza=main archive-push %p"

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
            f"pg1-user={ROLE}\n"
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

    def _run(self, go: Round, *words: str) -> Measured:
        return go.run(pgbackrest(), f"--config={self.config}", "--stanza=main", "--log-level-console=warn", *words)


def pgbackrest() -> str:
    """The program, by its path; empty where there is none."""
    found = shutil.which(os.environ.get("ICECORE_BENCH_PGBACKREST", "pgbackrest"))
    return str(Path(found).resolve()) if found else ""


def pgbackrest_version() -> tuple[int, ...]:
    """``(2, 45)``; for one in development, ``2.59.0dev``, too."""
    return tuple(int(number) for number in re.findall(r"\d+", last_word(pgbackrest(), "version")))


def last_word(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split()[-1]


def machine(place: Path) -> str:
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{os.cpu_count()} cores ({cpu[1] if cpu else '?'}), {memory_bytes / 1e9:.0f} GB, {kind_of(place)}"


def _last_json(text: str) -> dict[str, Any]:
    """Of a command's JSON lines, the summary."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return next(line for line in reversed(lines) if "BackupId" in line)
