"""icecore cluster: add, list, check, set, remove."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from icecore import config as home
from icecore import errors
from icecore.cli import names, screens
from icecore.cli.calls import Calls
from icecore.cli.following import follow
from icecore.cli.output import Output
from icecore.cli.secret import server_password

if TYPE_CHECKING:
    from icecore.engines import Probe

DONE_WITH_WARNINGS = 3


def add(options: Namespace, output: Output) -> int:
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    from icecore import parts

    # Refuse what cannot be kept
    if names.is_backup(options.name):
        raise errors.Usage(reason="a name of digits only would look like a backup's id")
    try:
        server = conninfo_to_dict(options.dsn)
    except ProgrammingError as error:
        raise errors.Usage(reason=f"the DSN cannot be read: {str(error).strip()}") from error
    password = server_password(server, ask=options.ask_password, output=output)

    with Calls(options.home) as calls:
        # Look before anything is remembered: a server that cannot be reached is not registered
        probe = parts.engine_for_dsn(options.engine, options.dsn, password, name=options.name).probe()

        # Register; the password stays in the home
        answer = calls(
            "RegisterDBCluster",
            db_cluster_description=options.name,
            engine=options.engine,
            connection_string=options.dsn,
        )
        cluster_id = answer.result["db_cluster_id"]
        if password is not None:
            home.save_password(calls.config, cluster_id, password)
        calls.app.look_at(cluster_id)

        # End with the check
        output.say(_findings(options.name, probe))
        refused = _refusals(probe)
        after = f"icecore cluster check {options.name}" if refused else f"icecore backup {options.name}"
        output.result(f"Cluster {options.name} is registered as {cluster_id}.\nNext: {after}", answer.wire)
        return DONE_WITH_WARNINGS if refused else 0


def list_(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        answer = calls("DescribeDBClusters", page_size=100)
        output.result(screens.clusters(answer.result), answer.wire)


def check(options: Namespace, output: Output) -> int:
    """Ends with 6 when backups would be refused, 7 when the server cannot be reached."""
    with Calls(options.home) as calls:
        cluster_id = names.cluster_id(calls, options.cluster)
        probe = calls.app.look_at(cluster_id)
        document = {
            "Version": probe.version,
            "SizeBytes": probe.size_bytes,
            "Local": probe.local,
            "Findings": [{"Level": each.level, "What": each.what, "Fix": each.fix} for each in probe.findings],
        }
        output.result(_findings(options.cluster, probe), document)
        return errors.EngineRefused.exit if _refusals(probe) else 0


def set_(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        cluster_id = names.cluster_id(calls, options.cluster)
        if options.max_rate or options.background:
            wanted = {"max_rate": options.max_rate, "background": options.background}
            calls("ModifyDBClusterPace", db_cluster_id=cluster_id, **wanted)
        if options.log_backup:
            calls("ModifyDBClusterLogBackup", db_cluster_id=cluster_id, log_backup=options.log_backup)
        answer = calls("DescribeClusterHealth", db_cluster_id=cluster_id)
        shown = ("DBClusterId", "DBClusterName", "MaxRateBytes", "MaxRateOwn", "Background", "BackgroundOwn")
        output.result(screens.cluster_pace(answer.result), {name: answer.wire[name] for name in shown})


def remove(options: Namespace, output: Output) -> None:
    with Calls(options.home) as calls:
        cluster_id = names.cluster_id(calls, options.cluster)
        attribute = calls("DescribeDBClusterAttribute", db_cluster_id=cluster_id).result
        name = attribute.get("db_cluster_description", cluster_id)
        what = (
            f"Stop {name} and remove its data? Icecore restored it."
            if attribute.get("restore_type")
            else f"Forget {name}? Its server is not touched."
        )
        backups = {"all": "Its backups stay.", "latest": "All its backups but the latest are deleted."}
        output.confirm(f"{what} {backups.get(options.keep, 'All its backups are deleted.')}")

        answer = calls(
            "DeleteDBCluster",
            db_cluster_id=cluster_id,
            backup_retention_policy_on_cluster_deletion=options.keep.upper(),
        )
        if not options.no_wait:
            found = calls("DescribeJobs", db_cluster_id=cluster_id, page_size=100).result["items"].get("job", [])
            for job in found:
                if job["state"] in ("queued", "running"):
                    follow(calls, job["job_id"], output)
        output.result(f"Cluster {name} is removed.", answer.wire)


def _findings(name: str, probe: Probe) -> str:
    found = [(each.level, each.what, each.fix) for each in probe.findings]
    return screens.findings(name, f"{probe.engine} {probe.version}", probe.size_bytes, found)


def _refusals(probe: Probe) -> bool:
    return any(each.level == "refusal" for each in probe.findings)
