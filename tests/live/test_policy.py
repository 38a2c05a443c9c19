"""A policy with a real server: the slot that is due becomes a backup, the drill verifies it, and it restores."""

from __future__ import annotations

import json
import sqlite3

from station import Station, until
from world import PostgresWorld, fingerprint


def test_what_is_due_is_backed_up_and_drilled_by_itself(station: Station, source: PostgresWorld) -> None:
    cluster_id = station.add(source)
    station.icecore("policy", "set", "orders", "--at", "03:00", "--keep", "7", "--drill", "7")
    assert station.backups(cluster_id) == []  # a new policy makes up for nothing
    with sqlite3.connect(station.home / "catalog.db", timeout=20) as catalog:
        catalog.execute("UPDATE policy SET taken_slot = 0")  # as if nobody had looked since
    until(lambda: [each["backup_status"] for each in station.backups(cluster_id)] == ["Success"], timeout_s=90)
    (made,) = station.backups(cluster_id)
    assert made["backup_mode"] == "Automated"

    def verified() -> bool:
        shown = json.loads(station.icecore("show", made["backup_id"], "--json"))["Backup"]
        return bool(shown.get("VerifyOutcome"))

    until(verified, timeout_s=120, every_s=1)
    assert json.loads(station.icecore("show", made["backup_id"], "--json"))["Backup"]["VerifyOutcome"] == "passed"
    _, dsn = station.restore(cluster_id, made["backup_id"])
    assert fingerprint(dsn) == fingerprint(source.dsn())
    assert "stays" in station.icecore("policy", "preview", "orders")
