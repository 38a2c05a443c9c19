"""The pages while something runs, when something is broken, and for those who may only look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from window import Opening

from station import Station
from world import PostgresWorld


@pytest.fixture(scope="module")
def slow(ground: Path, source: PostgresWorld) -> Iterator[tuple[Station, str]]:
    """A station whose backups do not end by themselves, and its cluster's id."""
    station = Station(ground, "slow")
    station.start(env={"ICECORE_PAUSE_AT": "copied:600"})
    yield station, station.add(source)
    station.kill()


def test_running_tasks_are_watched_and_cancelled(opening: Opening, slow: tuple[Station, str]) -> None:
    station, cluster_id = slow
    window = opening(station.endpoint)
    page = window.page
    window.sign_in(station.access_key_id, station.access_key_secret, f"/console/clusters/{cluster_id}")
    page.get_by_label("Comment").fill("never ends")
    page.get_by_role("button", name="Back up now").click()
    step = page.locator("[aria-current=step]")
    expect(step).to_contain_text("Uploading", timeout=30_000)
    task = page.url
    job_id = task.rsplit("/", 1)[1]
    window.look("task-busy")

    # A second one waits for it, and says so
    waiting = station.create(cluster_id)
    page.goto(f"/console/tasks/{waiting}")
    expect(page.get_by_role("main")).to_contain_text("a cluster has one task at a time")
    window.look("task-waiting")

    # Both are on every page that speaks of the cluster
    for name, path in {
        "overview-busy": "/console",
        "tasks-busy": "/console/tasks",
        "cluster-busy": f"/console/clusters/{cluster_id}",
        "backup-busy": f"/console/backups/{job_id}",
    }.items():
        page.goto(path)
        expect(page.get_by_role("main").get_by_text("Uploading").first).to_be_visible()
        window.look(name)

    # Somebody else watches while it is cancelled: the page of the task turns by itself
    other = opening(station.endpoint)
    other.sign_in(station.access_key_id, station.access_key_secret, f"/console/tasks/{job_id}")
    expect(other.page.locator("[aria-current=step]")).to_contain_text("Uploading")
    page.goto(task)
    page.get_by_role("link", name="Cancel").click()
    expect(page.get_by_role("main")).to_contain_text("will stop at its next step")
    page.get_by_role("button", name="Cancel this task").click()
    for each in (page, other.page):
        expect(each.get_by_role("heading", name="Cancelled")).to_be_visible(timeout=15_000)
    expect(other.page.get_by_role("button", name="Try again")).to_be_visible()
    window.look("task-cancelled")
    station.call("CancelJob", job_id=waiting)
    station.wait(waiting, state="cancelled")


def test_who_may_only_look_gets_no_buttons_and_no_effect(opening: Opening, slow: tuple[Station, str]) -> None:
    station, cluster_id = slow
    key = station.call("CreateAccessKey", role="reader", description="dashboard")
    job_id = station.create(cluster_id)
    window = opening(station.endpoint)
    page = window.page
    window.sign_in(key["key_id"], key["key_secret"], f"/console/clusters/{cluster_id}")
    window.look("cluster-reader")

    # Nothing on any page posts, but signing out
    for path in (
        f"/console/clusters/{cluster_id}",
        f"/console/backups/{job_id}",
        f"/console/tasks/{job_id}",
        "/console/restore",
        "/console/repository",
        "/console/access",
        "/console",
    ):
        page.goto(path)
        posting = page.locator("form[method=post]").evaluate_all("all => all.map(form => form.getAttribute('action'))")
        assert posting == ["/console/sign-out"], path
        assert page.locator("a[href^='/console/confirm']").count() == 0, path
    page.goto("/console/explorer/CreateBackup")
    expect(page.get_by_role("main")).to_contain_text("is a reader and CreateBackup changes something")
    expect(page.get_by_role("button", name="Call")).to_have_count(0)

    # A forged form is refused by the gateway, and changes nothing
    before = station.call("DescribeJobs")["total_record_count"]
    window.announced.append(403)
    status, answer = page.evaluate(
        """async cluster => {
            const form = new URLSearchParams(new FormData(document.querySelector('form.who')));
            form.set('Action', 'CreateBackup');
            form.set('p.db_cluster_id', cluster);
            const answer = await fetch('/console/act', {method: 'POST', body: form});
            return [answer.status, await answer.text()];
        }""",
        cluster_id,
    )
    assert status == 403
    assert "Forbidden.RAM" in answer
    assert station.call("DescribeJobs")["total_record_count"] == before
    station.call("CancelJob", job_id=job_id)
    station.wait(job_id, state="cancelled")


def test_what_is_broken_is_said_with_what_mends_it(opening: Opening, ground: Path) -> None:
    server = PostgresWorld("15", ground / "doomed").create().start()
    with Station(ground, "broken") as station:
        cluster_id = station.add(server)
        backup_id = station.backup(cluster_id)["backup_id"]

        # The server is gone and the backup's manifest is damaged
        server.stop("immediate")
        station.icecore("cluster", "check", "orders", check=False)
        (manifest,) = station.home.glob(f"repository/**/manifests/{backup_id}")
        content = bytearray(manifest.read_bytes())
        content[len(content) // 2] ^= 0xFF
        manifest.chmod(0o600)
        manifest.write_bytes(content)

        window = opening(station.endpoint)
        page = window.page
        window.sign_in(station.access_key_id, station.access_key_secret)
        expect(page.get_by_role("main")).to_contain_text("Stopped")
        window.look("overview-broken")
        page.goto(f"/console/clusters/{cluster_id}?tab=health")
        expect(page.get_by_role("main")).to_contain_text("cannot be reached")
        window.look("cluster-broken")
        page.goto("/console/repository")
        expect(page.get_by_role("main")).to_contain_text("1 backup cannot be read.")
        window.look("repository-broken")

        # A backup is refused, and says why
        page.goto(f"/console/clusters/{cluster_id}")
        window.announced.append(403)
        page.get_by_role("button", name="Back up now").click()
        expect(page.get_by_role("heading", name="OperationDenied.DBClusterStatus")).to_be_visible()
        window.look("refused-broken")
