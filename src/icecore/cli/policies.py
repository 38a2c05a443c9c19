"""icecore policy, hold, release: automatic backups, how long they stay, and what stays whatever the policy says."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from icecore import errors
from icecore.cli import names, screens
from icecore.cli.calls import Calls
from icecore.cli.output import Output
from icecore.schedule import WEEKDAYS


def show(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = calls("DescribeBackupPolicy", db_cluster_id=names.cluster_id(calls, options.cluster))
        output.result(screens.policy(options.cluster, answer.result), answer.wire)


def set_(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        cluster_id, wanted = names.cluster_id(calls, options.cluster), _wanted(options)
        # What it would remove comes first: a retention that is too short is noticed here, not a day later
        plan = calls("PlanRetention", db_cluster_id=cluster_id, **wanted)
        goes = [each for each in plan.result["items"].get("backup", []) if not each["kept"]]
        if options.dry_run:
            output.result(screens.retention(plan.result), plan.wire)
            return
        if goes:
            output.say(screens.retention({"items": {"backup": goes}}))
            output.confirm(f"{len(goes)} of the backups will be removed in a day. Go on?")
        calls("ModifyBackupPolicy", db_cluster_id=cluster_id, **wanted)
        if options.drill:
            calls("ModifyDrillPolicy", db_cluster_id=cluster_id, drill_period=options.drill.replace("off", "0"))
        answer = calls("DescribeBackupPolicy", db_cluster_id=cluster_id)
        output.result(screens.policy(options.cluster, answer.result), answer.wire)


def off(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = calls("DeleteBackupPolicy", db_cluster_id=names.cluster_id(calls, options.cluster))
        output.result(f"{options.cluster} is backed up when somebody asks; nothing of it expires.", answer.wire)


def preview(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = calls("PlanRetention", db_cluster_id=names.cluster_id(calls, options.cluster))
        output.result(screens.retention(answer.result), answer.wire)


def hold(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        backup = names.backup(calls, options.backup).result["backup"]
        which = {"db_cluster_id": backup["db_cluster_id"], "backup_id": backup["backup_id"]}
        answer = calls("HoldBackup", **which, reason=options.reason)
        output.result(f"Backup {backup['backup_id']} is held: nobody and no policy removes it.", answer.wire)


def release(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        backup = names.backup(calls, options.backup).result["backup"]
        which = {"db_cluster_id": backup["db_cluster_id"], "backup_id": backup["backup_id"]}
        answer = calls("ReleaseBackup", **which)
        output.result(f"Backup {backup['backup_id']} is held no longer.", answer.wire)


def _wanted(options: Namespace) -> dict[str, Any]:
    """The parameters for what was given."""
    wanted: dict[str, Any] = {}
    if options.at:
        wanted["preferred_backup_time"] = _window(options.at)
    if options.days:
        wanted["preferred_backup_period"] = _weekdays(options.days)
    if options.per_day:
        wanted["backup_frequency"] = "Normal" if options.per_day == "1" else f"{options.per_day}/24H"
    if options.keep:
        wanted["data_level1_backup_retention_period"] = options.keep
    if options.keep_long:
        wanted["data_level2_backup_retention_period"] = "-1" if options.keep_long == "forever" else options.keep_long
    if options.long_days:
        wanted["data_level2_backup_period"] = _weekdays(options.long_days)
    return wanted


def _window(start: str) -> str:
    """``02:00`` (UTC) -> ``02:00Z-03:00Z``."""
    hour, colon, minute = start.removesuffix("Z").partition(":")
    if not (colon and hour.isdecimal() and minute.isdecimal() and int(hour) < 24 and int(minute) < 60):
        raise errors.Usage(reason=f"--at takes a time of day such as 02:00 (UTC), not {start!r}")
    return f"{int(hour):02}:{int(minute):02}Z-{(int(hour) + 1) % 24:02}:{int(minute):02}Z"


def _weekdays(listed: str) -> str:
    """``Mon,Thu`` or ``all`` -> PolarDB's words."""
    if listed == "all":
        return ",".join(WEEKDAYS)
    chosen = []
    for word in listed.split(","):
        found = [day for day in WEEKDAYS if len(word.strip()) > 1 and day.lower().startswith(word.strip().lower())]
        if len(found) != 1:
            raise errors.Usage(reason=f"{word.strip()!r} is no day of the week; such as Mon,Thu or all")
        chosen += found
    return ",".join(chosen)
