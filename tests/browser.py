"""A page in headless Chromium: a file without a network, or a notebook in JupyterLab."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Where no Chromium is installed the test is skipped, but not on CI."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None and not os.environ.get("CI"):
        pytest.skip(f"needs one of {', '.join(NAMES)}")
    assert program, "CI installs Chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(path: Path, width: int = 1200) -> Iterator[Page]:
    """The file at `path`, without a network; fails for what the page writes to the console or cannot load."""
    complaints = []
    with chromium() as browser:
        page = browser.new_context(viewport={"width": width, "height": 900}, offline=True).new_page()
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
        page.goto(path.as_uri())
        yield page
    assert not complaints


@contextmanager
def jupyterlab(folder: Path) -> Iterator[Page]:
    """JupyterLab on `folder`, whose notebooks can be opened by `run_notebook`."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = (
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--IdentityProvider.token=",
    )
    options += (f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True")
    private = {
        name: str(folder / ".jupyter") for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
    }
    with open(folder / "server.log", "w") as log, chromium() as browser:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=os.environ | private, stderr=log)
        try:
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            while True:
                assert server.poll() is None, (folder / "server.log").read_text()
                with suppress(Error):  # nobody listens yet
                    page.goto(f"http://127.0.0.1:{port}/lab")
                    break
                time.sleep(0.5)
            yield page
        finally:
            server.terminate()
            server.wait()


def run_notebook(page: Page, name: str) -> None:
    """Open a notebook in the JupyterLab of `page` and run all its cells."""
    page.wait_for_function("window.jupyterapp")
    page.evaluate(
        """async name => {
            const app = window.jupyterapp;
            await app.restored;
            const notebook = await app.commands.execute("docmanager:open", {path: name, factory: "Notebook"});
            await notebook.context.ready;
            await notebook.sessionContext.ready;
            await app.commands.execute("notebook:run-all-cells");
        }""",
        name,
    )
