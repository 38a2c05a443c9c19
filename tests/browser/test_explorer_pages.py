"""The Explorer as a person uses it: find, fill, see the signature, call, compare what was pasted, look back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from window import ALL_VIEWS, TWO_VIEWS, Opening, Window

from station import Station
from world import PostgresWorld


@pytest.fixture(scope="module")
def exploring(ground: Path, source: PostgresWorld) -> Iterator[tuple[Station, str]]:
    """Serving, with a cluster; its id."""
    with Station(ground, "exploring") as station:
        yield station, station.add(source)


@pytest.fixture
def visitor(opening: Opening, exploring: tuple[Station, str]) -> Window:
    station, _ = exploring
    window = opening(station.endpoint)
    window.sign_in(station.access_key_id, station.access_key_secret, "/console/explorer")
    return window


def block(page: Page, label: str) -> Locator:
    return page.get_by_role("region", name=label, exact=True)


def tab(page: Page, name: str) -> None:
    page.get_by_label("Tabs").get_by_role("link", name=name).click()
    expect(page.get_by_label("Tabs").get_by_role("link", name=name)).to_have_attribute("aria-current", "page")


def call(page: Page) -> str:
    """Ask, agree, and give the body of the answer. What was shown before is what was sent."""
    page.get_by_role("button", name="Call…").click()
    expect(page.get_by_role("heading", name="Call CreateBackup?")).to_be_visible()
    shown = block(page, "The request that will be sent").inner_text()
    page.get_by_role("button", name="Yes, call it").click()
    expect(page.locator(".badge", has_text="HTTP 200")).to_be_visible()
    page.get_by_text("What was sent").click()
    assert block(page, "The request that was sent").inner_text() == shown
    return block(page, "Body of the answer").inner_text()


def test_an_operation_is_found_filled_signed_and_called_in_both_ways(
    visitor: Window, exploring: tuple[Station, str]
) -> None:
    station, cluster_id = exploring
    page = visitor.page

    # Find
    visitor.look("explorer")
    page.get_by_role("searchbox").fill("snapshot create")
    page.keyboard.press("Enter")
    page.get_by_role("main").get_by_role("link", name="CreateBackup", exact=True).click()
    expect(page.get_by_role("heading", name="CreateBackup")).to_be_visible()
    visitor.look("explorer-document", phone_from="#shown")

    # Fill, and go on at once: the page follows, and its address can be sent to a colleague
    page.get_by_label("DBClusterId").fill(cluster_id)
    page.get_by_label("ClientToken").fill("from the Explorer")
    tab(page, "Sample")
    page.wait_for_url(f"**p.DBClusterId={cluster_id}&p.ClientToken=from+the+Explorer&tab=sample")

    # The same call in a language, which is remembered
    page.get_by_label("Languages").get_by_role("link", name=re.compile("^Python")).first.click()
    expect(page.get_by_role("region", name=re.compile("^Sample in Python"))).to_contain_text(cluster_id)
    assert station.access_key_secret not in page.content()
    visitor.look("explorer-sample", phone_from="#shown")

    # The signature of today's kind, step by step, and the call
    tab(page, "Signature")
    steps = page.get_by_role("main").get_by_role("listitem")
    expect(steps.filter(has_text="x-acs-action:CreateBackup").first).to_be_visible()
    expect(steps.filter(has_text="ACS3-HMAC-SHA256").first).to_be_visible()
    visitor.look("explorer-signature", ALL_VIEWS, phone_from="#shown")
    page.get_by_role("button", name="Call…").click()
    visitor.look("explorer-ask", phone_from="#shown")
    page.get_by_role("link", name="Leave it").click()
    first = call(page)
    assert re.search(r'"BackupJobId": "\d+"', first)
    visitor.look("explorer-response", phone_from="#shown")

    # The same intent in the older kind, answered as XML: one backup
    page.get_by_label("Signature", exact=True).select_option("V1")
    page.get_by_label("Answer", exact=True).select_option("XML")
    tab(page, "Signature")
    expect(steps.filter(has_text="POST&%2F&").first).to_be_visible()
    second = call(page)
    assert re.findall(r"\d{9,}", second)[-1] in first
    assert "<BackupJobId>" in second

    # What was called can be filled in again, and two calls compared
    tab(page, "History")
    expect(page.get_by_role("rowheader", name=re.compile("^CreateBackup"))).to_have_count(2)
    page.get_by_role("row").nth(2).get_by_role("radio", name=re.compile("first")).check()
    page.get_by_role("row").nth(1).get_by_role("radio", name=re.compile("second")).check()
    page.get_by_role("button", name="Compare the two").click()
    expect(page.get_by_role("heading", name="Two calls compared")).to_be_visible()
    expect(block(page, "Lines of both calls")).to_contain_text("RequestId")
    visitor.look("explorer-history", phone_from="#shown")
    page.goto("/console/explorer/CreateBackup?tab=history")
    page.get_by_role("rowheader").get_by_role("link", name="CreateBackup").first.click()
    expect(page.get_by_label("DBClusterId")).to_have_value(cluster_id)
    expect(page.get_by_label("ClientToken")).to_have_value("from the Explorer")

    # The remembered language
    page.goto("/console/explorer/DescribeBackups?tab=sample")
    expect(page.get_by_role("region", name=re.compile("^Sample in Python"))).to_be_visible()


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
@pytest.mark.parametrize("version", ["V1", "V3"])
def test_a_wrong_string_to_sign_is_pinpointed(
    opening: Opening, exploring: tuple[Station, str], version: str, script: bool
) -> None:
    station, cluster_id = exploring
    window = opening(station.endpoint, java_script_enabled=script)
    page = window.page
    path = (
        f"/console/explorer/CreateBackup?p.DBClusterId={cluster_id}&p.ClientToken=a+b&version={version}&tab=signature"
    )
    window.sign_in(station.access_key_id, station.access_key_secret, path)

    # As many write it: a space as "+" (V1), the parameters' names in lower case (V3)
    title, right, wrong, rule = {
        "V1": (re.compile("string to sign", re.I), "a%2520b", "a%2Bb", "it must be %20"),
        "V3": (re.compile("canonical request", re.I), "ClientToken", "clienttoken", "capitals matter"),
    }[version]
    ours = page.get_by_role("listitem").filter(has_text=right).get_by_role("region", name=title).first.inner_text()
    assert ours.count(right) == 1
    page.get_by_label("Your string to sign, or canonical request").fill(ours.replace(right, wrong))
    page.get_by_role("button", name="Compare").click()

    # The first byte that differs, and which rule it breaks
    at = ours.index(right) + next(i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b)
    expect(page.locator("#compared")).to_contain_text(f"They part at byte {at}")
    marks = page.locator("#compared mark")
    expect(marks).to_have_count(2)
    expect(page.locator("#compared strong")).to_contain_text(rule)
    if script:
        window.look(f"explorer-wrong-{version.lower()}", TWO_VIEWS if version == "V1" else (), phone_from="#shown")

    # The right one is found right
    page.get_by_label("Your string to sign, or canonical request").fill(ours)
    page.get_by_role("button", name="Compare").click()
    expect(page.locator("#compared")).to_contain_text("equal, byte by byte")


def test_a_call_without_script(opening: Opening, exploring: tuple[Station, str]) -> None:
    station, cluster_id = exploring
    window = opening(station.endpoint, java_script_enabled=False)
    page = window.page
    window.sign_in(station.access_key_id, station.access_key_secret, "/console/explorer/DescribeBackupHistory")
    page.get_by_label("DBClusterId").fill(cluster_id)
    page.get_by_role("button", name="Update").last.click()
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.locator(".badge", has_text="HTTP 200")).to_be_visible()
    expect(block(page, "Body of the answer")).to_contain_text("RequestId")
