"""icecore windows, and icecore restore --at or --lsn into a directory: from the repository alone."""

from __future__ import annotations

import os
import re
import time
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icecore import errors
from icecore.cli import names, restoring, screens
from icecore.cli.calls import Calls
from icecore.cli.output import Output
from icecore.cli.repository import opened
from icecore.recovery import moment_text

if TYPE_CHECKING:
    from icecore.model import BackupFacts
    from icecore.moments import MomentPlan
    from icecore.repository import Repository

LATEST = "latest"


def windows(options: Namespace, output: Output) -> None:
    """As log backup told them last; with ``--repo`` from the repository alone."""
    if not options.repo:
        with Calls(options.home) as calls:
            answer = calls("DescribeRecoveryWindows", db_cluster_id=names.cluster_id(calls, options.cluster))
            output.result(screens.windows(answer.result, time.time()), answer.wire)
        return
    from icecore import moments, parts

    repository, _ = opened(options, output)
    facts = newest_of(repository, options.cluster)
    found = moments.windows(repository, facts.cluster_id, parts.restore_engine(facts.engine))
    document = {
        "DBClusterId": facts.cluster_id,
        "Windows": [
            {"BeginTime": moment_text(each.since_us, up=True), "EndTime": moment_text(each.until_us)} for each in found
        ],
    }
    seconds = [{"begin_time": -(-each.since_us // 1_000_000), "end_time": each.until_us // 1_000_000} for each in found]
    output.result(screens.windows({"windows": seconds}, time.time()), document)


def newest_of(repository: Repository, word: str) -> BackupFacts:
    """A cluster's newest backup, by the cluster's name or id."""
    found = [each for each in repository.backups() if word in (each.cluster_name, each.cluster_id)]
    if not found:
        raise errors.ClusterNotFound()
    return max(found, key=lambda each: (each.boundary.consistent_at, each.backup_id))


def moment_us(word: str) -> int:
    """Unix microseconds; 0 for ``latest``. A time without an offset could be anybody's."""
    if word == LATEST:
        return 0
    try:
        found = datetime.fromisoformat(word.strip())
    except ValueError as error:
        raise errors.Usage(
            reason=f"--at takes a time such as '2026-11-25 22:10:00+00', or latest; not {word!r}"
        ) from error
    if found.tzinfo is None:
        raise errors.Usage(reason=f"--at needs the offset from UTC: '{word}+00'")
    return round(found.timestamp() * 1_000_000)


def position_of(word: str) -> int:
    if not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", word):
        raise errors.Usage(reason=f"--lsn takes a position such as 0/3000028, not {word!r}")
    high, low = word.split("/")
    return int(high, 16) << 32 | int(low, 16)


def chosen(options: Namespace, calls: Calls) -> dict[str, Any]:
    """A cluster as of a moment, for a new cluster: what ``CreateDBCluster`` is asked."""
    if options.lsn:
        raise errors.Usage(reason="--lsn is for a directory: --to ./DIR")
    if names.is_backup(options.what):
        raise errors.Usage(reason="--at finds the backup itself: name the cluster")
    cluster_id = names.cluster_id(calls, options.what)
    told = calls("DescribeRecoveryWindows", db_cluster_id=cluster_id).result
    moment = moment_us(options.at) // 1_000_000 or max((each["end_time"] for each in told["windows"]), default=0)
    attribute = calls("DescribeDBClusterAttribute", db_cluster_id=cluster_id).result
    return {
        "db_cluster_id": cluster_id,
        "db_cluster_name": attribute.get("db_cluster_description", cluster_id),
        "engine_version": attribute["db_version"],
        "point": datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "consistent_time": moment,
    }


def short_plan(made: dict[str, Any], into: str) -> str:
    """The job finds backup and log itself, and refuses before the first byte."""
    return screens.facts(
        [
            ("Plan", f"{made['db_cluster_name']} as of {screens.at(made['consistent_time'])}"),
            ("Into", into),
            ("Leaves out", f"what {made['db_cluster_name']} committed later; that cluster is not touched"),
        ]
    )


def plan_of(options: Namespace, repository: Repository) -> tuple[MomentPlan, str]:
    """The plan for what was asked, and what it comes to in words."""
    from icecore import moments, parts

    if names.is_backup(options.what):
        raise errors.Usage(reason="--at and --lsn find the backup themselves: name the cluster")
    facts = newest_of(repository, options.what)
    engine = parts.restore_engine(facts.engine)
    if options.lsn:
        wanted: dict[str, Any] = {"position": position_of(options.lsn)}
        told = f"log position {options.lsn}"
    else:
        wanted = {"moment_us": moment_us(options.at)}
        told = options.at if wanted["moment_us"] else "the last moment that log backup knows"
    return moments.plan(repository, facts.cluster_id, engine, **wanted), told


def into_directory(options: Namespace, output: Output) -> None:
    from icecore import moments, parts
    from icecore import restore as procedure
    from icecore.engines import RestoreTarget

    if options.delta:
        raise errors.Usage(reason="--delta writes a backup's own state; --at and --lsn need an empty directory")

    # Which backup and which log; refused with the nearest moments before the first byte
    repository, _ = opened(options, output)
    made, told = plan_of(options, repository)
    engine = parts.restore_engine(made.facts.engine)
    target = RestoreTarget(Path(options.to).absolute(), restoring.tablespaces(options.tablespace), made.target)
    owner = restoring.owner_named(options.owner)
    reader = repository.reader(made.facts.cluster_id, made.facts.backup_id)
    plan = procedure.plan(reader, engine, target, owner=owner, block_bytes=repository.block_bytes)
    moments.refuse_without_space(made, target.data_directory)
    output.say(plan_text(made, told, str(target.data_directory)))
    if options.dry_run:
        return

    # The backup's files, and the log beside them
    watch = restoring.ShownWatch(output)
    log = repository.log(made.facts.cluster_id)
    try:
        procedure.run(
            plan,
            reader,
            engine,
            watch,
            threads=min(8, os.cpu_count() or 2),
            more=lambda: moments.lay_log(made, log, engine, target.data_directory, owner),
        )
    finally:
        watch.progress.end()
    document = {
        "BackupId": made.facts.backup_id,
        "Directory": str(target.data_directory),
        "SizeBytes": made.facts.size_bytes,
        "LogBytes": made.log_bytes,
        "Position": f"{made.target.position >> 32:X}/{made.target.position & 0xFFFFFFFF:X}",
        "Timeline": made.target.timeline,
    }
    output.result(
        f"{made.facts.cluster_name} as of {told} is in {target.data_directory}; its first start replays "
        f"{screens.size(made.log_bytes)} of log at most.\n"
        f"Next: {restoring.how_to_start(made.facts, target.data_directory, owner)}",
        document,
    )


def plan_text(made: MomentPlan, told: str, target: str) -> str:
    ends = "after" if made.target.inclusive else "before"
    position = f"{made.target.position >> 32:X}/{made.target.position & 0xFFFFFFFF:X}"
    return screens.facts(
        [
            ("Plan", f"{made.facts.cluster_name} as of {told}"),
            ("From", f"backup {made.facts.backup_id}, {screens.size(made.facts.size_bytes)}"),
            ("Log", f"{len(made.pieces)} segments, {screens.size(made.log_bytes)}, timeline {made.target.timeline}"),
            ("Ends", f"right {ends} the record at {position}"),
            ("Into", target),
            ("Leaves out", f"what {made.facts.cluster_name} committed later; that cluster is not touched"),
        ]
    )
