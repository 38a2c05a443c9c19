"""Every screen and help page of the command line, recorded in ``tests/vectors/cli``.

``ICECORE_UPDATE=1`` rewrites the records; read the difference before committing it: people parse what we print.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from icecore.api import contract
from icecore.cli import arguments, screens
from icecore.repository import Collected

VECTORS = Path(__file__).resolve().parent.parent / "vectors" / "cli"
NOW = 1_795_500_000  # 2026-11-24 06:00:00 UTC


@pytest.fixture(autouse=True)
def _zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.setenv("COLUMNS", "100")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def recorded(name: str, text: str) -> None:
    path = VECTORS / f"{name}.txt"
    if os.environ.get("ICECORE_UPDATE"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), f"{path} differs"


# ---------------------------------------------------------------- results as the contract gives them


def parsed(action: str, result: dict[str, object]) -> dict[str, object]:
    """Through the wire and back: a screen shows what a client gets, and its field names are the contract's."""
    return contract.parse(action, contract.render(action, result, "R"))


OVERVIEW = {
    "items": {
        "cluster": [
            {
                "db_cluster_id": "pc-1",
                "db_cluster_name": "orders",
                "db_cluster_status": "Running",
                "lose_now_seconds": 11_100,
                "last_backup_id": "1795488900000",
                "last_backup_time": NOW - 11_100,
                "last_backup_size": 227_633_266_688,
                "manual_backups": 2,
                "running_job_id": "1795499999000",
            },
            {
                "db_cluster_id": "pc-2",
                "db_cluster_name": "crm",
                "db_cluster_status": "Stopped",
                "manual_backups": 0,
                "sentence": "never backed up; everything would be lost",
            },
        ]
    },
    "sentences": ["crm: never backed up; everything would be lost"],
}
CLUSTERS = {
    "items": {
        "db_cluster": [
            {
                "db_cluster_id": "pc-icek3l5",
                "db_cluster_description": "orders",
                "db_cluster_status": "Running",
                "db_type": "PostgreSQL",
                "db_version": "15",
                "storage_used": 4_639_948_800,
                "create_time": NOW - 86_400,
            },
            {
                "db_cluster_id": "pc-icek3l6",
                "db_cluster_description": "orders-copy",
                "db_cluster_status": "Creating",
                "db_type": "PostgreSQL",
                "db_version": "15",
            },
        ]
    },
    "page_number": 1,
    "page_record_count": 2,
    "total_record_count": 2,
}
BACKUPS = {
    "items": {
        "backup": [
            {
                "backup_id": "1795499990000",
                "db_cluster_id": "pc-icek3l5",
                "backup_status": "Failed",
                "backup_mode": "Manual",
                "backup_start_time": NOW - 10,
                "backup_end_time": NOW - 4,
            },
            {
                "backup_id": "1795488900000",
                "db_cluster_id": "pc-gone",
                "backup_status": "Success",
                "backup_mode": "Manual",
                "backup_start_time": NOW - 11_100,
                "backup_end_time": NOW - 11_000,
                "consistent_time": NOW - 11_003,
                "backup_set_size": 4_639_948_800,
                "comment": "before the upgrade",
                "checked_time": NOW - 7_200,
                "check_outcome": "passed",
                "verified_time": NOW - 3_600,
                "verify_outcome": "failed",
            },
        ]
    },
    "page_number": 1,
    "page_record_count": 2,
    "total_record_count": 2,
}
BACKUP = {
    "backup": {
        **BACKUPS["items"]["backup"][1],  # type: ignore[index]
        "db_cluster_name": "orders",
        "engine_version": "15.18",
        "start_position": "0/3000028",
        "stop_position": "0/9A31C50",
        "timeline": 1,
        "file_count": 1_203,
        "logical_bytes": 4_639_948_800,
        "new_bytes": 52_428_800,
        "client_token": "nightly-1",
        "tool_version": "0.1.0",
        "warnings": ["base/5/16384 block 7 fails its checksum"],
        "restore_recipe": [
            "pip install icecore",
            "icecore restore --repo /srv/r --key-file k 1795488900000 --to /path/to/new/data",
        ],
    }
}
EVIDENCE = {
    "items": {
        "evidence": [
            {
                "evidence_id": "1795490000000",
                "kind": "verify",
                "outcome": "failed",
                "consistent_time": NOW - 11_003,
                "start_time": NOW - 3_700,
                "end_time": NOW - 3_600,
                "host": "db7",
                "tool_version": "0.1.0",
                "server_version": "15.18",
                "restored_bytes": 4_639_948_800,
                "image_bytes": 0,
                "restore_ms": 21_800,
                "start_ms": 2_600,
                "examinations": [
                    {"name": "restore", "outcome": "passed", "count": 1203, "of": "files", "took_ms": 21_800,
                     "notes": ["all of it was read from the repository"], "rows": []},
                    {"name": "rows", "outcome": "passed", "count": 1, "of": "tables", "took_ms": 400,
                     "notes": [], "rows": [{"name": "shop.public.orders", "count": 30_000_000}]},
                    {"name": "assertion: orders", "outcome": "failed", "count": 1, "of": "assertions", "took_ms": 20,
                     "notes": ["it gives (False), not one row with one true value", "SELECT false"], "rows": []},
                    {"name": "page checksums", "outcome": "not-run", "count": 0, "of": "", "took_ms": 0,
                     "notes": ["the cluster has no page checksums (data_checksums is off)"], "rows": []},
                ],
            }
        ]
    }
}  # fmt: skip
JOBS = {
    "items": {
        "job": [
            {
                "job_id": "1795499999000",
                "job_kind": "backup",
                "db_cluster_name": "orders",
                "state": "running",
                "phase": "Uploading",
                "process": 62,
                "queued_time": NOW - 62,
                "start_time": NOW - 60,
            },
            {
                "job_id": "1795499990000",
                "job_kind": "backup",
                "db_cluster_name": "orders",
                "state": "failed",
                "phase": "Finished",
                "process": 100,
                "queued_time": NOW - 4_000,
                "start_time": NOW - 4_000,
                "end_time": NOW - 3_930,
                "error_code": "EngineUnreachable",
            },
        ]
    },
    "page_number": 1,
    "page_record_count": 2,
    "total_record_count": 2,
}
KEYS = {
    "items": {
        "access_key": [
            {"key_id": "LTAI5abc", "role": "admin", "status": "Active", "create_time": NOW - 86_400},
            {
                "key_id": "LTAI5def",
                "role": "reader",
                "status": "Inactive",
                "description": "ci",
                "create_time": NOW - 864_000,
                "last_used_time": NOW - 300,
            },
        ]
    }
}
REPOSITORY = {
    "location": "/srv/icecore/repository",
    "encrypted": True,
    "key_exported": False,
    "stored_bytes": 1_159_987_200,
    "logical_bytes": 4_639_948_800,
    "backup_count": 1,
    "object_count": 61,
}
FOUND = [
    ("ok", "the data directory is readable here", ""),
    ("warning", "page checksums are off: damage in the source cannot be seen", "pg_checksums --enable"),
    ("refusal", "wal_level is minimal", "ALTER SYSTEM SET wal_level = replica, then restart"),
]


