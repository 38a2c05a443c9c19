"""Restoring: which cluster, which moment, to where, and what will happen, on one page. Each choice is a link or a form
that asks for the same page again, so what is shown under *Review* is what the button does."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from icecore.api import contract
from icecore.console import clusters, pace, view
from icecore.console.doors import Doors
from icecore.console.visit import Visit
from icecore.errors import BackupNotFound, ClusterNotFound
from icecore.model import JobKind, JobState

MOMENTS_A_PAGE = 15
PAGES_OF_CLUSTERS = 3  # of a hundred; the page of any other cluster leads here too
RUNS_LOOKED_AT = 10

Found = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A task of the past whose pace tells about the next one."""

    job_id: str
    kind: str
    done_bytes: int
    took_s: int
    rate_bytes: int  # a second


def page(visit: Visit) -> Response:
    # Which cluster; a removed one as well, while backups of it are kept
    cluster_id, wanted = visit.query.get("cluster", ""), visit.query.get("backup", "")
    if not cluster_id:
        return _page(visit, "", None)
    source = clusters.attribute(visit.doors, cluster_id)
    moments = _moments(visit.doors, cluster_id, "")

    # When: the newest moment unless another was chosen
    newest = next((each["backup_id"] for each in moments["items"]["backup"] if _ready(each)), "")
    chosen = _chosen(visit.doors, cluster_id, wanted) if wanted and wanted != newest else None
    if chosen is None and newest:
        chosen = _chosen(visit.doors, cluster_id, newest)
    after = visit.query.get("after", "")
    if after:
        moments = _moments(visit.doors, cluster_id, after)
    return _page(visit, cluster_id, source, moments=moments, newest=newest, chosen=chosen, after=after)


def _page(
    visit: Visit,
    cluster_id: str,
    source: Found | None,
    *,
    moments: Found | None = None,
    newest: str = "",
    chosen: Found | None = None,
    after: str = "",
) -> Response:
    backups = [each for each in moments["items"]["backup"] if _ready(each)] if moments else []
    name = visit.query.get("name", "").strip()
    params = _params(visit.doors, cluster_id, source, chosen, name) if chosen else {}
    run = _run(visit.doors, cluster_id) if chosen else None
    keep = {"cluster": cluster_id, "name": name}
    further = moments.get("next_marker") if moments else None
    path = view.link("/console/restore", **keep).replace("{", "{{").replace("}", "}}") + "&backup={}#review"
    return visit.page(
        "restore.html",
        title="Restore",
        cluster_id=cluster_id,
        source=source,
        source_name=_name(source, chosen, cluster_id),
        clusters=_restorable(visit.doors, cluster_id, _name(source, chosen, cluster_id)),
        backups=backups,
        newest=newest,
        chosen=chosen,
        picture=clusters.moments_picture(
            backups,
            visit.now,
            newest=source is not None and not after,
            chosen=chosen["backup_id"] if chosen else "",
            path=path,
        ),
        name=name,
        sentences=review(chosen, source, visit.now, run, name) if chosen else [],
        # the name is a field of its own; pressed twice, the button of this page makes one cluster
        params={k: v for k, v in params.items() if k != "db_cluster_description"}
        | {"client_token": secrets.token_hex(16)},
        calls=visit.calls("CreateDBCluster", **params) if chosen else [],
        first=view.link("/console/restore", **keep, backup=chosen["backup_id"] if chosen else "") if after else "",
        next=view.link("/console/restore", **keep, backup=chosen["backup_id"] if chosen else "", after=further)
        if further
        else "",
        choose=lambda backup_id: view.link("/console/restore", **keep, backup=backup_id, after=after),
    )


# ---------------------------------------------------------------- the plan in words


def review(
    backup: Mapping[str, Any], source: Mapping[str, Any] | None, now: int, run: Run | None, name: str
) -> list[str]:
    """What will happen, in order, and what will not."""
    at, size_bytes = backup["consistent_time"], backup["logical_bytes"]
    cluster = source["db_cluster_description"] if source else backup.get("db_cluster_name") or backup["db_cluster_id"]
    said = [
        f"A new cluster is made{f', named {name}' if name else ''}. It holds what was committed in {cluster} before "
        f"{view.when(at)}, {view.ago(at, now)}.",
        f"{view.size(size_bytes)} in {view.plural(backup['file_count'], 'file')} are read from the repository, checked "
        "and written to a new data directory of this server's.",
    ]
    if source is not None:
        said.append(
            f"Left out: what was written to {cluster} in the {view.lasting(now - at)} since then. {cluster} itself is "
            "not touched."
        )
    said.append(
        f"PostgreSQL {backup['engine_version']} then starts on it, on a port of its own, with the roles and passwords "
        "of the source."
    )
    if run is not None:
        about_s = max(1, round(size_bytes / run.rate_bytes))
        said.append(
            f"It takes about {view.lasting(about_s)}, if it goes like {run.kind} task {run.job_id}: "
            f"{view.size(run.done_bytes)} in {view.lasting(run.took_s)}."
        )
    return said


