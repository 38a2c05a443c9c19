"""Restic and borg, which know files only, as the manual's low-level interface is used with such tools: the server
begins a backup, the tool reads the data directory without what no backup needs, the server ends it, and the tool
stores the label and the log that the server archived meanwhile. ``psql`` keeps the session open around the tool.

All that is one command, and that command is measured. A restore is both parts, put together and synced.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from contenders import ROLE, Round, Tool
from measure import Measured, tree_bytes
from source_server import server_user

# What the manual says may stay out; the same that Icecore leaves out of a server without unlogged tables.
CONTENT_LEFT_OUT = (
    *("pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_subtrans"),
    "pg_stat_tmp",
)
FILES_LEFT_OUT = "postmaster.pid", "postmaster.opts", "pgsql_tmp*", "pg_internal.init*"

HOW = (
    "of the data directory between `pg_backup_start` and `pg_backup_stop`, then of the label and the archived WAL; "
    "later backups read files whose times changed"
)

BACKUP = """\
set -e
rm -rf {tail} && mkdir {tail} && rm -f {place}/stored
cat > {place}/session.sql <<'END'
\\set ON_ERROR_STOP on
SELECT pg_backup_start('bench', true);
\\! cd {data} && {store_data} && touch {place}/stored
\\o {tail}/backup_label
SELECT labelfile FROM pg_backup_stop(true);
\\o
END
psql -X -q -A -t -h {socket} -p {port} -U {role} -d postgres -f {place}/session.sql
test -e {place}/stored
first=$(sed -n 's/.*(file \\([0-9A-F]*\\)).*/\\1/p' {tail}/backup_label | head -n 1)
{bin}/pg_archivecleanup {archive} $first
cp {archive}/* {tail}
cd {tail} && {store_tail}
"""

RESTORE = """\
set -e
mkdir -m 700 {restored} {rest}
cd {restored} && {fetch_data}
cd {rest} && {fetch_tail}
mv {rest}/backup_label {restored} && mv {rest}/* {restored}/pg_wal
chmod 700 {restored} && sync -f {restored}
"""


@dataclass
class Filewise(Tool):
    name: str
    increments: bool = True
    number: int = 0

    @property
    def program(self) -> str:
        return self.name

    def absent(self) -> str:
        return "" if shutil.which(self.program) else f"not installed (Debian: {self.package})"

    @property
    def package(self) -> str:
        return self.program

    def archive_command(self, go: Round) -> str:
        return f"cp %p {self._archive(go)}/%f"

    def prepare(self, go: Round) -> None:
        self.number = 0
        archive = self._archive(go)
        archive.mkdir()
        os.chown(archive, *server_user()[1:])
        go.run("sh", "-c", self.begin(go.place / "repo"), more=self.secrets)

    def backup(self, go: Round) -> Measured:
        self.number += 1
        script = BACKUP.format(
            **self._names(go),
            store_data=self.store(go, "data", self.exclusions(go)),
            store_tail=self.store(go, "tail", ""),
            role=ROLE,
            socket=go.source.place,
            port=go.source.port,
            bin=go.source.bin,
        )
        return go.run("sh", "-c", script, more=self.secrets)

    def backup_again(self, go: Round) -> Measured:
        return self.backup(go)

    def stored_bytes(self, go: Round) -> int:
        return tree_bytes(go.place / "repo")

    def restore(self, go: Round) -> Measured:
        script = RESTORE.format(
            **self._names(go),
            restored=go.restored,
            rest=go.place / f"rest-{self.number}",
            fetch_data=self.fetch(go, "data"),
            fetch_tail=self.fetch(go, "tail"),
        )
        return go.run("sh", "-c", script, more=self.secrets)

    # ------------------------------------------------------------ the tool's own words

    @property
    def secrets(self) -> dict[str, str]:
        raise NotImplementedError

    def begin(self, repository: Path) -> str:
        raise NotImplementedError

    def store(self, go: Round, what: str, exclusions: str) -> str:
        raise NotImplementedError

    def fetch(self, go: Round, what: str) -> str:
        raise NotImplementedError

    def exclusions(self, go: Round) -> str:
        raise NotImplementedError

    def _names(self, go: Round) -> dict[str, Path]:
        return {"place": go.place, "tail": go.place / "tail", "data": go.source.data, "archive": self._archive(go)}

    def _archive(self, go: Round) -> Path:
        return go.place / "archive"


@dataclass
class Restic(Filewise):
    name: str = "restic"

    @property
    def note(self) -> str:
        return f"its defaults: encrypted, compression auto; {HOW}"

    def absent(self) -> str:
        return super().absent() or ("always encrypts" if self.plain else "")

    @property
    def secrets(self) -> dict[str, str]:
        return {"RESTIC_PASSWORD": "of-a-benchmark"}

    def begin(self, repository: Path) -> str:
        return f"restic -q -r {repository} init --repository-version 2"

    def store(self, go: Round, what: str, exclusions: str) -> str:
        return f"restic -q -r {go.place}/repo backup --tag {what} {exclusions} ."

    def fetch(self, go: Round, what: str) -> str:
        return f"restic -q -r {go.place}/repo restore latest --tag {what} --target ."

    def exclusions(self, go: Round) -> str:
        names = [f"{go.source.data}/{name}/*" for name in CONTENT_LEFT_OUT]
        return " ".join(f"--exclude '{name}'" for name in (*names, *FILES_LEFT_OUT))


@dataclass
class Borg(Filewise):
    name: str = "borg"

    @property
    def note(self) -> str:
        secrecy = "unencrypted" if self.plain else "repokey"
        return f"{secrecy}, zstd,1; {HOW}"

    @property
    def package(self) -> str:
        return "borgbackup"

    @property
    def secrets(self) -> dict[str, str]:
        return {"BORG_PASSPHRASE": "of-a-benchmark", "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}

    def begin(self, repository: Path) -> str:
        return f"borg init --encryption {'none' if self.plain else 'repokey'} {repository}"

    def store(self, go: Round, what: str, exclusions: str) -> str:
        # 1: a warning, such as for a file that changed while it was read: the log repairs that
        archive = f"{go.place}/repo::{what}-{self.number}"
        return f"{{ borg create --compression zstd,1 {exclusions} {archive} . || test $? = 1; }}"

    def fetch(self, go: Round, what: str) -> str:
        return f"borg extract {go.place}/repo::{what}-{self.number}"

    def exclusions(self, go: Round) -> str:
        names = [f"sh:{name}/*" for name in CONTENT_LEFT_OUT] + [f"sh:**/{name}" for name in FILES_LEFT_OUT]
        return " ".join(f"--exclude '{name}'" for name in names)


def version_of(program: str) -> str:
    asked = [program, "--version" if program == "borg" else "version"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[1]
