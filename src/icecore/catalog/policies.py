"""Backup policies: what a cluster's is, which slots had their backup, which backups are to expire and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from icecore import drills, errors
from icecore.catalog import Catalog, new_id, tables
from icecore.catalog.intents import live_cluster, now, queue_backup, queue_job, refuse_clone, unfinished_job
from icecore.drills import Drilled
from icecore.evidence import Outcome
from icecore.model import BackupMode, BackupStatus, ClusterStatus, JobKind
from icecore.retention import QUARANTINE_S, Candidate, Retention, Verdict, judge
from icecore.schedule import Schedule, due


@dataclass(frozen=True)
class Policy:
    schedule: Schedule
    retention: Retention
    on_deletion: str = "NONE"
    drill_days: int = 0  # between verifications; 0: none


def of(catalog: Catalog, cluster_id: str) -> Policy | None:
    """None where backups are made by hand only. Raises ClusterNotFound."""
    with catalog.read() as tx:
        live_cluster(tx, cluster_id)
        row = _row(tx, cluster_id)
    return _policy(row) if row is not None else None


def every(catalog: Catalog) -> list[str]:
    """Clusters that have one and run, or could."""
    with catalog.read() as tx:
        query = (
            sa.select(tables.policy.c.cluster_id)
            .join(tables.cluster, tables.cluster.c.id == tables.policy.c.cluster_id)
            .where(
                tables.cluster.c.deleted_at.is_(None),
                tables.cluster.c.status.in_((ClusterStatus.RUNNING, ClusterStatus.STOPPED)),
            )
        )
        return list(tx.execute(query).scalars())


def set_(catalog: Catalog, cluster_id: str, policy: Policy | None) -> None:
    """Slots of a new schedule count from now on: it makes up for nothing. What is marked to expire is judged anew with
    the next look, so that who sets the same policy each day does not put removal off.
    Raises ClusterNotFound, Refused (an instant clone)."""
    with catalog.write() as tx:
        refuse_clone(live_cluster(tx, cluster_id))
        before = _row(tx, cluster_id)
        tx.execute(sa.delete(tables.policy).where(tables.policy.c.cluster_id == cluster_id))
        if policy is None:
            b = tables.backup.c
            tx.execute(sa.update(tables.backup).where(b.cluster_id == cluster_id).values(expires_at=None))
            return
        same = before is not None and _policy(before).schedule == policy.schedule
        tx.execute(
            sa.insert(tables.policy).values(
                cluster_id=cluster_id,
                weekdays=_digits(policy.schedule.weekdays),
                start_minute=policy.schedule.start_minute,
                per_day=policy.schedule.per_day,
                days=policy.retention.days,
                long_days=policy.retention.long_days,
                long_weekdays=_digits(policy.retention.long_weekdays),
                on_deletion=policy.on_deletion,
                drill_days=policy.drill_days,
                taken_slot=before.taken_slot if before is not None and same else now(),
            )
        )


def take_slot(catalog: Catalog, cluster_id: str, moment: int) -> str:
    """Queue the backup that is due, if one is and the cluster runs; gives its id or nothing. A slot is taken in the
    same transaction, so by one backup only, whoever else looks; one that comes while the last automatic backup is
    still being made is passed over."""
    b = tables.backup.c
    with catalog.read() as tx:  # nearly every look finds nothing due and must not stand in a writer's way
        if _due_slot(tx, cluster_id, moment) is None:
            return ""
    with catalog.write() as tx:
        slot = _due_slot(tx, cluster_id, moment)
        if slot is None:
            return ""
        tx.execute(sa.update(tables.policy).where(tables.policy.c.cluster_id == cluster_id).values(taken_slot=slot))
        if tx.execute(
            sa.select(b.id)
            .where(b.cluster_id == cluster_id, b.mode == BackupMode.AUTOMATED)
            .where(b.status.in_((BackupStatus.PENDING, BackupStatus.RUNNING)))
        ).first():
            return ""
        backup_id = new_id(tx)
        queue_backup(catalog, tx, backup_id, cluster_id, BackupMode.AUTOMATED)
        return backup_id


def take_drill(catalog: Catalog, cluster_id: str, moment: int) -> str:
    """Queue the verification that is due, if one is and none is under way; gives its job's id or nothing."""
    with catalog.read() as tx:
        if not _due_drill(tx, cluster_id, moment):
            return ""
    with catalog.write() as tx:
        backup_id = _due_drill(tx, cluster_id, moment)
        if not backup_id:
            return ""
        job_id = new_id(tx)
        queue_job(catalog, tx, job_id, JobKind.VERIFY, cluster_id, backup_id)
        return job_id


def drill_overdue_s(catalog: Catalog, moment: int) -> dict[str, int]:
    """By cluster whose policy has drills: for how long one has been due. A cluster without a backup is not listed."""
    found = {}
    with catalog.read() as tx:
        for row in tx.execute(sa.select(tables.policy).where(tables.policy.c.drill_days > 0)).all():
            at = drills.due_at(backups := _drilled(tx, row.cluster_id), row.drill_days)
            if at is not None:
                # due from the first backup on where there never was one
                found[row.cluster_id] = max(moment - (at or min(each.consistent_at for each in backups)), 0)
    return found


def overdue_s(catalog: Catalog, moment: int) -> dict[str, int]:
    """By cluster with a policy: for how long a slot has been waiting for its backup, 0 where none is."""
    with catalog.read() as tx:
        rows = tx.execute(sa.select(tables.policy)).all()
    slots = {row.cluster_id: due(_policy(row).schedule, moment, row.taken_slot) for row in rows}
    return {cluster_id: 0 if slot is None else moment - slot for cluster_id, slot in slots.items()}


