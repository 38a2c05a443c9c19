"""What calls and pages say of log backup, from what it told the catalog last."""

from __future__ import annotations

import time

import pytest
from office import Desk

from icecore.catalog import logs
from icecore.errors import ClusterNotFound, MomentNotRestorable
from icecore.recovery import Window

S = 1_000_000
AT = 1_795_000_000


def tell(desk: Desk, *windows: Window, quiet: bool = True, known_at: int = 0, behind: int = 0) -> None:
    known_us = (known_at or int(time.time())) * S
    state = {
        "timeline": 1,
        "durable": 0x5_0000_00D8,
        "server_position": 0x5_0000_00D8 + behind,
        "known_at_us": known_us,
    }
    logs.told(desk.app.catalog, desk.cluster_id, windows, quiet=quiet, **state)


def test_windows_are_rounded_into_themselves_and_what_would_be_lost_is_said(desk: Desk) -> None:
    assert desk.call("DescribeRecoveryWindows", DBClusterId=desk.cluster_id)["windows"] == []
    tell(desk, Window(AT * S + 1, (AT + 60) * S - 1, 1))
    found = desk.call("DescribeRecoveryWindows", DBClusterId=desk.cluster_id)
    assert found["windows"] == [{"begin_time": AT + 1, "end_time": AT + 59}]
    assert (found["position"], found["lag_bytes"], found["lose_now_seconds"]) == ("5/D8", 0, 0)
    tell(desk, quiet=False, known_at=int(time.time()) - 20, behind=700)
    found = desk.call("DescribeRecoveryWindows", DBClusterId=desk.cluster_id)
    assert found["lag_bytes"] == 700 and 20 <= found["lose_now_seconds"] < 30
    logs.failed(desk.app.catalog, desk.cluster_id, "EngineUnreachable", "no route")
    logs.gap(desk.app.catalog, desk.cluster_id, 1, 0x10, 0x2000000)
    found = desk.call("DescribeRecoveryWindows", DBClusterId=desk.cluster_id)
    assert (found["error_code"], found["error_message"]) == ("EngineUnreachable", "no route")
    assert [(each["begin_position"], each["end_position"]) for each in found["gaps"]] == [("0/10", "0/2000000")]


def test_P2_a_moment_outside_is_refused_before_anything_is_written(desk: Desk) -> None:
    tell(desk, Window(AT * S, (AT + 60) * S, 1))
    asked = {
        "RegionId": "local",
        "DBType": "PostgreSQL",
        "DBVersion": "15",
        "DBNodeClass": "x",
        "PayType": "Postpaid",
        "CreationOption": "CloneFromPolarDB",
        "SourceResourceId": desk.cluster_id,
    }
    before = desk.call("DescribeDBClusters")["total_record_count"]
    for moment, words in (
        ("2026-11-18T06:00:00Z", "the first restorable moment is 2026-11-18 11:06:40 UTC"),
        ("2026-11-18T11:07:41Z", "the last restorable moment is 2026-11-18 11:07:40 UTC"),
    ):
        with pytest.raises(MomentNotRestorable, match=words):
            desk.call("CreateDBCluster", CloneDataPoint=moment, **asked)
    assert desk.call("DescribeDBClusters")["total_record_count"] == before


def test_log_backup_is_on_for_a_registered_cluster_and_can_be_switched(desk: Desk) -> None:
    def wanted() -> list[str]:
        return [row.id for row in logs.wanted(desk.app.catalog)]

    assert wanted() == [desk.cluster_id]
    desk.call("ModifyDBClusterLogBackup", DBClusterId=desk.cluster_id, LogBackup="off")
    assert wanted() == []
    tell(desk)
    assert [row.id for row in logs.left_over(desk.app.catalog)] == [desk.cluster_id]  # its slot is still to be dropped
    logs.forgotten(desk.app.catalog, desk.cluster_id)
    assert logs.left_over(desk.app.catalog) == []
    with pytest.raises(ClusterNotFound):
        desk.call("ModifyDBClusterLogBackup", DBClusterId="pc-none", LogBackup="on")
