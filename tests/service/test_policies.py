"""Policies from the call to the queued job: a fortnight on a clock of our own, and retention that does what it said."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from dataclasses import replace

import pytest
from test_catalog import facts

from icecore import errors
from icecore.catalog import intents, jobs, policies, queries
from icecore.model import BackupMode, JobState
from icecore.schedule import DAY_S
from icecore.scheduler import Scheduler


class Clock:
    def __init__(self, monkeypatch, now: int) -> None:
        self.now = now
        for module in (intents, policies, jobs):
            monkeypatch.setattr(module, "now", lambda: self.now)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    return Clock(monkeypatch, 1_800_000_000)  # Friday, 15 January 2027, 08:00:00 UTC


def work(desk, clock, *, fails=lambda: False) -> None:
    """Carry out what is queued, as a worker would; backups stand for the moment of now."""
    rows, _ = queries.jobs(desk.app.catalog, state=JobState.QUEUED, page=1, page_size=100)
    for row in reversed(rows):
        held = jobs.claim(desk.app.catalog, row.id, "w", lambda _: False)
        assert held is not None
        if row.kind == "verify":
            jobs.fail(desk.app.catalog, held, errors.VerificationFailed(backup_id=row.backup_id, reason="no"))
        elif row.kind == "delete-backup":
            jobs.finish_deletion(desk.app.catalog, held)
        elif fails():
            jobs.fail(desk.app.catalog, held, errors.EngineFailed(doing="reading", reason="it is gone"))
        else:
            done = facts(desk, row.id)
            mode = BackupMode(queries.backup(desk.app.catalog, row.id).mode)
            boundary = replace(done.boundary, consistent_at=clock.now)
            jobs.finish_backup(desk.app.catalog, held, replace(done, mode=mode, boundary=boundary), 0)


def set_policy(desk, **wire: str) -> None:
    desk.call("ModifyBackupPolicy", DBClusterId=desk.cluster_id, **wire)


def kept(desk) -> set[str]:
    return {row.id for row in queries.successful(desk.app.catalog, desk.cluster_id)}


def test_what_is_set_is_shown_in_polardbs_words_and_what_is_not_given_stays(desk):
    before = desk.call("DescribeBackupPolicy", DBClusterId=desk.cluster_id)
    assert before["preferred_backup_period"] == before["data_level1_backup_period"] == "" and not before.get(
        "preferred_next_backup_time"
    )
    set_policy(desk, PreferredBackupTime="16:00Z-17:00Z", PreferredBackupPeriod="Sunday,Monday")
    set_policy(desk, DataLevel1BackupRetentionPeriod="14", DataLevel2BackupRetentionPeriod="-1")
    after = desk.call("DescribeBackupPolicy", DBClusterId=desk.cluster_id)
    assert after["preferred_backup_time"] == "16:00Z-17:00Z" and after["preferred_backup_period"] == "Monday,Sunday"
    assert (after["data_level1_backup_retention_period"], after["data_level2_backup_retention_period"]) == ("14", "-1")
    assert after["preferred_next_backup_time"] > 0
    # no other word is missing or of another type before there is a policy: Terraform's provider would stop there
    assert {name: type(value) for name, value in before.items() if name != "preferred_next_backup_time"} == {
        name: type(value) for name, value in after.items() if name != "preferred_next_backup_time"
    }
    desk.call("DeleteBackupPolicy", DBClusterId=desk.cluster_id)
    assert desk.call("DescribeBackupPolicy", DBClusterId=desk.cluster_id) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PreferredBackupTime", "16:00Z-18:00Z"),
        ("PreferredBackupTime", "24:00Z-01:00Z"),
        ("PreferredBackupPeriod", "Monday"),
        ("PreferredBackupPeriod", "Monday,Funday"),
        ("BackupFrequency", "5/24H"),
        ("DataLevel1BackupRetentionPeriod", "2"),
        ("DataLevel1BackupRetentionPeriod", "x"),
        ("DataLevel2BackupRetentionPeriod", "29"),
        ("DataLevel2BackupAnotherRegionRetentionPeriod", "30"),
        ("BackupPolicyLevel", "Advanced"),
    ],
)
def test_what_means_nothing_is_refused_by_name_and_changes_nothing(desk, name, value):
    set_policy(desk, DataLevel1BackupRetentionPeriod="14")
    before = desk.call("DescribeBackupPolicy", DBClusterId=desk.cluster_id)
    with pytest.raises(errors.InvalidParameter, match=name):
        set_policy(desk, DataLevel1BackupRetentionPeriod="7", **{name: value}) if name[:11] != "DataLevel1B" else (
            set_policy(desk, **{name: value})
        )
    assert desk.call("DescribeBackupPolicy", DBClusterId=desk.cluster_id) == before


def test_a_fortnight_with_restarts_misses_doubles_and_starves_nothing(desk, clock):
    """Three schedulers look at odd moments, the cluster is down for a while, some backups fail."""
    chance = random.Random(3)
    set_policy(desk, BackupFrequency="2/24H", PreferredBackupTime="01:00Z-02:00Z", DataLevel1BackupRetentionPeriod="3")
    start, seen = clock.now, Counter[int]()
    catalog = desk.app.catalog
    while clock.now < start + 14 * DAY_S:
        clock.now += chance.choice([15, 300, 1800, 7200])
        day = (clock.now - start) // DAY_S
        desk.seen_running(day != 5)
        before = {row.id for row in queries.history(catalog, cluster_id=desk.cluster_id, after=None, limit=500).rows}
        for _ in range(3):
            Scheduler(catalog, threading.Event(), clock).look()
        rows = queries.history(catalog, cluster_id=desk.cluster_id, after=None, limit=500).rows
        fresh = [row for row in rows if row.id not in before]
        assert len(fresh) <= 1
        for _ in fresh:
            slot = (clock.now - 3600) // (DAY_S // 2)
            seen[slot] += 1
            assert day != 5
        work(desk, clock, fails=lambda: chance.random() < 0.1)
    slots = range((start - 3600) // (DAY_S // 2) + 1, (clock.now - 3600) // (DAY_S // 2) + 1)
    down = {slot for slot in slots if (slot * (DAY_S // 2) + 3600 - start) // DAY_S == 5}
    assert set(seen.values()) == {1}
    assert (
        set(slots) - set(seen) <= down and len(set(slots) - set(seen)) <= 1
    )  # of two that passed, one was made up for
    # by the end the older days have their first backup only, and nothing but three days and the last day's is there
    verdicts = policies.preview(catalog, desk.cluster_id, clock.now)
    assert all(each.keep for each in verdicts if each.backup_id not in _marked(desk)) and 3 <= len(kept(desk)) <= 8


def _marked(desk) -> set[str]:
    return {row.id for row in queries.successful(desk.app.catalog, desk.cluster_id) if row.expires_at}


def test_what_expires_goes_a_day_later_unless_somebody_minds(desk, clock):
    scheduler = Scheduler(desk.app.catalog, threading.Event(), clock)
    set_policy(desk, PreferredBackupTime="09:00Z-10:00Z", DataLevel1BackupRetentionPeriod="3")
    manual = desk.create()
    work(desk, clock)
    for _ in range(6):
        clock.now += DAY_S
        scheduler.look()
        work(desk, clock)
    automatic = sorted(kept(desk) - {manual}, key=int)
    oldest, second = automatic[0], automatic[1]

    plan = desk.call("PlanRetention", DBClusterId=desk.cluster_id)["items"]["backup"]
    goes = {each["backup_id"] for each in plan if not each["kept"]}
    assert goes == _marked(desk) and oldest in goes and manual not in goes

    # a longer retention would bring it back, a hold does
    longer = desk.call("PlanRetention", DBClusterId=desk.cluster_id, DataLevel1BackupRetentionPeriod="14")
    assert all(each["kept"] for each in longer["items"]["backup"])
    desk.call("HoldBackup", DBClusterId=desk.cluster_id, BackupId=oldest, Reason="audit of 2027")
    with pytest.raises(errors.BackupHeld, match="audit of 2027"):
        desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=oldest)
    for _ in range(2):
        clock.now += DAY_S + 1
        scheduler.look()
        work(desk, clock)
    assert {oldest, manual} <= kept(desk) and second not in kept(desk)

    # with its cluster it is not removed either, and once released it expires like any other
    desk.call("ReleaseBackup", DBClusterId=desk.cluster_id, BackupId=oldest)
    for _ in range(2):
        clock.now += DAY_S + 1
        scheduler.look()
        work(desk, clock)
    assert oldest not in kept(desk) and manual in kept(desk)

    # one that a restore reads from waits; without a policy nothing goes
    desk.call("DeleteBackupPolicy", DBClusterId=desk.cluster_id)
    left = kept(desk)
    clock.now += 100 * DAY_S
    scheduler.look()
    work(desk, clock)
    assert kept(desk) == left


def test_a_held_backup_outlives_its_cluster_and_the_policy_says_which_others_do(desk, clock):
    set_policy(desk, BackupRetentionPolicyOnClusterDeletion="LATEST")
    made = [desk.create(), desk.create(), desk.create()]
    for _ in made:
        work(desk, clock)
        clock.now += 10
    desk.call("HoldBackup", DBClusterId=desk.cluster_id, BackupId=made[0])
    desk.call("DeleteDBCluster", DBClusterId=desk.cluster_id)
    assert kept(desk) == {made[0], made[2]}


def test_drills_come_when_they_are_due_once_and_not_again_at_once_when_they_fail(desk, clock):
    scheduler, found = Scheduler(desk.app.catalog, threading.Event(), clock), []
    with pytest.raises(errors.Refused, match="no backup policy"):
        desk.call("ModifyDrillPolicy", DBClusterId=desk.cluster_id, DrillPeriod="7")
    set_policy(desk, DataLevel1BackupRetentionPeriod="30")
    desk.call("ModifyDrillPolicy", DBClusterId=desk.cluster_id, DrillPeriod="7")
    set_policy(desk, DataLevel1BackupRetentionPeriod="29")  # leaves them as they are
    assert desk.call("DescribeBackupPolicy", DBClusterId=desk.cluster_id)["drill_period"] == "7"
    scheduler.look()  # no backup, no drill
    for _ in range(21):
        clock.now += DAY_S
        for _ in range(2):
            scheduler.look()
            rows, _ = queries.jobs(desk.app.catalog, state=JobState.QUEUED, kind="verify", page=1, page_size=100)
            found += [(clock.now // DAY_S, row.backup_id) for row in rows]
        work(desk, clock)
        work(desk, clock)
    days = sorted({day for day, _ in found})
    assert len(days) == 3 and [later - sooner for sooner, later in itertools.pairwise(days)] == [7, 7]
    assert len({backup_id for _, backup_id in found}) == 3
    assert max(policies.drill_overdue_s(desk.app.catalog, clock.now).values()) == 0
    clock.now += 30 * DAY_S
    assert min(policies.drill_overdue_s(desk.app.catalog, clock.now).values()) > 20 * DAY_S
    for wrong in ("366", "-1", "x"):
        with pytest.raises(errors.InvalidParameter, match="DrillPeriod"):
            desk.call("ModifyDrillPolicy", DBClusterId=desk.cluster_id, DrillPeriod=wrong)


def test_setting_the_same_policy_each_day_does_not_put_removal_off(desk, clock):
    """As Terraform does. Without a policy the marks go at once."""
    scheduler = Scheduler(desk.app.catalog, threading.Event(), clock)
    wanted = {"PreferredBackupTime": "09:00Z-10:00Z", "DataLevel1BackupRetentionPeriod": "3"}
    set_policy(desk, **wanted)
    for _ in range(9):
        clock.now += DAY_S
        scheduler.look()
        work(desk, clock)
        set_policy(desk, **wanted)
    assert len(kept(desk)) <= 5 and _marked(desk)
    desk.call("DeleteBackupPolicy", DBClusterId=desk.cluster_id)
    assert not _marked(desk)


def test_a_look_that_finds_nothing_due_writes_nothing(desk, clock, monkeypatch):
    scheduler = Scheduler(desk.app.catalog, threading.Event(), clock)
    set_policy(desk, PreferredBackupTime="09:00Z-10:00Z", DataLevel1BackupRetentionPeriod="3")
    for _ in range(6):
        clock.now += DAY_S
        scheduler.look()
        work(desk, clock)
    clock.now += 60
    scheduler.look()

    def refused():
        raise AssertionError("a look wrote")

    monkeypatch.setattr(desk.app.catalog, "write", refused)
    clock.now += 60
    scheduler.look()
    clock.now += DAY_S
    with pytest.raises(AssertionError, match="a look wrote"):
        scheduler.look()
