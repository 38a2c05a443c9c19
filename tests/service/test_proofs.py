"""Evidence of checks and verifications: kept with its backup in the repository, shown by the catalog, gone with it."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from simulated import QuietWatch
from small_repository import CLUSTER, KEY, back_up, facts_of, made

from icecore import check, errors, parts, tasks, verify
from icecore.api.server import Caller
from icecore.catalog import jobs, proofs
from icecore.engines.postgresql import rereading
from icecore.evidence import Evidence, Examination, Outcome, ProofKind
from icecore.repository import Repository
from icecore.storage.local import LocalStorage
from icecore.storage.memory import MemoryStorage
from icecore.watch import JobWatch

TREE = {"base/": b"", "base/1": b"one" * 5000, "PG_VERSION": b"15\n"}
READER = Path(__file__).resolve().parents[2] / "contrib" / "read_repository.py"


def proof(number: str = "7", backup_id: str = "1", cluster_id: str = CLUSTER, **other: object) -> Evidence:
    found = Evidence(
        ProofKind.VERIFY,
        number,
        backup_id,
        cluster_id,
        Outcome.PASSED,
        1_700_000_010,
        1_700_000_100,
        1_700_000_200,
        "db7",
        "0.1.0",
        server_version="15.18",
        examinations=(Examination("rows", Outcome.PASSED, 1, "tables", 0.5, ("a note",), (("shop.public.a", 3),)),),
    )
    return replace(found, **other)  # type: ignore[arg-type]


def kept(repo: Repository, backup_id: str = "1") -> list[Evidence]:
    return list(repo.evidence(CLUSTER, backup_id))


# ---------------------------------------------------------------- in the repository


def test_R1_evidence_is_written_once_and_read_back_whole() -> None:
    repo = made(MemoryStorage())
    back_up(repo, "1", TREE)
    assert repo.add_evidence(proof()) == proof()
    later = proof(ended_at=1_800_000_000, outcome=Outcome.FAILED)
    assert repo.add_evidence(later) == proof()  # a rerun of the same job: what it had left counts
    repo.add_evidence(proof("8"))
    assert kept(repo) == [proof(), proof("8")]
    with pytest.raises(errors.BackupNotFound):
        repo.add_evidence(proof(backup_id="2"))


def test_R5_evidence_that_was_moved_or_changed_is_damaged() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    for backup_id in ("1", "2"):
        back_up(repo, backup_id, TREE)
    repo.add_evidence(proof())
    name = f"clusters/{CLUSTER}/evidence/1/7.verify"
    whole = storage.objects[name]
    storage.objects[f"clusters/{CLUSTER}/evidence/2/7.verify"] = whole  # the other backup never was verified
    with pytest.raises(errors.Damaged, match="evidence/2/7"):
        kept(repo, "2")
    for at in (0, 30, 60, len(whole) // 2, len(whole) - 1):
        storage.objects[name] = whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :]
        damaged: list[errors.Damaged] = []
        assert list(repo.evidence(CLUSTER, "1", damaged=damaged)) == [] and len(damaged) == 1


def test_R6_evidence_goes_after_its_manifest_wherever_a_removal_is_cut_off() -> None:
    for fail_at in range(1, 60):
        storage = MemoryStorage()
        repo = made(storage)
        for backup_id in ("1", "2"):
            back_up(repo, backup_id, TREE)
            repo.add_evidence(proof(backup_id=backup_id))
        storage.fail_at = storage.calls + fail_at
        try:
            repo.delete_backup(CLUSTER, "1")
        except errors.StorageFailed:
            if repo.has(CLUSTER, "1") is not None:
                assert kept(repo) == [proof()]
            storage.fail_at = None
            if fail_at % 2:
                repo.delete_backup(CLUSTER, "1")  # the job's rerun
            elif repo.has(CLUSTER, "1") is None:
                repo.collect(CLUSTER)  # or nobody's
            else:
                continue
        else:
            assert fail_at > 5
            break
        assert kept(repo) == [] and kept(repo, "2") == [proof(backup_id="2")]
    else:
        pytest.fail("the removal never went through")


def test_an_independent_reader_and_a_check_pass_evidence_by(tmp_path: Path) -> None:
    repo = made(LocalStorage(tmp_path / "repo"))
    back_up(repo, "1", TREE)
    repo.add_evidence(proof())
    assert not repo.check(CLUSTER).faults and repo.collect(CLUSTER).objects_removed == 0
    (tmp_path / "key").write_bytes(KEY.key)
    said = subprocess.run(
        [sys.executable, "-I", READER, tmp_path / "repo", "--key-file", tmp_path / "key", "1", "--to", tmp_path / "x"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "x" / "base" / "1").read_bytes() == TREE["base/1"]


def test_a_check_of_one_backup_speaks_of_that_backup_alone() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", TREE)
    before = set(storage.objects)
    back_up(repo, "2", TREE | {"base/2": b"two" * 9000})
    pack = next(name for name in set(storage.objects) - before if "/packs/" in name)
    storage.objects[pack] = storage.objects[pack][:-1]
    assert check.run(repo, CLUSTER, "1", "10", QuietWatch()).outcome is Outcome.PASSED
    found = check.run(repo, CLUSTER, "2", "11", QuietWatch())
    assert found.outcome is Outcome.FAILED and pack in found.examinations[0].notes[0]
    assert (kept(repo), kept(repo, "2")) == ([kept(repo)[0]], [found])
    assert check.run(repo, CLUSTER, "2", "11", QuietWatch()) == found  # the rerun
    with pytest.raises(errors.BackupNotFound):
        check.run(repo, CLUSTER, "3", "12", QuietWatch())


# ---------------------------------------------------------------- in the catalog


@pytest.fixture(name="stored")
def make_stored(desk) -> str:
    """A backup of the desk's cluster that is in its repository."""
    backup_id = desk.create()
    held = jobs.claim(desk.app.catalog, backup_id, "worker", lambda _: False)
    back_up(parts.open_repository(desk.app.config), backup_id, TREE, desk.cluster_id)
    facts = facts_of(backup_id, TREE, desk.cluster_id)
    with desk.app.catalog.read() as tx:
        uuid = tx.exec_driver_sql("SELECT job_uuid FROM backup").scalar()
    jobs.finish_backup(desk.app.catalog, held, replace(facts, job_uuid=uuid), new_bytes=10)
    return backup_id


