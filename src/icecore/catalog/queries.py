"""What the operations show. Lists that grow with history are read by their key (``paging``); those that clients know
with page numbers and a total are counted."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from icecore import errors
from icecore.catalog import Catalog, tables
from icecore.catalog.paging import Page, cut, write_marker
from icecore.model import COUNTED_AGAINST_QUOTA, BackupMode, BackupStatus, JobKind, JobState

Rows = Sequence[sa.Row[Any]]
Key = tuple[Any, ...]  # of a row in its list's order, as ``paging.read_marker`` gives it


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


def successful(catalog: Catalog, cluster_id: str) -> list[sa.Row[Any]]:
    b = tables.backup.c
    with catalog.read() as tx:
        query = sa.select(tables.backup).where(b.cluster_id == cluster_id, b.status == BackupStatus.SUCCESS)
        return list(tx.execute(query).all())


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


def history(catalog: Catalog, *, cluster_id: str = "", after: Key | None = None, limit: int = 30) -> Page:
    """Every backup that is shown, newest first, with its job where it has one. ``after``: accepted_at and id of the
    last row seen."""
    b, j = tables.backup.c, tables.job.c
    query = (
        sa.select(
            tables.backup,
            _cluster_name(b.cluster_id),
            j.id.label("job_id"),
            *(j[name].label(f"job_{name}") for name in ("state", "phase", "bytes_done", "bytes_total", "error_code")),
        )
        .join(tables.job, sa.and_(j.id == b.id, j.kind == JobKind.BACKUP), isouter=True)  # they have the same id
        .where(tables.SHOWN)
        .order_by(b.accepted_at.desc(), b.id.desc())
        .limit(limit + 1)
    )
    if cluster_id:
        query = query.where(b.cluster_id == cluster_id)
    if after:
        query = query.where(sa.tuple_(b.accepted_at, b.id) < after)
    with catalog.read() as tx:
        rows = tx.execute(query).all()
    return cut(rows, limit, lambda row: write_marker("backup", row.accepted_at, row.id))


def jobs(
    catalog: Catalog,
    *,
    cluster_id: str = "",
    job_id: str = "",
    state: str = "",
    kind: str = "",
    page: int = 1,
    page_size: int = 30,
) -> tuple[Rows, int]:
    """Jobs with their cluster's name, newest first, and how many there are in all pages."""
    query = _jobs(cluster_id=cluster_id, job_id=job_id, state=state, kind=kind)
    return _page(catalog, query, [tables.job.c.queued_at.desc(), tables.job.c.id.desc()], page, page_size)


def jobs_after(
    catalog: Catalog,
    *,
    cluster_id: str = "",
    job_id: str = "",
    state: str = "",
    kind: str = "",
    after: Key | None = None,
    limit: int = 30,
) -> Page:
    """The same list by its key. ``after``: queued_at and id of the last row seen."""
    j = tables.job.c
    query = _jobs(cluster_id=cluster_id, job_id=job_id, state=state, kind=kind)
    if after:
        query = query.where(sa.tuple_(j.queued_at, j.id) < after)
    with catalog.read() as tx:
        rows = tx.execute(query.order_by(j.queued_at.desc(), j.id.desc()).limit(limit + 1)).all()
    return cut(rows, limit, lambda row: write_marker("job", row.queued_at, row.id))


def _jobs(*, cluster_id: str, job_id: str, state: str, kind: str) -> sa.Select[Any]:
    query = sa.select(tables.job, _cluster_name(tables.job.c.cluster_id))
    for column, wanted in (("cluster_id", cluster_id), ("id", job_id), ("state", state), ("kind", kind)):
        if wanted:
            query = query.where(tables.job.c[column] == wanted)
    return query


def _cluster_name(cluster_id: sa.Column[Any]) -> sa.Label[Any]:
    """Looked up for each row shown; a join would let SQLite begin with the clusters and sort."""
    named = tables.cluster.alias("named")
    return sa.select(named.c.name).where(named.c.id == cluster_id).scalar_subquery().label("cluster_name")


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


