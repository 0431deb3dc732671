"""The site of `make docs` as a reader meets it: all links, and all pages in a browser, offline and on a phone."""

import re
import subprocess
import sys
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
    report = folder / "runs" / "demo" / "report"
    report.mkdir(parents=True)
    (report / "index.html").write_text(
        "<!doctype html><title>Report</title><meta name='color-scheme' content='dark light'>"
    )
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "-q",
        "-c",
        "docs",
        "-d",
        folder / "doctrees",
        ".",
        folder / "site",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NERVECEG_RUNS", str(folder / "runs"))
        subprocess.run(command, cwd=REPOSITORY, check=True)
    return folder / "site"


def test_the_site_has_all_pages_and_every_link_resolves(site):
    texts = {path.resolve(): path.read_text() for path in site.rglob("*.html")}
    ids = {path: set(re.findall(r'\sid="([^"]+)"', text)) for path, text in texts.items()}
    for path, text in texts.items():
        for link in re.findall(r'\s(?:href|src)="([^"]+)"', text):
            url = urlsplit(link.replace("&amp;", "&"))
            if not url.scheme:
                target = (path.parent / unquote(url.path)).resolve() if url.path else path
                assert target.is_file(), f"{path}: {link}"
                assert not url.fragment or unquote(url.fragment) in ids[target], f"{path}: {link}"
            assert not url.scheme or not re.search(rf'<(?:script|img|link)[^>]*"{re.escape(link)}"', text), link
    sources = {path.stem for path in (REPOSITORY / "docs").glob("*.md")} | {*NOTEBOOKS, *STUDIES, "index"}
    modules = {
        ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
        for path in (REPOSITORY / "nerveceg_lib").rglob("[!_]*.py")
    }
    assert sources | modules <= {path.name.removesuffix(".html") for path in texts}
    start = (site / "index.html").read_text()
    pages = [*(f"notebooks/{name}" for name in NOTEBOOKS), "docs/api/index", "benchmarks/README", "report/index"]
    assert all(f'href="{page}.html"' in start for page in pages)


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
            assert page.locator("math").count() >= 20 and "$" not in page.locator("article p").all_inner_texts()
            ink, paper = (int(re.findall(r"\d+", colour)[0]) for colour in page.evaluate(STYLE))
            assert (ink < 80 < paper) if scheme == "light" else (paper < 80 < ink)


def test_the_search_finds_a_loss(site):
    with opened(site / "index.html") as page:
        page.locator("input[name=q]").first.fill("Lovasz")
        page.keyboard.press("Enter")
        page.locator("#search-results a", has_text="lovasz_hinge").click()
        assert page.url.endswith("/docs/api/nerveceg_lib.losses.html#nerveceg_lib.losses.lovasz_hinge")
        assert "Berman" in page.locator("dd", has_text="Lovasz").first.inner_text()
