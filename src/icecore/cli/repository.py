"""icecore repo: what the repository itself holds, and its key. No catalog is needed, with ``--repo`` no home either."""

from __future__ import annotations

import contextlib
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from icecore import config as home
from icecore import errors
from icecore.api import contract
from icecore.cli import screens
from icecore.cli.calls import Calls
from icecore.cli.output import Output
from icecore.cli.secret import given_secret, new_passphrase

if TYPE_CHECKING:
    from icecore.evidence import Evidence
    from icecore.repository import Repository

DONE_WITH_WARNINGS = 3


def opened(options: Namespace, output: Output) -> tuple[Repository, Path]:
    """The repository named by ``--repo``, else the home's; and where it is."""
    from icecore import parts

    if options.repo:
        return parts.open_repository_at(options.repo, given_secret(options, output)), options.repo
    config = home.load(options.home or home.default_home())
    return parts.open_repository(config), config.repository


def list_(options: Namespace, output: Output) -> None:
    repository, _ = opened(options, output)
    found = list(repository.backups())
    rows = [
        {
            "backup_id": each.backup_id,
            "db_cluster_id": each.cluster_id,
            "backup_status": "Success",
            "backup_mode": each.mode,
            "backup_start_time": each.boundary.started_at,
            "backup_end_time": each.boundary.stopped_at,
            "consistent_time": each.boundary.consistent_at,
            "backup_set_size": each.size_bytes,
            "comment": each.comment,
        }
        for each in found
    ]
    answer = {
        "items": {"backup": rows},
        "page_number": 1,
        "page_record_count": len(rows),
        "total_record_count": len(rows),
    }
    known = {each.cluster_id: each.cluster_name for each in reversed(found)}
    output.result(screens.backups(rows, known, time.time()), contract.render("DescribeBackups", answer, ""))


def check(options: Namespace, output: Output) -> int:
    """Exit 8 when a backup cannot be restored whole, 3 when something unused is damaged. Each backup keeps a note."""
    from icecore import check as notes

    if not 0 < options.sample <= 100:
        raise errors.Usage(reason="--sample is a percentage between 0 and 100")
    repository, _ = opened(options, output)
    lines, documents, damaged, faults, log_faults = [], [], 0, 0, 0
    number, kept = str(int(time.time() * 1000)), []
    for cluster_id in repository.clusters():
        share, began_at = options.sample / 100, int(time.time())
        found = repository.check(cluster_id, share=share)
        kept += notes.leave_notes(repository, cluster_id, found, number, began_at, share=share)
        damaged += len(found.damaged_backups)
        faults += len(found.faults)
        lines.append(screens.checked(cluster_id, found))
        log = repository.log(cluster_id)
        log_bytes, broken = log.check(share)
        if log.listing.units:
            lines.append(
                f"  log: {len(log.listing.units)} units, {screens.size(log_bytes)} read, {len(broken)} damaged"
            )
            lines += [f"  ! {error.message}" for error in broken]
        log_faults += len(broken)
        documents.append(
            {
                "ClusterId": cluster_id,
                "Backups": found.backup_count,
                "PacksRead": found.pack_count,
                "Packs": found.pack_total,
                "BytesRead": found.read_bytes,
                "DamagedBackups": found.damaged_backups,
                "Faults": [
                    {"Name": fault.name, "Reason": fault.reason, "Backups": list(fault.backup_ids)}
                    for fault in found.faults
                ],
                "LogBytesRead": log_bytes,
                "LogFaults": [str(error.fields["name"]) for error in broken],
            }
        )
    if not options.repo:
        _show_in_catalog(options, kept)
    output.result("\n".join(lines) or "The repository is empty.", {"Clusters": documents})
    if damaged:
        raise errors.Damaged(name=f"{damaged} of the backups", reason="the list of faults says what of")
    if log_faults:
        raise errors.Damaged(name="the log", reason=f"{log_faults} of its units: moments that need them are lost")
    if faults:
        output.warn("something that no backup needs is damaged")
    return DONE_WITH_WARNINGS if faults else 0


def _show_in_catalog(options: Namespace, kept: list[Evidence]) -> None:
    """Where there is one: the notes are in the repository, and a catalog that is rebuilt takes them back."""
    with Calls(options.home) as calls, contextlib.suppress(errors.WorldError):
        if (calls.config.home / "catalog.db").exists():
            calls.app.take_back(kept)