def preview(catalog: Catalog, cluster_id: str, moment: int, policy: Policy | None = None) -> list[Verdict]:
    """What the cluster's policy, or this one instead, says of each backup. Empty without a policy."""
    with catalog.read() as tx:
        live_cluster(tx, cluster_id)
        if policy is None:
            row = _row(tx, cluster_id)
            policy = _policy(row) if row is not None else None
        return judge(policy.retention, _candidates(tx, cluster_id), moment) if policy else []


def mark(catalog: Catalog, cluster_id: str, moment: int) -> list[str]:
    """Set or take back when each backup expires, as the policy has it; gives those whose time is up."""
    b = tables.backup.c
    with catalog.read() as tx:
        goes, marked = _expiring(tx, cluster_id, moment)
    if goes != marked.keys():
        with catalog.write() as tx:
            goes, marked = _expiring(tx, cluster_id, moment)
            for backup_id in marked.keys() - goes:
                tx.execute(sa.update(tables.backup).where(b.id == backup_id).values(expires_at=None))
            for backup_id in goes - marked.keys():
                tx.execute(sa.update(tables.backup).where(b.id == backup_id).values(expires_at=moment + QUARANTINE_S))
    return sorted(backup_id for backup_id in goes & marked.keys() if marked[backup_id] <= moment)


def hold(catalog: Catalog, cluster_id: str, backup_id: str, reason: str | None) -> None:
    """Keep a backup whatever policy or person says, until it is released (``reason`` None). Errors: ClusterNotFound,
    BackupNotFound."""
    b = tables.backup.c
    with catalog.write() as tx:
        live_cluster(tx, cluster_id, also_removed=True)
        values: dict[str, Any] = {"held_reason": reason} | ({"expires_at": None} if reason is not None else {})
        changed = tx.execute(
            sa.update(tables.backup)
            .where(b.id == backup_id, b.cluster_id == cluster_id, b.status == BackupStatus.SUCCESS)
            .values(**values)
        )
        if not changed.rowcount:
            raise errors.BackupNotFound()


def _row(tx: sa.Connection, cluster_id: str) -> sa.Row[Any] | None:
    return tx.execute(sa.select(tables.policy).where(tables.policy.c.cluster_id == cluster_id)).first()


def _due_slot(tx: sa.Connection, cluster_id: str, moment: int) -> int | None:
    row = _row(tx, cluster_id)
    slot = due(_policy(row).schedule, moment, row.taken_slot) if row is not None else None
    return slot if slot is not None and live_cluster(tx, cluster_id).status == ClusterStatus.RUNNING else None


def _due_drill(tx: sa.Connection, cluster_id: str, moment: int) -> str:
    """The backup to verify now."""
    row = _row(tx, cluster_id)
    if row is None or not row.drill_days:
        return ""
    backups = _drilled(tx, cluster_id)
    at = drills.due_at(backups, row.drill_days)
    if at is None or at > moment or unfinished_job(tx, cluster_id=cluster_id, kind=JobKind.VERIFY):
        return ""
    return drills.choose(backups)


def _expiring(tx: sa.Connection, cluster_id: str, moment: int) -> tuple[set[str], dict[str, int]]:
    """What the policy lets go, and what is marked so, with when it goes. Nothing without a policy."""
    b, row = tables.backup.c, _row(tx, cluster_id)
    if row is None:
        return set(), {}
    verdicts = judge(_policy(row).retention, _candidates(tx, cluster_id), moment)
    marked = sa.select(b.id, b.expires_at).where(
        b.cluster_id == cluster_id, b.expires_at.is_not(None), b.status == BackupStatus.SUCCESS
    )
    goes = {each.backup_id for each in verdicts if not each.keep}
    return goes, {row.id: row.expires_at for row in tx.execute(marked)}


def _drilled(tx: sa.Connection, cluster_id: str) -> list[Drilled]:
    b, j = tables.backup.c, tables.job.c
    # a verification that could not even begin leaves no evidence; its job counts, else it would be tried for ever
    tried = sa.select(sa.func.max(j.ended_at)).where(j.backup_id == b.id, j.kind == JobKind.VERIFY).scalar_subquery()
    query = sa.select(b.id, b.consistent_at, b.accepted_at, b.verified_at, tried.label("tried_at"))
    rows = tx.execute(query.where(b.cluster_id == cluster_id, b.status == BackupStatus.SUCCESS))
    return [
        Drilled(row.id, row.consistent_at or row.accepted_at, max(row.verified_at or 0, row.tried_at or 0) or None)
        for row in rows
    ]


def _candidates(tx: sa.Connection, cluster_id: str) -> list[Candidate]:
    b = tables.backup.c
    rows = tx.execute(
        sa.select(b.id, b.mode, b.consistent_at, b.accepted_at, b.held_reason, b.verify_outcome).where(
            b.cluster_id == cluster_id, b.status == BackupStatus.SUCCESS
        )
    )
    return [
        Candidate(
            row.id,
            row.consistent_at or row.accepted_at,
            automatic=row.mode == BackupMode.AUTOMATED,
            held=row.held_reason is not None,
            verified=row.verify_outcome == Outcome.PASSED,
        )
        for row in rows
    ]


def _policy(row: sa.Row[Any]) -> Policy:
    return Policy(
        Schedule(_weekdays(row.weekdays), row.start_minute, row.per_day),
        Retention(row.days, row.long_days, _weekdays(row.long_weekdays), row.per_day),
        row.on_deletion,
        row.drill_days,
    )


def _digits(weekdays: frozenset[int]) -> str:
    return "".join(str(day) for day in sorted(weekdays))


def _weekdays(digits: str) -> frozenset[int]:
    return frozenset(int(digit) for digit in digits)
