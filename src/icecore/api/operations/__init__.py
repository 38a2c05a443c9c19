"""The operations: what each Action does, in snake case. They write intents into the catalog and read from it;
no operation touches a database server or the repository while a client waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from icecore.api.contract import Call
from icecore.catalog import Catalog
from icecore.catalog.calls import Calls
from icecore.catalog.paging import read_marker

Result = dict[str, Any]
DEFAULT_RESULTS = 30  # on a page, where a marker is given and no number


class Caller(Protocol):
    """Who makes the call."""

    @property
    def access_key_id(self) -> str: ...
    @property
    def role(self) -> str: ...


@dataclass(frozen=True)
class Context:
    """What an operation may use. ``repository`` gives sizes kept by the process, not read for the call;
    ``refuse_secret`` raises ``Refused`` for a DSN that holds a password or is none. ``caller`` is None inside a
    command: whoever may read the home is its operator and sees everything. ``make_link`` gives the token of a one-time
    link for an access key (of the caller) and until when it works."""

    catalog: Catalog
    calls: Calls
    repository: Callable[[], dict[str, Any]]
    refuse_secret: Callable[[str], None]
    make_link: Callable[[Caller | None], tuple[str, int]]
    caller: Caller | None = None


Operation = Callable[[Context, Call], Result]


def marked(call: Call, kind: str) -> tuple[Any, ...] | None:
    """The key of the last row seen, from the call's marker; None at the beginning. Refuses one of another list."""
    if not call.params["marker"]:
        return None
    try:
        return read_marker(kind, call.params["marker"])
    except ValueError as error:
        raise call.refuse("marker") from error


def table() -> dict[str, Operation]:
    """Action -> operation. A test holds it equal to ``contract.json``."""
    from icecore.api.operations import backups, calls, clones, clusters, jobs, keys, logs, overview, policies, proofs

    return {
        "CreateBackup": backups.create_backup,
        "DeleteBackup": backups.delete_backup,
        "DescribeBackups": backups.describe_backups,
        "DescribeBackup": backups.describe_backup,
        "DescribeBackupTasks": backups.describe_backup_tasks,
        "DescribeDBClusters": clusters.describe_clusters,
        "DescribeDBClusterAttribute": clusters.describe_cluster_attribute,
        "DescribeDBClusterEndpoints": clusters.describe_cluster_endpoints,
        "DescribeRegions": clusters.describe_regions,
        "CreateDBCluster": clusters.create_cluster,
        "DeleteDBCluster": clusters.delete_cluster,
        "RegisterDBCluster": clusters.register_cluster,
        "ModifyDBClusterPace": clusters.modify_pace,
        "VerifyBackup": proofs.verify_backup,
        "CheckBackup": proofs.check_backup,
        "DescribeBackupEvidence": proofs.describe_backup_evidence,
        "DescribeBackupPolicy": policies.describe_policy,
        "ModifyBackupPolicy": policies.modify_policy,
        "ModifyDrillPolicy": policies.modify_drills,
        "DeleteBackupPolicy": policies.delete_policy,
        "PlanRetention": policies.plan_retention,
        "HoldBackup": policies.hold_backup,
        "ReleaseBackup": policies.release_backup,
        "DescribeBackupHistory": backups.describe_backup_history,
        "DescribeJobs": jobs.describe_jobs,
        "CancelJob": jobs.cancel_job,
        "CreateClone": clones.create_clone,
        "DescribeClones": clones.describe_clones,
        "ModifyClone": clones.modify_clone,
        "DeleteClone": clones.delete_clone,
        "CreateAccessKey": keys.create_access_key,
        "DescribeAccessKeys": keys.describe_access_keys,
        "RevokeAccessKey": keys.revoke_access_key,
        "CreateConsoleLink": keys.create_console_link,
        "DescribeRepository": overview.describe_repository,
        "DescribeOverview": overview.describe_overview,
        "DescribeClusterHealth": clusters.describe_cluster_health,
        "DescribeRecoveryWindows": logs.describe_recovery_windows,
        "ModifyDBClusterLogBackup": logs.modify_log_backup,
        "DescribeCalls": calls.describe_calls,
    }
