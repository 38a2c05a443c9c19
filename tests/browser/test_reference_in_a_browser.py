"""The API reference in a real browser: accessible, no wider than a phone, and of use without script and server."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from window import PHONE, ROOT, Opening

sys.path.insert(0, str(ROOT / "scripts"))

from reference import exchanges, site

LOOKED_AT = ("index", "CreateBackup", "DescribeDBClusters", "signing", "conventions", "errors")
PICTURED = ("index", "CreateBackup", "signing")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("reference")
    for name, text in site.pages(exchanges.read(ROOT / "tests" / "vectors" / "reference")).items():
        (place / name).write_text(text, encoding="utf-8")
    return place


@pytest.fixture
def home(written: Path) -> Iterator[str]:
    """The pages over HTTP: axe reads the style sheet, which a browser does not allow from a disk."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(written))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_pages_are_accessible_in_light_and_dark(opening: Opening, home: str, tmp_path: Path) -> None:
    window = opening(home)
    found = []
    for name in LOOKED_AT:
        window.page.emulate_media(color_scheme="light")
        window.page.goto(f"/{name}.html")
        if name in PICTURED:
            window.picture(f"reference-{name.lower()}", tmp_path)
        window.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        found += [f"{name}: {each}" for each in window.axe()]
        window.page.emulate_media(color_scheme="dark")
        found += [f"{name} dark: {each}" for each in window.axe("color-contrast")]
    assert found == []


def test_no_page_is_wider_than_a_phone(opening: Opening, written: Path, tmp_path: Path) -> None:
    window = opening("file://", viewport=PHONE)
    for path in sorted(written.glob("*.html")):
        window.page.goto(f"file://{path}")
        window.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
        wide = window.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], (path.name, wide)
        assert path.stat().st_size < 100_000, path.name
    window.page.emulate_media(color_scheme="dark")
    window.page.goto(f"file://{written}/CreateBackup.html")
    window.picture("reference-createbackup-phone-dark", tmp_path)


def test_a_person_goes_from_the_list_to_the_cause_of_a_refusal(opening: Opening, written: Path) -> None:
    page = opening("file://", java_script_enabled=False).page
    page.goto(f"file://{written}/index.html")
    page.get_by_role("main").get_by_role("link", name="CreateBackup", exact=True).click()
    page.get_by_role("main").get_by_role("link", name="BackupTimesExceeded").click()
    assert page.url.endswith("/errors.html#BackupTimesExceeded")
    assert page.get_by_text("Exceeding the daily backup times").first.is_visible()
