"""icecore restore: into a directory, with nothing but the repository and its key, or to a new running cluster."""

from __future__ import annotations

import os
import secrets
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icecore import cores, errors
from icecore.cli import names, screens
from icecore.cli.calls import Calls
from icecore.cli.following import Progress, follow
from icecore.cli.output import Output
from icecore.cli.repository import opened
from icecore.model import BackupFacts, Phase, percent

if TYPE_CHECKING:
    from icecore.images import KeptImage
    from icecore.repository import Repository


def restore(options: Namespace, output: Output) -> None:
    if options.at and options.lsn:
        raise errors.Usage(reason="--at or --lsn, not both")
    if is_directory(options.to, bool(options.repo)) and (options.at or options.lsn):
        from icecore.cli import moment

        moment.into_directory(options, output)
    elif is_directory(options.to, bool(options.repo)):
        into_directory(options, output)
    else:
        to_cluster(options, output)


def is_directory(target: str, offline: bool) -> bool:
    """A slash makes a directory; offline there is nothing but directories."""
    return offline or "/" in target or target in (".", "..")


# ---------------------------------------------------------------- a new cluster


def to_cluster(options: Namespace, output: Output) -> None:
    if options.tablespace or options.owner or options.delta:
        raise errors.Usage(reason="--tablespace, --owner and --delta are for a directory: --to ./DIR")
    with Calls(options.home) as calls:
        # Which backup, or which moment
        into = f"new cluster {options.to}, on 127.0.0.1 at a free port"
        if options.at or options.lsn:
            from icecore.cli import moment

            chosen = moment.chosen(options, calls)
            output.say(moment.short_plan(chosen, into))
        else:
            of = names.backup if names.is_backup(options.what) else names.newest_backup
            chosen = of(calls, options.what).result["backup"]
            output.say(plan_text(chosen, into))
        if options.dry_run:
            return

        # The restore is a call like any other
        answer = calls(
            "CreateDBCluster",
            region_id=calls.config.region_id,
            db_type="PostgreSQL",
            db_version=chosen["engine_version"].split(".")[0],
            pay_type="Postpaid",
            creation_option="CloneFromPolarDB",
            source_resource_id=chosen["db_cluster_id"],
            clone_data_point=chosen.get("point") or chosen["backup_id"],
            db_cluster_description=options.to,
            client_token=secrets.token_hex(16),
        )
        cluster_id = answer.result["db_cluster_id"]
        job = calls("DescribeJobs", db_cluster_id=cluster_id).result["items"]["job"][0]
        if options.no_wait:
            output.result(
                f"Cluster {options.to} ({cluster_id}) is being made.\nNext: icecore watch {job['job_id']}", answer.wire
            )
            return
        follow(calls, job["job_id"], output)

        # Where it answers
        ends = calls("DescribeDBClusterEndpoints", db_cluster_id=cluster_id)
        primary: dict[str, Any] = next(iter(ends.result["items"]), {})
        address: dict[str, Any] = next(iter(primary.get("address_items", [])), {})
        host, port = address.get("connection_string", "127.0.0.1"), address.get("port", "")
        if output.json:
            output.line("Summary", {**answer.wire, **next(iter(ends.part("items") or []), {})})
            return
        output.result(
            f"Cluster {options.to} ({cluster_id}) runs at {host} port {port}, "
            f"as of {screens.at(chosen.get('consistent_time'))}.\nNext: psql -h {host} -p {port}",
            {},
        )


def plan_text(chosen: Mapping[str, Any], target: str) -> str:
    taken = screens.at(chosen.get("consistent_time"))
    return screens.facts(
        [
            ("Plan", f"backup {chosen['backup_id']} of {chosen.get('db_cluster_name', '')}, as of {taken}"),
            ("Size", screens.size(chosen.get("logical_bytes"))),
            ("Into", target),
            ("Leaves out", f"what {chosen.get('db_cluster_name', '')} committed later; that cluster is not touched"),
        ]
    )


# ---------------------------------------------------------------- a directory


