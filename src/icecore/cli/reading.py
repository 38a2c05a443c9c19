"""Commands that only look: status, backups, show, jobs."""

from __future__ import annotations

import time
from argparse import Namespace

from icecore.cli import names, screens
from icecore.cli.calls import Calls
from icecore.cli.output import Output

NEEDS_A_PERSON = 9


def status(options: Namespace, output: Output) -> int:
    with Calls(options.home) as calls:
        wanted = {"db_cluster_id": names.cluster_id(calls, options.cluster)} if options.cluster else {}
        answer = calls("DescribeOverview", **wanted)
        output.result(screens.status(answer.result, time.time()), answer.wire)
        nag(calls, output)
    return NEEDS_A_PERSON if screens.needs_a_person(answer.result) else 0


def backups(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        known = {each["db_cluster_id"]: each.get("db_cluster_description", "") for each in names.every_cluster(calls)}
        wanted = [names.cluster_id(calls, options.cluster)] if options.cluster else list(known)
        period = {"start_time": 0, "end_time": int(time.time()) + 86400}
        answers = [calls("DescribeBackups", db_cluster_id=each, page_size=100, **period) for each in wanted]
        if output.json:
            # One cluster: the API's answer unchanged; several: one answer a line.
            for answer in answers:
                output.result("", answer.wire)
            return
        found = [each for answer in answers for each in answer.result["items"].get("backup", [])]
        found.sort(key=lambda each: (each.get("backup_start_time", 0), each["backup_id"]), reverse=True)
        output.result(screens.backups(found, known, time.time()), {})
        beyond = sum(int(answer.result["total_record_count"]) for answer in answers) - len(found)
        if beyond > 0:
            output.say(f"{beyond} older ones are not shown: icecore call DescribeBackups pages through them.")


def show(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = names.backup(calls, options.backup)
        text = screens.backup(answer.result["backup"], time.time())
        if not output.json:
            text += _newest_evidence(calls, answer.result["backup"]["backup_id"])
        output.result(text, answer.wire)


def _newest_evidence(calls: Calls, backup_id: str) -> str:
    """Of each kind."""
    found = calls("DescribeBackupEvidence", backup_id=backup_id).result["items"].get("evidence", [])
    newest = {each["kind"]: each for each in reversed(found)}
    return "".join("\n" + screens.evidence(each, time.time()) for _, each in sorted(newest.items()))


def jobs(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        if options.job:
            answer = calls("DescribeJobs", job_id=options.job)
            job = answer.result["items"]["job"][0]
            output.result(screens.job(job, time.time()), answer.part("items", "job")[0])
            return
        wanted = {"db_cluster_id": names.cluster_id(calls, options.cluster)} if options.cluster else {}
        answer = calls("DescribeJobs", job_state=options.state, page_size=50, **wanted)
        output.result(screens.jobs(answer.result, time.time()), answer.wire)


def nag(calls: Calls, output: Output) -> None:
    """Until a copy of the key was taken elsewhere: with this disk its backups would be lost too."""
    from icecore.app import key_exported

    if not key_exported(calls.config):
        output.say("! The only copy of the repository's key is in this home.   hint: icecore repo key export FILE")
