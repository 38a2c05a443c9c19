"""What a request changes: each function is one serialised transaction that writes an intent and queues its job.

Order inside ``accept_backup`` and ``accept_restore``: token first (a replay answers whatever has happened to the
cluster since), then the cluster, then its state, then the quota. Nothing is written before all have passed.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import sqlalchemy as sa

from icecore import errors, recovery
from icecore.catalog import Catalog, new_id, tables
from icecore.model import (
    COUNTED_AGAINST_QUOTA,
    MANUAL_BACKUP_LIMIT,
    BackupMode,
    BackupStatus,
    ClusterStatus,
    JobKind,
    JobState,
    Phase,
)

PROVING = {JobKind.VERIFY: "VerifyBackup", JobKind.CHECK: "CheckBackup"}  # as tokens are remembered


def digest(parameters: dict[str, Any]) -> str:
    """Stands for the parameters that came with a token: same digest, same request (common parameters aside)."""
    return sha256(json.dumps(parameters, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def accept_backup(
    catalog: Catalog, cluster_id: str, *, token: str = "", comment: str = "", mode: BackupMode = BackupMode.MANUAL
) -> str:
    """Accept a backup and queue its job; gives the id that both have.

    Errors: TokenMismatch, ClusterNotFound, ClusterStatusDenied, QuotaExceeded.
    """
    request = digest({"cluster_id": cluster_id, "comment": comment})
    with catalog.write() as tx:
        before = replayed(tx, "CreateBackup", token, request)  # C2
        if before:
            return before
        cluster = live_cluster(tx, cluster_id)
        refuse_clone(cluster)
        if cluster.status != ClusterStatus.RUNNING:
            raise errors.ClusterStatusDenied()
        if mode is BackupMode.MANUAL and _manual_backups(tx, cluster_id) >= MANUAL_BACKUP_LIMIT:
            raise errors.QuotaExceeded()
        backup_id = new_id(tx)
        remember(tx, "CreateBackup", token, request, backup_id)
        queue_backup(
            catalog,
            tx,
            backup_id,
            cluster_id,
            mode,
            comment=comment,
            client_token=token,
            token_digest=request if token else "",
        )
    return backup_id  # C1: the reply is built from here on, after the commit


def accept_deletion(catalog: Catalog, cluster_id: str, backup_ids: list[str]) -> None:
    """Take backups away from view and quota, and queue the removal of their bytes. All of them or none. One whose
    removal failed can be asked for again.

    Errors: ClusterNotFound, BackupNotFound, BackupStatusDenied (still being made, or being restored from).
    """
    with catalog.write() as tx:
        live_cluster(tx, cluster_id, also_removed=True)
        for backup_id in backup_ids:
            row = tx.execute(
                sa.select(tables.backup).where(
                    tables.backup.c.id == backup_id, tables.backup.c.cluster_id == cluster_id
                )
            ).first()
            if row is None or (row.status == BackupStatus.DELETING and unfinished_job(tx, backup_id=backup_id)):
                raise errors.BackupNotFound()
            if row.status in (BackupStatus.PENDING, BackupStatus.RUNNING):
                raise errors.BackupStatusDenied(backup_id=backup_id, backup_status=row.status)
            if _being_restored(tx, backup_id):
                raise errors.BackupStatusDenied(backup_id=backup_id, backup_status="being restored")
            if row.held_reason is not None:
                raise errors.BackupHeld(backup_id=backup_id, reason=row.held_reason)
            tx.execute(
                sa.update(tables.backup).where(tables.backup.c.id == backup_id).values(status=BackupStatus.DELETING)
            )
            queue_job(catalog, tx, new_id(tx), JobKind.DELETE_BACKUP, cluster_id, backup_id)


def accept_proof(catalog: Catalog, kind: JobKind, backup_id: str, *, token: str, request: dict[str, Any]) -> str:
    """Accept the check or the verification of a backup; gives its job's id. Its cluster need not run nor be there.

    Errors: TokenMismatch, BackupNotFound, BackupStatusDenied (still being made, or failed).
    """
    action = PROVING[kind]
    with catalog.write() as tx:
        wanted = digest(request)
        before = replayed(tx, action, token, wanted)  # C2
        if before:
            return before
        row = tx.execute(sa.select(tables.backup).where(tables.backup.c.id == backup_id)).first()
        if row is None or row.status == BackupStatus.DELETING:
            raise errors.BackupNotFound()
        if row.status != BackupStatus.SUCCESS:
            raise errors.BackupStatusDenied(backup_id=backup_id, backup_status=row.status)
        job_id = new_id(tx)
        remember(tx, action, token, wanted, job_id)
        queue_job(catalog, tx, job_id, kind, row.cluster_id, backup_id)
    return job_id


def accept_restore(
    catalog: Catalog,
    source_cluster_id: str,
    point: str,
    *,
    name: str,
    token: str,
    request: dict[str, Any],
    major: str,
    region_id: str,
    node_class: str,
) -> str:
    """Accept a new cluster made from a backup (``point``: its id, LATEST, or a moment); gives the new cluster's id.

    Errors: TokenMismatch, ClusterNotFound, BackupNotFound, MomentNotRestorable, WrongMajorVersion, Refused (the name
    is taken).
    """
    with catalog.write() as tx:
        wanted = digest(request)
        before = replayed(tx, "CreateDBCluster", token, wanted)  # C2
        if before:
            return before
        source = live_cluster(tx, source_cluster_id, also_removed=True)
        backup = _backup_to_restore(tx, source_cluster_id, point)
        facts = json.loads(backup.facts)
        if major != str(facts["engine_version"]).split(".", maxsplit=1)[0]:
            raise errors.WrongMajorVersion()
        cluster_id = new_cluster_id(tx)
        remember(tx, "CreateDBCluster", token, wanted, cluster_id)
        add_cluster(
            tx,
            id=cluster_id,
            name=name or f"{source.name}-{backup.id}-{cluster_id[-4:]}",
            engine=source.engine,
            dsn="",
            origin="restored",
            status=ClusterStatus.CREATING,
            major=major,
            version=facts["engine_version"],
            region_id=region_id,
            node_class=node_class,
            size_bytes=backup.size_bytes,
            source_cluster_id=source_cluster_id,
            source_backup_id=backup.id,
            clone_point=point,
            created_at=now(),
        )
        queue_job(catalog, tx, new_id(tx), JobKind.RESTORE, cluster_id, backup.id)
    return cluster_id


def accept_cluster_removal(catalog: Catalog, cluster_id: str, keep: str) -> None:
    """Forget a cluster. A restored one is stopped and its directory removed by a job; a registered server is not
    touched. ``keep``: NONE deletes its backups, LATEST all but the newest successful one, ALL keeps them, empty means
    as its policy says; held ones stay. A removal that failed can be asked for again.

    Errors: ClusterNotFoundOnDelete, ClusterStatusDenied (a job of its own still runs).
    """
    with catalog.write() as tx:
        row = tx.execute(sa.select(tables.cluster).where(tables.cluster.c.id == cluster_id)).first()
        unfinished = unfinished_job(tx, cluster_id=cluster_id)
        if row is None or row.deleted_at is not None or (row.status == ClusterStatus.DELETING and unfinished):
            raise errors.ClusterNotFoundOnDelete()
        if unfinished:
            raise errors.ClusterStatusDenied()
        if not keep:
            wanted = sa.select(tables.policy.c.on_deletion).where(tables.policy.c.cluster_id == cluster_id)
            keep = tx.execute(wanted).scalar() or "NONE"
        backups = tx.execute(
            sa.select(tables.backup.c.id, tables.backup.c.status, tables.backup.c.held_reason)
            .where(tables.backup.c.cluster_id == cluster_id, tables.backup.c.status != BackupStatus.DELETING)
            .order_by(tables.backup.c.accepted_at.desc(), tables.backup.c.id.desc())
        ).all()
        kept = {row.id for row in backups if keep == "ALL" or row.held_reason is not None}
        if keep == "LATEST":
            kept |= set([row.id for row in backups if row.status == BackupStatus.SUCCESS][:1])
        for row in backups:
            if row.id in kept:
                continue
            if _being_restored(tx, row.id):
                raise errors.BackupStatusDenied(backup_id=row.id, backup_status="being restored")
            tx.execute(
                sa.update(tables.backup).where(tables.backup.c.id == row.id).values(status=BackupStatus.DELETING)
            )
            queue_job(catalog, tx, new_id(tx), JobKind.DELETE_BACKUP, cluster_id, row.id)
        tx.execute(
            sa.update(tables.cluster).where(tables.cluster.c.id == cluster_id).values(status=ClusterStatus.DELETING)
        )
        queue_job(catalog, tx, new_id(tx), JobKind.DELETE_CLUSTER, cluster_id, "")


def request_cancel(catalog: Catalog, job_id: str) -> None:
    """A queued job is cancelled here; a running one is asked to stop and says so itself. A job that ended stays
    as it is. Errors: JobNotFound."""
    with catalog.write() as tx:
        row = tx.execute(sa.select(tables.job).where(tables.job.c.id == job_id)).first()
        if row is None:
            raise errors.JobNotFound()
        if row.kind in (JobKind.DELETE_BACKUP, JobKind.DELETE_CLUSTER):
            raise errors.Refused(
                f"job {job_id} removes what was already taken out of view; it cannot be cancelled",
                hint="Wait for it: `icecore watch`.",
            )
        if row.state == JobState.QUEUED:
            end_job(tx, row, JobState.CANCELLED, errors.Cancelled())
        elif row.state == JobState.RUNNING:
            tx.execute(sa.update(tables.job).where(tables.job.c.id == job_id).values(cancel_requested=True))


# ---------------------------------------------------------------- pieces of the transactions above


def now() -> int:
    return int(time.time())


def live_cluster(tx: sa.Connection, cluster_id: str, *, also_removed: bool = False) -> sa.Row[Any]:
    row = tx.execute(sa.select(tables.cluster).where(tables.cluster.c.id == cluster_id)).first()
    if row is None or (not also_removed and (row.deleted_at is not None or row.status == ClusterStatus.DELETING)):
        raise errors.ClusterNotFound()
    return row


def new_cluster_id(tx: sa.Connection) -> str:
    """``pc-`` and lower-case letters and digits, as PolarDB's are."""
    number, digits = int(new_id(tx)), ""
    while number:
        number, rest = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[rest] + digits
    return f"pc-ice{digits}"


