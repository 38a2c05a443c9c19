"""A person's way: from an empty console to a restored cluster, on a real server, with and without script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from window import ALL_VIEWS, Opening

from station import Station
from world import PostgresWorld, fingerprint

DONE_MS = 40_000
PAUSE_S = 1.0  # so that a backup of a small server can be watched


@pytest.fixture(scope="module")
def walking(ground: Path) -> Iterator[Station]:
    """Serving; each backup lasts ``PAUSE_S`` longer than it must."""
    station = Station(ground, "walking")
    station.start(env={"ICECORE_PAUSE_AT": f"copied:{PAUSE_S}"})
    yield station
    station.kill()


def back_up(page: Page, comment: str) -> None:
    page.get_by_label("Comment").fill(comment)
    page.get_by_role("button", name="Back up now").click()


def watch_to_the_end(page: Page) -> None:
    """On a task's page; it renews itself, with script or without."""
    expect(page.get_by_role("heading", name="What it made")).to_be_visible(timeout=DONE_MS)
    expect(page.get_by_role("main")).to_contain_text("succeeded")


def restore(page: Page, name: str) -> str:
    """On the restore page with a moment chosen; the new cluster's id, on its page."""
    page.get_by_label("Name").fill(name)
    page.get_by_role("button", name="Restore", exact=True).click()
    page.wait_for_url("**/console/clusters/*")
    return page.url.rsplit("/", 1)[1]


def test_from_the_first_sign_in_to_the_restored_cluster(
    opening: Opening, walking: Station, source: PostgresWorld
) -> None:
    window = opening(walking.endpoint)
    page = window.page

    # An empty home says what to do first
    window.sign_in(walking.access_key_id, walking.access_key_secret)
    expect(page.get_by_text("No cluster is protected yet.")).to_be_visible()
    window.look("overview-empty")
    for path in ("tasks", "restore", "repository"):
        page.goto(f"/console/{path}")
        window.look(f"{path}-empty")

    # Done as it says; the cluster is there, unprotected, and leads on
    cluster_id = walking.add(source)
    page.goto("/console")
    expect(page.get_by_role("rowheader", name="orders", exact=True)).to_be_visible()
    window.look("overview-unprotected")
    page.get_by_role("link", name="orders", exact=True).first.click()
    page.wait_for_url(f"**/console/clusters/{cluster_id}")
    window.look("cluster-empty")

    # Back up now, and watch it finish
    back_up(page, "the first")
    page.wait_for_url("**/console/tasks/*")
    expect(page.locator("[aria-current=step]")).to_contain_text("Uploading", timeout=DONE_MS)
    assert "queued" not in page.get_by_role("main").inner_text()
    watch_to_the_end(page)
    window.look("task-done")
    page.get_by_role("link", name="See the backup").click()
    first = page.url
    window.look("backup", ALL_VIEWS)

    # Two more, not waited for: those that are being made count as well
    for comment in ("the second", "the third"):
        page.goto(f"/console/clusters/{cluster_id}")
        back_up(page, comment)
        page.wait_for_url("**/console/tasks/*")
    third = page.url.rsplit("/", 1)[1]
    page.goto(f"/console/clusters/{cluster_id}")
    expect(page.get_by_text("3 of 3 manual backups exist.")).to_be_visible()
    window.announced.append(403)
    back_up(page, "one too many")
    expect(page.get_by_role("heading", name="BackupTimesExceeded")).to_be_visible()
    expect(page.get_by_role("alert")).to_have_text("Exceeding the daily backup times of this DB cluster.")
    request_id = page.locator("dd code").inner_text()
    window.look("refused")

    # Its way into the error center shows the very call, and what to do
    page.get_by_role("link", name="Look it up in the error center").click()
    expect(page.get_by_role("heading", name=f"The call {request_id}")).to_be_visible()
    expect(page.get_by_role("main")).to_contain_text(cluster_id)
    window.look("refused-looked-up")

    # So one goes: asked first, in sentences
    walking.wait(third)
    page.goto(f"/console/clusters/{cluster_id}")
    window.look("cluster", ALL_VIEWS)
    page.goto(first)
    page.get_by_role("link", name="Delete…").click()
    expect(page.get_by_role("main")).to_contain_text("It cannot be brought back.")
    window.look("confirm-delete")
    page.get_by_role("button", name="Delete this backup").click()
    page.wait_for_url(f"**/console/clusters/{cluster_id}")
    expect(page.get_by_text("2 of 3 manual backups exist.")).to_be_visible()
    expect(page.get_by_text("the first", exact=True)).to_have_count(0)

    # Now there is room again
    back_up(page, "the fourth")
    watch_to_the_end(page)

    # Restore it into a new cluster
    before = fingerprint(source.dsn())
    page.get_by_role("link", name="Restore it").click()
    window.look("restore", ALL_VIEWS)
    restored_id = restore(page, "orders-restored")
    assert restored_id != cluster_id
    page.get_by_role("link", name="Its task").click()
    watch_to_the_end(page)
    window.look("task-restored")
    page.get_by_role("link", name="See the cluster").click()

    # It runs, says how to connect, and holds what its source held
    dsn = walking.wait_running(restored_id)
    page.reload()
    expect(page.get_by_role("heading", name="orders-restored")).to_be_visible()
    expect(page.get_by_role("heading", name="A restored cluster")).to_be_visible()
    window.look("cluster-restored")
    assert fingerprint(dsn) == before

    # Everything is to be seen on the other pages; then out
    for path in ("overview", "tasks", "repository", "access"):
        page.goto("/console" if path == "overview" else f"/console/{path}")
        window.look(path, ALL_VIEWS)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_same_way_without_script(opening: Opening, walking: Station, source: PostgresWorld) -> None:
    window = opening(walking.endpoint, java_script_enabled=False)
    page = window.page
    cluster_id = walking.add(source, "again")
    window.sign_in(walking.access_key_id, walking.access_key_secret)

    # The task's page comes anew by itself, until it has ended
    page.get_by_role("link", name="again", exact=True).first.click()
    back_up(page, "the first")
    watch_to_the_end(page)
    page.get_by_role("link", name="See the backup").click()
    first = page.url

    # The refusal, though two are only being made, and its way into the error center
    second, third = (walking.create(cluster_id, f"without-script-{number}") for number in (2, 3))
    page.goto(f"/console/clusters/{cluster_id}")
    window.announced.append(403)
    back_up(page, "one too many")
    page.get_by_role("link", name="Look it up in the error center").click()
    expect(page.get_by_role("heading", name="The call ")).to_be_visible()

    # Delete and restore
    page.goto(first)
    page.get_by_role("link", name="Delete…").click()
    page.get_by_role("button", name="Delete this backup").click()
    expect(page.get_by_text("2 of 3 manual backups exist.")).to_be_visible()
    walking.wait(second)
    page.goto(f"/console/backups/{second}")
    page.get_by_role("link", name="Restore…").click()
    restored_id = restore(page, "again-restored")
    dsn = walking.wait_running(restored_id)
    page.reload()
    expect(page.get_by_role("heading", name="A restored cluster")).to_be_visible()
    assert fingerprint(dsn) == fingerprint(source.dsn())
    walking.wait(third)


