"""The Explorer's form while somebody types: the page follows, and nothing that was typed is lost."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect
from window import Opening, Window

from station import Station


@pytest.fixture
def visitor(opening: Opening, serving: Station) -> Window:
    window = opening(serving.endpoint)
    window.sign_in(serving.access_key_id, serving.access_key_secret, "/console/explorer")
    return window


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.id"))


def test_the_form_grows_and_shrinks_under_the_hand(visitor: Window) -> None:
    page = visitor.page
    page.goto("/console/explorer/DescribeDBClusters?tab=signature")

    # A filled row brings another one, while the next field is being typed in
    page.get_by_label("Tag.1.Key").fill("team")
    page.get_by_label("Tag.1.Key").press("Tab")
    page.keyboard.type("sh")
    expect(page.get_by_label("Tag.2.Key")).to_be_visible()
    page.keyboard.type("op & co")
    assert focused(page) == "f-Tag-1-Value"
    page.keyboard.press("Tab")
    expect(page.get_by_role("region", name="Canonical query")).to_have_text(
        "Tag.1.Key=team&Tag.1.Value=shop%20%26%20co"
    )

    # Optional fields go and come back, what stands in one stays
    page.get_by_label("Required only").check()
    expect(page.get_by_label("RegionId")).to_have_count(0)
    expect(page.get_by_label("Tag.1.Value")).to_have_value("shop & co")
    assert focused(page) == "required"
    page.get_by_label("Required only").uncheck()
    expect(page.get_by_label("RegionId")).to_be_visible()

    # Wrong is told at the field, and right takes it back
    page.get_by_label("PageNumber").fill("first")
    page.get_by_label("PageNumber").press("Tab")
    expect(page.locator(".wrong")).to_have_text("✕ The specified parameter PageNumber is not valid.")
    page.get_by_label("PageNumber").fill("1")
    page.get_by_label("PageNumber").press("Tab")
    expect(page.locator(".wrong")).to_have_count(0)


def test_call_right_after_typing_sends_what_was_typed(visitor: Window) -> None:
    page = visitor.page
    page.goto("/console/explorer/CancelJob")
    page.get_by_label("JobId").fill("12345")
    page.get_by_role("button", name="Call…").click()
    expect(page.get_by_role("heading", name="Call CancelJob?")).to_be_visible()
    expect(page.get_by_role("region", name="The request that will be sent")).to_contain_text("JobId=12345")
    # Enter must not agree by accident
    assert focused(page) == "ask"
    page.get_by_role("button", name="Yes, call it").click()
    expect(page.get_by_role("main")).to_contain_text("InvalidBackupJobId.NotFound")
    # The address is that of the answer
    page.wait_for_url("**/CancelJob?p.JobId=12345&tab=response")
    page.reload()
    expect(page.get_by_role("heading", name="Your last call of it")).to_be_visible()


def test_a_format_chosen_beside_the_answer_is_that_of_the_form(visitor: Window) -> None:
    page = visitor.page
    page.goto("/console/explorer/DescribeRegions?tab=response")
    page.get_by_label("Format of the answer").get_by_role("link", name="XML").click()
    expect(page.get_by_label("Answer", exact=True)).to_have_value("XML")
    page.get_by_role("button", name="Call", exact=True).click()
    expect(page.get_by_role("region", name="Body of the answer")).to_contain_text("<DescribeRegionsResponse>")
    page.get_by_label("Signature", exact=True).select_option("V1")
    page.wait_for_url("**version=V1&format=XML**")
    page.get_by_label("Tabs").get_by_role("link", name="Signature").click()
    expect(page.get_by_role("region", name="String to sign")).to_contain_text("Format%3DXML")


def test_what_may_be_secret_never_reaches_the_address(visitor: Window) -> None:
    page = visitor.page
    page.goto("/console/explorer/RegisterDBCluster")
    page.get_by_label("ConnectionString").fill("host=/nowhere application_name=quiet")
    page.get_by_label("ConnectionString").press("Tab")
    page.get_by_label("Tabs").get_by_role("button", name="Signature").click()
    expect(page.get_by_role("heading", name="Signature V3, step by step")).to_be_visible()
    expect(page.get_by_role("region", name="The request", exact=True)).to_contain_text("application_name%3Dquiet")
    assert "quiet" not in page.url
    expect(page.get_by_label("ConnectionString")).to_have_value("host=/nowhere application_name=quiet")


def test_a_step_is_copied(visitor: Window) -> None:
    visitor.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = visitor.page
    page.goto("/console/explorer/DescribeRegions?tab=signature&version=V1")
    shown = page.get_by_role("region", name="String to sign").inner_text()
    page.get_by_role("button", name="Copy: String to sign").click()
    assert page.evaluate("navigator.clipboard.readText()") == shown