def test_status() -> None:
    overview = parsed("DescribeOverview", OVERVIEW)
    recorded("status", screens.status(overview, NOW))
    assert screens.needs_a_person(overview)
    calm = {"items": {"cluster": OVERVIEW["items"]["cluster"][:1]}, "sentences": []}  # type: ignore[index]
    assert not screens.needs_a_person(parsed("DescribeOverview", calm))


def test_clusters() -> None:
    recorded("cluster-list", screens.clusters(parsed("DescribeDBClusters", CLUSTERS)))


def test_cluster_check() -> None:
    text = screens.findings("orders", "postgresql 15.18", 4_639_948_800, FOUND)
    recorded("cluster-check", text + screens.findings("crm", "postgresql 17.10", 31_457_280, FOUND[:1]))


def test_backups() -> None:
    found = parsed("DescribeBackups", BACKUPS)["items"]["backup"]  # type: ignore[index]
    recorded("backups", screens.backups(found, {"pc-icek3l5": "orders"}, NOW))


def test_one_backup() -> None:
    recorded("show", screens.backup(parsed("DescribeBackup", BACKUP)["backup"], NOW))  # type: ignore[arg-type]


def test_evidence() -> None:
    shown = parsed("DescribeBackupEvidence", EVIDENCE)
    recorded("evidence", screens.evidence(shown["items"]["evidence"][0], NOW))  # type: ignore[index]


