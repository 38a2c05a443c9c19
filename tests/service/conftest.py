"""A home in a temporary directory, with a cluster that counts as running; no server, no worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from icecore import app as application
from icecore.api import contract
from icecore.app import App
from icecore.catalog import clusters


@dataclass
class Desk:
    """An opened home and its one cluster."""

    home: Path
    app: App
    cluster_id: str

    def call(self, action: str, **wire: str) -> dict[str, Any]:
        return self.app.run(contract.bind(action, list(wire.items())))

    def create(self, token: str = "") -> str:
        wire = {"DBClusterId": self.cluster_id} | ({"ClientToken": token} if token else {})
        return str(self.call("CreateBackup", **wire)["backup_job_id"])

    def seen_running(self, running: bool = True) -> None:
        facts = {"major": "15", "version": "15.18", "size_bytes": 1 << 20}
        clusters.observed(self.app.catalog, self.cluster_id, running=running, reason="", facts=facts)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    home = tmp_path / "home"
    application.initialise(home, repository=None, encrypted=True, passphrase=None, listen=None)
    app = application.open_app(home)
    registered = app.run(
        contract.bind(
            "RegisterDBCluster",
            [("DBClusterDescription", "orders"), ("Engine", "postgresql"), ("ConnectionString", "host=/nowhere")],
        )
    )
    found = Desk(home, app, registered["db_cluster_id"])
    found.seen_running()
    yield found
    app.close()
