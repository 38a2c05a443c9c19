"""Backup policies in PolarDB's vocabulary: windows, weekdays, frequencies, retention of two levels.

Each backup is in the repository from the start, so level 1 and level 2 differ in how long they keep it and in nothing
else; a level-1 image beside the data is kept for the newest backup only (``docs/compatibility.md``).
"""

from __future__ import annotations

import re
from dataclasses import replace

from icecore import errors
from icecore.api.contract import Call
from icecore.api.operations import Context, Result
from icecore.catalog import intents, policies, queries
from icecore.catalog.policies import Policy
from icecore.retention import FOREVER, Retention
from icecore.schedule import FREQUENCIES, WEEKDAYS, Schedule

FIRST = Policy(Schedule(frozenset(range(7)), 2 * 60), Retention(days=7))  # what is not said when one is first set
LEVEL_1_DAYS, LEVEL_2_DAYS, DRILL_DAYS = range(3, 31), range(30, 7301), range(1, 366)
_WINDOW = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])Z-([01][0-9]|2[0-3]):([0-5][0-9])Z")


def describe_policy(context: Context, call: Call) -> Result:
    """Every string is there, empty without a policy: Terraform's provider stops at one that is missing."""
    policy = policies.of(context.catalog, call.params["db_cluster_id"])
    said = words(policy) if policy else dict.fromkeys(words(FIRST), "")
    following = policy.schedule.next_slot(intents.now()) if policy else None
    return {
        **said,
        "preferred_next_backup_time": following,
        "data_level2_backup_another_region_region": "",
        "data_level2_backup_another_region_retention_period": "0",
        "backup_policy_level": "Normal",
        "advanced_policy_option": "notSupport",
        "advanced_data_policies": {"advanced_data_policy": []},
        "enable_immutable_backup": False,
        "enable_cross_region_immutable_backup": False,
    }


def modify_policy(context: Context, call: Call) -> Result:
    """What is not given stays as it is."""
    cluster_id = call.params["db_cluster_id"]
    before = policies.of(context.catalog, cluster_id)
    policies.set_(context.catalog, cluster_id, _asked(call, before or FIRST))
    return {}


def modify_drills(context: Context, call: Call) -> Result:
    cluster_id = call.params["db_cluster_id"]
    policy = policies.of(context.catalog, cluster_id)
    if policy is None:
        raise errors.Refused("the cluster has no backup policy", hint="Set one first: ModifyBackupPolicy.")
    days = _days(call, "drill_period", call.params["drill_period"], DRILL_DAYS, 0)
    policies.set_(context.catalog, cluster_id, replace(policy, drill_days=days))
    return {}


def delete_policy(context: Context, call: Call) -> Result:
    policies.set_(context.catalog, call.params["db_cluster_id"], None)
    return {}


def plan_retention(context: Context, call: Call) -> Result:
    """The very verdicts that the scheduler will act on; with parameters those of a policy so changed."""
    cluster_id = call.params["db_cluster_id"]
    before = policies.of(context.catalog, cluster_id)
    given = any(value is not None for name, value in call.params.items() if name != "db_cluster_id")
    policy = _asked(call, before or FIRST) if given else before
    verdicts = policies.preview(context.catalog, cluster_id, intents.now(), policy)
    rows = {row.id: row for row in queries.successful(context.catalog, cluster_id)}
    return {
        "items": {
            "backup": [
                {
                    "backup_id": each.backup_id,
                    "backup_mode": rows[each.backup_id].mode,
                    "consistent_time": rows[each.backup_id].consistent_at,
                    "kept": each.keep,
                    "reason": each.reason,
                    "expect_expire_time": rows[each.backup_id].expires_at,
                }
                for each in verdicts
                if each.backup_id in rows
            ]
        }
    }


def hold_backup(context: Context, call: Call) -> Result:
    policies.hold(
        context.catalog, call.params["db_cluster_id"], call.params["backup_id"], call.params["reason"] or "on request"
    )
    return {}


