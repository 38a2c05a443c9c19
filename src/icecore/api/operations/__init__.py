"""The operations: what each Action does, in snake case. They write intents into the catalog and read from it;
no operation touches a database server or the repository while a client waits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from icecore.api.contract import Call
from icecore.catalog import Catalog
from icecore.catalog.calls import Calls

Result = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """What an operation may use. ``repository`` gives sizes kept by the process, not read for the call;
    ``refuse_secret`` raises ``Refused`` for a DSN that holds a password or is none."""

    catalog: Catalog
    calls: Calls
    repository: Callable[[], dict[str, Any]]
    refuse_secret: Callable[[str], None]


Operation = Callable[[Context, Call], Result]


def table() -> dict[str, Operation]:
    """Action -> operation. A test holds it equal to ``contract.json``."""
    from icecore.api.operations import backups, clusters, jobs, keys, overview

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
        "DescribeJobs": jobs.describe_jobs,
        "CancelJob": jobs.cancel_job,
        "CreateAccessKey": keys.create_access_key,
        "DescribeAccessKeys": keys.describe_access_keys,
        "RevokeAccessKey": keys.revoke_access_key,
        "DescribeRepository": overview.describe_repository,
        "DescribeOverview": overview.describe_overview,
    }
