"""How a task stands, from any job that DescribeJobs can give."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icecore.console import pace
from icecore.model import JobKind, JobState, Phase

NOW = 1_795_500_000
GIB = 1 << 30


def job(**values: Any) -> dict[str, Any]:
    return {
        "job_id": "4182",
        "job_kind": "backup",
        "db_cluster_id": "pc-a",
        "db_cluster_name": "orders",
        "backup_id": "4182",
        "state": "running",
        "phase": "Uploading",
        "bytes_done": GIB,
        "bytes_total": 4 * GIB,
        "bytes_new": 0,
        "start_time": NOW - 10,
        "end_time": None,
        "attempts": 1,
        **values,
    }


@pytest.mark.parametrize(
    ("given_", "elapsed_s", "rate_bytes", "left_s"),
    [
        ({}, 10, GIB // 10, 30),
        ({"start_time": None, "state": "queued"}, None, None, None),
        ({"start_time": NOW - 2}, 2, None, None),  # too short to say a rate
        ({"bytes_done": 0}, 10, None, None),
        ({"phase": "Checking", "bytes_done": 4 * GIB}, 10, 4 * GIB // 10, None),
        ({"bytes_done": 5 * GIB}, 10, GIB // 2, None),  # it grew meanwhile: nothing is left, by this estimate
        ({"state": "succeeded", "phase": "Finished", "end_time": NOW - 5}, 5, GIB // 5, None),
        ({"start_time": NOW + 3}, 0, None, None),  # another clock
    ],
)
def test_pace(given_: dict[str, Any], elapsed_s: int, rate_bytes: int, left_s: int) -> None:
    assert pace.pace(job(**given_), NOW) == pace.Pace(elapsed_s, rate_bytes, left_s)


@given(
    st.sampled_from(list(JobKind)),
    st.sampled_from(list(JobState)),
    st.sampled_from(list(Phase)),
    st.integers(0, 1 << 60),
    st.integers(0, 1 << 60),
    st.none() | st.integers(0, 1 << 40),
    st.none() | st.integers(0, 1 << 40),
)
def test_any_job_has_a_pace_and_steps(
    kind: JobKind, state: JobState, phase: Phase, done: int, total: int, start: int | None, end: int | None
) -> None:
    found = job(
        job_kind=kind, state=state, phase=phase, bytes_done=done, bytes_total=total, start_time=start, end_time=end
    )
    stands = pace.pace(found, NOW)
    assert all(number is None or number >= 0 for number in (stands.elapsed_s, stands.rate_bytes, stands.left_s))
    steps = pace.steps(found)
    places = [step.place for step in steps]
    assert places == sorted(places, key=["done", "now", "next"].index)
    if steps:
        assert places.count("now") == (0 if state is JobState.SUCCEEDED else 1)
    assert pace.unfinished(found) or not pace.may_be_cancelled(found)
    assert pace.title(found) in pace.said(found)


def test_steps_are_those_of_its_kind() -> None:
    assert [step.phase for step in pace.steps(job())] == list(Phase)
    assert Phase.WAITING not in [step.phase for step in pace.steps(job(job_kind="restore"))]
    assert pace.steps(job(job_kind="delete-backup")) == []
    assert pace.steps(job(state="failed", phase="Finished")) == []
    assert {step.place for step in pace.steps(job(state="succeeded", phase="Finished"))} == {"done"}


def test_titles_in_words() -> None:
    named = {kind: pace.title(job(job_kind=kind)) for kind in JobKind}
    assert named == {
        JobKind.BACKUP: "Backup of orders",
        JobKind.RESTORE: "Restore to orders",
        JobKind.CLONE: "Clone orders",
        JobKind.VERIFY: "Verification of backup 4182 of orders",
        JobKind.CHECK: "Check of backup 4182 of orders",
        JobKind.DELETE_BACKUP: "Removal of backup 4182 of orders",
        JobKind.DELETE_CLUSTER: "Removal of orders",
    }
    assert pace.title(job(db_cluster_name="")) == "Backup of pc-a"
    assert len(pace.title(job(db_cluster_name="x" * 256))) < 80
    assert pace.said(job()) == "Backup of orders: Uploading"
    assert pace.said(job(state="failed")) == "Backup of orders: failed"
