"""The state machine, the projections and the manifest's header: pure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icecore.model import (
    BACKUP_TRANSITIONS,
    TRANSITIONS,
    BackupFacts,
    BackupMode,
    BackupStatus,
    Boundary,
    JobState,
    Phase,
    allowed,
    facts_from_dict,
    facts_to_dict,
    percent,
)

ENDS = {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
texts = st.text(max_size=20)


def test_C5_every_state_has_its_successors_and_ends_have_none():
    assert set(TRANSITIONS) == set(JobState) and set(BACKUP_TRANSITIONS) == set(BackupStatus)
    assert {state for state, after in TRANSITIONS.items() if not after} == ENDS
    assert {state for state, after in BACKUP_TRANSITIONS.items() if not after} == {BackupStatus.DELETING}


@given(st.lists(st.sampled_from(JobState), max_size=30))
def test_C5_any_walk_ends_at_most_once_and_never_leaves_its_end(wishes: list[JobState]):
    """Whatever is asked in whatever order: a job ends once, only after it was running or was never begun."""
    state, path = JobState.QUEUED, [JobState.QUEUED]
    for wish in wishes:
        if allowed(state, wish):
            state = wish
            path.append(state)
    ended = [each for each in path if each in ENDS]
    assert len(ended) <= 1
    assert not ended or path[-1] in ENDS
    assert JobState.SUCCEEDED not in path or path[-2] is JobState.RUNNING
    assert path.count(JobState.QUEUED) == 1


@given(st.lists(st.sampled_from(BackupStatus), max_size=30))
def test_C5_a_failed_backup_never_becomes_a_success(wishes: list[BackupStatus]):
    state, path = BackupStatus.PENDING, [BackupStatus.PENDING]
    for wish in wishes:
        if wish in BACKUP_TRANSITIONS[state]:
            state = wish
            path.append(state)
    if BackupStatus.FAILED in path:
        assert BackupStatus.SUCCESS not in path


@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_percent_grows_with_the_phases_and_is_100_only_at_the_end(done: int, total: int):
    values = [percent(phase, done, total) for phase in Phase]
    assert values == sorted(values) and values[-1] == 100 and max(values[:-1]) < 100 and min(values) == 0


@given(st.integers(1, 10**15), st.data())
def test_percent_grows_with_the_bytes(total: int, data: st.DataObject):
    few, many = sorted(data.draw(st.lists(st.integers(0, total), min_size=2, max_size=2)))
    assert percent(Phase.UPLOADING, few, total) <= percent(Phase.UPLOADING, many, total)


facts = st.builds(
    BackupFacts,
    backup_id=st.from_regex(r"[0-9]{1,15}", fullmatch=True),
    cluster_id=texts,
    cluster_name=texts,
    job_uuid=texts,
    mode=st.sampled_from(BackupMode),
    boundary=st.builds(Boundary, texts, texts, *[st.integers(0, 2**40)] * 4),
    engine=texts,
    engine_version=texts,
    size_bytes=st.integers(0, 2**60),
    file_count=st.integers(0, 2**40),
    tool_version=texts,
    client_token=texts,
    token_digest=texts,
    comment=texts,
    warnings=st.lists(texts, max_size=3).map(tuple),
    engine_facts=st.dictionaries(texts, texts, max_size=3),
)


@given(facts)
def test_R8_the_header_survives_json(given_facts: BackupFacts):
    text = json.dumps(facts_to_dict(given_facts))
    assert facts_from_dict(json.loads(text)) == given_facts
    later = json.loads(text) | {"something_new": 1}  # a later version's header
    assert facts_from_dict(later) == given_facts


def test_a_header_without_a_needed_field_is_an_error():
    with pytest.raises((KeyError, TypeError)):
        facts_from_dict({"backup_id": "1"})
