"""The first page: what would be lost now, and what needs a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from starlette.responses import Response

from icecore.console import pictures, tasks, view
from icecore.console.visit import Visit

CONCERNS_AT_MOST = 3
CLUSTERS_A_PAGE = 50
MOMENTS_A_ROW = 10
STRIP_S = 30 * 86_400  # older moments of a row are only hinted at


@dataclass(frozen=True)
class Concern:
    """Why a cluster needs a person, and where to do something about it."""

    cluster_id: str
    cluster_name: str
    cause: str
    fix: str
    href: str
    weight: tuple[int, int]  # the heaviest first

    @property
    def said(self) -> str:
        """The cause as a sentence; it may end with a server's own words."""
        return self.cause if self.cause.endswith((".", "?", "!")) else f"{self.cause}."


def page(visit: Visit) -> Response:
    # What each cluster would lose, from the heaviest concern on
    after = visit.query.get("after", "")
    found = visit.doors.read("DescribeOverview", marker=after or None, max_results=CLUSTERS_A_PAGE)
    clusters = found["items"]["cluster"]
    concerns = sorted(filter(None, map(concern, clusters)), key=lambda each: each.weight)

    # What each could be restored to
    moments = {each["db_cluster_id"]: _moments(visit, each["db_cluster_id"]) for each in clusters if _has_moment(each)}
    strips, strip_s = drawn(clusters, moments, visit.now)

    # What happens now, and what it costs
    repository = visit.doors.read("DescribeRepository")
    return visit.page(
        "overview.html",
        title="Overview",
        clusters=clusters,
        concerns=concerns[:CONCERNS_AT_MOST],
        more_concerns=len(concerns) - CONCERNS_AT_MOST,
        concern_of={each.cluster_id: each for each in concerns},
        strips=strips,
        strip_s=strip_s,
        jobs=tasks.unfinished(visit.doors),
        events="/console/tasks/events",
        repository=repository,
        growth=repository_growth(repository),
        first="/console" if after else "",
        next=view.link("/console", after=found.get("next_marker")) if found.get("next_marker") else "",
    )


def concern(cluster: Mapping[str, Any]) -> Concern | None:
    """The heaviest reason why someone should look at a cluster of ``DescribeOverview``; None when all is well."""
    cluster_id, name = cluster["db_cluster_id"], cluster["db_cluster_name"]
    here = f"/console/clusters/{view.segment(cluster_id)}"
    lost_s = cluster.get("lose_now_seconds")
    failed, sentence = cluster.get("last_failure_job_id"), cluster.get("sentence") or ""
    if cluster["db_cluster_status"] == "Stopped":
        return Concern(cluster_id, name, sentence, "See what was found", f"{here}?tab=health", (0, 0))
    if failed:
        code = cluster.get("last_failure_code") or "an error"
        cause = f"the newest backup failed with {code}" + (f"; {sentence}" if sentence else "")
        return Concern(cluster_id, name, cause, "See why", f"/console/tasks/{view.segment(failed)}", (1, 0))
    if sentence:
        return Concern(
            cluster_id, name, sentence, "Back it up", here, (2, -(lost_s if lost_s is not None else 1 << 60))
        )
    return None


def drawn(
    clusters: Sequence[Mapping[str, Any]], moments: Mapping[str, Sequence[int]], now: int
) -> tuple[dict[str, Markup], int]:
    """A row's time line by cluster, all to one scale; and how many seconds that scale covers."""
    every = [at for ats in moments.values() for at in ats]
    span_s = _round_span(min(STRIP_S, now - min(every, default=now)))
    strips = {}
    for cluster in clusters:
        ats = moments.get(cluster["db_cluster_id"], ())
        if ats:
            label = f"{view.plural(len(ats), 'moment')}, the newest {view.ago(max(ats), now)}"
            strips[cluster["db_cluster_id"]] = pictures.strip(ats, now - span_s, now, label)
    return strips, span_s


def repository_growth(repository: Mapping[str, Any]) -> Markup:
    """How the repository grew, once it was seen on two days."""
    days = [(entry["day"], entry["stored_bytes"]) for entry in repository.get("history", ())]
    if len(days) < 2:
        return Markup("")
    label = f"Bytes stored: {view.size(days[0][1])} on {days[0][0]}, {view.size(days[-1][1])} on {days[-1][0]}"
    return pictures.growth(days, view.size, label)


def _has_moment(cluster: Mapping[str, Any]) -> bool:
    return bool(cluster.get("last_backup_id"))


def _moments(visit: Visit, cluster_id: str) -> list[int]:
    found = visit.doors.read("DescribeBackupHistory", db_cluster_id=cluster_id, max_results=MOMENTS_A_ROW)
    return [each["consistent_time"] for each in found["items"]["backup"] if each["backup_status"] == "Success"]


def _round_span(span_s: int) -> int:
    """The next of an hour, six hours, one, three, seven, fourteen, thirty days."""
    for round_s in (3600, 6 * 3600, 86_400, 3 * 86_400, 7 * 86_400, 14 * 86_400):
        if span_s <= round_s:
            return round_s
    return STRIP_S