def badges(desk, backup_id: str) -> list[object]:
    shown = desk.call("DescribeBackup", BackupId=backup_id)["backup"]
    return [shown[name] for name in ("checked_time", "check_outcome", "verified_time", "verify_outcome")]


def test_R8_a_rebuilt_catalog_takes_the_evidence_back_and_the_newest_is_the_badge(desk, stored) -> None:
    repository = parts.open_repository(desk.app.config)
    newest = proof("9", stored, desk.cluster_id, ended_at=1_700_000_300, outcome=Outcome.FAILED)
    for each in (newest, proof("8", stored, desk.cluster_id)):
        repository.add_evidence(each)
    repository.add_evidence(proof("3", stored, desk.cluster_id, kind=ProofKind.CHECK))
    assert badges(desk, stored) == [None] * 4
    desk.app.rebuild_catalog()
    desk.app.rebuild_catalog()
    assert badges(desk, stored) == [1_700_000_200, "passed", 1_700_000_300, "failed"]
    found = desk.call("DescribeBackupEvidence", BackupId=stored)["items"]["evidence"]
    assert [each["evidence_id"] for each in found] == ["9", "8", "3"]
    assert found[1]["examinations"][0]["rows"] == [{"name": "shop.public.a", "count": 3}]
    # told late of an older one; a check of a share is no badge unless it found something
    desk.app.take_back([proof("2", stored, desk.cluster_id, ended_at=1_700_000_050)])
    share = proof("10", stored, desk.cluster_id, kind=ProofKind.CHECK, share=0.05, ended_at=1_700_000_900)
    desk.app.take_back([share])
    assert badges(desk, stored) == [1_700_000_200, "passed", 1_700_000_300, "failed"]
    desk.app.take_back([replace(share, number="11", outcome=Outcome.FAILED)])
    assert badges(desk, stored)[:2] == [1_700_000_900, "failed"]
    (each,) = desk.call("DescribeBackups", DBClusterId=desk.cluster_id, StartTime="2020-01-01T00:00Z",
                        EndTime="2100-01-01T00:00Z")["items"]["backup"]  # fmt: skip
    assert each["verify_outcome"] == "failed"


def run(desk, job_id: str) -> None:
    held = jobs.claim(desk.app.catalog, job_id, "worker", lambda _: False)
    watch = JobWatch(desk.app.catalog, held, threading.Event())
    tasks.TASKS[held.kind](desk.app.config, desk.app.catalog, held, watch).run()()