def collect(options: Namespace, output: Output) -> int:
    """A cluster that somebody works on is left out: exit 3."""
    repository, _ = opened(options, output)
    lines, documents, busy = [], [], []
    for cluster_id in repository.clusters():
        try:
            done = repository.collect(cluster_id, dry_run=options.dry_run)
        except errors.LeaseHeld:
            busy.append(cluster_id)
            continue
        lines.append(screens.collected(cluster_id, done))
        documents.append(
            {
                "ClusterId": cluster_id,
                "BytesRemoved": done.bytes_freed,
                "BytesMoved": done.moved_bytes,
                "ObjectsRemoved": done.objects_removed,
                "PacksRepacked": done.packs_repacked,
                "UnusedBytesKept": done.dead_bytes_kept,
            }
        )
    answer = {"DryRun": options.dry_run, "Clusters": documents, "Busy": busy}
    output.result("\n".join(lines) or "Nothing to collect.", answer)
    if busy:
        output.warn(f"left out, since a backup or a collection has them: {', '.join(busy)}")
    return DONE_WITH_WARNINGS if busy else 0


def stat(options: Namespace, output: Output) -> None:
    if not options.repo:
        with Calls(options.home) as calls:
            answer = calls("DescribeRepository")
            output.result(screens.repository(answer.result), answer.wire)
        return
    repository, place = opened(options, output)
    counted = repository.stat()
    result = {
        "location": str(place),
        "encrypted": repository.encrypted,
        "stored_bytes": counted.stored_bytes,
        "logical_bytes": counted.logical_bytes,
        "backup_count": counted.backup_count,
        "damaged_count": counted.damaged_count,
        "object_count": counted.object_count,
    }
    output.result(screens.repository(result), contract.render("DescribeRepository", result, ""))


def key(options: Namespace, output: Output) -> None:
    config = home.load(options.home or home.default_home())
    if not config.encrypted:
        raise errors.Refused("the repository is not encrypted", hint="There is no key to keep.")
    if options.action == "export":
        _export(config, options.file, output)
    else:
        _set_passphrase(config, output)


def _export(config: home.Config, file: str | None, output: Output) -> None:
    from icecore.app import mark_key_exported

    if not file:
        raise errors.Usage(reason="repo key export needs a FILE, or - to print the key")
    if not config.repository_key.exists():
        raise errors.Refused("the repository opens by a passphrase", hint="Keep the passphrase: it is the key.")
    data = home.read_private(config.repository_key)
    if file == "-":
        output.result(data.hex(), {"Key": data.hex()})
    else:
        target = Path(file)
        if target.exists():
            raise errors.Refused(f"{target} exists", hint="Name a new file; a key is never overwritten.")
        home.write_private(target.absolute(), data)
        output.result(
            f"The key is in {target}. Move it off this machine: who has it and the repository can read every backup.",
            {"KeyFile": str(target)},
        )
    mark_key_exported(config)


def _set_passphrase(config: home.Config, output: Output) -> None:
    """Only one small object of the repository is rewritten; no block is sealed anew."""
    from icecore import parts
    from icecore.app import mark_key_exported
    from icecore.repository.sealing import Passphrase

    try:
        repository = parts.open_repository(config)
    except errors.WrongKey:
        # An earlier try was killed after the repository had changed and before the home had.
        saved = home.password(config, "repository")
        if saved is None:
            raise
        repository = parts.open_repository_at(config.repository, Passphrase(saved))
    passphrase = new_passphrase(output)
    before = home.password(config, "repository")
    home.save_password(config, "repository", passphrase)
    try:
        repository.change_secret(Passphrase(passphrase))
    except errors.IcecoreError:
        # The old one still opens it.
        if before is None:
            home.forget_password(config, "repository")
        else:
            home.save_password(config, "repository", before)
        raise
    config.repository_key.unlink(missing_ok=True)
    mark_key_exported(config)
    output.result("The repository opens by the new passphrase; keep it where this machine's loss cannot reach.", {})
    if sys.stdin.isatty():
        output.say("The home has it in secrets/repository (0600), so that backups run unattended.")
