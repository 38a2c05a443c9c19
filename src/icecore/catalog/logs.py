"""What log backup says of each cluster. A copy for calls to read: the repository is the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from icecore import recovery
from icecore.catalog import Catalog, tables
from icecore.catalog.intents import live_cluster, now
from icecore.model import ClusterStatus
from icecore.recovery import Window


def wanted(catalog: Catalog) -> list[sa.Row[Any]]:
    """Clusters whose log is to be archived now."""
    c = tables.cluster.c
    with catalog.read() as tx:
        query = sa.select(tables.cluster).where(
            c.deleted_at.is_(None),
            c.log_backup,
            c.dsn != "",
            c.status.in_((ClusterStatus.RUNNING, ClusterStatus.STOPPED)),
        )
        return list(tx.execute(query).all())


def left_over(catalog: Catalog) -> list[sa.Row[Any]]:
    """Live clusters whose server may keep log for us, whether or not it is still archived."""
    with catalog.read() as tx:
        query = sa.select(tables.cluster).join(tables.log_state, tables.log_state.c.cluster_id == tables.cluster.c.id)
        return list(
            tx.execute(
                query.where(tables.log_state.c.slot, tables.cluster.c.deleted_at.is_(None), tables.cluster.c.dsn != "")
            ).all()
        )


def forgotten(catalog: Catalog, cluster_id: str) -> None:
    """Its server keeps no log for us any more. The windows stay: the log that is here does."""
    with catalog.write() as tx:
        tx.execute(
            sa.update(tables.log_state)
            .where(tables.log_state.c.cluster_id == cluster_id)
            .values(slot=False, quiet=False, error_code="", error_message="")
        )


def switch(catalog: Catalog, cluster_id: str, *, on: bool) -> None:
    """Raises ClusterNotFound."""
    with catalog.write() as tx:
        live_cluster(tx, cluster_id)
        tx.execute(sa.update(tables.cluster).where(tables.cluster.c.id == cluster_id).values(log_backup=on))


def told(catalog: Catalog, cluster_id: str, windows: Sequence[Window], **state: Any) -> None:
    """``state``: columns of ``log_state``; an error that is not named is over."""
    values = {
        "error_code": "",
        "error_message": "",
        "slot": True,
        **state,
        "told_at": now(),
        "windows": json.dumps([[each.since_us, each.until_us, each.timeline] for each in windows]),
    }
    with catalog.note() as tx:
        statement = insert(tables.log_state).values(cluster_id=cluster_id, **values)
        tx.execute(statement.on_conflict_do_update(index_elements=["cluster_id"], set_=values))


def failed(catalog: Catalog, cluster_id: str, code: str, message: str) -> None:
    """Position and windows stay as they were last known."""
    values = {"error_code": code, "error_message": message, "quiet": False, "slot": True}
    with catalog.note() as tx:
        statement = insert(tables.log_state).values(cluster_id=cluster_id, **values)
        tx.execute(statement.on_conflict_do_update(index_elements=["cluster_id"], set_=values))


def gap(catalog: Catalog, cluster_id: str, timeline: int, start: int, end: int) -> None:
    values = {"cluster_id": cluster_id, "timeline": timeline, "start": start, "end": end, "noted_at": now()}
    with catalog.write() as tx:
        statement = insert(tables.log_gap).values(**values)
        tx.execute(statement.on_conflict_do_nothing())


def state(catalog: Catalog, cluster_id: str) -> sa.Row[Any] | None:
    with catalog.read() as tx:
        return tx.execute(sa.select(tables.log_state).where(tables.log_state.c.cluster_id == cluster_id)).first()


def states(catalog: Catalog, cluster_ids: Sequence[str]) -> dict[str, sa.Row[Any]]:
    """Of those that have one."""
    with catalog.read() as tx:
        query = sa.select(tables.log_state).where(tables.log_state.c.cluster_id.in_(cluster_ids))
        return {row.cluster_id: row for row in tx.execute(query).all()}


def gaps(catalog: Catalog, cluster_id: str) -> list[sa.Row[Any]]:
    with catalog.read() as tx:
        query = sa.select(tables.log_gap).where(tables.log_gap.c.cluster_id == cluster_id)
        return list(tx.execute(query.order_by(tables.log_gap.c.timeline, tables.log_gap.c.start)).all())


def lose_now_s(row: sa.Row[Any]) -> int:
    """By log backup's last word."""
    return recovery.lose_now_s(
        now(),
        known_at_us=row.known_at_us,
        told_at=row.told_at,
        quiet=row.quiet,
        lag_bytes=max(row.server_position - row.durable, 0),
    )


def windows_of(row: sa.Row[Any] | None) -> list[Window]:
    return [Window(*each) for each in json.loads(row.windows)] if row is not None else []
