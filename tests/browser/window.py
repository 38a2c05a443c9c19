"""A browser window that keeps account: whatever a page should never do is noted and fails the test when it closes.

Noted are errors and warnings in the browser's console (a blocked style or script is one), script errors, breaches of
the Content-Security-Policy, requests that failed, answers of 400 and above that the test did not announce, and any
request to another host than the server's.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    CDPSession,
    Dialog,
    Error,
    Page,
    Request,
    Response,
    ViewportSize,
)

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / "tests" / "live" / "node" / "node_modules" / "axe-core" / "axe.min.js"
PICTURES = ROOT / "docs" / "pictures"
WIDE: ViewportSize = {"width": 1280, "height": 800}
PHONE: ViewportSize = {"width": 360, "height": 780}  # console.md: every page works at 360 px
PICTURE_HEIGHT = 1200  # taller pages are cut in their picture
TWO_VIEWS = ("wide-light", "phone-dark")  # all pictures together stay below 4 MB
ALL_VIEWS = ("wide-light", "wide-dark", "phone-light", "phone-dark")
PICTURE_BYTES = 120_000
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
WIDTH_RULES = ("color-contrast", "target-size", "scrollable-region-focusable", "link-in-text-block")  # width decides

# Runs before the page's own scripts, in every document
_TELL = "addEventListener('securitypolicyviolation', e => console.error(`CSP ${e.violatedDirective} ${e.blockedURI}`))"
_RUN_AXE = """async ([tags, rules]) => {
    const only = rules.length ? {type: 'rule', values: rules} : {type: 'tag', values: tags};
    const found = await axe.run(document, {runOnly: only, resultTypes: ['violations', 'incomplete']});
    const reasons = node => node.any.concat(node.all, node.none).map(check => check.message).join('; ');
    const told = kind => found[kind].flatMap(rule => rule.nodes.slice(0, 3).map(node =>
        `${kind} ${rule.id} (${rule.nodes.length}): ${node.target.join(' ')}: ${reasons(node)}`));
    // What axe cannot compute counts as well, but not that it cannot read a sign that hides from screen readers
    const unsure = told('incomplete').filter(line => line.startsWith('incomplete color-contrast'));
    // (text in a picture it leaves to _FAINT_IN_PICTURES)
    const fine = line => /only non-text characters|contains an image node/.test(line);
    return told('violations').concat(unsure.filter(line => !fine(line)));
}"""
# Words in a picture against the ground on which the picture stands
_FAINT_IN_PICTURES = """() => {
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = rgb => rgb.slice(0, 3).map(v => v / 255)
        .map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
    const ground = e => { const rgb = parse(getComputedStyle(e).backgroundColor);
        return rgb[3] !== 0 ? rgb : e.parentElement ? ground(e.parentElement) : [255, 255, 255]; };
    return [...document.querySelectorAll('svg text')].map(e => {
        const [a, b] = [light(parse(getComputedStyle(e).fill)), light(ground(e.ownerSVGElement.parentElement))];
        return [e, (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
    }).filter(([, ratio]) => ratio < 4.5)
        .map(([e, ratio]) => `faint in a picture: ${e.textContent} ${ratio.toFixed(2)}`);
}"""
_OPEN_DRAWERS = "document.querySelectorAll('details:not([open])').forEach(e => { e.open = e.wasShut = true; })"
_CLOSE_DRAWERS = "document.querySelectorAll('details').forEach(e => { if (e.wasShut) e.open = e.wasShut = false; })"
# Elements that stick out of the window, the outermost first; those inside a box that scrolls by itself are its content
_STICK_OUT = """() => {
    const wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= wide) return [];
    return [...document.body.querySelectorAll('*')].filter(e => {
        if (e.getBoundingClientRect().right <= wide + 1) return false;
        for (let up = e.parentElement; up && up !== document.body; up = up.parentElement)
            if (getComputedStyle(up).overflowX !== 'visible') return false;
        return true;
    }).slice(0, 5).map(e => `sticks out: ${e.tagName}.${e.className} to ${Math.round(e.getBoundingClientRect().right)}`)
        .concat([`scrolls sideways: ${document.documentElement.scrollWidth} of ${wide}`]);
}"""


@dataclass
class Window:
    """One page in a context of its own. ``home`` is the only origin that it may talk to."""

    context: BrowserContext
    page: Page
    home: str
    faults: list[str] = field(default_factory=list)
    announced: list[int] = field(default_factory=list)  # statuses >= 400 that the test is going to see
    received_bytes: int = 0
    _protocol: CDPSession | None = None

    @classmethod
    def open(cls, browser: Browser, home: str, **options: Any) -> Self:
        """``options``: Playwright's, for the context (``java_script_enabled``, ``color_scheme`` and so on)."""
        context = browser.new_context(base_url=home, **{"viewport": WIDE, "locale": "en-GB", **options})
        context.set_default_timeout(10_000)
        if options.get("java_script_enabled", True):
            context.add_init_script(_TELL)
        page = context.new_page()
        window = cls(context, page, home)
        window._watch()
        return window

    def close(self) -> list[str]:
        """What was noted; the context is gone afterwards."""
        self.context.close()
        return [*self.faults, *(f"status {status} was announced and never came" for status in self.announced)]

    # ------------------------------------------------------------ watching

    def _watch(self) -> None:
        protocol = self._protocol = self.context.new_cdp_session(self.page)
        protocol.send("Network.enable")
        protocol.on("Network.loadingFinished", self._finished)
        self.page.on("console", lambda said: self._note_console(said.type, said.text))
        self.page.on("pageerror", self._note_error)
        self.page.on("request", self._note_request)
        self.page.on("requestfailed", self._note_failure)
        self.page.on("response", self._note_response)
        self.page.on("dialog", self._note_dialog)

    def _finished(self, event: dict[str, Any]) -> None:
        self.received_bytes += int(event["encodedDataLength"])

    def _note_error(self, error: Error) -> None:
        self.faults.append(f"script error: {error}")

    def _note_dialog(self, dialog: Dialog) -> None:
        self.faults.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_console(self, kind: str, text: str) -> None:
        # The browser logs each status of 400 and above too; those are judged in _note_response
        if kind in ("error", "warning") and not text.startswith("Failed to load resource: the server responded"):
            self.faults.append(f"console {kind}: {text}")

    def _note_request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("about", "data", "blob") and f"{parts.scheme}://{parts.netloc}" != self.home:
            self.faults.append(f"another host: {request.url}")

    def _note_failure(self, request: Request) -> None:
        # Leaving a page ends its event stream, and a download is no page
        if request.failure != "net::ERR_ABORTED":
            self.faults.append(f"request failed: {request.url} {request.failure}")

    def _note_response(self, response: Response) -> None:
        if response.status < 400:
            return
        if response.status in self.announced:
            self.announced.remove(response.status)
        else:
            self.faults.append(f"{response.status} {response.request.method} {response.url}")

    # ------------------------------------------------------------ signing in

    def sign_in(self, access_key_id: str, secret: str, to: str = "/console") -> None:
        """By the form, as a person does; ends on the page ``to``."""
        self.page.goto(f"/console/sign-in?next={quote(to, safe='')}")
        self.page.get_by_label("AccessKeyId").fill(access_key_id)
        self.page.get_by_label("AccessKeySecret").fill(secret)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(self.home + to)

    # ------------------------------------------------------------ measuring

    def weigh(self, path: str) -> int:
        """Bytes over the wire, headers included, for the page and all it loads, with nothing cached."""
        assert self._protocol is not None
        self._protocol.send("Network.setCacheDisabled", {"cacheDisabled": True})
        self.page.goto("about:blank")
        self.received_bytes = 0
        self.page.goto(path, wait_until="load")
        self.page.wait_for_timeout(50)  # the last "finished" comes after "load"
        self._protocol.send("Network.setCacheDisabled", {"cacheDisabled": False})
        return self.received_bytes

    def first_paint_s(self) -> float:
        """From the click to the first content on the screen, of the page that is shown."""
        found = self.page.wait_for_function(
            "() => performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)[0]"
        ).json_value()
        return float(found) / 1000

    # ------------------------------------------------------------ looking

    def axe(self, *rules: str) -> list[str]:
        """What axe finds in the page as it stands: every rule of WCAG A and AA and its best practice, or ``rules``."""
        if not self.page.evaluate("typeof axe === 'object'"):
            self.page.evaluate(AXE.read_text() + "; 0")
        return list(self.page.evaluate(_RUN_AXE, [RULES, list(rules)]))

    def look(self, name: str, keep: Sequence[str] = TWO_VIEWS, *, phone_from: str = "body") -> None:
        """Judge the page, wide and on a phone, light and dark, with every drawer open; with ``ICECORE_UPDATE=1``
        ``keep`` pictures of it as it is, a phone's from that element on. Leaves the window wide and light."""
        self.page.evaluate("scrollTo(0, 0)")
        for shape, size in (("wide", WIDE), ("phone", PHONE)):
            self.page.set_viewport_size(size)
            for scheme in ("light", "dark"):
                self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                found = []
                if scheme == "light":
                    self.page.evaluate(_OPEN_DRAWERS)
                    found = self.axe(*(WIDTH_RULES if shape == "phone" else ())) + self.page.evaluate(_STICK_OUT)
                    self.page.evaluate(_CLOSE_DRAWERS)
                elif shape == "wide":  # colours are all that a scheme changes, and no shape does
                    found = self.axe("color-contrast")
                found += self.page.evaluate(_FAINT_IN_PICTURES)
                self.faults += [f"{name} {shape} {scheme}: {each}" for each in found]
                if f"{shape}-{scheme}" in keep and os.environ.get("ICECORE_UPDATE") == "1":
                    self.picture(f"{name}-{shape}-{scheme}", PICTURES, phone_from if shape == "phone" else "body")
        self.page.set_viewport_size(WIDE)
        self.page.emulate_media(color_scheme="light", reduced_motion="no-preference")

    def picture(self, name: str, into: Path, start: str = "body") -> None:
        """The page as WebP, from the top of the element ``start`` on."""
        assert self._protocol is not None
        assert re.fullmatch(r"[a-z0-9-]+", name)
        width, height, top = self.page.evaluate(
            """start => [innerWidth, document.documentElement.scrollHeight,
                         Math.floor(document.querySelector(start).getBoundingClientRect().top + scrollY)]""",
            start,
        )
        clip = {"x": 0, "y": top, "width": width, "height": min(height - top, PICTURE_HEIGHT), "scale": 1}
        made = self._protocol.send(
            "Page.captureScreenshot", {"format": "webp", "quality": 30, "clip": clip, "captureBeyondViewport": True}
        )
        content = base64.b64decode(made["data"])
        assert len(content) <= PICTURE_BYTES, f"{name} has {len(content)} bytes"
        into.mkdir(parents=True, exist_ok=True)
        (into / f"{name}.webp").write_bytes(content)


Opening = Callable[..., Window]  # the fixture that opens one: home, then Playwright's options for the context
