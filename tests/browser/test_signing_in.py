"""Who comes in: by key, by a link that works once, with and without script; and who does not."""

from __future__ import annotations

from playwright.sync_api import expect
from window import Opening

from station import Station


def test_by_access_key_to_the_page_that_was_wanted_and_out_again(opening: Opening, serving: Station) -> None:
    window = opening(serving.endpoint)
    page = window.page

    # A page that is not for strangers asks who comes, and leads on afterwards
    page.goto("/console?unknown=1")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_label("AccessKeyId")).to_be_focused()
    window.look("sign-in")
    page.get_by_label("AccessKeyId").fill(serving.access_key_id)
    page.get_by_label("AccessKeySecret").fill(serving.access_key_secret)
    page.keyboard.press("Enter")
    page.wait_for_url("**/console?unknown=1")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()

    # The cookie is out of reach for scripts and other sites, and the secret is nowhere on the page
    (cookie,) = window.context.cookies()
    assert cookie["httpOnly"] is True
    assert cookie["sameSite"] == "Lax"
    assert page.evaluate("document.cookie") == ""
    assert serving.access_key_secret not in page.content()

    # Out again: neither the way back nor the old cookie shows anything
    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url("**/console/sign-in")
    page.go_back()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    window.context.add_cookies([{"name": cookie["name"], "value": cookie["value"], "url": serving.endpoint}])
    page.goto("/console")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_a_wrong_secret_is_refused_and_says_what_to_do(opening: Opening, serving: Station) -> None:
    window = opening(serving.endpoint)
    window.announced.append(404)
    window.page.goto("/console/sign-in")
    window.page.get_by_label("AccessKeyId").fill(serving.access_key_id)
    window.page.get_by_label("AccessKeySecret").fill("wrong")
    window.page.get_by_role("button", name="Sign in").click()
    refusal = window.page.get_by_role("alert")
    expect(refusal).to_contain_text("do not belong together")
    expect(refusal.get_by_role("link")).to_have_attribute("href", "/errors/InvalidAccessKeyId.NotFound")
    assert window.context.cookies() == []
    window.look("sign-in-refused")


def test_by_keyboard_alone(opening: Opening, serving: Station) -> None:
    window = opening(serving.endpoint)
    page = window.page
    page.goto("/console/sign-in")
    expect(page.get_by_label("AccessKeyId")).to_be_focused()
    page.keyboard.type(serving.access_key_id)
    page.keyboard.press("Tab")
    page.keyboard.type(serving.access_key_secret)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()

    # The first stop leads past the menu
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_without_script(opening: Opening, serving: Station) -> None:
    window = opening(serving.endpoint, java_script_enabled=False)
    window.sign_in(serving.access_key_id, serving.access_key_secret)
    expect(window.page.get_by_role("heading", name="Overview")).to_be_visible()
    window.page.get_by_role("button", name="Sign out").click()
    expect(window.page.get_by_role("heading", name="Sign in")).to_be_visible()


def test_the_sign_in_page_is_light_and_soon_there(opening: Opening, serving: Station) -> None:
    window = opening(serving.endpoint)
    assert window.weigh("/console/sign-in") < 100_000
    assert window.first_paint_s() < 1


def test_a_link_from_the_command_line_works_once(opening: Opening, serving: Station) -> None:
    link = serving.icecore("console").strip().splitlines()[0]
    assert link.startswith(serving.endpoint + "/console/sign-in?link=")
    window = opening(serving.endpoint)
    window.page.goto(link)
    window.look("sign-in-by-link")
    window.page.get_by_role("button", name="Sign in by this link").click()
    expect(window.page.get_by_role("heading", name="Overview")).to_be_visible()
    assert "link=" not in window.page.url

    # Somebody who finds it later in a mail or a history gets nowhere
    later = opening(serving.endpoint)
    later.page.goto(link)
    later.announced.append(403)
    later.page.get_by_role("button", name="Sign in by this link").click()
    expect(later.page.get_by_role("alert")).to_be_visible()
    assert later.context.cookies() == []
