"""Clusters on the wire. ``CreateDBCluster`` with ``CloneFromPolarDB`` is the restore."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa

from icecore import errors
from icecore.api.contract import Call
from icecore.api.operations import Context, Result
from icecore.catalog import clusters, intents, queries
from icecore.model import rate_bytes_s

WIRE_ENGINES = {"postgresql": "PostgreSQL"}
ZONE = "{region}-a"
HOME = "default"  # as the home says


def create_cluster(context: Context, call: Call) -> Result:
    """Answers at once; the cluster is Creating until its server takes writes."""
    params = call.params
    if params["creation_option"] != "CloneFromPolarDB":
        raise errors.CreationOptionDenied()
    if not params["source_resource_id"]:
        raise errors.MissingParameter(parameter=call.operation.parameter("source_resource_id").name)
    point = params["clone_data_point"] or "LATEST"
    if point != "LATEST" and not point.isdecimal() and intents.moment_of(point) is None:
        raise call.refuse("clone_data_point")
    name = params["db_cluster_description"] or ""
    request = {
        "source": params["source_resource_id"],
        "point": point,
        "name": name,
        "major": params["db_version"],
        "node_class": params["db_node_class"] or "",
    }
    cluster_id = intents.accept_restore(
        context.catalog,
        params["source_resource_id"],
        point,
        name=name,
        token=params["client_token"] or "",
        request=request,
        major=params["db_version"],
        region_id=params["region_id"],
        node_class=request["node_class"],
    )
    return {"db_cluster_id": cluster_id, "order_id": cluster_id.removeprefix("pc-"), "resource_group_id": "rg-default"}


def delete_cluster(context: Context, call: Call) -> Result:
    keep = call.params["backup_retention_policy_on_cluster_deletion"] or ""
    intents.accept_cluster_removal(context.catalog, call.params["db_cluster_id"], keep)
    return {}


def register_cluster(context: Context, call: Call) -> Result:
    params = call.params
    context.refuse_secret(params["connection_string"])  # it would lie in the catalog and in answers
    cluster_id = clusters.register(
        context.catalog,
        name=params["db_cluster_description"],
        engine=params["engine"],
        dsn=params["connection_string"],
        region_id=context.catalog.config.region_id,
    )
    return {"db_cluster_id": cluster_id}


def modify_pace(context: Context, call: Call) -> Result:
    """What is not given stays as it is."""
    params, values = call.params, dict[str, int | None]()
    if params["max_rate"]:
        try:
            values["max_rate_bytes_s"] = None if params["max_rate"] == HOME else rate_bytes_s(params["max_rate"])
        except ValueError as error:
            raise call.refuse("max_rate") from error
    if params["background"]:
        values["background"] = None if params["background"] == HOME else params["background"] == "on"
    clusters.set_pace(context.catalog, params["db_cluster_id"], **values)
    return {}


def describe_clusters(context: Context, call: Call) -> Result:
    params = call.params
    engines = {wire: ours for ours, wire in WIRE_ENGINES.items()}
    engine = engines.get(params["db_type"], "none") if params["db_type"] else ""
    rows, total = queries.clusters(
        context.catalog,
        ids=params["db_cluster_ids"] or (),
        description=params["db_cluster_description"] or "",
        status=params["db_cluster_status"] or "",
        engine=engine,
        major=params["db_version"] or "",
        page=params["page_number"],
        page_size=params["page_size"],
    )
    return {
        "items": {"db_cluster": [_listed(row) for row in rows]},
        "page_number": params["page_number"],
        "page_record_count": len(rows),
        "total_record_count": total,
    }


def describe_cluster_attribute(context: Context, call: Call) -> Result:
    row = _until_gone(context, call.params["db_cluster_id"])
    restored = row.origin != "registered"
    of_moment = intents.moment_of(row.clone_point) is not None
    return {
        **_common(row),
        "creation_time": row.created_at,
        "zone_ids": ZONE.format(region=row.region_id),
        "db_nodes": [_node(row) | {"db_node_status": row.status, "creation_time": row.created_at}],
        "data_level1_backup_chain_size": row.image_bytes,
        "is_latest_version": True,
        "db_version_status": "Stable",
        "vpc_id": "",
        "v_switch_id": "",
        "tags": [],
        "restore_type": ("RestoreByTimeOss" if of_moment else "RestoreByBackupSetOss") if restored else None,
        "restore_data_point": (row.clone_point if of_moment else row.source_backup_id) or None,
        "source_db_cluster": row.source_cluster_id or None,
        "source_region_id": row.region_id if restored else None,
    }


def describe_cluster_endpoints(context: Context, call: Call) -> Result:
    row = clusters.one(context.catalog, call.params["db_cluster_id"])
    endpoint_id = "pe-" + row.id.removeprefix("pc-")
    wanted = call.params["db_endpoint_id"]
    if not row.host or (wanted and wanted != endpoint_id):
        return {"items": []}
    address = {
        "connection_string": row.host,
        "ip_address": row.host,
        "net_type": "Private",
        "port": row.port,
    }
    endpoint = {
        "db_cluster_id": row.id,
        "db_endpoint_id": endpoint_id,
        "db_endpoint_description": row.name,
        "endpoint_type": "Primary",
        "read_write_mode": "ReadWrite",
        "nodes": _node(row)["db_node_id"],
        "address_items": [address],
    }
    return {"items": [endpoint]}


def describe_cluster_health(context: Context, call: Call) -> Result:
    """As the keeper last saw it: no server is asked while a client waits."""
    row, home = _until_gone(context, call.params["db_cluster_id"]), context.catalog.config
    return {
        "db_cluster_id": row.id,
        "db_cluster_name": row.name,
        "db_cluster_status": row.status,
        "status_reason": row.status_reason or None,
        "checked_time": row.checked_at or None,
        "db_type": WIRE_ENGINES[row.engine],
        "engine_version": row.version or None,
        "address": _address(row.host, row.port) if row.host else None,
        "local": row.local,
        "data_directory": row.data_directory or None,
        "size_bytes": row.size_bytes,
        "max_rate_bytes": home.max_rate_bytes_s if row.max_rate_bytes_s is None else row.max_rate_bytes_s,
        "max_rate_own": row.max_rate_bytes_s is not None,
        "background": home.background if row.background is None else row.background,
        "background_own": row.background is not None,
        "findings": [
            {"severity": found["severity"], "message": found["message"], "hint": found["hint"] or None}
            for found in json.loads(row.findings)
        ],
    }


def describe_regions(context: Context, call: Call) -> Result:
    """This installation is one region; requests may name any."""
    region = context.catalog.config.region_id
    zone = {"zone_id": ZONE.format(region=region), "vpc_enabled": True}
    return {"regions": {"region": [{"region_id": region, "zones": {"zone": [zone]}}]}}


def _until_gone(context: Context, cluster_id: str) -> sa.Row[Any]:
    """Not found only when the server is gone: until then the cluster is Deleting, as the list shows it."""
    row = clusters.one(context.catalog, cluster_id, also_removed=True)
    if row.deleted_at is not None:
        raise errors.ClusterNotFound()
    return row


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _common(row: sa.Row[Any]) -> Result:
    return {
        "db_cluster_id": row.id,
        "db_cluster_description": row.name,
        "db_cluster_status": row.status,
        "db_type": WIRE_ENGINES[row.engine],
        "db_version": row.major,
        "engine": "POLARDB",
        "category": "Normal",
        "region_id": row.region_id,
        "pay_type": "Postpaid",
        "expired": "false",
        "expire_time": "",
        "lock_mode": "Unlock",
        "deletion_lock": 0,
        "db_cluster_network_type": "VPC",
        "resource_group_id": "rg-default",
        "storage_used": row.size_bytes,
        "storage_type": "HighPerformance",
        "storage_pay_type": "Postpaid",
        "serverless_type": "",
        "hot_standby_cluster": "StandbyClusterOFF",
        "sub_category": "Exclusive",
    }


def _listed(row: sa.Row[Any]) -> Result:
    return {
        **_common(row),
        "create_time": row.created_at,
        "zone_id": ZONE.format(region=row.region_id),
        "db_node_class": row.node_class,
        "db_node_number": 1,
        "db_nodes": {"db_node": [_node(row) | {"region_id": row.region_id}]},
        "tags": {"tag": []},
        "vpc_id": "",
        "vswitch_id": "",
    }


def _node(row: sa.Row[Any]) -> Result:
    return {
        "db_node_id": "pi-" + row.id.removeprefix("pc-"),
        "db_node_class": row.node_class,
        "db_node_role": "Writer",
        "zone_id": ZONE.format(region=row.region_id),
    }
