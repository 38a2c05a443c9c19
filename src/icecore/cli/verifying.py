"""icecore verify: a backup is really restored, started, queried and thrown away; by a job, or offline by this process
itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from icecore import cores, errors
from icecore.api import contract
from icecore.cli import names, screens
from icecore.cli.calls import Calls
from icecore.cli.following import follow
from icecore.cli.output import Output
from icecore.cli.repository import opened


def verify(options: Namespace, output: Output) -> None:
    if options.repo:
        _offline(options, output)
    elif options.scratch:
        raise errors.Usage(reason="--scratch goes with --repo; a home has its scratch in it")
    else:
        _by_job(options, output)


def _by_job(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        # Which backup
        of = names.backup if names.is_backup(options.what) else names.newest_backup
        chosen = of(calls, options.what).result["backup"]
        backup_id = chosen["backup_id"]

        # What must hold in it: from now on in every copy of this cluster
        if options.sql:
            _keep_assertions(calls, chosen["db_cluster_id"], options.sql)

        # A job like any other
        answer = calls("VerifyBackup", backup_id=backup_id, client_token=secrets.token_hex(16))
        job_id = answer.result["job_id"]
        if options.no_wait:
            said = f"Verification {job_id} of backup {backup_id} is accepted."
            output.result(f"{said}\nNext: icecore watch {job_id}", answer.wire)
            return
        try:
            follow(calls, job_id, output)
        except errors.VerificationFailed:
            tell(calls, output, backup_id, job_id)
            raise
        tell(calls, output, backup_id, job_id)


def tell(calls: Calls, output: Output, backup_id: str, number: str) -> None:
    """What a check or a verification found, as its last words."""
    answer = calls("DescribeBackupEvidence", backup_id=backup_id)
    found = answer.result["items"].get("evidence", [])
    for each, wire in zip(found, answer.part("items", "evidence") or [], strict=True):
        if each["evidence_id"] == number:
            if output.json:
                output.line("Summary", wire)
            else:
                output.result(screens.evidence(each, time.time()), {})
            return


def _keep_assertions(calls: Calls, cluster_id: str, file: Path) -> None:
    from icecore import config
    from icecore.tasks.proofs import assertions_file
    from icecore.verify import read_assertions

    text = _text(file)
    read_assertions(text, str(file))
    place = assertions_file(calls.config, cluster_id)
    place.parent.mkdir(mode=0o700, exist_ok=True)
    config.write_private(place, text.encode())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise errors.Refused(f"{file} is not UTF-8", hint="TOML is written in UTF-8.") from error


# ---------------------------------------------------------------- offline


def _offline(options: Namespace, output: Output) -> None:
    """On a machine that has the package, PostgreSQL's programs, the repository and its key."""
    from icecore import parts
    from icecore import verify as procedure
    from icecore.api.operations.proofs import as_result
    from icecore.cli.restoring import ShownWatch, chosen_backup
    from icecore.evidence import Outcome
    from icecore.tasks import servers
    from icecore.tasks.proofs import socket_beside

    if options.no_wait:
        raise errors.Usage(reason="--no-wait is for a job; with --repo this process does it")
    assertions = procedure.read_assertions(_text(options.sql), str(options.sql)) if options.sql else ()
    repository, _ = opened(options, output)
    facts = chosen_backup(repository, options.what)
    number = str(int(time.time() * 1000))
    owner = servers.server_owner()
    watch = ShownWatch(output)
    with _scratch(options.scratch or Path(tempfile.gettempdir()), facts.backup_id) as scratch:
        servers.refuse_unreachable(scratch, *owner)
        order = procedure.Verification(
            number=number,
            scratch=scratch,
            owner=owner,
            threads=cores.threads(),
            socket=socket_beside(scratch, facts.backup_id),
            assertions=assertions,
        )
        try:
            found = procedure.run(repository, facts, parts.restore_engine(facts.engine), order, watch)
        finally:
            watch.progress.end()
    answer = {"items": {"evidence": [as_result(found)]}}
    wire = contract.render("DescribeBackupEvidence", answer, "")
    shown = contract.parse("DescribeBackupEvidence", wire)["items"]["evidence"][0]
    if output.json:
        output.line("Summary", next(iter(wire["Items"].values()))[0])
    else:
        output.result(screens.evidence(shown, time.time()), {})
    if found.outcome is Outcome.FAILED:
        raise errors.VerificationFailed(backup_id=facts.backup_id, reason="; ".join(found.failures()))


@contextlib.contextmanager
def _scratch(below: Path, backup_id: str) -> Iterator[Path]:
    """A directory whose name is the backup's, so that a rerun finds what a killed run left. One process at a time."""
    lock = below / f"icecore-verify-{backup_id}.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise errors.Refused(f"{lock} belongs to somebody else", hint="Name another directory: --scratch DIR.")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise errors.LeaseHeld(name=f"backup {backup_id} in {below}") from error
        scratch = below / f"icecore-verify-{backup_id}"
        if scratch.is_symlink() or (scratch.exists() and scratch.stat().st_uid != os.geteuid()):
            raise errors.Refused(f"{scratch} is not ours", hint="Name another directory: --scratch DIR.")
        yield scratch
        lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