def overview(
    catalog: Catalog, *, cluster_id: str = "", after_cluster: str = "", limit: int | None = None
) -> tuple[Page, dict[str, sa.Row[Any]], dict[str, sa.Row[Any]]]:
    """Live clusters by name, each with ``last_id`` (newest restorable backup), ``manual`` (that count against the
    quota), ``running`` (id of the running job), ``failed_id`` and ``succeeded_id`` (newest backup job that ended so);
    then the rows of those backups and those jobs, by id. ``after_cluster``: the last one seen; ``LookupError`` if there
    never was such a cluster."""
    c, b, j = tables.cluster.c, tables.backup.c, tables.job.c
    newest_job = (j.queued_at.desc(), j.id.desc())

    def ended(state: JobState) -> sa.Label[Any]:
        found = sa.select(j.id).where(j.cluster_id == c.id, j.kind == JobKind.BACKUP, j.state == state)
        return found.order_by(*newest_job).limit(1).scalar_subquery().label(f"{state}_id")

    last = sa.select(b.id).where(b.cluster_id == c.id, b.status == BackupStatus.SUCCESS)
    manual = sa.select(sa.func.count()).where(
        b.cluster_id == c.id, b.mode == BackupMode.MANUAL, b.status.in_(COUNTED_AGAINST_QUOTA)
    )
    running = sa.select(j.id).where(j.cluster_id == c.id, j.state == JobState.RUNNING)
    query = (
        sa.select(
            tables.cluster,
            last.order_by(b.consistent_at.desc(), b.id.desc()).limit(1).scalar_subquery().label("last_id"),
            manual.scalar_subquery().label("manual"),
            running.limit(1).scalar_subquery().label("running"),
            ended(JobState.FAILED),
            ended(JobState.SUCCEEDED),
        )
        .where(c.deleted_at.is_(None))
        .order_by(c.name)  # unique among live ones
    )
    # a clone is not for keeps: it stands in a list of its own
    query = query.where(c.id == cluster_id if cluster_id else c.origin != "clone")
    if limit is not None:
        query = query.limit(limit + 1)
    with catalog.read() as tx:
        if after_cluster:
            name = tx.execute(sa.select(c.name).where(c.id == after_cluster)).scalar()
            if name is None:
                raise LookupError(after_cluster)
            query = query.where(c.name > name)
        rows = tx.execute(query).all()
        page = cut(rows, len(rows) if limit is None else limit, lambda row: write_marker("cluster", row.id))
        backups = [row.last_id for row in page.rows if row.last_id]
        ends = [end for row in page.rows for end in (row.failed_id, row.succeeded_id) if end]
        return (
            page,
            {row.id: row for row in tx.execute(sa.select(tables.backup).where(b.id.in_(backups))).all()},
            {row.id: row for row in tx.execute(sa.select(tables.job).where(j.id.in_(ends))).all()},
        )


def repository_days(catalog: Catalog, limit: int) -> Rows:
    """The repository's size on the last days on which it was looked at, oldest first."""
    query = sa.select(tables.repository_day).order_by(tables.repository_day.c.day.desc()).limit(limit)
    with catalog.read() as tx:
        return list(reversed(tx.execute(query).all()))


def note_repository_day(catalog: Catalog, *, noted_at: int, stored_bytes: int, logical_bytes: int) -> None:
    """The day's last look is its entry."""
    day = datetime.fromtimestamp(noted_at, UTC).date().isoformat()
    values = {"noted_at": noted_at, "stored_bytes": stored_bytes, "logical_bytes": logical_bytes}
    d = tables.repository_day
    with catalog.note() as tx:
        if not tx.execute(sa.update(d).where(d.c.day == day).values(**values)).rowcount:
            tx.execute(sa.insert(d).values(day=day, **values))


def _page(catalog: Catalog, query: sa.Select[Any], order: list[Any], page: int, page_size: int) -> tuple[Rows, int]:
    with catalog.read() as tx:
        total = tx.execute(sa.select(sa.func.count()).select_from(query.subquery())).scalar_one()
        rows = tx.execute(query.order_by(*order).limit(page_size).offset((page - 1) * page_size)).all()
    return rows, total
