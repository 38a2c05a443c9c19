"""icecore restore --delta: a directory that holds an older or damaged copy becomes the backup again."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from icecore import cores
from icecore.cli import screens
from icecore.cli.output import Output
from icecore.cli.restoring import ShownWatch, how_to_start, owner_named

if TYPE_CHECKING:
    from icecore.engines import RestoreTarget
    from icecore.model import BackupFacts
    from icecore.repository import Repository


def over_what_is_there(
    options: Namespace, output: Output, repository: Repository, facts: BackupFacts, target: RestoreTarget
) -> None:
    from icecore import delta, parts
    from icecore.laying import RestorePlan

    # The plan refuses before the first byte is changed
    engine = parts.restore_engine(facts.engine)
    reader = repository.reader(facts.cluster_id, facts.backup_id)
    owner = owner_named(options.owner) if options.owner else _present_owner(target.data_directory)
    plan = RestorePlan(facts, target, owner, repository.block_bytes)
    delta.plan(reader, engine, plan)
    output.say(_plan_text(facts, target.data_directory))

    # Only look, or mend
    watch, threads = ShownWatch(output), cores.threads()
    try:
        if options.dry_run:
            found = delta.compare(plan, reader, engine, watch, threads=threads)
        else:
            found = delta.run(plan, reader, engine, watch, threads=threads)
    except BaseException:
        if (target.data_directory / delta.NOTE).exists():
            output.say(f"Unfinished: {target.data_directory} cannot be started. The same command goes on from here.")
        raise
    finally:
        watch.progress.end()
    document = {
        "BackupId": facts.backup_id,
        "Directory": str(target.data_directory),
        "ReadBytes": found.read_bytes,
        "WrittenBytes": found.written_bytes,
        "FetchedBytes": found.fetched_bytes,
        "Removed": found.removed,
        "ConsistentAt": facts.boundary.consistent_at,
    }
    if output.json:
        output.line("Summary", document)
    elif options.dry_run:
        rows = [
            ("Reads", f"{screens.size(found.read_bytes)} of what is there"),
            ("Writes", f"{screens.size(found.written_bytes)} that differ"),
            ("Fetches", f"{screens.size(found.fetched_bytes)} from the repository"),
            ("Removes", f"{found.removed} names that the backup does not have"),
        ]
        output.result(screens.facts(rows), document)
    else:
        output.result(
            f"Backup {facts.backup_id} is in {target.data_directory}: {screens.size(found.written_bytes)} of "
            f"{screens.size(facts.size_bytes)} written, {found.removed} names removed, "
            f"as of {screens.at(facts.boundary.consistent_at)}.\n"
            f"Next: {how_to_start(facts, target.data_directory, owner)}",
            document,
        )


def _plan_text(facts: BackupFacts, directory: Path) -> str:
    taken = screens.at(facts.boundary.consistent_at)
    return screens.facts(
        [
            ("Plan", f"backup {facts.backup_id} of {facts.cluster_name}, as of {taken}"),
            ("Over", f"what is in {directory}: blocks that differ are written, other files removed"),
            ("Meanwhile", "that directory cannot be started; broken off, the same command goes on"),
        ]
    )


def _present_owner(data: Path) -> tuple[int, int] | None:
    """Whose the copy is. A try that was broken off has closed the top, but not what is in it."""
    if os.geteuid() != 0:
        return None
    for each in (data, data / "global", data / "base"):
        try:
            status = each.lstat()
        except OSError:
            continue
        if status.st_uid != 0:
            return status.st_uid, status.st_gid
    return owner_named(None)
