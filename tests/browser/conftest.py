"""A real browser before a real server: Debian's Chromium, driven by Playwright. No browser is ever downloaded.

Playwright keeps an event loop in the thread that uses it, which other tests' ``asyncio.run`` would trip over: a
browser therefore lives as long as a module.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright
from window import Opening, Window

import world
from station import Station

CHROMIUM = "/usr/bin/chromium"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    arguments = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--force-color-profile=srgb"]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


@pytest.fixture
def opening(browser: Browser) -> Iterator[Opening]:
    """``opening(home, **options)``: a window onto one server. What it noted fails the test."""
    windows: list[Window] = []

    def open_window(home: str, **options: Any) -> Window:
        windows.append(Window.open(browser, home, **options))
        return windows[-1]

    yield open_window
    noted = [fault for window in windows for fault in window.close()]
    assert not noted, "\n".join(noted)


@pytest.fixture(scope="session")
def serving() -> Iterator[Station]:
    """An installation without a cluster, for tests that leave it as it was but for its calls."""
    directory = world.new_place()
    with Station(directory) as station:
        yield station
    shutil.rmtree(directory, ignore_errors=True)