def add_cluster(tx: sa.Connection, **values: Any) -> None:
    """``Refused`` when a live cluster has that name. A copy's log is archived only when somebody says so."""
    values.setdefault("log_backup", values["origin"] == "registered")
    try:
        tx.execute(sa.insert(tables.cluster).values(**values))
    except sa.exc.IntegrityError as error:
        raise errors.Refused(
            f"a cluster named {values['name']} exists already", hint="Choose another name: `icecore cluster list`."
        ) from error


def queue_job(catalog: Catalog, tx: sa.Connection, job_id: str, kind: JobKind, cluster_id: str, backup_id: str) -> None:
    tx.execute(
        sa.insert(tables.job).values(
            id=job_id,
            kind=kind,
            cluster_id=cluster_id,
            backup_id=backup_id,
            state=JobState.QUEUED,
            phase=Phase.NO_START,
            queued_at=now(),
        )
    )
    catalog.enqueue(tx, job_id, kind, cluster_id)


def refuse_clone(cluster: sa.Row[Any]) -> None:
    """``Refused`` for an instant clone, which is not for keeps."""
    if cluster.origin == "clone":
        raise errors.Refused(
            f"{cluster.name} is an instant clone, which is not for keeps", hint="Back up the cluster it was made from."
        )


def queue_backup(
    catalog: Catalog, tx: sa.Connection, backup_id: str, cluster_id: str, mode: BackupMode, **more: str
) -> None:
    """A backup's row and its job; what has to be asked before was asked."""
    tx.execute(
        sa.insert(tables.backup).values(
            id=backup_id,
            cluster_id=cluster_id,
            job_uuid=str(uuid.uuid4()),
            mode=mode,
            status=BackupStatus.PENDING,
            accepted_at=now(),
            **more,
        )
    )
    queue_job(catalog, tx, backup_id, JobKind.BACKUP, cluster_id, backup_id)


