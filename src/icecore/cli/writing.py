"""Commands that change something by a call: backup, delete, watch, cancel."""

from __future__ import annotations

import contextlib
import secrets
from argparse import Namespace
from typing import Any

from icecore import errors
from icecore.cli import names, screens
from icecore.cli.calls import Calls
from icecore.cli.following import failure, follow
from icecore.cli.output import Output
from icecore.cli.reading import nag


def backup(options: Namespace, output: Output) -> int:
    with Calls(options.home) as calls:
        cluster = names.cluster_id(calls, options.cluster)
        if not calls.worker_lives():
            # Nobody has looked at the server lately; what was last seen of it would decide.
            with contextlib.suppress(errors.WorldError):
                calls.app.look_at(cluster)
        token = options.client_token or secrets.token_hex(16)
        answer = calls("CreateBackup", db_cluster_id=cluster, client_token=token, comment=options.comment)
        job_id = answer.result["backup_job_id"]
        if options.no_wait:
            output.result(f"Backup {job_id} is accepted.\nNext: icecore watch {job_id}", answer.wire)
            _say_who_works(calls, output)
            return 0
        return _made(calls, output, follow(calls, job_id, output))


def delete(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        # Name what would go, then ask once.
        found = [names.backup(calls, each).result["backup"] for each in options.backup]
        what = ", ".join(f"{each['backup_id']} of {each.get('db_cluster_name', '')}" for each in found)
        output.confirm(f"Delete backup {what}? It cannot be brought back.")

        # A call a backup: they may belong to different clusters
        for each in found:
            answer = calls("DeleteBackup", db_cluster_id=each["db_cluster_id"], backup_id=[each["backup_id"]])
            output.result(f"Backup {each['backup_id']} is deleted.", answer.wire)

        # The bytes go with a job
        if not options.no_wait:
            for each in found:
                for job in _unfinished(calls, each["db_cluster_id"], each["backup_id"], "delete-backup"):
                    follow(calls, job["job_id"], output)


def watch(options: Namespace, output: Output) -> int:
    with Calls(options.home) as calls:
        job = follow(calls, options.job, output)
        if job["job_kind"] == "backup":
            return _made(calls, output, job)
        if job["job_kind"] in ("verify", "check"):
            from icecore.cli.verifying import tell

            tell(calls, output, job["backup_id"], job["job_id"])
            return 0
        answer = calls("DescribeJobs", job_id=options.job)
        output.result(f"Job {job['job_id']} ({job['job_kind']}) has succeeded.", answer.part("items", "job")[0])
        return 0


def cancel(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = calls("CancelJob", job_id=options.job)
        job = calls("DescribeJobs", job_id=options.job).result["items"]["job"][0]
        if job["state"] == "succeeded":
            raise errors.Refused(f"job {options.job} had finished already", hint="Nothing was cancelled.")
        if job["state"] == "failed":
            raise failure(job)
        ended = job["state"] == "cancelled"
        text = f"Job {options.job} is cancelled." if ended else f"Job {options.job} stops at its next step."
        output.result(text, answer.wire)


def _made(calls: Calls, output: Output, job: dict[str, Any]) -> int:
    """The last words of a successful backup; 3 when it was made with warnings."""
    answer = names.backup(calls, job["backup_id"])
    made = answer.result["backup"]
    warnings = made.get("warnings", [])
    for warning in warnings:
        output.warn(warning)
    output.say(str(job.get("binding_sentence") or ""))
    if output.json:
        output.line("Summary", answer.part("backup") or {})
    else:
        read, new = screens.size(made.get("logical_bytes")), screens.size(made.get("new_bytes"))
        output.result(
            f"Backup {made['backup_id']} is complete: {read}, {new} new, consistent at "
            f"{screens.at(made.get('consistent_time'))}.\nNext: icecore show {made['backup_id']}",
            {},
        )
    nag(calls, output)
    return 3 if warnings else 0


def _say_who_works(calls: Calls, output: Output) -> None:
    if not calls.worker_lives():
        output.say("It waits: no worker runs.   hint: icecore serve, or icecore watch JOB")


def _unfinished(calls: Calls, cluster_id: str, backup_id: str, kind: str) -> list[dict[str, Any]]:
    found = calls("DescribeJobs", db_cluster_id=cluster_id, page_size=100).result["items"].get("job", [])
    return [
        job
        for job in found
        if job.get("backup_id") == backup_id and job["job_kind"] == kind and job["state"] in ("queued", "running")
    ]
