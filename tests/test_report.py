"""A run as a static site as a reader meets it: in a browser, offline, from the file system, on a desk and a phone."""

import re
import shutil

import cv2
import numpy as np
import pytest
from playwright.sync_api import expect

from nerveceg_lib import rle
from nerveceg_lib.data import cache, prepared, splits
from nerveceg_lib.plots import PREDICTION, TRUTH
from nerveceg_lib.runtime.folders import NOTEBOOKS, notebook_folder, run_folder
from nerveceg_lib.runtime.io import read_json, write_csv, write_json
from nerveceg_tools import compare, report
from nerveceg_tools.cli import main
from nerveceg_tools.run import NOTEBOOK_FOLDER
from tests.browser import opened

pytestmark = pytest.mark.slow
SHIFT = 40  # px by which the predicted masks are off


def prepare(phantom):
    """What notebook 1 leaves: its executed notebook, the split and the description of the data."""
    frames = cache.open_cache(phantom, prepared.cache_dir(phantom))
    table = splits.split_patients(frames.index, 0.34, 2, seed=0)
    write_csv(notebook_folder("toy", NOTEBOOKS[0]) / "frames.csv", table)
    dataset = {"data_dir": str(phantom), "cache": str(frames.folder), "dataset": "phantom", "difficulty": "easy"}
    write_json(notebook_folder("toy", NOTEBOOKS[0]) / "dataset.json", dataset | {"digest": frames.digest})
    shutil.copy(NOTEBOOK_FOLDER / f"{NOTEBOOKS[0]}.ipynb", run_folder("toy"))
    return frames, table


@pytest.fixture
def site(root, phantom):
    """The report of a run whose notebooks are the stored ones, and whose held-out predictions are of all four kinds."""
    frames, table = prepare(phantom)
    for notebook in NOTEBOOKS:
        shutil.copy(NOTEBOOK_FOLDER / f"{notebook}.ipynb", run_folder("toy"))
    heldout = table[table["split"] == "heldout"][
        ["row", "subject", "patient", "source", "image", "has_nerve"]
    ].reset_index(drop=True)
    heldout["keep"] = heldout.index % 3 > 0
    heldout["source"] = "<b>" + heldout["source"]
    rows = heldout[["row", "has_nerve"]].to_numpy()
    masks = [np.roll(frames.masks[row] if nerve else frames.masks[0] | 1, SHIFT, 1) for row, nerve in rows]
    heldout["pixels"] = [rle.encode(mask) for mask in masks]
    heldout["probability"] = np.linspace(0.01, 0.99, len(heldout))
    heldout["mask_dice"] = np.where(heldout["has_nerve"] == 1, 0.5, 0.0)
    heldout["score"] = np.where(heldout["keep"], heldout["mask_dice"], 1.0 - heldout["has_nerve"])
    write_csv(notebook_folder("toy", NOTEBOOKS[3]) / "heldout.csv", heldout)
    gate = {"threshold": 0.5, "min_area": 0, "cleanup": "none", "system": {}, "basis": {"toy": prepared.basis("toy")}}
    write_json(notebook_folder("toy", NOTEBOOKS[3]) / "gate.json", gate)
    truth = [rle.encode(frames.masks[row]) for row in heldout["row"]]
    write_csv(root / "sam.csv", heldout[["subject", "image"]].set_axis(["subject", "img"], axis=1).assign(pixels=truth))
    assert main(["report", "toy", "--masks", str(root / "sam.csv")]) == 0
    return run_folder("toy") / "report", heldout


def column(page, name):
    position = page.locator("table.dataTable thead tr").first.locator("th").all_inner_texts().index(name)
    return page.locator("table.dataTable tbody tr").locator(f"td:nth-child({position + 1})").all_inner_texts()


