"""The screens of the command line: pure functions from results (snake_case, as ``contract.parse`` gives them) to text.

``now`` is in Unix seconds; times are shown in the machine's zone with its offset. Recorded in ``tests/vectors/cli/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icecore.repository import Checked, Collected

Result = Mapping[str, Any]

# ---------------------------------------------------------------- words for numbers


def size(size_bytes: int | None) -> str:
    """``4.3 GiB``; three significant digits are all that a person compares."""
    if size_bytes is None:
        return "-"
    value, units = float(size_bytes), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1000 and len(units) > 1:
        value /= 1024
        units.pop(0)
    unit = units[0]
    digits = 0 if unit == "B" or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{digits}f} {unit}"


def duration(seconds: float | None) -> str:
    """``38 s``, ``4:07 min``, ``3 h 5 min``, ``9 d 2 h``: the two largest parts."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def at(moment: int | None) -> str:
    """``2026-11-24 04:01:12+00:00``."""
    return "-" if moment is None else datetime.fromtimestamp(moment).astimezone().isoformat(" ")


def ago(moment: int | None, now: float) -> str:
    """``3 h 5 min ago  2026-11-24 04:01:12+00:00``: relative first."""
    return "-" if moment is None else f"{duration(now - moment)} ago  {at(moment)}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Columns two spaces apart, as wide as their widest cell; those in ``right`` aligned to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    shown = [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join(shown) + "\n"


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and values, one a line; what has no value is left out."""
    kept = [(name, value) for name, value in pairs if value not in ("", "-")]
    width = max((len(name) for name, _ in kept), default=0)
    return "".join(f"{name.ljust(width)}  {value}\n" for name, value in kept)


# ---------------------------------------------------------------- one function a screen


def status(overview: Result, now: float) -> str:
    clusters = overview.get("items", {}).get("cluster", [])
    if not clusters:
        return "No clusters yet.\nNext: icecore cluster add NAME --dsn DSN\n"
    rows = [
        [
            each.get("db_cluster_name", ""),
            _lose_now(each.get("lose_now_seconds")),
            each.get("db_cluster_status", ""),
            ago(each.get("last_backup_time"), now) if each.get("last_backup_id") else "never !",
            size(each.get("last_backup_size")) if each.get("last_backup_id") else "-",
            f"{each.get('manual_backups', 0)} of 3",
            each.get("running_job_id", "") or "-",
        ]
        for each in clusters
    ]
    text = table(["CLUSTER", "LOSE NOW", "STATUS", "LAST BACKUP", "SIZE", "MANUAL", "RUNNING JOB"], rows, right=[4])
    return text + "".join(f"! {sentence}\n" for sentence in overview.get("sentences", []))


def windows(result: Result, now: float) -> str:
    rows = [[at(each["begin_time"]), at(each["end_time"])] for each in result.get("windows", [])]
    text = table(["ANY MOMENT FROM", "TO"], rows) if rows else "No moment but each backup's own end can be restored.\n"
    told = result.get("told_time")
    lag = result.get("lag_bytes")
    text += facts(
        [
            ("Log backup", str(result.get("log_backup", ""))),
            ("Position", str(result.get("position") or "-")),
            ("Behind", size(lag) if lag else "-"),
            ("Lose now", duration(result["lose_now_seconds"]) if result.get("lose_now_seconds") is not None else "-"),
            ("Heard of", ago(told, now) if told else "-"),
        ]
    )
    for each in result.get("gaps", []):
        text += f"! the log from {each['begin_position']} to {each['end_position']} is lost: take a backup after it\n"
    return text + (f"! {result['error_message']}\n" if result.get("error_message") else "")


def needs_a_person(overview: Result) -> bool:
    """``status`` ends with 9 then, so that a monitor can run it."""
    return bool(overview.get("sentences"))


def _lose_now(seconds: int | None) -> str:
    return "all of it !" if seconds is None or seconds < 0 else duration(seconds)


def clusters(result: Result) -> str:
    found = result.get("items", {}).get("db_cluster", [])
    if not found:
        return "No clusters yet.\nNext: icecore cluster add NAME --dsn DSN\n"
    rows = [
        [
            each.get("db_cluster_description", ""),
            each.get("db_cluster_id", ""),
            each.get("db_cluster_status", ""),
            f"{each.get('db_type', '')} {each.get('db_version', '')}".strip(),
            size(each.get("storage_used")),
            at(each.get("create_time")),
        ]
        for each in found
    ]
    return table(["CLUSTER", "ID", "STATUS", "ENGINE", "SIZE", "SINCE"], rows, right=[4])


def clones(found: Sequence[Result], now: float) -> str:
    """What ends within the hour says so."""
    if not found:
        return "No clones.\nNext: icecore clone CLUSTER\n"
    rows = []
    for each in found:
        end = each.get("expire_time")
        left = f"{duration(max(end - now, 0))}{' ENDS SOON' if each.get('ends_soon') else ''}" if end else "for ever"
        address = f"{each['connection_string']}:{each['port']}" if each.get("connection_string") else "-"
        of = f"{each.get('source_db_cluster_name', '')} {each.get('backup_id', '')}".strip()
        status = each.get("db_cluster_status", "")
        rows.append(
            [
                *(each.get("db_cluster_description", ""), status, of, left, size(each.get("pinned_bytes")), address),
                *(each.get("owner", ""), each.get("purpose", "") or "-"),
            ]
        )
    text = table(["CLONE", "STATUS", "OF", "LEFT", "PINS", "ADDRESS", "OWNER", "FOR"], rows, right=[4])
    why = [
        f"{each['db_cluster_description']}: {each['status_reason']}\n" for each in found if each.get("status_reason")
    ]
    return text + "".join(why)


def cluster_pace(found: Result) -> str:
    """``cluster set``: what holds for a cluster, and where that is said."""
    rate, background = found.get("max_rate_bytes"), found.get("background")
    whose = {True: "set for this cluster", False: "the home's setting"}
    lines = [
        f"Backups of {found.get('db_cluster_name', '')}",
        f"  max-rate    {f'{size(rate)}/s' if rate else 'no limit'}   ({whose[bool(found.get('max_rate_own'))]})",
        f"  background  {'on' if background else 'off'}   ({whose[bool(found.get('background_own'))]})",
    ]
    return "\n".join(lines) + "\n"


def policy(name: str, found: Result) -> str:
    """``policy show`` and ``set``."""
    if not found.get("preferred_backup_time"):
        return f"{name} has no policy: it is backed up when somebody asks.\nNext: icecore policy set {name}"
    per_day, start = found["backup_frequency"], str(found["preferred_backup_time"]).partition("-")[0].removesuffix("Z")
    days = str(found["preferred_backup_period"]).replace(",", ", ")
    when = f"at {start} UTC, {'every day' if days.count(',') == 6 else days}"
    if per_day != "Normal":
        when = f"{per_day[0]} times a day, evenly from {start} UTC on, every day"
    stay = f"{found['data_level1_backup_retention_period']} days"
    long, of = found["data_level2_backup_retention_period"], found["data_level2_backup_period"]
    if long != "0":
        stay += f"; {'those of ' + of.replace(',', ', ') if of else 'all of them'} "
        stay += "for ever" if long == "-1" else f"{long} days"
    drill = found.get("drill_period", "0")
    drills = "never by itself" if drill == "0" else f"one every {drill} days, by a real restore"
    lines = [("Backups", when), ("Next", at(found.get("preferred_next_backup_time"))), ("They stay", stay)]
    return facts([*lines, ("Verified", drills)])


def retention(result: Result) -> str:
    """``policy preview``: the verdict on each backup."""
    rows = [
        [
            each["backup_id"],
            each["backup_mode"],
            at(each.get("consistent_time")),
            "stays" if each["kept"] else "goes",
            each["reason"] + (f" ({at(each['expect_expire_time'])})" if each.get("expect_expire_time") else ""),
        ]
        for each in result["items"].get("backup", [])
    ]
    return table(["BACKUP", "MODE", "CONSISTENT", "", "WHY"], rows) if rows else "No backup is there, or no policy."


def findings(name: str, version: str, size_bytes: int, found: Sequence[tuple[str, str, str]]) -> str:
    """``cluster check``. Each finding: level (ok, warning, refusal), what, fix."""
    marks = {"ok": "ok     ", "warning": "warning", "refusal": "REFUSED"}
    lines = [f"{name}: {version}, {size(size_bytes)}"]
    for level, what, fix in found:
        lines.append(f"  {marks.get(level, level)}  {what}")
        if fix:
            lines.append(f"           fix: {fix}")
    refusals = sum(level == "refusal" for level, _, _ in found)
    lines.append(f"Backups of {name} are refused until this is mended." if refusals else f"{name} can be backed up.")
    return "\n".join(lines) + "\n"


def backups(found: Sequence[Result], names: Mapping[str, str], now: float) -> str:
    """``names``: of the clusters by id, for those that still have one."""
    if not found:
        return "No backups yet.\nNext: icecore backup CLUSTER\n"
    rows = [
        [
            each.get("backup_id", ""),
            names.get(each.get("db_cluster_id", ""), each.get("db_cluster_id", "")),
            each.get("backup_status", ""),
            each.get("backup_mode", ""),
            ago(each.get("consistent_time"), now) if each.get("consistent_time") else "-",
            size(each.get("backup_set_size")) if each.get("backup_status") == "Success" else "-",
            _took(each.get("backup_start_time"), each.get("backup_end_time")),
            *(
                badge(each.get(time), each.get(outcome), now) if each.get("backup_status") == "Success" else "-"
                for time, outcome in (("checked_time", "check_outcome"), ("verified_time", "verify_outcome"))
            ),
            each.get("comment", ""),
        ]
        for each in found
    ]
    heads = ["BACKUP", "CLUSTER", "STATUS", "MODE", "CONSISTENT", "SIZE", "TOOK", "CHECKED", "VERIFIED", "COMMENT"]
    return table(heads, rows, right=[5])


def badge(at_s: int | None, outcome: str | None, now: float) -> str:
    """When bytes were last checked or the backup verified, and whether that went well."""
    if at_s is None:
        return "never"
    return f"{duration(now - at_s)} ago" if outcome == "passed" else f"{duration(now - at_s)} ago: FAILED !"


def _took(start: int | None, end: int | None) -> str:
    return "-" if start is None or end is None else duration(end - start)


def backup(found: Result, now: float) -> str:
    """``show``: all that is known, then how to restore with nothing but the repository."""
    consistent = found.get("consistent_time")
    text = facts(
        [
            ("Backup", found.get("backup_id", "")),
            ("Cluster", f"{found.get('db_cluster_name', '')} ({found.get('db_cluster_id', '')})"),
            ("Status", found.get("backup_status", "")),
            ("Mode", found.get("backup_mode", "")),
            ("Comment", found.get("comment", "")),
            ("Consistent", ago(consistent, now) if consistent else ""),
            ("Took", _took(found.get("backup_start_time"), found.get("backup_end_time"))),
            ("Checked", badge(found.get("checked_time"), found.get("check_outcome"), now) if consistent else ""),
            ("Verified", badge(found.get("verified_time"), found.get("verify_outcome"), now) if consistent else ""),
            ("Engine", found.get("engine_version", "")),
            ("Log", _log(found)),
            ("Data", _counted(found)),
            ("New", _new(found)),
            ("Made by", f"icecore {found['tool_version']}" if found.get("tool_version") else ""),
            ("Token", found.get("client_token", "")),
        ]
    )
    text += "".join(f"warning  {warning}\n" for warning in found.get("warnings", []))
    recipe = found.get("restore_recipe", [])
    if recipe:
        text += "\nRestore without this server:\n" + "".join(f"  {line}\n" for line in recipe)
    return text


def evidence(found: Result, now: float) -> str:
    """What one check or verification found: a line for each examination, below it what is to be known of it."""
    rows = [
        [
            {"passed": "ok", "failed": "FAILED", "not-run": "not run"}.get(each.get("outcome", ""), ""),
            each.get("name", ""),
            f"{each['count']} {each.get('of', '')}" if each.get("count") else "-",
            f"{each.get('took_ms', 0) / 1000:.1f} s",
        ]
        for each in found.get("examinations", [])
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
    lines = []
    for row, each in zip(rows, found.get("examinations", []), strict=True):
        lines.append("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        lines += [f"  {'':{widths[0]}}    {note}" for note in each.get("notes", [])]
        lines += [f"  {'':{widths[0]}}    {row['name']}: {row['count']}" for row in each.get("rows", [])]
    what = "verification" if found.get("kind") == "verify" else "check"
    server = f" with PostgreSQL {found['server_version']}" if found.get("server_version") else ""
    head = f"{what} {found.get('evidence_id', '')} {found.get('outcome', '')}, {ago(found.get('end_time'), now)}"
    return "\n".join([f"{head}, on {found.get('host', '')}{server}:", *lines]) + "\n"


def _log(found: Result) -> str:
    if not found.get("start_position"):
        return ""
    return f"{found['start_position']} to {found.get('stop_position', '')}, timeline {found.get('timeline', '')}"


def _counted(found: Result) -> str:
    if not found.get("logical_bytes"):
        return ""
    return f"{size(found['logical_bytes'])} in {found.get('file_count', 0)} files"


def _new(found: Result) -> str:
    return f"{size(found['new_bytes'])} stored by this backup" if found.get("new_bytes") is not None else ""


def jobs(result: Result, now: float) -> str:
    found = result.get("items", {}).get("job", [])
    if not found:
        return "No jobs.\n"
    rows = [
        [
            each.get("job_id", ""),
            each.get("job_kind", ""),
            each.get("db_cluster_name", "") or each.get("db_cluster_id", ""),
            each.get("state", ""),
            f"{each.get('phase', '')} {each.get('process', 0)} %" if each.get("state") == "running" else "-",
            ago(each.get("queued_time"), now),
            _took(each.get("start_time"), each.get("end_time") or (int(now) if each.get("start_time") else None)),
            each.get("error_code", ""),
        ]
        for each in found
    ]
    return table(["JOB", "KIND", "CLUSTER", "STATE", "PHASE", "QUEUED", "TOOK", "ERROR"], rows)


def job(found: Result, now: float) -> str:
    """One job, and where its time goes."""
    text = jobs({"items": {"job": [found]}}, now)
    if found.get("error_message"):
        text += f"\n{found['error_message']}\n{found.get('error_hint', '')}\n"
    if found.get("binding_sentence"):
        spent = [
            [each["part"], f"{each['milliseconds'] / 1000:.1f} s", f"{each['percent']} %"]
            for each in found.get("time_spent", [])
        ]
        text += f"\n{found['binding_sentence']}\n{table(['PART', 'TIME', 'SHARE'], spent)}"
    return text


def progress(job: Result, elapsed_s: float, rate_bytes_s: float) -> str:
    """The line that is redrawn while a job runs: phase, bytes, percent, rate, new bytes, time left."""
    phase, done, total = job.get("phase", ""), job.get("bytes_done", 0), job.get("bytes_total", 0)
    parts = [f"{phase:<10}"]
    if done:
        parts += [f"{size(done)} / {size(total)}", f"{job.get('process', 0)} %"]
        if rate_bytes_s > 0:
            parts.append(f"{size(int(rate_bytes_s))}/s")
        parts.append(f"new {size(job.get('bytes_new', 0))}")
        if rate_bytes_s > 0 and total > done:
            parts.append(f"ETA {duration((total - done) / rate_bytes_s)}")
    parts.append(duration(elapsed_s))
    return "   ".join(parts)


def keys(result: Result, now: float) -> str:
    found = result.get("items", {}).get("access_key", [])
    rows = [
        [
            each.get("key_id", ""),
            each.get("role", ""),
            each.get("status", ""),
            at(each.get("create_time")),
            ago(each.get("last_used_time"), now) if each.get("last_used_time") else "never",
            each.get("description", ""),
        ]
        for each in found
    ]
    return table(["KEY", "ROLE", "STATUS", "CREATED", "LAST USED", "DESCRIPTION"], rows)


def checked(cluster_id: str, found: Checked) -> str:
    """One line for a cluster, and one for each fault."""
    read = f"{found.pack_count} of {found.pack_total} packs read ({size(found.read_bytes)})"
    verdict = "all intact" if not found.faults else f"{len(found.faults)} damaged or missing"
    lines = [f"{cluster_id}  {found.backup_count} backups, {read}: {verdict}"]
    for fault in found.faults:
        needed = f"needed by {', '.join(fault.backup_ids)}" if fault.backup_ids else "no backup needs it"
        lines.append(f"  {fault.name}: {fault.reason} ({needed})")
    return "\n".join(lines)


def collected(cluster_id: str, done: Collected) -> str:
    """One line for a cluster."""
    what, removed = ("would free", "to remove") if done.dry_run else ("freed", "removed")
    parts = [f"{what} {size(max(done.bytes_freed - done.moved_bytes, 0))}", f"{done.objects_removed} objects {removed}"]
    if done.packs_repacked:
        parts.append(f"{done.packs_repacked} of them nearly empty packs, {size(done.moved_bytes)} moved to new ones")
    if done.dead_bytes_kept:
        parts.append(f"{size(done.dead_bytes_kept)} unused stays in packs that are used")
    return f"{cluster_id}  {'; '.join(parts)}"


def repository(result: Result) -> str:
    stored, logical = result.get("stored_bytes", 0), result.get("logical_bytes", 0)
    factor = f"  (1 : {logical / stored:.1f})" if stored and logical else ""
    return facts(
        [
            ("Location", result.get("location", "")),
            ("Encrypted", "yes" if result.get("encrypted") else "no"),
            ("Backups", _backups(result)),
            ("Restorable", size(logical)),
            ("Stored", f"{size(stored)}{factor}"),
            ("Objects", str(result.get("object_count", 0))),
        ]
    )


def _backups(result: Result) -> str:
    damaged = result.get("damaged_count", 0)
    return f"{result.get('backup_count', 0)}" + (f"   ! {damaged} cannot be read" if damaged else "")