def test_a_check_is_a_job_and_its_rerun_ends_as_the_first_run_did(desk, stored) -> None:
    job_id = desk.call("CheckBackup", BackupId=stored)["job_id"]
    run(desk, job_id)
    assert badges(desk, stored)[1] == "passed"
    assert desk.call("DescribeJobs", JobId=job_id)["items"]["job"][0]["state"] == "succeeded"
    pack = next(desk.app.config.repository.glob("clusters/*/packs/*"))
    pack.chmod(0o600)
    pack.write_bytes(pack.read_bytes()[:-1])
    job_id = desk.call("CheckBackup", BackupId=stored)["job_id"]
    with pytest.raises(errors.Damaged):
        run(desk, job_id)
    held = jobs.claim(desk.app.catalog, job_id, "another", lambda _: False)  # the first worker died here
    assert badges(desk, stored)[1] == "failed"
    with pytest.raises(errors.Damaged):
        tasks.TASKS[held.kind](desk.app.config, desk.app.catalog, held, QuietWatch()).run()
    assert len(list(desk.app.config.repository.glob("clusters/*/evidence/*/*.check"))) == 2


def test_C4_a_worker_that_lost_its_claim_shows_no_evidence(desk, stored) -> None:
    job_id = desk.call("VerifyBackup", BackupId=stored)["job_id"]
    stale = jobs.claim(desk.app.catalog, job_id, "first", lambda _: False)
    jobs.claim(desk.app.catalog, job_id, "second", lambda _: False)
    for write in (proofs.note, proofs.finish):
        with pytest.raises(errors.StaleWorker):
            write(desk.app.catalog, stale, proof(job_id, stored, desk.cluster_id))
    assert badges(desk, stored) == [None] * 4


def test_C2_a_token_verifies_once_and_is_not_a_checks(desk, stored) -> None:
    first = desk.call("VerifyBackup", BackupId=stored, ClientToken="t")["job_id"]
    assert desk.call("VerifyBackup", BackupId=stored, ClientToken="t")["job_id"] == first
    assert desk.call("CheckBackup", BackupId=stored, ClientToken="t")["job_id"] != first
    with pytest.raises(errors.TokenMismatch):
        desk.call("VerifyBackup", BackupId="999", ClientToken="t")
    kinds = [each["job_kind"] for each in desk.call("DescribeJobs")["items"]["job"]]
    assert sorted(kinds) == ["backup", "check", "verify"]


def test_what_is_refused_changes_nothing(desk, stored) -> None:
    pending = desk.create()
    with pytest.raises(errors.BackupStatusDenied):
        desk.call("VerifyBackup", BackupId=pending)
    with pytest.raises(errors.BackupNotFound):
        desk.call("CheckBackup", BackupId="12345")
    with pytest.raises(errors.Forbidden):
        desk.app.run(_bound("VerifyBackup", stored), Caller("ICEREADER", "reader"))
    desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=stored)
    with pytest.raises(errors.BackupNotFound):
        desk.call("VerifyBackup", BackupId=stored)
    kinds = [each["job_kind"] for each in desk.call("DescribeJobs")["items"]["job"]]
    assert sorted(kinds) == ["backup", "backup", "delete-backup"]


def test_a_deleted_backup_takes_its_evidence_along_and_a_cancel_stops_a_verification(desk, stored) -> None:
    parts.open_repository(desk.app.config).add_evidence(proof("8", stored, desk.cluster_id))
    desk.app.rebuild_catalog()
    queued = desk.call("VerifyBackup", BackupId=stored)["job_id"]
    desk.call("CancelJob", JobId=queued)
    assert desk.call("DescribeJobs", JobId=queued)["items"]["job"][0]["state"] == "cancelled"
    desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=stored)
    run(desk, desk.call("DescribeJobs", JobKind="delete-backup")["items"]["job"][0]["job_id"])
    assert not list(desk.app.config.repository.rglob("evidence/*/*"))
    with desk.app.catalog.read() as tx:
        assert tx.exec_driver_sql("SELECT count(*) FROM proof").scalar() == 0


def _bound(action: str, backup_id: str):
    from icecore.api import contract

    return contract.bind(action, [("BackupId", backup_id)])


# ---------------------------------------------------------------- pure


