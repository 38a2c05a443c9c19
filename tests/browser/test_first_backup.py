"""``docs/first-backup.md``: each command in it runs, one after the other, and each picture in it is there."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from window import PICTURES, ROOT

from station import ICECORE
from world import PostgresWorld, fingerprint, free_port

PAGE = (ROOT / "docs" / "first-backup.md").read_text()
COMMANDS = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
SERVE = "icecore serve &\n"


class Terminal:
    """Runs what a reader types, with this machine's names in place of the page's."""

    def __init__(self, place: Path, names: Mapping[str, str]) -> None:
        self.names = dict(names)
        self._place = place
        self.environment = {
            **os.environ,
            "PATH": f"{ICECORE.parent}:{os.environ['PATH']}",
            "ICECORE_HOME": str(place / "home"),
            "ICECORE_LISTEN": f"127.0.0.1:{free_port()}",
            "NO_PROXY": "127.0.0.1",
        }
        self._server: subprocess.Popen[str] | None = None

    def type(self, commands: str) -> str:
        """What they print; all must succeed. The server stays when its line is through."""
        if SERVE in commands:
            before, _, commands = commands.partition(SERVE)
            printed = self._run(before)
            self._serve()
            return printed + self._run(commands)
        return self._run(commands)

    def _run(self, commands: str) -> str:
        for name, real in self.names.items():
            commands = commands.replace(name, real)
        assert "…" not in commands
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=self._place,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _serve(self) -> None:
        with (self._place / "serve.log").open("w") as log:
            self._server = subprocess.Popen(
                [ICECORE, "serve"], env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._server.stdout is not None
        assert "http" in self._server.stdout.readline()

    def close(self) -> None:
        if self._server is not None:
            self._server.kill()
            self._server.wait()


@pytest.fixture
def terminal(place: Path, source: PostgresWorld) -> Iterator[Terminal]:
    typing = Terminal(
        place,
        {
            "host=/var/run/postgresql user=postgres": source.dsn(),
            "/safe/place": str(place),
            "/path/to/data": str(place / "files"),
        },
    )
    yield typing
    typing.close()


def test_every_command_runs(terminal: Terminal, source: PostgresWorld, place: Path) -> None:
    assert len(COMMANDS) == 7
    begin, code, look, two_more, delete, restore, without = COMMANDS
    before = fingerprint(source.dsn())

    # 1. A server and a cluster
    printed = terminal.type(begin)
    key_id, secret = (re.search(rf"AccessKey{part}\s+(\S+)", printed) for part in ("Id", "Secret"))
    cluster = re.search(r"pc-ice\w+", printed)
    assert key_id and secret and cluster
    assert "/console/sign-in?link=" in printed
    terminal.names["LTAI5… ALIBABA_CLOUD_ACCESS_KEY_SECRET=…"] = (
        f"{key_id[1]} ALIBABA_CLOUD_ACCESS_KEY_SECRET={secret[1]}"
    )
    terminal.names["pc-…"] = cluster[0]

    # 3. to 5. A call from code, its task, two more
    job = re.search(r'"BackupJobId": "(\d+)"', terminal.type(code))
    assert job
    terminal.names["11111111"] = job[1]
    assert job[1] in terminal.type(look)
    terminal.type(two_more)
    refused = subprocess.run(["icecore", "backup", "orders"], env=terminal.environment, capture_output=True, text=True)
    assert refused.returncode == 6
    assert "Exceeding the daily backup times of this DB cluster." in refused.stderr

    # 5. and 6. One goes, one is restored: as a cluster, and as files
    terminal.type(delete)
    restored = terminal.type(restore)
    address = re.search(r"127\.0\.0\.1[: ]+(\d+)|port[ =]+(\d+)", restored)
    assert address, restored
    port = address[1] or address[2]
    assert fingerprint(f"host=127.0.0.1 port={port} user=postgres dbname=postgres") == before
    terminal.type(without)
    assert (place / "files" / "PG_VERSION").read_text().strip() == "15"
    assert (place / "icecore.key").exists()


def test_every_picture_is_there() -> None:
    pictures = re.findall(r"!\[([^]]+)\]\((\S+)\)", PAGE)
    assert len(pictures) > 8
    for said, path in pictures:
        assert len(said) > 15
        assert (ROOT / "docs" / path).stat().st_size > 5_000


def test_all_pictures_together_stay_small() -> None:
    """They are kept with the sources; each is below ``PICTURE_BYTES`` when it is taken."""
    sizes = [each.stat().st_size for each in PICTURES.iterdir()]
    assert len(sizes) > 100
    assert sum(sizes) < 4_000_000
