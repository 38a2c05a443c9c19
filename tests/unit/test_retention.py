"""Retention against an oracle, and what must hold whatever the policy."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from icecore.retention import FOREVER, Candidate, Reason, Retention, judge
from icecore.schedule import DAY_S

NOW = 1_800_000_000


@st.composite
def histories(draw) -> list[Candidate]:
    moments = draw(st.lists(st.integers(NOW - 60 * DAY_S, NOW), unique=True, max_size=40))
    kinds = st.sampled_from([True, True, True, False])
    rare = st.sampled_from([False] * 6 + [True])
    return [Candidate(str(n + 1), at, draw(kinds), draw(rare), draw(rare)) for n, at in enumerate(moments)]


POLICIES = st.builds(
    Retention,
    st.integers(3, 14),
    st.sampled_from([0, 0, 30, 45, FOREVER]),
    st.frozensets(st.integers(0, 6), max_size=3),
    st.sampled_from([1, 1, 2, 4]),
)


def oracle(policy: Retention, history: list[Candidate], now: int) -> set[str]:
    """What is kept, told as one would to a person, each rule on its own."""
    kept = {each.backup_id for each in history if each.held or not each.automatic}
    kept |= {each.backup_id for each in history if all(each.consistent_at >= other.consistent_at for other in history)}
    proven = [each for each in history if each.verified]
    kept |= {each.backup_id for each in proven if all(each.consistent_at >= other.consistent_at for other in proven)}
    for each in history:
        day = datetime.fromtimestamp(each.consistent_at, UTC).date()
        same_day = [
            other.consistent_at
            for other in history
            if other.automatic and datetime.fromtimestamp(other.consistent_at, UTC).date() == day
        ]
        past = policy.per_day > 1 and now - each.consistent_at > DAY_S and each.automatic
        if past and each.consistent_at != min(same_day):
            continue
        age_days = (now - each.consistent_at) / DAY_S
        named = datetime.fromtimestamp(each.consistent_at, UTC).weekday() in policy.long_weekdays
        long = named or not policy.long_weekdays
        if age_days <= policy.days or (long and (policy.long_days == -1 or age_days <= policy.long_days)):
            kept.add(each.backup_id)
    return kept


@settings(max_examples=1500, deadline=None)
@given(POLICIES, histories())
def test_verdicts_are_the_oracles(policy, history):
    verdicts = judge(policy, history, NOW)
    assert sorted(each.backup_id for each in verdicts) == sorted(each.backup_id for each in history)
    assert {each.backup_id for each in verdicts if each.keep} == oracle(policy, history, NOW)


@settings(max_examples=400, deadline=None)
@given(POLICIES, histories(), st.integers(0, 90 * DAY_S))
def test_what_was_kept_for_a_reason_of_its_own_stays_and_nothing_comes_back(policy, history, later_s):
    """Carried out again and again, as the scheduler does: an expired one is never wanted again, and the last stays."""
    first = {each.backup_id: each for each in judge(policy, history, NOW)}
    left = [each for each in history if first[each.backup_id].keep]
    again = judge(policy, left, NOW)
    assert all(each.keep for each in again)  # nothing more goes because something went
    assert bool(left) == bool(history)
    later = {each.backup_id: each for each in judge(policy, history, NOW + later_s)}
    for backup_id, verdict in first.items():
        assert verdict.keep or not later[backup_id].keep
        if verdict.reason in (Reason.HELD, Reason.MANUAL, Reason.NEWEST, Reason.NEWEST_VERIFIED):
            assert later[backup_id].keep
