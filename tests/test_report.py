"""A run as a static site, as a reader meets it: in a browser, from the file system, offline, on a desk and a phone."""

import re

import nbformat
import numpy as np
import pytest
from playwright.sync_api import expect

from nerveceg_lib import report, rle
from nerveceg_lib.__main__ import main
from nerveceg_lib.data import cache, index, source
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import write_csv, write_json
from nerveceg_lib.paths import STAGES, run_dir, stage_dir
from nerveceg_lib.runner import NOTEBOOKS
from tests.browser import opened

SHIFT = 40  # px by which the predicted masks are off


@pytest.fixture
def site(root, phantom):
    """The report of a run whose notebooks are the stored ones, and whose held-out predictions are of all four kinds."""
    frames = cache.open_cache(phantom, source.cache_dir(phantom), progress=False)
    table = index.split_patients(frames.index, 0.34, 2, seed=0)
    write_csv(stage_dir("toy", STAGES[0]) / "frames.csv", table)
    facts = {"data_dir": str(phantom), "cache": str(frames.folder), "name": "phantom, easy"}
    write_json(stage_dir("toy", STAGES[0]) / "dataset.json", facts)
    for stage in STAGES:
        notebook = nbformat.read(NOTEBOOKS / f"{stage}.ipynb", 4)
        nbformat.write(notebook, run_dir("toy") / f"{stage}.ipynb")
    heldout = table[table["split"] == "heldout"][["row", "subject", "image", "presence"]].reset_index(drop=True)
    heldout["drawn"] = heldout.index % 3 > 0
    masks = [
        np.roll(frames.masks[row] if p else frames.masks[0] | 1, SHIFT, 1)
        for row, p in heldout[["row", "presence"]].values
    ]
    heldout["pixels"] = [rle.encode(mask) for mask in masks]
    heldout["probability"] = np.linspace(0.01, 0.99, len(heldout))
    heldout["mask_dice"] = np.where(heldout["presence"] == 1, 0.5, 0.0)
    heldout["score"] = np.where(heldout["drawn"], heldout["mask_dice"], 1.0 - heldout["presence"])
    write_csv(stage_dir("toy", STAGES[3]) / "heldout.csv", heldout)
    assert main(["report", "toy"]) == 0
    return run_dir("toy") / "report", heldout


def column(page, name):
    place = page.locator("table.dataTable thead tr").first.locator("th").all_inner_texts().index(name)
    return page.locator("table.dataTable tbody tr").locator(f"td:nth-child({place + 1})").all_inner_texts()


def test_the_table_of_frames_sorts_and_filters(site):
    folder, heldout = site
    outcomes = [report.OUTCOMES[p, int(d)] for p, d in heldout[["presence", "drawn"]].values]
    with opened(folder / "index.html") as page:
        page.locator("table.dataTable tbody tr").first.wait_for()
        assert f"of {len(heldout)} entries" in page.locator(".dt-info").first.inner_text()
        assert [*map(float, column(page, "Dice"))] == sorted(heldout["score"])[:10]
        first = page.locator("table.dataTable tbody tr").first.locator("td").nth(4)
        page.locator("th", has_text="P(nerve)").first.click()
        expect(first).to_have_text(re.compile(r"^0\.010*$"))  # waits: the table is drawn some time after the click
        assert [*map(float, column(page, "P(nerve)"))] == sorted(heldout["probability"].round(3))[:10]
        page.locator("th", has_text="P(nerve)").first.click()
        expect(first).to_have_text(re.compile(r"^0\.990*$"))
        page.locator("table.dataTable thead input").nth(2).fill("missed")
        page.wait_for_function("document.querySelector('.dt-info').textContent.includes('filtered')")
        assert column(page, "outcome") == ["missed"] * outcomes.count("missed") and "missed" in outcomes


def test_every_picture_shows_and_nothing_is_wider_than_a_phone(site):
    folder, _ = site
    pages = sorted(folder.glob("*.html"))
    assert [page.stem for page in pages] == [*STAGES, "index"]
    for path in pages:
        with opened(path, width=390) as page:
            page.evaluate("document.querySelectorAll('img').forEach(image => image.loading = 'eager')")
            page.wait_for_function("[...document.images].every(image => image.complete)")
            assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
            assert page.evaluate("document.documentElement.scrollWidth") == 390, path
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                style = "(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))"
                ink, paper = (int(re.findall(r"\d+", colour)[0]) for colour in page.evaluate(style))
                assert (ink < 80 < paper) if scheme == "light" else (paper < 80 < ink)


def test_links_lead_to_pages_and_formulas_are_drawn(site):
    folder, _ = site
    with opened(folder / f"{STAGES[3]}.html") as page:
        assert page.locator("math").count() >= 3
        assert "$" not in page.locator(".text_cell_render", has=page.locator("math")).first.inner_text()
        page.locator("main a", has_text="5 ·").click()
        assert page.url.endswith(f"{STAGES[4]}.html") and page.locator("h1").first.inner_text().startswith("5 ·")
        page.locator("nav a", has_text="Overview").click()
        assert page.locator("h2", has_text="Every held-out frame").count() == 1


def test_outlines_lie_where_the_masks_are():
    mask = np.zeros((420, 580), np.uint8)
    mask[100:201, 50:151] = 1
    assert report._outline(mask, "truth") == (
        '<svg viewBox="0 0 580 420" class="truth"><path d="M50 100L50 200L150 200L150 100Z"/></svg>'
    )
    assert report._outline(0 * mask, "truth") == ""


def test_a_run_without_notebooks_is_named(root):
    with pytest.raises(InputError, match="run: expected one with executed notebooks, found none in .*/nothing"):
        report.write_report("nothing")


def test_a_run_of_notebook_1_alone_has_a_report(root, phantom):
    frames = cache.open_cache(phantom, source.cache_dir(phantom), progress=False)
    facts = {"data_dir": str(phantom), "cache": str(frames.folder), "name": "phantom, easy"}
    write_json(stage_dir("toy", STAGES[0]) / "dataset.json", facts)
    nbformat.write(nbformat.read(NOTEBOOKS / f"{STAGES[0]}.ipynb", 4), run_dir("toy") / f"{STAGES[0]}.ipynb")
    text = report.write_report("toy").read_text()
    assert "phantom, easy" in text and "Score" not in text
    assert "01_data_preparation.html" in text