def release_backup(context: Context, call: Call) -> Result:
    policies.hold(context.catalog, call.params["db_cluster_id"], call.params["backup_id"], None)
    return {}


# ---------------------------------------------------------------- words


def _asked(call: Call, policy: Policy) -> Policy:
    """``policy`` with what the call says; refuses by name what means nothing here."""
    params, schedule, retention = call.params, policy.schedule, policy.retention

    def given(*names: str) -> tuple[str, str] | None:
        """PolarDB has two spellings of some; the first that is given counts."""
        return next(((name, params[name]) for name in names if params.get(name)), None)

    if found := given("preferred_backup_time", "data_level1_backup_time"):
        schedule = replace(schedule, start_minute=_start_minute(call, *found))
    if found := given("preferred_backup_period", "data_level1_backup_period"):
        schedule = replace(schedule, weekdays=_weekdays(call, *found))
    if found := given("backup_frequency", "data_level1_backup_frequency"):
        schedule = replace(schedule, per_day=FREQUENCIES[found[1]])
    if found := given("data_level1_backup_retention_period"):
        retention = replace(retention, days=_days(call, *found, LEVEL_1_DAYS))
    if found := given("data_level2_backup_retention_period"):
        retention = replace(retention, long_days=_days(call, *found, LEVEL_2_DAYS, 0, FOREVER))
    if found := given("data_level2_backup_period"):
        retention = replace(retention, long_weekdays=_weekdays(call, *found))
    retention = replace(retention, per_day=schedule.per_day)
    on_deletion = params.get("backup_retention_policy_on_cluster_deletion") or policy.on_deletion
    return replace(policy, schedule=schedule, retention=retention, on_deletion=on_deletion)


def words(policy: Policy) -> dict[str, str]:
    """A policy as PolarDB spells it."""
    schedule, retention = policy.schedule, policy.retention
    frequency = next(word for word, per_day in FREQUENCIES.items() if per_day == schedule.per_day)
    hour = [(schedule.start_minute + minutes) % 1440 for minutes in (0, 60)]
    window = "-".join(f"{minute // 60:02}:{minute % 60:02}Z" for minute in hour)
    weekdays = _listed(schedule.weekdays)
    return {
        "preferred_backup_time": window,
        "preferred_backup_period": weekdays,
        "backup_frequency": frequency,
        "data_level1_backup_time": window,
        "data_level1_backup_period": weekdays,
        "data_level1_backup_frequency": frequency,
        "data_level1_backup_retention_period": str(retention.days),
        "data_level2_backup_retention_period": str(retention.long_days),
        "data_level2_backup_period": _listed(retention.long_weekdays),
        "backup_retention_policy_on_cluster_deletion": policy.on_deletion,
        "drill_period": str(policy.drill_days),
    }


def _listed(weekdays: frozenset[int]) -> str:
    return ",".join(WEEKDAYS[day] for day in sorted(weekdays))


def _start_minute(call: Call, name: str, window: str) -> int:
    """Of a window of one hour, such as 16:00Z-17:00Z."""
    match = _WINDOW.fullmatch(window)
    if match is None:
        raise call.refuse(name)
    start, end = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if (start + 60) % 1440 != end:
        raise call.refuse(name)
    return start


def _weekdays(call: Call, name: str, listed: str) -> frozenset[int]:
    """At least two, as on PolarDB."""
    words = [word.strip() for word in listed.split(",")]
    if not set(words) <= set(WEEKDAYS) or len(set(words)) < 2:
        raise call.refuse(name)
    return frozenset(WEEKDAYS.index(word) for word in words)


def _days(call: Call, name: str, text: str, allowed: range, *others: int) -> int:
    try:
        days = int(text)
    except ValueError as error:
        raise call.refuse(name) from error
    if days not in allowed and days not in others:
        raise call.refuse(name)
    return days
