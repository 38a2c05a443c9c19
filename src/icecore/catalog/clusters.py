"""The registry of clusters: what is protected, and how it was when last looked at."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from icecore import errors
from icecore.catalog import Catalog, tables
from icecore.catalog.intents import add_cluster, live_cluster, new_cluster_id, now
from icecore.model import ClusterStatus


def register(catalog: Catalog, *, name: str, engine: str, dsn: str, region_id: str) -> str:
    """Remember a running server; gives its id. It counts as Stopped until it was looked at.

    A cluster known from its backups only (a rebuilt catalog) gets its server back under its old id.
    """
    with catalog.write() as tx:
        orphan = tx.execute(
            sa.select(tables.cluster).where(
                tables.cluster.c.name == name,
                tables.cluster.c.dsn == "",
                tables.cluster.c.origin == "registered",
                tables.cluster.c.deleted_at.is_(None),
                tables.cluster.c.status != ClusterStatus.DELETING,
            )
        ).first()
        if orphan is not None:
            tx.execute(sa.update(tables.cluster).where(tables.cluster.c.id == orphan.id).values(dsn=dsn, engine=engine))
            return str(orphan.id)
        cluster_id = new_cluster_id(tx)
        add_cluster(
            tx,
            id=cluster_id,
            name=name,
            engine=engine,
            dsn=dsn,
            origin="registered",
            status=ClusterStatus.STOPPED,
            status_reason="not looked at yet",
            region_id=region_id,
            created_at=now(),
        )
        return cluster_id


def observed(
    catalog: Catalog,
    cluster_id: str,
    *,
    running: bool,
    reason: str = "",
    hint: str = "",
    facts: dict[str, Any] | None = None,
) -> None:
    """Record what a look at the server found. A cluster that is being made or removed keeps its state.

    ``facts``: what ``keeper.observations`` gives, where the look got that far. Where it did not, ``reason`` is the
    only finding, ``hint`` what to do about it, and the rest stays as it was last seen.
    """
    facts = dict(facts or {})
    if not running:
        facts["findings"] = json.dumps([finding("refusal", reason, hint)] if reason else [])
    with catalog.note() as tx:
        tx.execute(
            sa.update(tables.cluster)
            .where(
                tables.cluster.c.id == cluster_id,
                tables.cluster.c.status.in_((ClusterStatus.RUNNING, ClusterStatus.STOPPED)),
            )
            .values(
                status=ClusterStatus.RUNNING if running else ClusterStatus.STOPPED,
                status_reason=reason,
                checked_at=now(),
                **facts,
            )
        )


def finding(severity: str, message: str, hint: str) -> dict[str, str]:
    """``severity``: refusal, warning or note."""
    return {"severity": severity, "message": message, "hint": hint}


def imaged(catalog: Catalog, cluster_id: str, backup_id: str, *, image_bytes: int) -> None:
    """Of the cluster's backups this one alone has an image (none if empty), which pins ``image_bytes`` by itself."""
    b = tables.backup.c
    with catalog.note() as tx:
        tx.execute(
            sa.update(tables.backup).where(b.cluster_id == cluster_id, b.imaged, b.id != backup_id).values(imaged=False)
        )
        tx.execute(sa.update(tables.backup).where(b.id == backup_id, ~b.imaged).values(imaged=True))
        tx.execute(sa.update(tables.cluster).where(tables.cluster.c.id == cluster_id).values(image_bytes=image_bytes))


def set_pace(catalog: Catalog, cluster_id: str, **values: int | None) -> None:
    """``max_rate_bytes_s`` (0: no limit) and ``background``; None: as the home says. Raises ClusterNotFound."""
    with catalog.write() as tx:
        live_cluster(tx, cluster_id)
        if values:
            tx.execute(sa.update(tables.cluster).where(tables.cluster.c.id == cluster_id).values(**values))


def moved(catalog: Catalog, cluster_id: str, *, dsn: str, host: str, port: int) -> None:
    """A restored server answers at another address from now on."""
    with catalog.write() as tx:
        values = {"dsn": dsn, "host": host, "port": port}
        tx.execute(sa.update(tables.cluster).where(tables.cluster.c.id == cluster_id).values(**values))


def live(catalog: Catalog) -> list[sa.Row[Any]]:
    with catalog.read() as tx:
        query = sa.select(tables.cluster).where(tables.cluster.c.deleted_at.is_(None))
        return list(tx.execute(query.order_by(tables.cluster.c.created_at.desc(), tables.cluster.c.id.desc())).all())


def one(catalog: Catalog, cluster_id: str, *, also_removed: bool = False) -> sa.Row[Any]:
    """Raises ClusterNotFound."""
    with catalog.read() as tx:
        return live_cluster(tx, cluster_id, also_removed=also_removed)


def named(catalog: Catalog, name_or_id: str) -> sa.Row[Any]:
    """A live cluster by its id or name. Raises ClusterNotFound."""
    with catalog.read() as tx:
        row = tx.execute(
            sa.select(tables.cluster).where(
                tables.cluster.c.deleted_at.is_(None),
                sa.or_(tables.cluster.c.id == name_or_id, tables.cluster.c.name == name_or_id),
            )
        ).first()
    if row is None:
        raise errors.ClusterNotFound()
    return row
