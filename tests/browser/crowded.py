"""A home as it is after years: 50 clusters, 1,000 backups, 2,000 tasks, 5,000 calls, put into the catalog directly.
The repository knows nothing of them: what is measured with it are the pages."""

from __future__ import annotations

import json
import time
from itertools import cycle
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from icecore import config as home
from icecore.catalog import Catalog, calls, database, tables
from icecore.config import Config
from icecore.model import BackupFacts, BackupMode, Boundary, facts_to_dict

CLUSTERS, BACKUPS, JOBS, CALLS, DAYS = 50, 1_000, 2_000, 5_000, 90
FAILED_JOBS = 2 * CLUSTERS  # a backup of each, and what was then tried with it
GIB = 1 << 30
HOUR_S, DAY_S = 3600, 24 * 3600
FAILURE = {
    "error_code": "EngineUnreachable",
    "error_message": "the database server cannot be reached: connection to server at 10.0.0.7, port 5432 failed",
    "error_hint": "`icecore cluster check` says what is missing.",
}
FINDINGS = [
    {"severity": "warning", "message": "wal_level is minimal", "hint": "Set wal_level = replica and restart."},
    {
        "severity": "note",
        "message": "data checksums are off",
        "hint": "pg_checksums --enable, with the server stopped.",
    },
]


def fill(place: Path, access_key_id: str) -> None:
    """Into an initialised home that nobody serves. The newest backup is an hour old."""
    config = home.load(place)
    catalog = Catalog(config)
    catalog.migrate()
    now = int(time.time())
    with catalog.write() as tx:
        tx.execute(sa.insert(tables.cluster), [_cluster(number, config.region_id, now) for number in range(CLUSTERS)])
        tx.execute(sa.insert(tables.backup), [_backup(number, now) for number in range(BACKUPS)])
        tx.execute(sa.insert(tables.job), [_job(number, now) for number in range(JOBS)])
        tx.execute(sa.insert(tables.repository_day), [_day(number, now) for number in range(DAYS)])
    catalog.close()
    _fill_calls(config, access_key_id, now)


def cluster_id(number: int) -> str:
    return f"pc-icecrowd{number:03}"


def backup_id(number: int) -> str:
    """The higher, the newer; below what a real clock gives."""
    return str(1_500_000_000_000 + number)


def _cluster(number: int, region_id: str, now: int) -> dict[str, Any]:
    stopped = number % 10 == 7
    return {
        "id": cluster_id(number),
        "name": f"department-{number:02}-orders-and-invoices" if number % 2 else f"db{number:02}",
        "engine": "postgresql",
        "dsn": f"host=10.0.0.{number} dbname=postgres user=backup",
        "origin": "registered",
        "status": "Stopped" if stopped else "Running",
        "status_reason": FAILURE["error_message"] if stopped else "",
        "major": "15",
        "version": "15.18",
        "region_id": region_id,
        "size_bytes": (number + 1) * 7 * GIB,
        "host": f"10.0.0.{number}",
        "port": 5432,
        "created_at": now - 900 * DAY_S + number,
        "checked_at": now - 20,
        "local": number % 3 == 0,
        "data_directory": "/var/lib/postgresql/15/main",
        "findings": json.dumps(FINDINGS),
    }