def test_words_of_pg_checksums_become_an_examination() -> None:
    lines = [
        *(f'pg_checksums: error: checksum verification failed in file "/s/data/base/5/{n}", block {n}: calculated'
          f" checksum 1 but block contains 2\n" for n in range(25)),
        "Checksum operation completed\n", "Files scanned:   9\n", "Blocks scanned:  250\n", "Bad checksums:  25\n",
    ]  # fmt: skip
    found = rereading.judged(io.StringIO("".join(lines)), 1, "/s/data/", 0.26)
    assert (found.outcome, found.count, found.took_s) == (Outcome.FAILED, 250, 0.3)
    assert found.notes[0] == "base/5/0 block 0 does not match its checksum" and found.notes[-1] == "and 1 more"
    assert rereading.judged(io.StringIO("".join(lines[25:])), 0, "", 0).outcome is Outcome.PASSED
    broken = rereading.judged(io.StringIO("pg_checksums: error: could not read block 3\n"), 1, "", 0)
    assert broken.outcome is Outcome.FAILED and "could not read block 3" in broken.notes[0]


def test_without_pg_checksums_pages_are_read_all_the_same(tmp_path: Path) -> None:
    data, space = tmp_path / "data", tmp_path / "tablespaces" / "16384"
    for directory in (data / "global", data / "base" / "5", data / "pg_tblspc", space / "PG_15_1" / "5"):
        directory.mkdir(parents=True)
    (data / "pg_tblspc" / "16384").symlink_to(space)
    for name in ("global/1262", "base/5/1259", "base/5/1259.1", "base/5/1259_fsm"):
        (data / name).write_bytes(bytes(3 * 8192))  # new pages: all zeroes
    (space / "PG_15_1" / "5" / "16385").write_bytes(bytes(8192))
    (data / "base" / "5" / "pg_filenode.map").write_bytes(b"no pages")

    def look(programs: Path = tmp_path) -> Examination:
        return rereading.reread(programs, data, (0, 0), lambda: None, page_bytes=8192, pages_per_segment=131072)

    (data / "base" / "5" / "t3_99").write_bytes(b"temporary")
    assert (look().outcome, look().count) == (Outcome.PASSED, 13)
    (data / "base" / "5" / "1259.1").write_bytes(bytes(8192) + b"\1" * 8192)
    (space / "PG_15_1" / "5" / "16385").write_bytes(bytes(8192 + 5))
    found = look()
    assert (found.outcome, found.count) == (Outcome.FAILED, 12)
    assert found.notes == (
        "base/5/1259.1 block 131073 does not match its checksum",
        "pg_tblspc/16384/PG_15_1/5/16385: its last page is cut off",
    )
    (data / "base" / "5" / "77").symlink_to("/dev/zero")
    with pytest.raises(errors.EngineFailed, match="77"):
        look()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[assertion]]\nname = 'a'\ndatabase = 'b'", "nothing else"),
        ("[[assertion]]\nname = 'a'\ndatabase = 'b'\nquery = ' '", "query of an assertion is empty"),
        ("[[assertion]]\nname = 'a'\ndatabase = 'b'\nquery = 1", "no text"),
        ("[[assertion]]\nname = 'a'\ndatabase = 'b'\nquery = 'c'\n" * 2, "two assertions are called 'a'"),
        ("[[assertions]]\nname = 'a'", "something else"),
        ("assertion = 3", "something else"),
        ("[[assertion]", "not TOML"),
    ],
)
def test_assertions_that_say_nothing_are_refused(text: str, reason: str) -> None:
    with pytest.raises(errors.Refused, match=reason):
        verify.read_assertions(text, "f.toml")


def test_evidence_stays_small_whatever_was_found() -> None:
    storage = MemoryStorage()
    repo = made(storage)
    back_up(repo, "1", TREE)
    rows = tuple(("d" * 60 + "." + "t" * 3000 + str(n), n) for n in range(500))
    noisy = Examination("rows", Outcome.FAILED, notes=tuple("x" * 9000 for _ in range(1000)), rows=rows)
    began = time.monotonic()
    repo.add_evidence(proof(examinations=(noisy,)))
    (found,) = kept(repo)
    assert len(found.examinations[0].notes) == 21 and found.examinations[0].notes[-1] == "and 980 more"
    assert found.examinations[0].rows == () and time.monotonic() - began < 5
    assert len(storage.objects[f"clusters/{CLUSTER}/evidence/1/7.verify"]) < 1 << 19