def test_by_keyboard_alone(opening: Opening, walking: Station, source: PostgresWorld) -> None:
    """Sign in, back up, watch, delete: by Tab and Enter, and always seen where one is."""
    cluster_id = walking.add(source, "by-keys")
    window = opening(walking.endpoint)
    page = window.page

    def go(target: Locator) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if target.evaluate("e => e === document.activeElement"):
                ring = target.evaluate("e => getComputedStyle(e).outlineStyle + getComputedStyle(e).outlineWidth")
                assert ring == "solid2px"
                page.keyboard.press("Enter")
                return
        raise AssertionError(f"{target} cannot be reached by Tab")

    page.goto("/console/sign-in")
    expect(page.get_by_label("AccessKeyId")).to_be_focused()
    page.keyboard.type(walking.access_key_id)
    page.keyboard.press("Tab")
    page.keyboard.type(walking.access_key_secret)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console")
    go(page.get_by_role("rowheader").get_by_role("link", name="by-keys", exact=True))
    page.wait_for_url(f"**/console/clusters/{cluster_id}")
    go(page.get_by_role("button", name="Back up now"))
    page.wait_for_url("**/console/tasks/*")
    watch_to_the_end(page)
    go(page.get_by_role("link", name="See the backup"))
    page.wait_for_url("**/console/backups/*")
    go(page.get_by_role("link", name="Delete…"))
    page.wait_for_url("**/console/confirm**")
    go(page.get_by_role("button", name="Delete this backup"))
    page.wait_for_url(f"**/console/clusters/{cluster_id}")
    expect(page.get_by_text("0 of 3 manual backups exist.")).to_be_visible()
