"""What a person types to what the API takes: a cluster's name, the start of a backup's id."""

from __future__ import annotations

import time
from typing import Any

from icecore import errors
from icecore.cli.calls import Answer, Calls

FOREVER = (0, 253402300799)  # every backup: from 1970 to the last second of 9999


def every_cluster(calls: Calls) -> list[dict[str, Any]]:
    return every(calls, "DescribeDBClusters", "db_cluster", page_size=100)


def every(calls: Calls, action: str, item: str, **params: Any) -> list[dict[str, Any]]:
    """All pages of a list."""
    found: list[dict[str, Any]] = []
    page = 1
    while True:
        result = calls(action, page_number=page, **params).result
        items = result["items"].get(item, [])
        found += items
        if not items or len(found) >= int(result["total_record_count"]):
            return found
        page += 1


def cluster_id(calls: Calls, name_or_id: str) -> str:
    """Raises ClusterNotFound. An id is taken as it is: a removed cluster's backups can still be asked for."""
    if name_or_id.startswith("pc-"):
        return name_or_id
    for each in every_cluster(calls):
        if each.get("db_cluster_description") == name_or_id:
            return str(each["db_cluster_id"])
    raise errors.ClusterNotFound()


def is_backup(word: str) -> bool:
    """Ids of backups are digits only; names of clusters never are."""
    return word.isdecimal()


def backup(calls: Calls, word: str) -> Answer:
    """DescribeBackup of an id or the start of one. Raises BackupNotFound."""
    return calls("DescribeBackup", backup_id=word)


def newest_backup(calls: Calls, name_or_id: str) -> Answer:
    """Of a cluster: the successful backup with the latest consistent moment. Raises BackupNotFound."""
    start, _ = FOREVER
    found = every(
        calls,
        "DescribeBackups",
        "backup",
        db_cluster_id=cluster_id(calls, name_or_id),
        start_time=start,
        end_time=int(time.time()) + 86400,
        backup_status="Success",
        page_size=100,
    )
    if not found:
        raise errors.BackupNotFound()
    newest = max(found, key=lambda each: (each.get("consistent_time", 0), each["backup_id"]))
    return backup(calls, newest["backup_id"])
