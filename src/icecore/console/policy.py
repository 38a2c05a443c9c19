"""The policy tab of a cluster: what is backed up by itself and how long it stays; a change is looked at before it is
made, with the verdict on each backup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from icecore.api.operations.policies import FIRST, words
from icecore.console.visit import Visit
from icecore.errors import InvalidParameter
from icecore.schedule import WEEKDAYS

Found = dict[str, Any]
Choices = list[tuple[str, str]]
PREFIX = "p."
FIELDS = (
    "preferred_backup_time",
    "preferred_backup_period",
    "backup_frequency",
    "data_level1_backup_retention_period",
    "data_level2_backup_retention_period",
    "data_level2_backup_period",
)
_FIRST = words(FIRST)  # what a policy is at first where a form says nothing
_DAYS = (WEEKDAYS, WEEKDAYS[:5], ("Monday", "Wednesday", "Friday"), ("Tuesday", "Thursday", "Saturday"))
_SOME_DAYS = (*_DAYS[1:], ("Wednesday", "Sunday"))


def shown(visit: Visit, cluster_id: str) -> Found:
    """What the tab's template needs. With the form's fields in the address: what they would do, too."""
    policy = visit.doors.read("DescribeBackupPolicy", db_cluster_id=cluster_id)
    given = {name: value for name in FIELDS if (value := visit.query.get(PREFIX + name, ""))}
    plan: Sequence[Mapping[str, Any]] = ()
    refused = ""
    try:
        plan = visit.doors.read("PlanRetention", db_cluster_id=cluster_id, **given)["items"]["backup"]
    except InvalidParameter as error:
        refused = error.message
    exists = bool(policy["preferred_backup_time"])
    now = {name: policy[name] for name in FIELDS} if exists else {name: _FIRST[name] for name in FIELDS}
    values = now | given | {"drill_period": policy["drill_period"]}
    return {
        "policy": policy,
        "exists": exists,
        "values": values,
        "looked": bool(given) and not refused,
        "changes": {"db_cluster_id": cluster_id} | {name: values[name] for name in FIELDS if values[name]},
        "refused": refused,
        "plan": plan,
        "goes": sum(not each["kept"] for each in plan),
        "choices": _choices(values),
    }


def _choices(values: Mapping[str, str]) -> dict[str, Choices]:
    """For each field what can be chosen: what is set now is always among it."""
    hours = [(f"{hour:02}:00Z-{(hour + 1) % 24:02}:00Z", f"{hour:02}:00 UTC") for hour in range(24)]
    days = [(",".join(some), _spoken(some)) for some in _DAYS]
    found = {
        "preferred_backup_time": hours,
        "preferred_backup_period": days,
        "backup_frequency": [("Normal", "once"), *((f"{n}/24H", f"{n} times, on every day") for n in (2, 3, 4))],
        "data_level2_backup_retention_period": [
            ("0", "no longer than the others"),
            *((str(n), f"{n} days") for n in (30, 90, 365, 730, 3650)),
            ("-1", "for ever"),
        ],
        "data_level2_backup_period": [("", "all of them"), *((",".join(some), _spoken(some)) for some in _SOME_DAYS)],
        "drill_period": [("0", "never by itself"), *((str(n), f"every {n} days") for n in (1, 7, 14, 30, 90))],
    }
    for name, choices in found.items():
        if values[name] not in dict(choices):
            choices.append((values[name], values[name].replace(",", ", ")))
    return found


def _spoken(days: Sequence[str]) -> str:
    return {7: "every day", 5: "Monday to Friday"}.get(len(days), ", ".join(days))