def likely_run(restores: Iterable[Mapping[str, Any]], backups: Iterable[Mapping[str, Any]], now: int) -> Run | None:
    """The newest restore long enough to give a rate; else the newest such backup; None if there is neither."""
    for job in [*restores, *backups]:
        stood = pace.pace(job, now)
        if stood.rate_bytes and stood.elapsed_s:
            return Run(job["job_id"], job["job_kind"], job["bytes_done"], stood.elapsed_s, stood.rate_bytes)
    return None


# ---------------------------------------------------------------- what is read for it


def _params(doors: Doors, cluster_id: str, source: Found | None, backup: Found, name: str) -> dict[str, str]:
    """Of CreateDBCluster. What PolarDB requires and a restore here does not need is filled in from the source."""
    region = source["region_id"] if source else doors.read("DescribeRegions")["regions"]["region"][0]["region_id"]
    nodes = source.get("db_nodes") if source else None
    return {
        "region_id": region,
        "db_type": source["db_type"]
        if source
        else contract.operation("CreateDBCluster").parameter("db_type").values[0],
        "db_version": backup["engine_version"].split(".", maxsplit=1)[0],
        "pay_type": (source.get("pay_type") if source else "") or "Postpaid",
        "creation_option": "CloneFromPolarDB",
        "source_resource_id": cluster_id,
        "clone_data_point": backup["backup_id"],
        **({"db_node_class": nodes[0]["db_node_class"]} if nodes and nodes[0].get("db_node_class") else {}),
        **({"db_cluster_description": name} if name else {}),
    }


def _chosen(doors: Doors, cluster_id: str, backup_id: str) -> Found:
    """Raises BackupNotFound for one of another cluster, and for one that cannot be restored."""
    found: Found = doors.read("DescribeBackup", backup_id=backup_id)["backup"]
    if found["db_cluster_id"] != cluster_id or not _ready(found):
        raise BackupNotFound()
    return found


def _ready(backup: Mapping[str, Any]) -> bool:
    return bool(backup["backup_status"] == "Success")


def _moments(doors: Doors, cluster_id: str, after: str) -> Found:
    return doors.read(
        "DescribeBackupHistory", db_cluster_id=cluster_id, marker=after or None, max_results=MOMENTS_A_PAGE
    )


def _name(source: Found | None, chosen: Found | None, cluster_id: str) -> str:
    if source:
        return str(source["db_cluster_description"])
    return str((chosen.get("db_cluster_name") if chosen else "") or cluster_id)


def _restorable(doors: Doors, chosen_id: str, chosen_name: str) -> list[tuple[str, str]]:
    """Id and name of clusters with something to restore: the live ones, then those whose backups alone are left."""
    found: dict[str, str] = {}
    marker = None
    for _ in range(PAGES_OF_CLUSTERS):
        read = doors.read("DescribeOverview", marker=marker, max_results=100)
        found |= {each["db_cluster_id"]: each["db_cluster_name"] for each in _with_backup(read["items"]["cluster"])}
        marker = read.get("next_marker")
        if not marker:
            break
    for each in doors.read("DescribeRepository")["clusters"]:
        if each["backup_count"] and not marker:
            found.setdefault(each["db_cluster_id"], f"{each['db_cluster_name']} (removed)")
    if chosen_id:
        found.setdefault(chosen_id, chosen_name)
    return list(found.items())


def _with_backup(read: Sequence[Found]) -> list[Found]:
    return [each for each in read if each.get("last_backup_id")]


def _run(doors: Doors, cluster_id: str) -> Run | None:
    def jobs(kind: JobKind, **more: str) -> list[Found]:
        try:
            read = doors.read(
                "DescribeJobs", job_kind=kind, job_state=JobState.SUCCEEDED, max_results=RUNS_LOOKED_AT, **more
            )
        except ClusterNotFound:
            return []
        return list(read["items"]["job"])

    return likely_run(jobs(JobKind.RESTORE), jobs(JobKind.BACKUP, db_cluster_id=cluster_id), 0)
