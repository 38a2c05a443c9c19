"""Instant clones: clusters of the origin ``clone``, with an owner, a purpose and an end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from icecore import errors
from icecore.catalog import Catalog, new_id, tables
from icecore.catalog.intents import (
    accept_cluster_removal,
    add_cluster,
    digest,
    live_cluster,
    new_cluster_id,
    now,
    queue_job,
    remember,
    replayed,
)
from icecore.model import BackupStatus, ClusterStatus, JobKind

ORIGIN = "clone"
FOR_EVER = 0
ENDS_SOON_S = 3600
_SETTLED = (ClusterStatus.RUNNING, ClusterStatus.STOPPED)


def accept(
    catalog: Catalog,
    *,
    cluster_id: str,
    backup_id: str,
    name: str,
    owner: str,
    purpose: str,
    lifetime_s: int,
    token: str,
    region_id: str,
) -> str:
    """Accept a clone of a backup that has an image (of a cluster alone: the newest such); gives the clone's cluster id.

    Errors: TokenMismatch, ClusterNotFound, BackupNotFound, NoImage, Refused (name taken).
    """
    wanted = digest(
        {"cluster": cluster_id, "backup": backup_id, "name": name, "purpose": purpose, "lifetime_s": lifetime_s}
    )
    with catalog.write() as tx:
        before = replayed(tx, "CreateClone", token, wanted)  # C2
        if before:
            return before
        backup = _backup(tx, cluster_id, backup_id)
        source = live_cluster(tx, backup.cluster_id, also_removed=True)
        clone_id = new_cluster_id(tx)
        remember(tx, "CreateClone", token, wanted, clone_id)
        add_cluster(
            tx,
            id=clone_id,
            name=name or f"{source.name}-clone-{clone_id[-4:]}",
            engine=source.engine,
            dsn="",
            origin=ORIGIN,
            status=ClusterStatus.CREATING,
            major=source.major,
            version=source.version,
            region_id=region_id,
            size_bytes=backup.size_bytes,
            source_cluster_id=source.id,
            source_backup_id=backup.id,
            clone_point=backup.id,
            created_at=now(),
        )
        tx.execute(
            sa.insert(tables.clone).values(
                cluster_id=clone_id,
                owner=owner,
                purpose=purpose,
                expires_at=_end(lifetime_s),
                durable=lifetime_s == FOR_EVER,
            )
        )
        queue_job(catalog, tx, new_id(tx), JobKind.CLONE, clone_id, backup.id)
    return clone_id


def change(catalog: Catalog, clone_id: str, *, lifetime_s: int | None, purpose: str | None) -> int:
    """Give a clone another end, counted from now, or another purpose; when it ends. Errors: ClusterNotFound, Refused
    (for ever, and it was not made to last)."""
    with catalog.write() as tx:
        row = _live(tx, clone_id)
        values: dict[str, Any] = {}
        if purpose is not None:
            values["purpose"] = purpose
        if lifetime_s is not None:
            if lifetime_s == FOR_EVER and not row.durable:
                raise errors.Refused(
                    "a clone that was made for a while is not durable, and cannot be kept for ever",
                    hint="Extend it, or make another one: `icecore clone BACKUP --for 0`.",
                )
            values["expires_at"] = _end(lifetime_s)
        if values:
            tx.execute(sa.update(tables.clone).where(tables.clone.c.cluster_id == clone_id).values(**values))
        return int(values.get("expires_at", row.expires_at))


def remove(catalog: Catalog, clone_id: str) -> None:
    """Errors: ClusterNotFound, ClusterStatusDenied (it is still being made)."""
    with catalog.read() as tx:
        _live(tx, clone_id, also_leaving=True)
    accept_cluster_removal(catalog, clone_id, "ALL")


def one(catalog: Catalog, clone_id: str) -> sa.Row[Any]:
    with catalog.read() as tx:
        return _live(tx, clone_id, also_leaving=True)


def every(catalog: Catalog, *, source_id: str = "", backup_id: str = "", clone_id: str = "") -> Sequence[sa.Row[Any]]:
    """Live ones, newest first: the cluster's columns, the clone's, ``source_name`` and ``consistent_at``."""
    c, source = tables.cluster, tables.cluster.alias("source")
    query = (
        sa.select(
            c,
            *(column for column in tables.clone.c if column.name != "cluster_id"),
            source.c.name.label("source_name"),
            tables.backup.c.consistent_at,
        )
        .join(tables.clone, tables.clone.c.cluster_id == c.c.id)
        .join(source, source.c.id == c.c.source_cluster_id, isouter=True)
        .join(tables.backup, tables.backup.c.id == c.c.source_backup_id, isouter=True)
        .where(c.c.deleted_at.is_(None))
        .order_by(c.c.created_at.desc(), c.c.id.desc())
    )
    for column, wanted in ((c.c.source_cluster_id, source_id), (c.c.source_backup_id, backup_id), (c.c.id, clone_id)):
        query = query.where(column == wanted) if wanted else query
    with catalog.read() as tx:
        return tx.execute(query).all()


def due(catalog: Catalog) -> list[str]:
    """Those whose time is up and that nobody is making or removing."""
    query = (
        sa.select(tables.cluster.c.id)
        .join(tables.clone, tables.clone.c.cluster_id == tables.cluster.c.id)
        .where(
            tables.cluster.c.deleted_at.is_(None),
            tables.cluster.c.status.in_(_SETTLED),
            tables.clone.c.expires_at.between(1, now()),
        )
    )
    with catalog.read() as tx:
        return list(tx.execute(query).scalars().all())


def pins(catalog: Catalog, clone_id: str, pinned_bytes: int) -> None:
    with catalog.note() as tx:
        tx.execute(
            sa.update(tables.clone).where(tables.clone.c.cluster_id == clone_id).values(pinned_bytes=pinned_bytes)
        )


# ---------------------------------------------------------------- pieces


def _end(lifetime_s: int) -> int:
    return now() + lifetime_s if lifetime_s != FOR_EVER else 0


def _live(tx: sa.Connection, clone_id: str, *, also_leaving: bool = False) -> sa.Row[Any]:
    query = (
        sa.select(tables.clone)
        .join(tables.cluster, tables.cluster.c.id == tables.clone.c.cluster_id)
        .where(tables.clone.c.cluster_id == clone_id, tables.cluster.c.deleted_at.is_(None))
    )
    if not also_leaving:
        query = query.where(tables.cluster.c.status != ClusterStatus.DELETING)
    row = tx.execute(query).first()
    if row is None:
        raise errors.ClusterNotFound()
    return row


def _backup(tx: sa.Connection, cluster_id: str, backup_id: str) -> sa.Row[Any]:
    b = tables.backup.c
    query = sa.select(tables.backup).where(b.status == BackupStatus.SUCCESS)
    if cluster_id:
        live_cluster(tx, cluster_id, also_removed=True)
        query = query.where(b.cluster_id == cluster_id)
    if backup_id:
        query = query.where(b.id == backup_id)
    row = tx.execute(query.order_by(b.imaged.desc(), b.consistent_at.desc(), b.id.desc())).first()
    if row is None:
        raise errors.BackupNotFound()
    if not row.imaged:
        raise errors.NoImage(backup_id=row.id)
    return row
