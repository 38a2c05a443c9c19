"""icecore clone: a server on a Level-1 backup's own blocks, for a while; and the list of those that there are."""

from __future__ import annotations

import re
import secrets
import time
from argparse import Namespace
from typing import Any

from icecore import errors
from icecore.cli import names, screens
from icecore.cli.calls import Calls
from icecore.cli.following import follow
from icecore.cli.output import Output

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 1}
DEFAULT_LIFETIME = "24h"


def clone(options: Namespace, output: Output) -> None:
    verb = {"list": list_, "extend": extend, "delete": delete}.get(options.what)
    if verb is None and options.clone:
        raise errors.Usage(reason=f"one backup or cluster, not {options.clone!r} as well; its name goes with --name")
    if verb in (extend, delete) and not options.clone:
        raise errors.Usage(reason=f"which clone? icecore clone {options.what} CLONE")
    (verb or make)(options, output)


def make(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        # Which backup: a cluster's newest that has an image, or this one
        if names.is_backup(options.what):
            source = {"backup_id": names.backup(calls, options.what).result["backup"]["backup_id"]}
        else:
            source = {"db_cluster_id": names.cluster_id(calls, options.what)}
        answer = calls(
            "CreateClone",
            **source,
            db_cluster_description=options.name,
            lifetime_seconds=seconds(options.for_ or DEFAULT_LIFETIME),
            purpose=options.purpose,
            client_token=secrets.token_hex(16),
        )
        clone_id = answer.result["db_cluster_id"]
        job = calls("DescribeJobs", db_cluster_id=clone_id).result["items"]["job"][0]
        if options.no_wait:
            output.result(f"Clone {clone_id} is being made.\nNext: icecore watch {job['job_id']}", answer.wire)
            return
        follow(calls, job["job_id"], output)

        # Where it answers, and until when
        shown = calls("DescribeClones", db_cluster_id=clone_id)
        (row,) = shown.result["items"]["clone"]
        if output.json:
            output.line("Summary", shown.part("items", "clone")[0])
            return
        output.result(
            f"Clone {row['db_cluster_description']} ({clone_id}) runs at {row['connection_string']} port {row['port']}"
            f", as of {screens.at(row.get('consistent_time'))}. {_end(row)}\n"
            f"Next: psql -h {row['connection_string']} -p {row['port']}",
            {},
        )


def list_(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = calls("DescribeClones")
        output.result(screens.clones(answer.result["items"].get("clone", []), time.time()), answer.wire)


def extend(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        row = _found(calls, options.clone)
        answer = calls(
            "ModifyClone",
            db_cluster_id=row["db_cluster_id"],
            lifetime_seconds=seconds(options.for_ or DEFAULT_LIFETIME),
            purpose=options.purpose,
        )
        output.result(f"Clone {row['db_cluster_description']}: {_end(answer.result)}", answer.wire)


def delete(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        row = _found(calls, options.clone)
        output.confirm(f"Stop clone {row['db_cluster_description']} and remove it, with what was written to it?")
        answer = calls("DeleteClone", db_cluster_id=row["db_cluster_id"])
        job = calls("DescribeJobs", db_cluster_id=row["db_cluster_id"]).result["items"]["job"][0]
        if not options.no_wait:
            follow(calls, job["job_id"], output)
        output.result(f"Clone {row['db_cluster_description']} is removed.", answer.wire)


def seconds(word: str) -> int:
    """``90m``, ``2h``, ``7d``; ``0``: for ever."""
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", word)
    if match is None:
        raise errors.Usage(reason=f"--for takes a time such as 90m, 2h or 7d, or 0 for ever; not {word!r}")
    return int(match[1]) * _UNITS_S[match[2]]


def _found(calls: Calls, name_or_id: str) -> dict[str, Any]:
    rows = calls("DescribeClones").result["items"].get("clone", [])
    for row in rows:
        if name_or_id in (row["db_cluster_id"], row["db_cluster_description"]):
            return dict(row)
    raise errors.ClusterNotFound()


def _end(row: dict[str, Any]) -> str:
    if not row.get("expire_time"):
        return "It stays until it is deleted."
    return f"It is removed at {screens.at(row['expire_time'])}."
