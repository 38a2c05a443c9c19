"""Each page of a home with years of history is light and soon there: at most 100 KB over the wire with nothing cached,
and the first content within a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import crowded
import pytest
from window import TWO_VIEWS, Opening, Window

from station import Station

LIGHT_BYTES = 100 * 1024
SOON_S = 1.0
TRIES = 3  # a busy machine may delay one

PAGES = {
    "overview": "/console",
    "cluster": f"/console/clusters/{crowded.cluster_id(7)}",
    "health": f"/console/clusters/{crowded.cluster_id(3)}?tab=health",
    "backup": f"/console/backups/{crowded.backup_id(999)}",
    "restore": "/console/restore",
    "restore-of-one": f"/console/restore?cluster={crowded.cluster_id(3)}&backup={crowded.backup_id(953)}",
    "tasks": "/console/tasks",
    "tasks-failed": "/console/tasks?state=failed",
    "task": f"/console/tasks/{crowded.backup_id(300)}",
    "repository": "/console/repository",
    "explorer": "/console/explorer",
    "explorer-create": "/console/explorer/CreateBackup",
    "explorer-restore": "/console/explorer/CreateDBCluster",
    "access": "/console/access",
    "errors": "/errors",
    "error": "/errors/BackupTimesExceeded",
    "search": "/errors?q=backup",
    "confirm": f"/console/confirm?Action=DeleteBackup&p.db_cluster_id={crowded.cluster_id(49)}"
    f"&p.backup_id={crowded.backup_id(999)}",
}
PICTURED = ("overview", "cluster", "tasks-failed")  # the others show that what was put in is invented


@pytest.fixture(scope="module")
def years(ground: Path) -> Iterator[Station]:
    """Served without a worker: the clusters are inventions that it would look for."""
    station = Station(ground, "years")
    crowded.fill(station.home, station.access_key_id)
    station.start("--no-worker")
    yield station
    station.kill()


@pytest.fixture
def visitor(opening: Opening, years: Station) -> Window:
    window = opening(years.endpoint)
    window.sign_in(years.access_key_id, years.access_key_secret)
    return window


def test_every_page_is_light_and_soon_there(visitor: Window) -> None:
    measured, complaints = list[str](), list[str]()
    for name, path in PAGES.items():
        weights, paints = list[int](), list[float]()
        while not paints or (len(paints) < TRIES and min(paints) > SOON_S):
            weights.append(visitor.weigh(path))
            paints.append(visitor.first_paint_s())
        measured.append(f"{name:16} {min(weights) / 1024:6.1f} KB {min(paints) * 1000:5.0f} ms")
        if min(weights) > LIGHT_BYTES or min(paints) > SOON_S:
            complaints.append(measured[-1])
    print("\n".join(measured))
    assert not complaints


def test_a_list_is_walked_page_by_page(visitor: Window) -> None:
    """All failed tasks can be reached by following "Older", each once."""
    seen: list[str] = []
    path: str | None = "/console/tasks?state=failed"
    while path:
        visitor.page.goto(path)
        rows = visitor.page.locator("main th a[href^='/console/tasks/']")
        seen += rows.evaluate_all("all => all.map(a => a.getAttribute('href'))")
        older = visitor.page.get_by_role("link", name="Older")
        path = older.get_attribute("href") if older.count() else None
    assert len(seen) == len(set(seen)) == crowded.FAILED_JOBS


def test_crowded_pages_are_looked_at(visitor: Window) -> None:
    for name in ("overview", "cluster", "health", "tasks-failed", "task", "repository"):
        visitor.page.goto(PAGES[name])
        visitor.look(f"crowded-{name}", keep=TWO_VIEWS if name in PICTURED else ())
