"""Log backup as a user has it: on when a cluster is added, seen by API and command line, restored to a moment."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from icecore.errors import IcecoreError
from station import Station, until
from world import PostgresWorld, sql

SLOTS = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'icecore_log_%'"


@pytest.fixture
def server(place: Path) -> Iterator[PostgresWorld]:
    with PostgresWorld("15", place / "source") as running:
        yield running


def spelled(moment: float) -> str:
    return datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def next_second() -> float:
    """Some moment with a whole second, strictly after all that was done and before all that follows."""
    time.sleep(1.05 - time.time() % 1)
    moment = int(time.time())
    time.sleep(0.1)
    return float(moment)


def test_a_cluster_comes_back_as_of_a_moment(
    place: Path, server: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICECORE_LOG_BACKUP", "on")
    with Station(place) as station:
        cluster = station.add(server)

        def shown() -> dict[str, Any]:
            return station.call("DescribeRecoveryWindows", db_cluster_id=cluster)

        until(lambda: bool(shown().get("position")), timeout_s=90)
        assert shown()["log_backup"] == "on" and shown()["windows"] == []
        job = station.create(cluster)
        station.wait(job)
        server.sql("CREATE TABLE t AS SELECT 1 AS n")
        moment = next_second()
        server.sql("INSERT INTO t VALUES (2)")
        # The whole service is killed, and what is written meanwhile is not lost
        station.kill()
        server.sql("INSERT INTO t VALUES (3)")
        station.start()
        later = next_second()
        server.sql("DELETE FROM t")
        until(lambda: any(each["end_time"] >= spelled(later + 1) for each in wire_windows(shown())), timeout_s=60)
        (window,) = shown()["windows"]
        assert shown()["gaps"] == [] and shown()["lose_now_seconds"] <= 5

        # A moment outside is refused at once, with the nearest ones; one inside becomes a cluster
        asked = {
            "region_id": "local",
            "db_type": "PostgreSQL",
            "db_version": "15",
            "db_node_class": "polar.pg.x4.medium",
            "pay_type": "Postpaid",
            "creation_option": "CloneFromPolarDB",
            "source_resource_id": cluster,
        }
        with pytest.raises(IcecoreError, match="the first restorable moment is"):
            station.call("CreateDBCluster", clone_data_point="2020-01-01T00:00:00Z", **asked)
        made = station.call("CreateDBCluster", clone_data_point=spelled(moment), **asked)["db_cluster_id"]
        assert sql(station.wait_running(made), "SELECT n FROM t ORDER BY n") == [(1,)]
        attribute = station.call("DescribeDBClusterAttribute", db_cluster_id=made)
        assert (attribute["restore_type"], attribute["restore_data_point"]) == ("RestoreByTimeOss", spelled(moment))

        # The same from the command line, into a directory
        told = station.icecore("windows", "orders")
        assert datetime.fromtimestamp(int(moment), UTC).strftime("%Y-%m-%d") in told
        at = datetime.fromtimestamp(later, UTC).isoformat()
        plan = station.icecore("restore", "orders", "--to", f"{place}/copy", "--at", at, "--json")
        assert json.loads(plan.splitlines()[-1])["Timeline"] == 1

        plan = station.icecore("restore", "orders", "--to", "another", "--at", at, "--dry-run")
        assert "new cluster another" in plan or plan == ""

        # Off: the server keeps no log for us any more
        assert server.sql(SLOTS) == [(1,)]
        station.call("ModifyDBClusterLogBackup", db_cluster_id=cluster, log_backup="off")
        until(lambda: server.sql(SLOTS) == [(0,)], timeout_s=90)
        assert shown()["log_backup"] == "off" and shown()["windows"] == [window]

        # Removed with its backups, its log goes, too
        held = list((place / "home" / "repository" / "clusters" / cluster / "log").iterdir())
        station.icecore("cluster", "set", "orders", "--log-backup", "on")
        until(lambda: server.sql(SLOTS) == [(1,)], timeout_s=90)
        station.icecore("cluster", "remove", "orders", "--keep", "none", "--yes")
        left = place / "home" / "repository" / "clusters" / cluster / "log"
        until(lambda: held != [] and list(left.iterdir()) == [], timeout_s=90)
        until(lambda: server.sql(SLOTS) == [(0,)], timeout_s=90)


def test_the_log_goes_with_its_cluster_also_when_the_server_is_gone(
    place: Path, server: PostgresWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ICECORE_LOG_BACKUP", "on")
    with Station(place) as station:
        cluster = station.add(server)
        left = place / "home" / "repository" / "clusters" / cluster / "log"
        until(lambda: left.is_dir() and list(left.iterdir()) != [], timeout_s=90)
        server.stop("immediate")
        station.icecore("cluster", "remove", "orders", "--keep", "none", "--yes")
        until(lambda: list(left.iterdir()) == [], timeout_s=90)


def wire_windows(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"end_time": _spelled(each["end_time"])} for each in answer["windows"]]


def _spelled(value: Any) -> str:
    return value if isinstance(value, str) else spelled(float(value))
