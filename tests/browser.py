"""A page in headless Chromium."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def opened(path: Path, width: int = 1200) -> Iterator[Page]:
    """The file at `path`, without a network; fails for what the page writes to the console or cannot load.

    Where no Chromium is installed the test is skipped, but not on CI.
    """
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None and not os.environ.get("CI"):
        pytest.skip(f"needs one of {', '.join(NAMES)}")
    assert program, "CI installs Chromium"
    complaints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.goto(path.as_uri())
        yield page
        browser.close()
    assert not complaints
