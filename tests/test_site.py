"""The site of `make docs` as a reader meets it: all links, and all pages in a browser, offline and on a phone."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES
from tests.browser import opened
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
LOADED = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
STYLE = "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site with a report of one page; a warning of Sphinx is an error."""
    folder = tmp_path_factory.mktemp("docs")
    unread = shutil.ignore_patterns(".*", "api", "build", "data", "nerveceg_*", "runs", "site")
    source = shutil.copytree(REPOSITORY, folder / "source", ignore=unread)  # a build writes to docs/api/
    report = folder / "runs" / "demo" / "report"
    report.mkdir(parents=True)
    (report / "index.html").write_text(
        "<!doctype html><meta name=viewport content=width=device-width><title>Report</title>"
    )
    options = ["-m", "sphinx", "-W", "-q", "-c", "docs", "-d"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NERVECEG_RUNS", str(folder / "runs"))
        subprocess.run([sys.executable, *options, folder / "doctrees", ".", folder / "site"], cwd=source, check=True)
    return folder / "site"


def test_every_link_resolves_and_nothing_is_loaded_from_elsewhere(site):
    texts = {path: path.read_text() for path in site.rglob("*.html")}
    anchors = {path: set(re.findall(r'\sid="([^"]+)"', text)) for path, text in texts.items()}
    for path, text in texts.items():
        assert not re.search(r'<(?:script|img|link|iframe)\b[^>]*"(?:https?:)?//', text), path
        for link in re.findall(r'\s(?:href|src)="([^"]+)"', text):
            url = urlsplit(link)
            if not url.scheme:
                target = Path(os.path.normpath(path.parent / unquote(url.path))) if url.path else path
                assert target.is_file(), f"{path}: {link}"
                assert not url.fragment or unquote(url.fragment) in anchors[target], f"{path}: {link}"


def test_every_source_has_a_page(site):
    library = (path.relative_to(REPOSITORY).with_suffix("") for path in REPOSITORY.glob("nerveceg_lib/**/[!_]*.py"))
    guides = (path.stem for path in (REPOSITORY / "docs").glob("*.md"))
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    notebooks = {f"notebooks/{name}" for name in (*NOTEBOOKS, *STUDIES)}
    others = {"docs/api/index", "benchmarks/README", "report/index"}
    assert notebooks | others | {f"docs/{name}" for name in guides} <= pages
    assert {f"docs/api/{'.'.join(path.parts)}" for path in library} <= pages
    start = (site / "index.html").read_text()
    assert [page for page in notebooks | others if f'href="{page}.html"' not in start] == []


def test_every_page_shows_offline_and_is_no_wider_than_a_phone(site):
    with opened(site / "index.html", width=390) as page:
        for path in sorted(site.rglob("*.html")):
            page.goto(path.as_uri())
            page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
            page.wait_for_function(LOADED)
            assert page.evaluate("document.documentElement.scrollWidth") == 390, path
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.goto((site / "notebooks" / f"{NOTEBOOKS[3]}.html").as_uri())
            assert page.locator("math").count() >= 20 and "$" not in "".join(page.locator("p").all_inner_texts())
            for width in (390, 1200, 1600, 1800):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") == width
            ink, paper = (int(re.findall(r"\d+", colour)[0]) for colour in page.evaluate(STYLE))
            assert (ink < 80 < paper) if scheme == "light" else (paper < 80 < ink)


def test_the_search_finds_a_loss(site):
    with opened(site / "index.html") as page:
        page.locator("input[name=q]").first.fill("Lovasz")
        page.keyboard.press("Enter")
        page.locator("#search-results a", has_text="lovasz_hinge").click()
        assert page.url.endswith("/docs/api/nerveceg_lib.losses.html#nerveceg_lib.losses.lovasz_hinge")
        assert "Berman" in page.locator("dd", has_text="Lovasz").first.inner_text()
