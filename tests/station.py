"""A whole installation for a test: a home, `icecore serve` as a process of its own, and a registered real server.

Everything goes through the command line and the signed API, as a user's would.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icecore.api.client import Client
from icecore.errors import IcecoreError
from world import PostgresWorld

ICECORE = Path(sys.executable).parent / "icecore"
ENDED = ("succeeded", "failed", "cancelled")


class Station:
    """``with Station(place) as station``: initialised and serving; ended and removed with its restored servers."""

    def __init__(
        self,
        place: Path,
        name: str = "home",
        *,
        init: tuple[str, ...] = (),
        user: tuple[int, int] | None = None,
        hidden: Path | None = None,
    ) -> None:
        """``user``: uid and gid that run Icecore, if not ourselves. ``hidden``: not to be seen, as on another host."""
        hide = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hidden)]
        self._icecore = [*(hide if hidden else []), str(ICECORE)]
        self._user: dict[str, Any] = {"user": user[0], "group": user[1], "extra_groups": []} if user else {}
        self.home = place / name
        self.log = place / f"{name}.log"
        self.endpoint = ""
        self._server: subprocess.Popen[str] | None = None
        made = self.icecore("init", "--json", *init)
        self.access_key_id = json.loads(made)["AccessKeyId"]
        self.access_key_secret = json.loads(made)["AccessKeySecret"]

    # ------------------------------------------------------------ processes

    def icecore(self, *command: str, check: bool = True, env: Mapping[str, str] | None = None) -> str:
        """stdout of a command; its stderr goes to the failure."""
        done = subprocess.run(
            [*self._icecore, "--home", str(self.home), *command],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
            env={**os.environ, **(env or {})},
            **self._user,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return str(done.stdout)

    def start(self, *options: str, env: Mapping[str, str] | None = None, listen: str = "127.0.0.1:0") -> Station:
        self._server = self.process("serve", "--listen", listen, *options, env=env)
        line = self._server.stdout.readline() if self._server.stdout else ""
        assert line, f"serve did not start: {self.log.read_text()[-2000:]}"
        self.endpoint = json.loads(line)["Endpoint"]
        return self

    def process(self, *command: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        with self.log.open("a") as log:
            return subprocess.Popen(
                [*self._icecore, "--home", str(self.home), *command, "--json"],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **(env or {})},
                **self._user,
            )

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.pid

    def kill(self) -> None:
        """As a power cut would: no goodbye."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def stop(self, timeout_s: float = 40) -> int:
        assert self._server is not None
        self._server.send_signal(signal.SIGTERM)
        code = self._server.wait(timeout_s)
        self._server = None
        return code

    def wait_for_death(self, timeout_s: float = 60) -> None:
        assert self._server is not None
        assert self._server.wait(timeout_s) == -signal.SIGKILL
        self._server = None

    def __enter__(self) -> Station:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()

    # ------------------------------------------------------------ calls

    def client(self, version: str = "V3") -> Client:
        return Client(self.endpoint, self.access_key_id, self.access_key_secret, version)

    def call(self, action: str, **params: Any) -> dict[str, Any]:
        return self.client().call(action, **params)

    def add(self, source: PostgresWorld, name: str = "orders", *, dsn: str = "") -> str:
        added = self.icecore("cluster", "add", name, "--engine", "postgresql", "--dsn", dsn or source.dsn(), "--json")
        return str(json.loads(added)["DBClusterId"])

    def create(self, cluster_id: str, token: str = "") -> str:
        params = {"db_cluster_id": cluster_id} | ({"client_token": token} if token else {})
        return str(self.call("CreateBackup", **params)["backup_job_id"])

    def job(self, job_id: str) -> dict[str, Any]:
        return dict(self.call("DescribeJobs", job_id=job_id)["items"]["job"][0])

    def wait(self, job_id: str, *, state: str = "succeeded", timeout_s: float = 120) -> dict[str, Any]:
        """The job's end, whatever dies meanwhile; it must be ``state``."""

        def ended() -> dict[str, Any] | None:
            found = self.job(job_id)
            return found if found["state"] in ENDED else None

        found: dict[str, Any] = until(ended, timeout_s)
        assert found["state"] == state, found
        return found

    def backup(self, cluster_id: str) -> dict[str, Any]:
        """Make one and wait for it; its description."""
        job_id = self.create(cluster_id)
        self.wait(job_id)
        return dict(self.call("DescribeBackup", backup_id=job_id)["backup"])

    def backups(self, cluster_id: str) -> list[dict[str, Any]]:
        found = self.call(
            "DescribeBackups",
            db_cluster_id=cluster_id,
            start_time=0,
            end_time=int(time.time()) + 60,
        )
        return list(found["items"]["backup"])

    def restore(self, cluster_id: str, backup_id: str, major: str = "15", timeout_s: float = 120) -> tuple[str, str]:
        """The new cluster's id and a DSN to it, once it takes writes."""
        made = self.call(
            "CreateDBCluster",
            region_id="here",
            db_type="PostgreSQL",
            db_version=major,
            pay_type="Postpaid",
            creation_option="CloneFromPolarDB",
            source_resource_id=cluster_id,
            clone_data_point=backup_id,
        )["db_cluster_id"]
        return made, self.wait_running(made, timeout_s)

    def wait_running(self, cluster_id: str, timeout_s: float = 120) -> str:
        def running() -> bool:
            try:
                shown = self.call("DescribeDBClusterAttribute", db_cluster_id=cluster_id)
            except IcecoreError:
                jobs = self.call("DescribeJobs", db_cluster_id=cluster_id)["items"]["job"]
                raise AssertionError(f"the restore failed: {jobs}") from None
            return bool(shown["db_cluster_status"] == "Running")

        until(running, timeout_s)
        address = self.call("DescribeDBClusterEndpoints", db_cluster_id=cluster_id)["items"][0]["address_items"][0]
        socket = self.home / "clusters" / cluster_id / "socket"
        if not socket.exists():
            socket = Path("/tmp") / f"icecore-{cluster_id}"
        return f"host={socket} port={address['port']} user=postgres dbname=postgres"


def until(found: Callable[[], Any], timeout_s: float = 60, every_s: float = 0.1) -> Any:
    """The first true answer."""
    deadline = time.monotonic() + timeout_s
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"nothing came within {timeout_s} s"
        time.sleep(every_s)
