"""Chromium for the tests, which also take the pictures of the documentation (``make screenshots``)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect, sync_playwright

TakePicture = Callable[[Page | Locator, str], None]

FLAGS = (
    "--no-sandbox",  # CI runs as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)
TIMEOUT = 300_000.0
"""Milliseconds until an element must be visible. It takes 1 to 5 s, and more than 20 s on a busy machine."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--screenshots", metavar="DIR", type=Path, help="write the pictures of the documentation to this folder"
    )


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page in headless chromium, for one module. Playwright's event loop blocks other event loops in this thread."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=chromium, args=FLAGS) as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 720}, locale="en-US", timezone_id="UTC")
        page.set_default_timeout(TIMEOUT)
        yield page


@pytest.fixture
def take_picture(page: Page, request: pytest.FixtureRequest) -> TakePicture:
    """Write a PNG of a page, or of a part of it, to the folder of ``--screenshots``, if that is set."""
    folder: Path | None = request.config.getoption("--screenshots", default=None)

    def take(part: Page | Locator, name: str) -> None:
        if folder is not None:
            page.mouse.move(0, 0)  # no tooltips
            page.evaluate("document.activeElement?.blur()")
            part.screenshot(path=folder / f"{name}.png", animations="disabled")

    return take