def test_collection() -> None:
    done = Collected(3_221_225_472, 97, 41_943_040, dry_run=False, packs_repacked=3, moved_bytes=20_971_520)
    said = Collected(33_554_432, 2, 0, dry_run=True)
    recorded("repo-collect", screens.collected("pc-icek3l5", done) + "\n" + screens.collected("pc-icez9", said))


def test_jobs() -> None:
    recorded("jobs", screens.jobs(parsed("DescribeJobs", JOBS), NOW))


def test_one_job() -> None:
    spent = [
        {"part": "cpu", "milliseconds": 71_000, "percent": 71},
        {"part": "write", "milliseconds": 20_040, "percent": 20},
        {"part": "server", "milliseconds": 9_000, "percent": 9},
    ]
    said = {"binding_part": "cpu", "binding_sentence": "CPU binds: 71 % of the time …", "time_spent": spent}
    jobs = parsed("DescribeJobs", JOBS)["items"]["job"]  # type: ignore[index]
    recorded("job", screens.job({**jobs[0], **said}, NOW) + screens.job(jobs[-1], NOW))


def test_keys() -> None:
    recorded("key-list", screens.keys(parsed("DescribeAccessKeys", KEYS), NOW))


def test_repository() -> None:
    recorded("repo-stat", screens.repository(parsed("DescribeRepository", REPOSITORY)))


def test_progress() -> None:
    job = {"phase": "Uploading", "bytes_done": 140_660_178_944, "bytes_total": 227_633_266_688, "process": 62}
    lines = [
        screens.progress({"phase": "NoStart"}, 0.2, 0),
        screens.progress({"phase": "Waiting", "bytes_total": 227_633_266_688}, 4, 0),
        screens.progress({**job, "bytes_new": 3_328_599_654}, 320, 429_916_160),
        screens.progress({**job, "bytes_new": 3_328_599_654}, 320, 0),
    ]
    recorded("progress", "\n".join(lines) + "\n")


def test_screens_of_an_empty_home_name_the_next_step() -> None:
    text = "".join([screens.status({}, NOW), screens.clusters({}), screens.backups([], {}, NOW), screens.jobs({}, NOW)])
    recorded("empty", text)


def test_help() -> None:
    """The whole help: the overview and each command's page."""
    grammar = arguments.grammar()
    pages = [grammar.parser.format_help()]
    for name in (name for names in arguments.GROUPS.values() for name in names):
        pages += [page.format_help() for page in grammar.pages(name)]
    recorded("help", ("\n" + "-" * 100 + "\n").join(pages))


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "0.98 KiB"), (1 << 20, "1.00 MiB"), (4_639_948_800, "4.32 GiB"),
     (227_633_266_688, "212 GiB"), (1 << 50, "1024 TiB"), (None, "-")],
)  # fmt: skip
def test_sizes(size_bytes: int | None, text: str) -> None:
    assert screens.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (247, "4:07 min"), (3600, "1 h 0 min"), (11_100, "3 h 5 min"),
     (176_400, "2 d 1 h"), (-5, "0 s"), (None, "-")],
)  # fmt: skip
def test_durations(seconds: float | None, text: str) -> None:
    assert screens.duration(seconds) == text
