"""What monitoring asks for at each scrape, in a few queries whatever the history."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from icecore.catalog import Catalog, policies, queries, tables
from icecore.catalog.intents import now
from icecore.evidence import Outcome
from icecore.model import BackupStatus, ClusterStatus, JobState

Figures = dict[str, list[dict[str, Any]]]


def figures(catalog: Catalog) -> Figures:
    """``clusters``, ``backups``, ``jobs`` and ``failed``: rows of plain values; None where there is nothing to say."""
    page, newest, _ = queries.overview(catalog)
    overdue = policies.overdue_s(catalog, now())
    drills = policies.drill_overdue_s(catalog, now())
    b, j = tables.backup.c, tables.job.c
    with catalog.read() as tx:
        verified = dict(
            tx.execute(
                sa.select(b.cluster_id, sa.func.max(b.verified_at))
                .where(b.status == BackupStatus.SUCCESS, b.verify_outcome == Outcome.PASSED)
                .group_by(b.cluster_id)
            ).all()
        )
        backups = tx.execute(
            sa.select(b.cluster_id, b.mode, sa.func.count().label("count"))
            .where(b.status == BackupStatus.SUCCESS)
            .group_by(b.cluster_id, b.mode)
        ).mappings()
        counted = sa.func.count().label("count")
        open_states = (JobState.QUEUED, JobState.RUNNING)
        jobs = tx.execute(
            sa.select(j.kind, j.state, counted).where(j.state.in_(open_states)).group_by(j.kind, j.state)
        ).mappings()
        failed = tx.execute(
            sa.select(j.kind, j.error_code.label("code"), counted)
            .where(j.state == JobState.FAILED)
            .group_by(j.kind, j.error_code)
        ).mappings()
        rows = {name: [dict(row) for row in found] for name, found in (("jobs", jobs), ("failed", failed))}
        rows["backups"] = [dict(row) for row in backups]
    rows["clusters"] = [_cluster(row, newest.get(row.last_id), verified, overdue, drills) for row in page.rows]
    return rows


def _cluster(
    row: sa.Row[Any],
    last: sa.Row[Any] | None,
    verified: dict[str, int],
    overdue: dict[str, int],
    drills: dict[str, int],
) -> dict[str, Any]:
    return {
        "cluster": row.name,
        "cluster_id": row.id,
        "up": int(row.status == ClusterStatus.RUNNING),
        "size_bytes": row.size_bytes,
        "newest_at": last.consistent_at if last else None,
        "newest_size_bytes": last.size_bytes if last else None,
        "lose_now_s": max(now() - last.consistent_at, 0) if last else None,
        "verified_at": verified.get(row.id),
        "overdue_s": overdue.get(row.id),
        "drill_overdue_s": drills.get(row.id),
        "image_bytes": row.image_bytes,
    }