def test_the_table_of_frames_sorts_and_filters(site):
    folder, heldout = site
    outcomes = [report.OUTCOMES[nerve, int(keep)] for nerve, keep in heldout[["has_nerve", "keep"]].values]
    with opened(folder / "index.html") as page:
        page.locator("table.dataTable tbody tr").first.wait_for()
        assert "sam\tas drawn\t1.000 (1.000 to 1.000)" in page.locator("table", has_text="as drawn").inner_text()
        assert f"of {len(heldout)} entries" in page.locator(".dt-info").first.inner_text()
        assert [*map(float, column(page, "score"))] == sorted(heldout["score"])[:10]
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
    assert [page.stem for page in pages] == [*NOTEBOOKS, "index"]
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
    with opened(folder / f"{NOTEBOOKS[3]}.html") as page:
        assert page.locator("math").count() >= 3
        assert "$" not in page.locator(".text_cell_render", has=page.locator("math")).first.inner_text()
        page.locator("main a", has_text="5 ·").click()
        assert page.url.endswith(f"{NOTEBOOKS[4]}.html") and page.locator("h1").first.inner_text().startswith("5 ·")
        page.locator("nav a", has_text="Overview").click()
        assert page.locator("h2", has_text="All held-out frames").count() == 1


def test_two_runs_are_compared_frame_by_frame(site, root, capsys):
    """The other run leaves a found frame blank (Dice 0.5 lost), and draws a mask better by 0.05, which is no change."""
    _, heldout = site
    other = shutil.copytree(run_folder("toy"), run_folder("other"))
    worse, better = heldout.index[(heldout["has_nerve"] == 1) & heldout["keep"]][:2]
    heldout.loc[worse, ["keep", "score"]] = False, 0.0
    heldout.loc[better, ["score", "mask_dice"]] = 0.55
    write_csv(other / NOTEBOOKS[3] / "heldout.csv", heldout)
    both = compare.common_frames("toy", "other")
    table = compare.score_table(both, "toy", "other").set_index("")
    positive = (heldout["has_nerve"] == 1).sum()
    assert table.loc["score", "difference"].startswith(f"{(0.5 - 0.05) / len(heldout):+.3f} (")
    assert table.loc["TPR", "difference"].startswith(f"{1 / positive:+.3f} (")
    assert table.loc["TNR", "difference"] == "+0.000 (+0.000 to +0.000)"
    assert compare.changed_frames(both)[["row", "gain"]].values.tolist() == [[heldout.loc[worse, "row"], 0.5]]
    assert main(["report", "toy", "--against", "other"]) == 0
    with opened(run_folder("toy") / "report" / "index.html") as page:
        assert page.locator("h3", has_text="1 frames changed").count() == 1
        assert page.locator("td", has_text="<b>train/").count() and not page.locator("td b").count(), "names are text"
        page.locator("img[src^='changed/']").scroll_into_view_if_needed()
        page.wait_for_function("document.querySelector(\"img[src^='changed/']\").naturalWidth == 1160")
    dataset = read_json(other / NOTEBOOKS[0] / "dataset.json")
    write_json(other / NOTEBOOKS[0] / "dataset.json", dataset | {"digest": "of other frames"})
    assert main(["report", "toy", "--against", "other"]) == 2
    assert "--against: expected a run on the same frames and masks as toy, found other" in capsys.readouterr().err


def test_outlines_lie_where_the_masks_are():
    truth, prediction = np.zeros((2, 420, 580), np.uint8)
    truth[100:201, 50:151] = prediction[200:301, 50:151] = 1
    strip = report._strip(np.full((420, 580), 90, np.uint8), truth, prediction)
    picture = cv2.cvtColor(cv2.imdecode(np.frombuffer(strip, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert picture.shape == (210, 870, 3)
    for column, row, colour in ((340, 50, TRUTH), (630, 100, PREDICTION)):
        assert np.abs(picture[row, column] - np.array(list(bytes.fromhex(colour[1:])))).max() < 40, "on the upper edge"
    for column, row in ((50, 50), (340, 75), (630, 125)):
        assert np.abs(picture[row, column] - 90.0).max() < 10, "first panel, and inside the outlines"


def test_a_run_of_notebook_1_alone_has_a_report(root, phantom):
    prepare(phantom)
    text = report.write_report("toy").read_text()
    assert "Data: phantom, easy" in text and "Score" not in text
    assert "01_data_preparation.html" in text
