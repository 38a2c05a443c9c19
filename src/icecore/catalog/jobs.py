"""What a worker changes: claim, progress, end. A claim carries an epoch, and every later write demands it (C4)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from icecore import errors
from icecore.binding import Part
from icecore.catalog import Catalog, raise_last_id, tables
from icecore.catalog.intents import end_job, now
from icecore.model import (
    RUNS_BESIDE,
    BackupFacts,
    BackupMode,
    BackupStatus,
    ClusterStatus,
    JobKind,
    JobState,
    Phase,
    allowed,
)


@dataclass(frozen=True)
class Claim:
    """The right to work on a job until somebody claims it with a higher epoch."""

    job_id: str
    epoch: int
    kind: JobKind
    cluster_id: str
    backup_id: str


@dataclass(frozen=True)
class Wishes:
    """What a running job is asked for by now. Of the pace None: as the home says."""

    cancelled: bool
    max_rate_bytes_s: int | None
    background: bool | None


class NotYet(Exception):
    """Another job of the cluster runs, or a live worker has this one: ask again."""


def claim(catalog: Catalog, job_id: str, executor_id: str, alive: Callable[[str], bool]) -> Claim | None:
    """Take a queued job, or one whose executor died. None when it has ended; ``NotYet`` when it must wait."""
    with catalog.write() as tx:
        row = tx.execute(sa.select(tables.job).where(tables.job.c.id == job_id)).first()
        if row is None or not allowed(JobState(row.state), JobState.RUNNING):  # C5
            return None
        if row.state == JobState.RUNNING and row.executor_id and alive(row.executor_id):
            raise NotYet
        if row.backup_id and _in_the_way(tx, row):
            raise NotYet
        try:
            tx.execute(
                sa.update(tables.job)
                .where(tables.job.c.id == job_id)
                .values(
                    state=JobState.RUNNING,
                    phase=Phase.NO_START,
                    epoch=row.epoch + 1,
                    executor_id=executor_id,
                    started_at=row.started_at or now(),
                    bytes_done=0,
                    bytes_new=0,
                    spent="{}",
                )
            )
        except sa.exc.IntegrityError as error:  # C3: the partial unique indexes
            raise NotYet from error
        if row.kind == JobKind.BACKUP:
            tx.execute(
                sa.update(tables.backup)
                .where(
                    tables.backup.c.id == row.backup_id,
                    tables.backup.c.status.in_((BackupStatus.PENDING, BackupStatus.RUNNING)),
                )
                .values(status=BackupStatus.RUNNING, started_at=row.started_at or now())
            )
        return Claim(job_id, row.epoch + 1, JobKind(row.kind), row.cluster_id, row.backup_id)


def progress(
    catalog: Catalog,
    held: Claim,
    *,
    phase: Phase,
    done: int,
    total: int,
    new: int,
    spent_ms: Mapping[Part, int] | None = None,
) -> Wishes:
    """Record how far the job is and what its time went into. ``StaleWorker`` when the claim was lost."""
    c = tables.cluster.c
    with catalog.note() as tx:
        changed = tx.execute(
            sa.update(tables.job)
            .where(tables.job.c.id == held.job_id, _still_held(held))
            .values(
                phase=phase, bytes_done=done, bytes_total=total, bytes_new=new, spent=json.dumps(dict(spent_ms or {}))
            )
            .returning(tables.job.c.cancel_requested)
        ).first()
        pace = tx.execute(sa.select(c.max_rate_bytes_s, c.background).where(c.id == held.cluster_id)).one()
    if changed is None:
        raise errors.StaleWorker(job_id=held.job_id)  # C4
    return Wishes(bool(changed.cancel_requested), pace.max_rate_bytes_s, pace.background)


def hand_over(catalog: Catalog, held: Claim) -> None:
    """Give up a job that is to go on elsewhere or later (this process stops): queue it again, claim released."""
    with catalog.write() as tx:
        changed = tx.execute(
            sa.update(tables.job).where(tables.job.c.id == held.job_id, _still_held(held)).values(executor_id="")
        )
        if changed.rowcount == 1:
            catalog.enqueue(tx, held.job_id, held.kind, held.cluster_id, again=True)


def require_held(catalog: Catalog, held: Claim) -> None:
    """Raise StaleWorker when the claim was lost or the job has ended (C4)."""
    with catalog.read() as tx:
        held_row(tx, held)


def stranded(catalog: Catalog) -> list[str]:
    """Unfinished jobs that no queued or running workflow stands for."""
    waiting = sa.text(
        "SELECT count(*) FROM workflow_status WHERE status IN ('ENQUEUED', 'PENDING', 'DELAYED')"
        " AND (workflow_uuid = :whole OR workflow_uuid LIKE :again)"
    )
    with catalog.read() as tx:
        unfinished = sa.select(tables.job.c.id).where(tables.job.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
        return [
            job_id
            for job_id in tx.execute(unfinished).scalars().all()
            if not tx.execute(waiting, {"whole": f"job-{job_id}", "again": f"job-{job_id}-%"}).scalar()
        ]


def unfinished(catalog: Catalog) -> set[str]:
    """Ids of the jobs that wait or run."""
    query = sa.select(tables.job.c.id).where(tables.job.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
    with catalog.read() as tx:
        return set(tx.execute(query).scalars())


def put_back(catalog: Catalog, job_id: str) -> None:
    """Queue a job again that this process was given but never claimed."""
    with catalog.write() as tx:
        row = tx.execute(sa.select(tables.job).where(tables.job.c.id == job_id)).first()
        if row is not None and row.state in (JobState.QUEUED, JobState.RUNNING):
            catalog.enqueue(tx, job_id, JobKind(row.kind), row.cluster_id, again=True)


def fail(catalog: Catalog, held: Claim, error: errors.IcecoreError) -> None:
    """End a job that cannot succeed. A success that came first stands: then this is StaleWorker."""
    with catalog.write() as tx:
        row = held_row(tx, held)
        end_job(tx, row, JobState.CANCELLED if isinstance(error, errors.Cancelled) else JobState.FAILED, error)


def finish_backup(catalog: Catalog, held: Claim, facts: BackupFacts, new_bytes: int) -> None:
    """D3: what the manifest says becomes visible."""
    with catalog.write() as tx:
        row = held_row(tx, held)
        tx.execute(
            sa.update(tables.backup)
            .where(tables.backup.c.id == held.backup_id)
            .values(status=BackupStatus.SUCCESS, new_bytes=new_bytes, ended_at=now(), **facts_columns(facts))
        )
        tx.execute(
            sa.update(tables.job)
            .where(tables.job.c.id == held.job_id)
            .values(bytes_done=facts.size_bytes, bytes_total=facts.size_bytes, bytes_new=new_bytes)
        )
        end_job(tx, row, JobState.SUCCEEDED, None)


def finish_restore(catalog: Catalog, held: Claim, *, dsn: str, host: str, port: int) -> None:
    with catalog.write() as tx:
        row = held_row(tx, held)
        tx.execute(
            sa.update(tables.cluster)
            .where(tables.cluster.c.id == held.cluster_id)
            .values(status=ClusterStatus.RUNNING, dsn=dsn, host=host, port=port, checked_at=now())
        )
        end_job(tx, row, JobState.SUCCEEDED, None)


def finish_deletion(catalog: Catalog, held: Claim) -> None:
    """The bytes are gone: so is the row. Its token stays used (C2)."""
    with catalog.write() as tx:
        row = held_row(tx, held)
        tx.execute(sa.delete(tables.proof).where(tables.proof.c.backup_id == held.backup_id))
        tx.execute(sa.delete(tables.backup).where(tables.backup.c.id == held.backup_id))
        end_job(tx, row, JobState.SUCCEEDED, None)


def finish_cluster_removal(catalog: Catalog, held: Claim) -> None:
    with catalog.write() as tx:
        row = held_row(tx, held)
        tx.execute(sa.update(tables.cluster).where(tables.cluster.c.id == held.cluster_id).values(deleted_at=now()))
        end_job(tx, row, JobState.SUCCEEDED, None)


def adopt(catalog: Catalog, facts: BackupFacts) -> bool:
    """Put a backup that the repository holds back into a catalog that does not know it, with its token and its
    place in the quota (R8, C2). False when the catalog knew it."""
    with catalog.write() as tx:
        if tx.execute(sa.select(tables.backup.c.id).where(tables.backup.c.id == facts.backup_id)).first():
            return False
        if not tx.execute(sa.select(tables.cluster.c.id).where(tables.cluster.c.id == facts.cluster_id)).first():
            taken = sa.select(tables.cluster.c.id).where(
                tables.cluster.c.name == facts.cluster_name, tables.cluster.c.deleted_at.is_(None)
            )
            # two clusters had this name, one after the other
            other = f"{facts.cluster_name}-{facts.cluster_id[-6:]}" if tx.execute(taken).first() else ""
            tx.execute(
                sa.insert(tables.cluster).values(
                    id=facts.cluster_id,
                    name=other or facts.cluster_name,
                    engine=facts.engine,
                    dsn="",
                    origin="registered",
                    status=ClusterStatus.STOPPED,
                    status_reason="known from its backups only; register its server again",
                    major=facts.engine_version.split(".", maxsplit=1)[0],
                    version=facts.engine_version,
                    created_at=now(),
                )
            )
        raise_last_id(tx, int(facts.backup_id))
        tx.execute(
            sa.insert(tables.backup).values(
                id=facts.backup_id,
                cluster_id=facts.cluster_id,
                job_uuid=facts.job_uuid,
                status=BackupStatus.SUCCESS,
                accepted_at=facts.boundary.started_at,
                ended_at=facts.boundary.stopped_at,
                **facts_columns(facts),
            )
        )
        if facts.client_token:
            values = {"token": facts.client_token, "digest": facts.token_digest, "result_id": facts.backup_id}
            tx.execute(sa.insert(tables.token).values(action="CreateBackup", used_at=now(), **values))
        return True


def facts_columns(facts: BackupFacts) -> dict[str, Any]:
    """The catalog's copy of a manifest's header."""
    return {
        "mode": BackupMode(facts.mode),
        "comment": facts.comment,
        "client_token": facts.client_token,
        "token_digest": facts.token_digest,
        "started_at": facts.boundary.started_at,
        "consistent_at": facts.boundary.consistent_at,
        "size_bytes": facts.size_bytes,
        "facts": json.dumps(
            {
                "engine_version": facts.engine_version,
                "start_position": facts.boundary.start_position,
                "stop_position": facts.boundary.stop_position,
                "timeline": facts.boundary.timeline,
                "stopped_at": facts.boundary.stopped_at,
                "file_count": facts.file_count,
                "tool_version": facts.tool_version,
                "warnings": list(facts.warnings),
            }
        ),
    }


def _in_the_way(tx: sa.Connection, row: sa.Row[Any]) -> bool:
    """Nobody works on a backup while it is removed, whichever came first."""
    job = tables.job.c
    others = sa.select(job.id).where(job.backup_id == row.backup_id, job.state == JobState.RUNNING, job.id != row.id)
    if row.kind != RUNS_BESIDE:
        others = others.where(job.kind == RUNS_BESIDE)
    return tx.execute(others.limit(1)).first() is not None


def _still_held(held: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(tables.job.c.epoch == held.epoch, tables.job.c.state == JobState.RUNNING)


def held_row(tx: sa.Connection, held: Claim) -> sa.Row[Any]:
    row = tx.execute(sa.select(tables.job).where(tables.job.c.id == held.job_id, _still_held(held))).first()
    if row is None:
        raise errors.StaleWorker(job_id=held.job_id)  # C4
    return row
