"""What pages say before something is done, and which clusters they say need a person."""

from __future__ import annotations

from typing import Any

import pytest

from icecore.console import backups, clusters, overview, restoring

NOW = 1_795_000_000
HOUR_S, DAY_S = 3600, 86_400


def cluster(**more: Any) -> dict[str, Any]:
    return {
        "db_cluster_id": "pc-1",
        "db_cluster_name": "orders",
        "db_cluster_status": "Running",
        "lose_now_seconds": 60,
        "last_backup_id": "7",
        "sentence": "",
        **more,
    }


# ---------------------------------------------------------------- the overview


def test_a_cluster_that_is_well_needs_nobody() -> None:
    assert overview.concern(cluster()) is None
    copy = cluster(lose_now_seconds=None, last_backup_id=None)  # restored: nothing is asked for
    assert overview.concern(copy) is None


def test_every_concern_has_a_cause_and_a_way_to_mend_it_and_the_worst_comes_first() -> None:
    told = [
        cluster(sentence="the last backup is 30 hours old", lose_now_seconds=30 * HOUR_S),
        cluster(sentence="the last backup is 96 hours old", lose_now_seconds=96 * HOUR_S),
        cluster(sentence="never backed up; everything would be lost", lose_now_seconds=None),
        cluster(last_failure_job_id="9", last_failure_code="StorageFull"),
        cluster(db_cluster_status="Stopped", sentence="not reachable: is it running?"),
    ]
    found = [concern for each in told if (concern := overview.concern(each))]
    assert len(found) == len(told)
    order = [concern.said for concern in sorted(found, key=lambda concern: concern.weight)]
    assert order == [
        "not reachable: is it running?",
        "the newest backup failed with StorageFull.",
        "never backed up; everything would be lost.",
        "the last backup is 96 hours old.",
        "the last backup is 30 hours old.",
    ]
    assert [each.href for each in found] == [
        *["/console/clusters/pc-1"] * 3,
        "/console/tasks/9",
        "/console/clusters/pc-1?tab=health",
    ]


def test_a_failure_says_what_it_led_to() -> None:
    late = cluster(last_failure_job_id="9", last_failure_code="StorageFull", sentence="the last backup is 30 hours old")
    found = overview.concern(late)
    assert found and found.said == "the newest backup failed with StorageFull; the last backup is 30 hours old."


def test_all_rows_have_one_scale_that_fits_the_oldest_moment() -> None:
    rows = [cluster(db_cluster_id=name) for name in ("pc-1", "pc-2", "pc-3")]
    moments = {"pc-1": [NOW - 2 * DAY_S, NOW - HOUR_S], "pc-2": [NOW - 60], "pc-3": []}
    strips, span_s = overview.drawn(rows, moments, NOW)
    assert span_s == 3 * DAY_S
    assert set(strips) == {"pc-1", "pc-2"}
    assert "2 moments, the newest 60 min ago" in strips["pc-1"]
    assert overview.drawn(rows, {"pc-1": [NOW - 400 * DAY_S]}, NOW)[1] == overview.STRIP_S
    assert overview.drawn(rows, {}, NOW)[0] == {}


# ---------------------------------------------------------------- before a deletion


@pytest.mark.parametrize(
    ("at", "ats", "complete", "said"),
    [
        (NOW - 9, [NOW - 9], True, "the only restorable moment of orders"),
        (NOW - 9, [NOW - 9, NOW - DAY_S], True, "lose now grows from 9 s to 24 h"),
        (NOW - 9000, [NOW - 9000, NOW - 9002], True, "the newest one will then be"),
        (NOW - 9, [NOW - 9, NOW - 9, NOW - DAY_S], True, "that moment stays restorable"),
        (NOW - HOUR_S, [NOW - 9, NOW - HOUR_S, NOW - DAY_S], True, "the nearest ones will be"),
        (NOW - DAY_S, [NOW - 9, NOW - DAY_S], True, "the oldest one will then be"),
        # of what was not looked at nothing is claimed
        (NOW - DAY_S, [NOW - 9, NOW - DAY_S], False, "not be restorable any more."),
        (NOW - 9 * DAY_S, [NOW - 9, NOW - DAY_S], False, "not be restorable any more."),
        (NOW - 9, [NOW - 9], False, "not be restorable any more."),
    ],
)
def test_what_goes_with_a_backup(at: int, ats: list[int], complete: bool, said: str) -> None:
    found = backups.what_goes(at, ats, complete, NOW, "orders")
    assert said in found
    assert found.endswith(".")


def test_what_becomes_of_the_backups_of_a_removed_cluster() -> None:
    three: list[dict[str, Any]] = [{}, {}, {}]
    assert clusters.what_is_kept([], True, "NONE") == "It has no backup that could be restored."
    assert "(3)" in clusters.what_is_kept(three, True, "ALL")
    assert "(at least 3)" in clusters.what_is_kept(three, False, "NONE")
    texts = {clusters.what_is_kept(three, True, retention) for retention in ("ALL", "LATEST", "NONE")}
    assert len(texts) == 3
    assert "Nothing of it can be restored" in clusters.what_is_kept(three, True, "NONE")


# ---------------------------------------------------------------- before a restore

BACKUP = {
    "backup_id": "7",
    "db_cluster_id": "pc-1",
    "db_cluster_name": "orders",
    "consistent_time": NOW - 2 * HOUR_S,
    "logical_bytes": 100 << 30,
    "file_count": 1200,
    "engine_version": "15.18",
}


def job(kind: str, job_id: str, *, done: int, took_s: int) -> dict[str, Any]:
    return {
        "job_id": job_id,
        "job_kind": kind,
        "state": "succeeded",
        "phase": "Finished",
        "bytes_done": done,
        "bytes_total": done,
        "start_time": NOW - 5000,
        "end_time": NOW - 5000 + took_s,
    }


def test_a_review_says_what_is_read_what_is_left_out_and_how_long() -> None:
    run = restoring.likely_run([job("restore", "12", done=10 << 30, took_s=60)], [], NOW)
    said = " ".join(restoring.review(BACKUP, {"db_cluster_description": "orders"}, NOW, run, "copy"))
    for part in (
        "A new cluster is made, named copy.",
        "committed in orders before 2026-",
        "100 GiB in 1\u202f200 files",
        "what was written to orders in the 2 h since then",
        "orders itself is not touched",
        "It takes about 10 min, if it goes like restore task 12: 10.0 GiB in 60 s.",
    ):
        assert part in said, said


def test_a_review_claims_nothing_that_is_not_known() -> None:
    said = " ".join(restoring.review(BACKUP, None, NOW, None, ""))
    assert "about" not in said  # no run yet, no estimate
    assert "Left out" not in said  # the source is gone: nothing was written to it since
    assert "named" not in said


def test_an_estimate_comes_from_a_restore_rather_than_a_backup_and_from_no_short_run() -> None:
    short, long = job("restore", "1", done=5 << 20, took_s=1), job("restore", "2", done=5 << 30, took_s=50)
    backup = job("backup", "3", done=5 << 30, took_s=20)
    picked = [
        restoring.likely_run(restores, backups_, NOW)
        for restores, backups_ in (([short, long], [backup]), ([short], [backup]), ([short], []), ([], []))
    ]
    assert [run.job_id if run else "" for run in picked] == ["2", "3", "", ""]