def _backup(number: int, now: int) -> dict[str, Any]:
    """Twenty of each cluster: one failed, three by hand, the others by schedule."""
    of_cluster, turn = number % CLUSTERS, number // CLUSTERS
    failed = turn == 5
    manual = turn in (6, 7, 19)
    at = now - (BACKUPS - number) * HOUR_S
    facts = BackupFacts(
        backup_id=backup_id(number),
        cluster_id=cluster_id(of_cluster),
        cluster_name=f"db{of_cluster:02}",
        job_uuid=f"uuid-{number}",
        mode=BackupMode.MANUAL if manual else BackupMode.AUTOMATED,
        boundary=Boundary("5A/3000028", "5A/3F00128", 1, at + 1, at + 240, at + 239),
        engine="postgresql",
        engine_version="15.18",
        size_bytes=(of_cluster + 1) * 7 * GIB + number,
        file_count=12_345,
        tool_version="0.1.0",
    )
    done = {
        "consistent_at": at + 239,
        "size_bytes": facts.size_bytes,
        "new_bytes": facts.size_bytes // 40,
        "facts": json.dumps(facts_to_dict(facts)),
    }
    unfinished = {"consistent_at": None, "size_bytes": 0, "new_bytes": 0, "facts": ""}
    return {
        "id": backup_id(number),
        "cluster_id": cluster_id(of_cluster),
        "job_uuid": f"uuid-{number}",
        "mode": facts.mode,
        "status": "Failed" if failed else "Success",
        "comment": "before the migration of the invoices" if manual else "",
        "accepted_at": at,
        "started_at": at + 1,
        "ended_at": at + 250,
        **(unfinished if failed else done),
    }


def _job(number: int, now: int) -> dict[str, Any]:
    """The first thousand made the backups; then removals and restores, the last few of them waiting or running."""
    backup = number % BACKUPS
    turn = backup // CLUSTERS
    is_backup = number < BACKUPS
    running = number >= JOBS - 4
    queued = JOBS - 12 <= number < JOBS - 4
    failed = turn == 5
    at = now - (BACKUPS - backup) * HOUR_S + (0 if is_backup else 1800)
    state = "running" if running else "queued" if queued else "failed" if failed else "succeeded"
    size = (number % CLUSTERS + 1) * 7 * GIB
    no_failure = {"error_code": "", "error_message": "", "error_hint": ""}
    return {
        "id": backup_id(backup) if is_backup else str(1_500_000_100_000 + number),
        "kind": "backup" if is_backup else "restore" if number % 2 else "delete-backup",
        "cluster_id": cluster_id(number % CLUSTERS),
        "backup_id": backup_id(backup),
        "state": state,
        "phase": "Uploading" if running else "NoStart" if queued else "Finished",
        "epoch": 1,
        "bytes_done": size // 3 if running else size,
        "bytes_total": size,
        "bytes_new": size // 40,
        "queued_at": at,
        "started_at": None if queued else at + 1,
        "ended_at": None if running or queued else at + 250,
        **(FAILURE if state == "failed" else no_failure),
    }


def _day(number: int, now: int) -> dict[str, Any]:
    at = now - (DAYS - 1 - number) * DAY_S
    return {
        "day": time.strftime("%Y-%m-%d", time.gmtime(at)),
        "noted_at": at,
        "stored_bytes": (400 + number * 2) * GIB,
        "logical_bytes": (9_000 + number * 60) * GIB,
    }


def _fill_calls(config: Config, access_key_id: str, now: int) -> None:
    calls.Calls(config).close()  # makes the tables
    engine = database.make_engine(config.calls_url, synchronous="NORMAL")
    kinds = cycle(
        [
            ("CreateBackup", "BackupTimesExceeded", 403, True),
            ("DescribeBackups", "OK", 200, False),
            ("CreateBackup", "OK", 200, True),
            ("DescribeBackupTasks", "OK", 200, False),
            ("DeleteBackup", "OK", 200, True),
        ]
    )
    rows = [
        {
            "request_id": f"{number:08X}-0000-4000-8000-000000000000",
            "action": action,
            "access_key_id": access_key_id,
            "code": code,
            "status": status,
            "called_at": now - (CALLS - number) * 60,
            "took_ms": number % 90,
            "message": "Exceeding the daily backup times of this DB cluster." if status != 200 else "",
            "source": f"10.1.0.{number % 250}",
            "origin": "console" if number % 7 == 0 else "api",
            "mutates": mutates,
            "params": json.dumps([["DBClusterId", cluster_id(number % CLUSTERS)], ["ClientToken", f"token-{number}"]]),
        }
        for number, (action, code, status, mutates) in zip(range(CALLS), kinds, strict=False)
    ]
    with database.transaction(engine) as tx:
        tx.execute(sa.insert(calls.call), rows)
    engine.dispose()
