"""What the operations show: reads only, paged by the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from icecore import errors
from icecore.catalog import Catalog, tables
from icecore.model import BackupStatus, JobKind, JobState

Rows = Sequence[sa.Row[Any]]


def backups(
    catalog: Catalog,
    cluster_id: str,
    *,
    start_at: int,
    end_at: int,
    backup_id: str = "",
    status: str = "",
    mode: str = "",
    page: int = 1,
    page_size: int = 30,
) -> tuple[Rows, int]:
    """Finished backups that began in [start_at, end_at], newest first, and how many there are in all pages."""
    b = tables.backup.c
    began = sa.func.coalesce(b.started_at, b.accepted_at)
    where = [
        b.cluster_id == cluster_id,
        began >= start_at,
        began <= end_at,
        b.status.in_((BackupStatus.SUCCESS, BackupStatus.FAILED)),
    ]
    if backup_id:
        where.append(b.id == backup_id)
    if status:
        where.append(b.status == status)
    if mode:
        where.append(b.mode == mode)
    return _page(catalog, sa.select(tables.backup).where(*where), [began.desc(), b.id.desc()], page, page_size)


def backup(catalog: Catalog, backup_id: str) -> sa.Row[Any]:
    """By id or a unique prefix of it. Raises BackupNotFound."""
    query = sa.select(tables.backup).where(
        tables.backup.c.id.startswith(backup_id, autoescape=True), tables.backup.c.status != BackupStatus.DELETING
    )
    with catalog.read() as tx:
        rows = tx.execute(query.limit(2)).all()
    exact = [row for row in rows if row.id == backup_id]
    if not exact and len(rows) != 1:
        raise errors.BackupNotFound()
    return (exact or rows)[0]


def backup_jobs(catalog: Catalog, cluster_id: str, *, job_id: str = "", mode: str = "", limit: int = 100) -> Rows:
    """Backup jobs with their mode, newest first. Without a job id: the unfinished ones and the last finished."""
    query = (
        sa.select(tables.job, tables.backup.c.mode)
        .join(tables.backup, tables.backup.c.id == tables.job.c.backup_id, isouter=True)
        .where(tables.job.c.cluster_id == cluster_id, tables.job.c.kind == JobKind.BACKUP)
        .order_by(tables.job.c.queued_at.desc(), tables.job.c.id.desc())
        .limit(limit)
    )
    if job_id:
        query = query.where(tables.job.c.id == job_id)
    if mode:
        query = query.where(tables.backup.c.mode == mode)
    with catalog.read() as tx:
        return tx.execute(query).all()


def jobs(
    catalog: Catalog, *, cluster_id: str = "", job_id: str = "", state: str = "", page: int = 1, page_size: int = 30
) -> tuple[Rows, int]:
    """Jobs with their cluster's name, newest first."""
    query = sa.select(tables.job, tables.cluster.c.name.label("cluster_name")).join(
        tables.cluster, tables.cluster.c.id == tables.job.c.cluster_id
    )
    if cluster_id:
        query = query.where(tables.job.c.cluster_id == cluster_id)
    if job_id:
        query = query.where(tables.job.c.id == job_id)
    if state:
        query = query.where(tables.job.c.state == state)
    return _page(catalog, query, [tables.job.c.queued_at.desc(), tables.job.c.id.desc()], page, page_size)


def clusters(
    catalog: Catalog,
    *,
    ids: Sequence[str] = (),
    description: str = "",
    status: str = "",
    engine: str = "",
    major: str = "",
    page: int = 1,
    page_size: int = 30,
) -> tuple[Rows, int]:
    c = tables.cluster.c
    query = sa.select(tables.cluster).where(c.deleted_at.is_(None))
    if ids:
        query = query.where(c.id.in_(ids))
    if description:
        query = query.where(c.name.contains(description, autoescape=True))
    if status:
        query = query.where(c.status == status)
    if engine:
        query = query.where(c.engine == engine)
    if major:
        query = query.where(c.major == major)
    return _page(catalog, query, [c.created_at.desc(), c.id.desc()], page, page_size)


def summaries(catalog: Catalog, cluster_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Per cluster: ``last`` (newest successful backup row or None), ``manual`` (count against the quota is in
    intents), ``running`` (id of its running job or "")."""
    found: dict[str, dict[str, Any]] = {i: {"last": None, "manual": 0, "running": "", "count": 0} for i in cluster_ids}
    b = tables.backup.c
    with catalog.read() as tx:
        shown = sa.select(tables.backup).where(b.cluster_id.in_(cluster_ids), b.status == BackupStatus.SUCCESS)
        for row in tx.execute(shown.order_by(b.consistent_at, b.id)).all():
            found[row.cluster_id]["last"] = row
            found[row.cluster_id]["count"] += 1
            found[row.cluster_id]["manual"] += row.mode == "Manual"
        running = sa.select(tables.job.c.cluster_id, tables.job.c.id).where(
            tables.job.c.cluster_id.in_(cluster_ids), tables.job.c.state == JobState.RUNNING
        )
        for cluster_id, job_id in tx.execute(running).all():
            found[cluster_id]["running"] = job_id
    return found


def _page(catalog: Catalog, query: sa.Select[Any], order: list[Any], page: int, page_size: int) -> tuple[Rows, int]:
    with catalog.read() as tx:
        total = tx.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()
        rows = tx.execute(query.order_by(*order).limit(page_size).offset((page - 1) * page_size)).all()
    return rows, total
