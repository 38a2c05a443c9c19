"""The laws of the catalog: idempotent tokens, the quota, one running job, fenced workers; also with many processes."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from icecore import app as application
from icecore import errors
from icecore.api import contract
from icecore.catalog import intents, jobs, tables
from icecore.catalog.jobs import NotYet
from icecore.model import BackupFacts, BackupMode, Boundary, JobState, Phase

ALIVE = lambda _: True  # noqa: E731
DEAD = lambda _: False  # noqa: E731


def finish(desk, backup_id: str) -> None:
    """Drive a queued backup to Success as a worker would."""
    held = jobs.claim(desk.app.catalog, backup_id, "worker", DEAD)
    assert held is not None
    row = facts(desk, backup_id)
    jobs.finish_backup(desk.app.catalog, held, row, new_bytes=10)


def facts(desk, backup_id: str, token: str = "") -> BackupFacts:
    return BackupFacts(
        backup_id=backup_id,
        cluster_id=desk.cluster_id,
        cluster_name="orders",
        job_uuid="uuid-" + backup_id,
        mode=BackupMode.MANUAL,
        boundary=Boundary("0/1", "0/2", 1, 100, 120, 119),
        engine="postgresql",
        engine_version="15.18",
        size_bytes=1 << 20,
        file_count=3,
        tool_version="0",
        client_token=token,
        token_digest=intents.digest({"cluster_id": desk.cluster_id, "comment": ""}) if token else "",
    )


def rows(desk, table: sa.Table) -> list[sa.Row]:
    with desk.app.catalog.read() as tx:
        return list(tx.execute(sa.select(table)).all())


def test_C2_same_token_same_answer_without_quota(desk):
    first = desk.create("token")
    assert [desk.create("token") for _ in range(5)] == [first] * 5
    assert len(rows(desk, tables.backup)) == 1


def test_C2_token_is_case_sensitive(desk):
    assert desk.create("Token") != desk.create("token")


def test_C2_same_token_other_parameters_is_refused(desk):
    desk.create("token")
    with pytest.raises(errors.TokenMismatch):
        desk.call("CreateBackup", DBClusterId=desk.cluster_id, ClientToken="token", Comment="other")
    with pytest.raises(errors.TokenMismatch):
        desk.call("CreateBackup", DBClusterId="pc-elsewhere", ClientToken="token")
    assert len(rows(desk, tables.backup)) == 1


def test_C2_replay_while_the_cluster_is_stopped(desk):
    first = desk.create("token")
    desk.seen_running(False)
    assert desk.create("token") == first
    with pytest.raises(errors.ClusterStatusDenied):
        desk.create("another")


def test_C2_replay_after_deletion_still_answers_the_first_id(desk):
    first = desk.create("token")
    finish(desk, first)
    desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=first)
    assert desk.create("token") == first


def test_quota_of_three_until_one_is_deleted(desk):
    made = [desk.create() for _ in range(3)]
    with pytest.raises(errors.QuotaExceeded) as refused:
        desk.create()
    assert refused.value.message == "Exceeding the daily backup times of this DB cluster."
    for each in made:
        finish(desk, each)
    with pytest.raises(errors.QuotaExceeded):
        desk.create()
    desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=made[0])
    assert desk.create() not in made


def test_failed_and_cancelled_backups_do_not_count(desk):
    made = [desk.create() for _ in range(3)]
    held = jobs.claim(desk.app.catalog, made[0], "worker", DEAD)
    jobs.fail(desk.app.catalog, held, errors.EngineFailed(doing="copying", reason="gone"))
    desk.call("CancelJob", JobId=made[1])
    desk.create()
    desk.create()
    with pytest.raises(errors.QuotaExceeded):
        desk.create()


def test_refusals_change_nothing(desk):
    before = [len(rows(desk, table)) for table in (tables.backup, tables.job, tables.token)]
    desk.seen_running(False)
    for wire in ({"DBClusterId": desk.cluster_id, "ClientToken": "t"}, {"DBClusterId": "pc-none", "ClientToken": "t"}):
        with pytest.raises(errors.CallerError):
            desk.call("CreateBackup", **wire)
    with pytest.raises(errors.BackupNotFound):
        desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId="1")
    assert [len(rows(desk, table)) for table in (tables.backup, tables.job, tables.token)] == before
    desk.seen_running()
    desk.create("t")  # the refused token was not used up


def test_deletion_of_several_is_all_or_none(desk):
    made = [desk.create() for _ in range(2)]
    finish(desk, made[0])
    with pytest.raises(errors.BackupStatusDenied):
        desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=",".join(made))
    assert {row.status for row in rows(desk, tables.backup)} == {"Success", "Pending"}


def test_C3_one_running_job_per_cluster(desk):
    first, second = desk.create(), desk.create()
    held = jobs.claim(desk.app.catalog, first, "one", ALIVE)
    with pytest.raises(NotYet):
        jobs.claim(desk.app.catalog, second, "two", ALIVE)
    jobs.finish_backup(desk.app.catalog, held, facts(desk, first), 0)
    assert jobs.claim(desk.app.catalog, second, "two", ALIVE) is not None


def test_C3_a_removal_runs_beside_the_clusters_job_but_not_while_somebody_works_on_that_backup(desk):
    made, catalog = [desk.create() for _ in range(3)], desk.app.catalog
    for each in made[:2]:
        finish(desk, each)
    running = jobs.claim(catalog, made[2], "one", ALIVE)
    check = desk.call("CheckBackup", BackupId=made[0])["job_id"]
    desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=",".join(made[:2]))
    removals = {row.backup_id: row.id for row in rows(desk, tables.job) if row.kind == "delete-backup"}
    # 1 beside the backup, one at a time
    first = jobs.claim(catalog, removals[made[0]], "two", ALIVE)
    with pytest.raises(NotYet):
        jobs.claim(catalog, removals[made[1]], "two", ALIVE)
    # 2 what works on that very backup waits for its end, also when the cluster is free
    jobs.finish_backup(catalog, running, facts(desk, made[2]), 0)
    with pytest.raises(NotYet):
        jobs.claim(catalog, check, "one", ALIVE)
    jobs.finish_deletion(catalog, first)
    # 3 and the other way round
    assert jobs.claim(catalog, check, "one", ALIVE) is not None
    with catalog.write() as tx:
        tx.execute(sa.update(tables.job).where(tables.job.c.id == check).values(backup_id=made[1]))
    with pytest.raises(NotYet):
        jobs.claim(catalog, removals[made[1]], "two", ALIVE)


def test_C4_a_stale_worker_cannot_finish(desk):
    job_id = desk.create()
    stale = jobs.claim(desk.app.catalog, job_id, "one", ALIVE)
    with pytest.raises(NotYet):
        jobs.claim(desk.app.catalog, job_id, "two", ALIVE)
    fresh = jobs.claim(desk.app.catalog, job_id, "two", DEAD)
    assert fresh.epoch == stale.epoch + 1
    for write in (
        lambda: jobs.progress(desk.app.catalog, stale, phase=Phase.UPLOADING, done=1, total=2, new=0),
        lambda: jobs.fail(desk.app.catalog, stale, errors.Cancelled()),
        lambda: jobs.finish_backup(desk.app.catalog, stale, facts(desk, job_id), 0),
    ):
        with pytest.raises(errors.StaleWorker):
            write()
    jobs.finish_backup(desk.app.catalog, fresh, facts(desk, job_id), 0)
    with pytest.raises(errors.StaleWorker):
        jobs.fail(desk.app.catalog, fresh, errors.Cancelled())


def test_C5_an_ended_job_is_never_claimed_again(desk):
    job_id = desk.create()
    finish(desk, job_id)
    assert jobs.claim(desk.app.catalog, job_id, "one", DEAD) is None
    desk.call("CancelJob", JobId=job_id)
    assert {row.state for row in rows(desk, tables.job)} == {JobState.SUCCEEDED}


def test_C1_enqueued_only_if_committed(desk):
    with pytest.raises(RuntimeError), desk.app.catalog.write() as tx:
        intents.queue_job(desk.app.catalog, tx, "77", intents.JobKind.BACKUP, desk.cluster_id, "")
        raise RuntimeError
    with desk.app.catalog.read() as tx:
        assert tx.execute(sa.text("SELECT count(*) FROM workflow_status")).scalar() == 0
    job_id = desk.create()
    with desk.app.catalog.read() as tx:
        queued = tx.execute(sa.text("SELECT workflow_uuid FROM workflow_status")).scalars().all()
    assert queued == [f"job-{job_id}"]


def test_R8_C2_a_rebuilt_catalog_honours_tokens_quota_and_ids(desk, tmp_path):
    """A catalog made anew from manifests answers a replay with the old id and counts the old backups."""
    home = tmp_path / "second"
    application.initialise(home, repository=None, encrypted=True, passphrase=None, listen=None)
    second = application.open_app(home)
    high = 9_000_000_000_000  # far above the clock: ids must still grow
    for number in range(3):
        assert jobs.adopt(second.catalog, facts(desk, str(high + number), token=f"t{number}"))
        assert not jobs.adopt(second.catalog, facts(desk, str(high + number), token=f"t{number}"))
    with second.catalog.write() as tx:
        tx.execute(sa.update(tables.cluster).values(status="Running"))

    def create(token: str) -> str:
        pairs = [("DBClusterId", desk.cluster_id), ("ClientToken", token)]
        return second.run(contract.bind("CreateBackup", pairs))["backup_job_id"]

    assert create("t1") == str(high + 1)
    with pytest.raises(errors.QuotaExceeded):
        create("new")
    second.run(contract.bind("DeleteBackup", [("DBClusterId", desk.cluster_id), ("BackupId", str(high))]))
    assert int(create("new")) > high + 2
    second.close()


def test_restore_is_accepted_only_from_a_finished_backup(desk):
    base = {
        "RegionId": "any",
        "DBType": "PostgreSQL",
        "DBVersion": "15",
        "PayType": "Postpaid",
        "CreationOption": "CloneFromPolarDB",
        "SourceResourceId": desk.cluster_id,
    }
    with pytest.raises(errors.BackupNotFound):
        desk.call("CreateDBCluster", **base)
    made = desk.create()
    with pytest.raises(errors.BackupNotFound):
        desk.call("CreateDBCluster", **base, CloneDataPoint=made)
    finish(desk, made)
    with pytest.raises(errors.WrongMajorVersion):
        desk.call("CreateDBCluster", **(base | {"DBVersion": "16"}))
    with pytest.raises(errors.CreationOptionDenied):
        desk.call("CreateDBCluster", **(base | {"CreationOption": "Normal"}))
    first = desk.call("CreateDBCluster", **base, ClientToken="clone")
    assert desk.call("CreateDBCluster", **base, ClientToken="clone")["db_cluster_id"] == first["db_cluster_id"]
    shown = desk.call("DescribeDBClusterAttribute", DBClusterId=first["db_cluster_id"])
    assert shown["db_cluster_status"] == "Creating" and shown["restore_data_point"] == made
    with pytest.raises(errors.BackupStatusDenied):  # it is being read
        desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=made)


def test_a_removed_cluster_gives_its_name_back_and_keeps_what_was_asked_for(desk):
    made = [desk.create() for _ in range(2)]
    with pytest.raises(errors.ClusterStatusDenied):
        desk.call("DeleteDBCluster", DBClusterId=desk.cluster_id)
    for each in made:
        finish(desk, each)
    desk.call("DeleteDBCluster", DBClusterId=desk.cluster_id, BackupRetentionPolicyOnClusterDeletion="LATEST")
    left = {row.id: row.status for row in rows(desk, tables.backup)}
    assert left == {made[0]: "Deleting", made[1]: "Success"}
    with pytest.raises(errors.ClusterNotFoundOnDelete):
        desk.call("DeleteDBCluster", DBClusterId=desk.cluster_id)


# ---------------------------------------------------------------- many processes


def _hammer(home: str, cluster_id: str, tokens: list[str], answers) -> None:
    app = application.open_app(Path(home))
    for token in tokens:
        pairs = [("DBClusterId", cluster_id), ("ClientToken", token)]
        while True:
            try:
                answers.put((token, app.run(contract.bind("CreateBackup", pairs))["backup_job_id"]))
            except errors.Busy:
                continue
            except errors.IcecoreError as error:
                answers.put((token, error.wire_code()))
            break
    app.close()


def _race(desk, tokens: list[list[str]]) -> list[tuple[str, str]]:
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    processes = [
        context.Process(target=_hammer, args=(str(desk.home), desk.cluster_id, share, answers)) for share in tokens
    ]
    for process in processes:
        process.start()
    found = [answers.get(timeout=120) for share in tokens for _ in share]
    for process in processes:
        process.join(30)
    return found


def test_C2_forty_tokens_in_four_processes_never_more_than_three(desk):
    answers = _race(desk, [[f"token-{p}-{n}" for n in range(10)] for p in range(4)])
    codes = Counter(answer for _, answer in answers if not answer.isdecimal())
    accepted = {answer for _, answer in answers if answer.isdecimal()}
    assert codes == {"BackupTimesExceeded": 37}
    assert accepted == {row.id for row in rows(desk, tables.backup)} and len(accepted) == 3
    assert {row.result_id for row in rows(desk, tables.token)} == accepted


def test_C2_one_token_in_four_processes_is_one_job(desk):
    answers = _race(desk, [["the-token"] * 10] * 4)
    assert len({answer for _, answer in answers}) == 1
    assert len(rows(desk, tables.job)) == 1


# ---------------------------------------------------------------- the schema


def test_migrations_make_the_tables_that_the_code_uses(desk):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with desk.app.catalog.read() as tx:
        context = MigrationContext.configure(tx, opts={"compare_type": True})
        found = [
            change
            for change in compare_metadata(context, tables.metadata)
            if change[0] not in ("remove_table", "remove_index")  # the queue's own tables
        ]
    assert found == []


def indexes(connection: sa.Connection) -> dict[str, str]:
    """Name -> definition of each index on a table of ours, also where SQLite cannot tell what a condition is."""
    found = connection.exec_driver_sql(
        "SELECT name, tbl_name, sql FROM sqlite_master WHERE type = 'index' AND sql != ''"
    )
    return {
        name: sql.replace("backup.status", "status") for name, table, sql in found if table in tables.metadata.tables
    }


def test_migrations_make_the_indexes_that_the_tables_declare(desk):
    fresh = sa.create_engine("sqlite://")
    with fresh.begin() as declared, desk.app.catalog.read() as migrated:
        tables.metadata.create_all(declared)
        assert indexes(migrated) == indexes(declared)
    fresh.dispose()


def test_a_catalog_of_the_first_schema_keeps_what_it_holds(tmp_path):
    from alembic import command
    from alembic.config import Config as AlembicConfig

    from icecore import migrations

    home = tmp_path / "home"
    application.initialise(home, repository=None, encrypted=False, passphrase=None, listen=None)
    for part in home.glob("catalog.db*"):
        part.unlink()
    old = sa.create_engine(f"sqlite:///{home / 'catalog.db'}")
    settings = AlembicConfig()
    settings.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with old.connect() as connection:
        settings.attributes["connection"] = connection
        command.upgrade(settings, "0001")
    with old.begin() as tx:
        tx.exec_driver_sql(
            "INSERT INTO cluster (id, name, engine, dsn, origin, status, created_at)"
            " VALUES ('pc-1', 'orders', 'postgresql', 'host=/x', 'registered', 'Running', 5)"
        )
        tx.exec_driver_sql(
            "INSERT INTO backup (id, cluster_id, job_uuid, mode, status, accepted_at, consistent_at)"
            " VALUES ('7', 'pc-1', 'u', 'Manual', 'Success', 6, 8)"
        )
        tx.exec_driver_sql(
            "INSERT INTO job (id, kind, cluster_id, backup_id, state, phase, queued_at)"
            " VALUES ('7', 'backup', 'pc-1', '7', 'succeeded', 'Finished', 6)"
        )
    old.dispose()
    app = application.open_app(home)
    (cluster,) = app.run(contract.bind("DescribeOverview", []))["items"]["cluster"]
    assert (cluster["db_cluster_name"], cluster["last_backup_id"], cluster["manual_backups"]) == ("orders", "7", 1)
    health = app.run(contract.bind("DescribeClusterHealth", [("DBClusterId", "pc-1")]))
    assert health["findings"] == [] and health["local"] is None
    (shown,) = app.run(contract.bind("DescribeBackupHistory", []))["items"]["backup"]
    assert (shown["backup_id"], shown["backup_job_id"]) == ("7", "7")
    app.close()


def test_a_home_of_a_later_version_is_refused_by_name(desk):
    with desk.app.catalog.write() as tx:
        tx.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(errors.Refused, match=r"later version of Icecore \(schema 9999"):
        application.open_app(desk.home)


def test_secrets_are_not_readable_in_the_catalog(desk):
    made = desk.call("CreateAccessKey", Role="reader")
    desk.app.close()
    raw = b"".join(path.read_bytes() for path in desk.home.glob("catalog.db*"))
    assert made["key_id"].encode() in raw and made["key_secret"].encode() not in raw
    assert json.loads((desk.home / "credential.json").read_text())["access_key_secret"].encode() not in raw


# ---------------------------------------------------------------- what goes wrong late


def test_a_removal_that_failed_can_be_asked_for_again(desk):
    made = desk.create()
    finish(desk, made)
    desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=made)
    with pytest.raises(errors.BackupNotFound):  # it is on its way
        desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=made)
    (job_id,) = [row.id for row in rows(desk, tables.job) if row.kind == "delete-backup"]
    held = jobs.claim(desk.app.catalog, job_id, "worker", DEAD)
    jobs.fail(desk.app.catalog, held, errors.StorageFailed(doing="delete", name="x", reason="gone"))
    desk.call("DeleteBackup", DBClusterId=desk.cluster_id, BackupId=made)

    desk.call("CancelJob", JobId=made)  # ended long ago: nothing happens
    again = [row.id for row in rows(desk, tables.job) if row.kind == "delete-backup" and row.id != job_id]
    jobs.finish_deletion(desk.app.catalog, jobs.claim(desk.app.catalog, again[0], "worker", DEAD))
    desk.call("DeleteDBCluster", DBClusterId=desk.cluster_id)
    with pytest.raises(errors.ClusterNotFoundOnDelete):
        desk.call("DeleteDBCluster", DBClusterId=desk.cluster_id)
    (job_id,) = [row.id for row in rows(desk, tables.job) if row.kind == "delete-cluster"]
    jobs.fail(
        desk.app.catalog, jobs.claim(desk.app.catalog, job_id, "w", DEAD), errors.EngineFailed(doing="x", reason="y")
    )
    desk.call("DeleteDBCluster", DBClusterId=desk.cluster_id)


def test_R8_a_rebuild_takes_all_of_two_clusters_of_one_name(desk, tmp_path):
    home = tmp_path / "second"
    application.initialise(home, repository=None, encrypted=True, passphrase=None, listen=None)
    second = application.open_app(home)
    first = facts(desk, "101")
    later = replace(facts(desk, "102"), cluster_id="pc-another", job_uuid="other")
    third = replace(facts(desk, "103"), cluster_id="pc-another", job_uuid="third")
    assert [jobs.adopt(second.catalog, each) for each in (first, later, third)] == [True] * 3
    shown = second.run(contract.bind("DescribeDBClusters", []))["items"]["db_cluster"]
    assert {each["db_cluster_id"] for each in shown} == {desk.cluster_id, "pc-another"}
    assert len({each["db_cluster_description"] for each in shown}) == 2
    second.close()


def test_registering_a_name_again_does_not_bring_a_removed_cluster_back(desk):
    with desk.app.catalog.write() as tx:
        tx.execute(sa.update(tables.cluster).values(dsn=""))  # known from its backups only
    desk.call("DeleteDBCluster", DBClusterId=desk.cluster_id)
    (job_id,) = [row.id for row in rows(desk, tables.job) if row.kind == "delete-cluster"]
    jobs.finish_cluster_removal(desk.app.catalog, jobs.claim(desk.app.catalog, job_id, "w", DEAD))
    again = desk.call(
        "RegisterDBCluster", DBClusterDescription="orders", Engine="postgresql", ConnectionString="host=/x"
    )
    assert again["db_cluster_id"] != desk.cluster_id


@pytest.mark.parametrize("dsn", ["host=/x password=hunter2", "postgresql://u:hunter2@h/d", "host"])
def test_a_dsn_with_a_password_or_without_sense_is_refused(desk, dsn):
    with pytest.raises(errors.CallerError):
        desk.call("RegisterDBCluster", DBClusterDescription="other", Engine="postgresql", ConnectionString=dsn)
    desk.app.close()
    assert b"hunter2" not in b"".join(path.read_bytes() for path in desk.home.glob("catalog.db*"))


def test_a_damaged_call_log_is_set_aside(desk):
    desk.app.close()
    for part in desk.home.glob("calls.db*"):
        part.unlink()
    (desk.home / "calls.db").write_bytes(b"not a database" * 1000)
    again = application.open_app(desk.home)
    assert again.calls.use_nonce("key", "n", 1) and not again.calls.use_nonce("key", "n", 1)
    again.close()
    assert (desk.home / "calls.damaged.db").exists()


def test_many_calls_leave_no_descriptor_open(desk):
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    desk.call("DescribeRepository")
    before = count()
    for _ in range(30):
        desk.app._facts_until = 0.0
        desk.call("DescribeRepository")
    assert count() <= before + 2
