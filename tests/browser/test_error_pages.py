"""The error center, by strangers and by those who signed in."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect
from window import Opening

from icecore.errors import ClusterNotFound
from station import Station


@pytest.fixture
def refused(serving: Station) -> str:
    """The RequestId of a call that found no such cluster."""
    with pytest.raises(ClusterNotFound):
        serving.call("CreateBackup", db_cluster_id="pc-nowhere")
    (call,) = serving.call("DescribeCalls", call_action="CreateBackup", max_results=1)["items"]["call"]
    return str(call["call_request_id"])


def test_a_code_is_found_by_a_word_of_its_message(opening: Opening, serving: Station) -> None:
    window = opening(serving.endpoint)
    page = window.page
    page.goto("/errors")
    window.look("errors")
    page.get_by_role("searchbox").fill("exceeding the daily backup times")
    page.get_by_role("button", name="Search").click()
    page.get_by_role("link", name="BackupTimesExceeded").click()
    page.wait_for_url("**/errors/BackupTimesExceeded")
    window.look("error")


def test_a_mistyped_code_leads_to_those_alike(opening: Opening, serving: Station) -> None:
    window = opening(serving.endpoint)
    window.announced.append(404)
    window.page.goto("/errors/BackupTimesExeeded")
    window.look("error-mistyped")
    window.page.get_by_role("link", name="BackupTimesExceeded").click()
    expect(window.page.get_by_role("heading", name="BackupTimesExceeded")).to_be_visible()


def test_a_request_id_is_looked_up_after_signing_in(opening: Opening, serving: Station, refused: str) -> None:
    window = opening(serving.endpoint)
    page = window.page
    page.goto("/errors")
    page.get_by_role("searchbox").fill(refused)
    page.keyboard.press("Enter")

    # A stranger learns nothing of the call
    expect(page.get_by_text("Calls are shown to those who signed in.")).to_be_visible()
    expect(page.get_by_text("pc-nowhere")).to_have_count(0)
    page.get_by_role("link", name="Sign in and look it up").click()
    page.get_by_label("AccessKeyId").fill(serving.access_key_id)
    page.get_by_label("AccessKeySecret").fill(serving.access_key_secret)
    page.get_by_role("button", name="Sign in").click()

    # The call, its verdict, and what it means
    expect(page.get_by_role("heading", name=f"The call {refused}")).to_be_visible()
    expect(page.get_by_text("pc-nowhere")).to_be_visible()
    expect(page.get_by_role("heading", name="What to do")).to_be_visible()
    window.look("error-request")

    # What nobody called
    page.get_by_role("searchbox").fill(refused.translate(str.maketrans("0123456789ABCDEF", "123456789ABCDEF0")))
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("There is no call with this RequestId that you may see.")).to_be_visible()


def test_without_script(opening: Opening, serving: Station, refused: str) -> None:
    window = opening(serving.endpoint, java_script_enabled=False)
    window.sign_in(
        serving.access_key_id, serving.access_key_secret, f"/errors/InvalidDBClusterId.NotFound?RequestId={refused}"
    )
    expect(window.page.get_by_role("heading", name=f"The call {refused}")).to_be_visible()