def end_job(tx: sa.Connection, row: sa.Row[Any], state: JobState, error: errors.IcecoreError | None) -> None:
    """Set a job's end and what follows from it for its backup or cluster. The caller has checked the transition."""
    failure = (
        {"error_code": error.wire_code(), "error_message": error.message, "error_hint": error.advice()} if error else {}
    )
    tx.execute(
        sa.update(tables.job)
        .where(tables.job.c.id == row.id)
        .values(state=state, phase=Phase.FINISHED, ended_at=now(), executor_id="", **failure)
    )
    if error is None:
        return
    if row.kind == JobKind.BACKUP:
        tx.execute(
            sa.update(tables.backup)
            .where(tables.backup.c.id == row.backup_id)
            .values(status=BackupStatus.FAILED, ended_at=now())
        )
    if row.kind in (JobKind.RESTORE, JobKind.CLONE):
        # the cluster that never came to be: its name is free again, its job says why
        tx.execute(
            sa.update(tables.cluster)
            .where(tables.cluster.c.id == row.cluster_id)
            .values(status=ClusterStatus.DELETING, status_reason=error.message, deleted_at=now())
        )


def replayed(tx: sa.Connection, action: str, token: str, request: str) -> str:
    """The first call's result if this token was used before. Raises TokenMismatch."""
    if not token:
        return ""
    row = tx.execute(
        sa.select(tables.token).where(tables.token.c.action == action, tables.token.c.token == token)
    ).first()
    if row is None:
        return ""
    if row.digest != request:
        raise errors.TokenMismatch()
    return str(row.result_id)


