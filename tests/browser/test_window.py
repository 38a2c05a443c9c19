"""The window itself: on pages with deliberate faults it notes each, on a clean one nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from playwright.sync_api import Browser
from window import PICTURE_BYTES, PICTURE_HEIGHT, WIDE, Window

POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'"
PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title>
<meta name="viewport" content="width=device-width"><link rel="stylesheet" href="/style.css"></head>
<body><main><h1>A page</h1>%s</main></body></html>"""


class Pages(BaseHTTPRequestHandler):
    """Each path is a page with one fault."""

    bodies: ClassVar[dict[str, str]] = {
        "/clean": """<p>Black on white.</p>
            <div class='box' tabindex='0'><div class='wide'>Wider than a phone, but scrolls in its box.</div></div>""",
        "/tall": "<p class='tall'>Goes on and on.</p>",
        "/faint": "<p class='faint'>Grey on white.</p>",
        "/drawn": "<svg role='img' aria-label='A word'><text y='20' fill='#999'>Grey on white.</text></svg>",
        "/nightly": "<p class='nightly'>Faint by night only.</p>",
        "/unlabelled": "<form><input type='text'></form>",
        "/inline": "<p style='color: red'>Styled here.</p>",
        "/script": "<script>document.title = 'changed'</script><p>Scripted here.</p>",
        "/foreign": "<img src='http://elsewhere.example/a.png' alt=''>",
        "/wide": "<div class='wide'>Wider than a phone.</div>",
        "/broken": "<script src='/broken.js'></script>",
        "/asking": "<script src='/asking.js'></script>",
        "/gone": "<img src='/none.png' alt=''>",
        "/heavy": "<p hidden>" + "x" * 50_000 + "</p>",
    }
    files: ClassVar[dict[str, tuple[str, str]]] = {
        "/style.css": (
            "text/css",
            """.faint { color: #aaa; background: #fff } .wide { width: 1000px } .tall { height: 9000px }
            .box { overflow-x: auto }
            @media (prefers-color-scheme: dark) {
                body { color: #eee; background: #111 } .nightly { color: #333; background: #000 }
            }""",
        ),
        "/broken.js": ("text/javascript", "nothing.here()"),
        "/asking.js": ("text/javascript", "alert('?')"),
    }

    def do_GET(self) -> None:
        kind, text = self.files.get(self.path, ("text/html", PAGE % self.bodies.get(self.path, "Nothing is here.")))
        body = text.encode()
        self.send_response(200 if self.path in self.bodies or self.path in self.files else 404)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-security-policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def seen(browser: Browser, pages: str, path: str) -> list[str]:
    window = Window.open(browser, pages)
    window.page.goto(path)
    window.look("seen", keep=())
    return window.close()


def test_a_clean_page_is_not_complained_of(browser: Browser, pages: str) -> None:
    assert seen(browser, pages, "/clean") == []


def test_a_picture_is_small_and_cut_where_a_page_goes_on(browser: Browser, pages: str, tmp_path: Path) -> None:
    window = Window.open(browser, pages)
    sizes = {}
    for path in ("/clean", "/tall"):
        window.page.goto(path)
        window.picture(path[1:], tmp_path)
        content = (tmp_path / f"{path[1:]}.webp").read_bytes()
        assert content[8:16] == b"WEBPVP8X"
        sizes[path] = [int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27)]
        assert len(content) < PICTURE_BYTES
    assert sizes["/tall"] == [WIDE["width"], PICTURE_HEIGHT]
    assert sizes["/clean"][1] <= WIDE["height"]
    assert window.close() == []


@pytest.mark.parametrize(
    ("path", "complaints"),
    [
        ("/faint", ["wide light: violations color-contrast", "wide dark: violations", "phone light: violations"]),
        ("/nightly", ["wide dark: violations color-contrast"]),
        ("/drawn", ["wide light: faint in a picture: Grey on white. 2.85"]),
        ("/unlabelled", ["violations label"]),
        ("/wide", ["phone light: sticks out: DIV.wide", "scrolls sideways"]),
    ],
)
def test_each_fault_of_appearance_is_noted(browser: Browser, pages: str, path: str, complaints: list[str]) -> None:
    found = "\n".join(seen(browser, pages, path))
    for complaint in complaints:
        assert complaint in found
    assert ("light" in found) == (path != "/nightly")


@pytest.mark.parametrize(
    ("path", "complaints"),
    [
        ("/inline", ["CSP style-src-attr inline"]),
        ("/script", ["CSP script-src-elem inline"]),
        ("/foreign", ["another host: http://elsewhere.example/a.png", "CSP img-src http://elsewhere.example/a.png"]),
        ("/broken", ["script error: nothing is not defined"]),
        ("/asking", ["dialog: ?"]),
        ("/gone", ["404 GET", "/none.png"]),
        ("/nowhere", ["404 GET", "/nowhere"]),
    ],
)
def test_each_fault_of_behaviour_is_noted(browser: Browser, pages: str, path: str, complaints: list[str]) -> None:
    window = Window.open(browser, pages)
    window.page.goto(path)
    found = "\n".join(window.close())
    for complaint in complaints:
        assert complaint in found


def test_announced_refusals_are_not_faults_and_must_come(browser: Browser, pages: str) -> None:
    window = Window.open(browser, pages)
    window.announced += [404, 409]
    window.page.goto("/nowhere")
    assert window.close() == ["status 409 was announced and never came"]


def test_weight_and_first_paint(browser: Browser, pages: str) -> None:
    window = Window.open(browser, pages)
    light, heavy = window.weigh("/clean"), window.weigh("/heavy")
    assert 500 < light < 3000
    assert 49_500 <= heavy - light < 50_500
    assert window.weigh("/clean") == light
    assert 0 < window.first_paint_s() < 5
    assert window.close() == []


def test_pages_are_seen_without_script(browser: Browser, pages: str) -> None:
    """The policy's breaches are noted there too, by the browser's own word."""
    window = Window.open(browser, pages, java_script_enabled=False)
    window.page.goto("/broken")
    window.page.goto("/inline")
    faults = window.close()
    assert len(faults) == 1
    assert "Content Security Policy" in faults[0]
    assert "style" in faults[0]