def into_directory(options: Namespace, output: Output) -> None:
    from icecore import parts
    from icecore import restore as procedure
    from icecore.engines import RestoreTarget

    # The repository is the truth: no catalog is asked
    repository, _ = opened(options, output)
    facts = chosen_backup(repository, options.what)
    engine = parts.restore_engine(facts.engine)
    target = RestoreTarget(Path(options.to).absolute(), tablespaces(options.tablespace))

    if options.delta:
        from icecore.cli.mending import over_what_is_there

        over_what_is_there(options, output, repository, facts, target)
        return

    # The plan refuses before the first byte
    owner = owner_named(options.owner)
    reader = repository.reader(facts.cluster_id, facts.backup_id)
    plan = procedure.plan(reader, engine, target, owner=owner, block_bytes=repository.block_bytes)
    chosen = {
        "backup_id": facts.backup_id,
        "db_cluster_name": facts.cluster_name,
        "consistent_time": facts.boundary.consistent_at,
        "logical_bytes": facts.size_bytes,
    }
    output.say(plan_text(chosen, str(target.data_directory)))
    if options.dry_run:
        return

    # Lay it down, sharing the blocks of the backup's image where the home keeps one on the same file system
    watch = ShownWatch(output)
    try:
        with _image(options, facts) as image:
            procedure.run(plan, reader, engine, watch, threads=cores.threads(), image=image)
    except KeyboardInterrupt:
        output.say(f"Unfinished: {target.data_directory} cannot be started. Remove it before the next try.")
        raise
    finally:
        watch.progress.end()
    document = {
        "BackupId": facts.backup_id,
        "Directory": str(target.data_directory),
        "SizeBytes": facts.size_bytes,
        "ConsistentAt": facts.boundary.consistent_at,
    }
    if output.json:
        output.line("Summary", document)
        return
    output.result(
        f"Backup {facts.backup_id} is in {target.data_directory}: {screens.size(facts.size_bytes)}, "
        f"as of {screens.at(facts.boundary.consistent_at)}.\n"
        f"Next: {how_to_start(facts, target.data_directory, owner)}",
        document,
    )


def _image(options: Namespace, facts: BackupFacts) -> AbstractContextManager[KeptImage | None]:
    if options.repo:
        return nullcontext()
    from icecore import config, pinned

    return pinned.image_of(config.load(options.home or config.default_home()), facts)


def chosen_backup(repository: Repository, word: str) -> BackupFacts:
    """A backup by its id or the start of it; a cluster's newest by its name or id."""
    if names.is_backup(word):
        return repository.find(word)
    found = [each for each in repository.backups() if word in (each.cluster_name, each.cluster_id)]
    if not found:
        raise errors.BackupNotFound()
    return max(found, key=lambda each: (each.boundary.consistent_at, each.backup_id))


def tablespaces(given: list[str]) -> dict[str, Path]:
    """``16384=/srv/space`` -> the link in the data directory and where it leads."""
    places = {}
    for each in given:
        oid, equals, place = each.partition("=")
        if not equals or not oid.isdecimal() or not place:
            raise errors.Usage(reason=f"--tablespace takes OID=DIR, not {each!r}")
        places[f"pg_tblspc/{oid}"] = Path(place).absolute()
    return places


def owner_named(name: str | None) -> tuple[int, int] | None:
    """Whose the files become. Only root can give them away, and no PostgreSQL starts as root."""
    import pwd

    if os.geteuid() != 0:
        if name:
            raise errors.Usage(reason="only root can give files to another user")
        return None
    wanted = name or os.environ.get("ICECORE_SERVER_USER", "postgres")
    try:
        user = pwd.getpwnam(wanted)
    except KeyError as error:
        if name is None:
            return None  # a machine that only unpacks
        raise errors.Usage(reason=f"there is no user {wanted}") from error
    return user.pw_uid, user.pw_gid


def how_to_start(facts: BackupFacts, directory: Path, owner: tuple[int, int] | None) -> str:
    from icecore.engines.postgresql.binaries import find

    major = facts.engine_version.split(".")[0]
    try:
        program = str(find(major, facts.engine_facts) / "pg_ctl")
    except errors.IcecoreError:
        program = f"pg_ctl (of PostgreSQL {major})"
    command = f"{program} -D {directory} -l {directory}/server.log start"
    if owner is None:
        return command
    import pwd

    return f"runuser -u {pwd.getpwuid(owner[0]).pw_name} -- {command}"


class ShownWatch:
    """Shows a restore or a verification that runs in this process."""

    def __init__(self, output: Output) -> None:
        self.progress = Progress(output)
        self._job: dict[str, Any] = {"phase": Phase.NO_START, "bytes_done": 0, "bytes_total": 0, "bytes_new": 0}

    def phase(self, phase: Phase, total_bytes: int = 0) -> None:
        self._job |= {"phase": phase, "bytes_total": total_bytes}
        self._show()

    def advance(self, done_bytes: int, new_bytes: int) -> None:
        self._job |= {"bytes_done": done_bytes, "bytes_new": new_bytes}
        self._show()

    def step(self, name: str) -> None: ...

    def _show(self) -> None:
        done, total = self._job["bytes_done"], self._job["bytes_total"]
        self._job["process"] = percent(self._job["phase"], done, total)
        wire = {
            "Phase": self._job["phase"],
            "Process": str(self._job["process"]),
            "BytesDone": done,
            "BytesTotal": total,
        }
        self.progress.show(self._job, wire)