def remember(tx: sa.Connection, action: str, token: str, request: str, result_id: str) -> None:
    if token:
        values = {"action": action, "token": token, "digest": request, "result_id": result_id, "used_at": now()}
        tx.execute(sa.insert(tables.token).values(values))


def _manual_backups(tx: sa.Connection, cluster_id: str) -> int:
    return tx.execute(
        sa.select(sa.func.count())
        .select_from(tables.backup)
        .where(
            tables.backup.c.cluster_id == cluster_id,
            tables.backup.c.mode == BackupMode.MANUAL,
            tables.backup.c.status.in_(COUNTED_AGAINST_QUOTA),
        )
    ).scalar_one()


def _being_restored(tx: sa.Connection, backup_id: str) -> bool:
    return any(unfinished_job(tx, backup_id=backup_id, kind=kind) for kind in (JobKind.RESTORE, JobKind.CLONE))


def unfinished_job(tx: sa.Connection, **match: str) -> bool:
    """Whether a queued or running job has these values."""
    query = sa.select(tables.job.c.id).where(tables.job.c.state.in_((JobState.QUEUED, JobState.RUNNING)))
    for name, value in match.items():
        query = query.where(tables.job.c[name] == value)
    return tx.execute(query.limit(1)).first() is not None


def moment_of(point: str) -> int | None:
    """Whole Unix seconds of a ``CloneDataPoint`` that is a time (``2026-11-25T22:10:00Z``, or without seconds)."""
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ"):
        with contextlib.suppress(ValueError):
            return int(datetime.strptime(point, form).replace(tzinfo=UTC).timestamp())
    return None


def _backup_before(tx: sa.Connection, cluster_id: str, moment: int) -> sa.Row[Any]:
    """The newest backup that ended before a moment inside a recovery window, as log backup told the windows last."""
    row = tx.execute(sa.select(tables.log_state).where(tables.log_state.c.cluster_id == cluster_id)).first()
    windows = [recovery.Window(*each) for each in json.loads(row.windows)] if row is not None else []
    wanted_us = moment * 1_000_000
    if not any(each.since_us <= wanted_us <= each.until_us for each in windows):
        nearest = recovery.nearest(wanted_us, windows)
        raise errors.MomentNotRestorable(moment=recovery.moment_text(wanted_us), nearest=nearest)
    query = sa.select(tables.backup).where(
        tables.backup.c.cluster_id == cluster_id,
        tables.backup.c.status == BackupStatus.SUCCESS,
        tables.backup.c.consistent_at < moment,
    )
    found = tx.execute(query.order_by(tables.backup.c.consistent_at.desc(), tables.backup.c.id.desc())).first()
    if found is None:
        raise errors.BackupNotFound()
    return found


def _backup_to_restore(tx: sa.Connection, cluster_id: str, point: str) -> sa.Row[Any]:
    moment = moment_of(point)
    if moment is not None:
        return _backup_before(tx, cluster_id, moment)
    query = sa.select(tables.backup).where(
        tables.backup.c.cluster_id == cluster_id, tables.backup.c.status == BackupStatus.SUCCESS
    )
    if point != "LATEST":
        query = query.where(tables.backup.c.id == point)
    row = tx.execute(query.order_by(tables.backup.c.consistent_at.desc(), tables.backup.c.id.desc())).first()
    if row is None:
        raise errors.BackupNotFound()
    return row
