"""A backup is deleted while another one of its cluster runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from icecore.repository import KeyFile, Repository
from icecore.repository.fencing import TOMBSTONE
from icecore.storage.local import LocalStorage
from station import Station, until
from world import PostgresWorld


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    with Station(tmp_path) as made:
        yield made


def test_a_deletion_waits_for_no_backup_and_the_space_comes_back_after_it(station: Station, source: PostgresWorld):
    cluster_id = station.add(source)
    source.sql("CREATE TABLE bulky AS SELECT md5(n::text || random()) AS a FROM generate_series(1, 300000) n")
    first = station.backup(cluster_id)["backup_id"]
    source.sql("DROP TABLE bulky")
    source.sql("CHECKPOINT")
    packs = station.home / "repository" / "clusters" / cluster_id / "packs"

    def stored_bytes() -> int:
        return sum(pack.stat().st_size for pack in packs.iterdir())

    # 1 a backup that takes long, and the removal of the other beside it
    station.icecore("cluster", "set", "orders", "--max-rate", "100kB")
    second = station.create(cluster_id)
    until(lambda: station.job(second)["phase"] == "Uploading")
    before_bytes = stored_bytes()
    station.call("DeleteBackup", db_cluster_id=cluster_id, backup_id=[first])
    until(lambda: not station.call("DescribeJobs", job_kind="delete-backup", job_state="running")["items"]["job"])
    (removal,) = station.call("DescribeJobs", job_kind="delete-backup")["items"]["job"]
    station.wait(removal["job_id"], timeout_s=20)
    assert station.job(second)["state"] == "running"
    assert first not in {each["backup_id"] for each in station.backups(cluster_id)}
    assert (packs.parent / "manifests" / first).read_bytes() == TOMBSTONE
    assert stored_bytes() >= before_bytes  # what the running one may rely on stays

    # 2 it ends, with what it relied on; then what only the first one used goes
    station.icecore("cluster", "set", "orders", "--max-rate", "0")
    station.wait(second)
    until(lambda: stored_bytes() < before_bytes / 2)
    key = KeyFile((station.home / "keys" / "repository.key").read_bytes())
    repository = Repository.open(LocalStorage(station.home / "repository"), key)
    found = repository.check(cluster_id)
    assert (found.backup_count, found.faults) == (1, ())
