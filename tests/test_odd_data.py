"""Unusual training sets: they pass through the notebooks, or a message says why they cannot."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from nerveceg_lib.data import io
from nerveceg_lib.data.prepared import load_frames
from nerveceg_lib.inference.submission import validate_submission
from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES
from nerveceg_tools import run
from nerveceg_tools.phantom import write_phantom
from tests.cells import TINY, run_cells

pytestmark = pytest.mark.slow
NERVE = np.zeros(FRAME_SHAPE, np.uint8)
NERVE[100:180, 200:300] = 1


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "data"
    write_phantom(folder, patients=8, frames_per_patient=6, test_frames=4, difficulty="easy")
    return folder


@pytest.fixture
def data(original, root, tmp_path, monkeypatch):
    """A data set that a test may change, and an artefact root of the test's own."""
    monkeypatch.chdir(run.NOTEBOOK_FOLDER)
    data = shutil.copytree(original, tmp_path / "data")
    (data / "train_masks.csv").unlink()
    return data


def with_nerve_everywhere(data):
    for path in data.glob("train/*_mask.tif"):
        if not io.read_mask(path).any():
            io.write_mask(path, NERVE)


def constant(data):
    for path in [*data.glob("train/*[0-9].tif"), *data.glob("test/*.tif")]:
        io.write_frame(path, np.full(FRAME_SHAPE, 90, np.uint8))


def one_frame_each(data):
    for path in set(data.glob("train/*")) - set(data.glob("train/*_1[._]*")):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "parameters", "auroc"),
    [
        (with_nerve_everywhere, {}, 0.5),  # if all labels are the same, no order is wrong
        (constant, {}, 0.5),  # all frames get the same probability
        (one_frame_each, {"data.folds": 2}, None),
        (lambda data: None, {"classifier.batch_size": 5}, None),  # OneCycleLR divides by zero
        (lambda data: None, {"classifier.batch_size": 1, "segmenter.batch_size": 1}, None),
    ],
    ids=["a nerve in every frame", "constant frames", "one frame each", "five steps", "batches of one"],
)
def test_passes_through(change, parameters, auroc, data, root):
    change(data)
    for notebook in (*NOTEBOOKS[:4], NOTEBOOKS[5]):
        run_cells(notebook, data_dir=str(data), **parameters)
    folder = root / TINY["run"]
    assert auroc is None or json.loads((folder / NOTEBOOKS[1] / "metrics.json").read_text())["auroc"] == auroc
    table = validate_submission(folder / NOTEBOOKS[5] / "submission.csv", data / "sample_submission.csv")
    assert len(table) == 4


def test_names_and_clean_frames_of_an_imported_set_reach_the_tables(data, root):
    names = io.list_frames(data)[0][["set", "subject", "image"]]
    names["patient"] = [chr(64 + number) if number else "" for number in names["subject"]]
    names["source"] = [f"{r.patient}/frame {r.image}.png" for r in names.itertuples()]
    names.assign(clean=names["image"] % 2).to_csv(data / "names.csv", index=False)
    (data / "dataset.json").write_text('{"target": "lesion"}')
    for notebook in NOTEBOOKS[:4]:
        run_cells(notebook, data_dir=str(data))
    folder = root / TINY["run"]
    assert load_frames(TINY["run"]).target == "lesion"
    for notebook, table in zip(NOTEBOOKS[1:4], ["heldout", "heldout", "test"], strict=True):
        sources = pd.read_csv(folder / notebook / f"{table}.csv")["source"]
        assert set(sources) <= set(names["source"]) and len(sources)
    heldout = pd.read_csv(folder / NOTEBOOKS[3] / "heldout.csv")
    assert (heldout["patient"] + "/frame " + heldout["image"].astype(str) + ".png").equals(heldout["source"])
    metrics = json.loads((folder / NOTEBOOKS[3] / "metrics.json").read_text())
    assert metrics["clean_score"] == pytest.approx(heldout.loc[heldout["image"] % 2 == 1, "score"].mean())
    (data / "names.csv").write_text("set,subject,image,patient,source\n")
    with pytest.raises(InputError, match="names.csv: expected a row for each frame, found none for train/1_1.tif"):
        run_cells(NOTEBOOKS[0], data_dir=str(data))


def test_no_frame_with_a_nerve(data):
    for path in data.glob("train/*_mask.tif"):
        io.write_mask(path, 0 * NERVE)
    run_cells(NOTEBOOKS[0], data_dir=str(data))
    for notebook in (NOTEBOOKS[1], NOTEBOOKS[2], STUDIES[0]):
        with pytest.raises(InputError, match="frames with a nerve to .* on, found"):
            run_cells(notebook)


@pytest.mark.parametrize("pattern", ["1_*", "1_1[._]*"], ids=["one patient", "one frame"])
def test_too_few_to_be_split(pattern, data):
    for path in set(data.glob("train/*")) - set(data.glob(f"train/{pattern}")):
        path.unlink()
    with pytest.raises(InputError, match="heldout_share: expected .*found .*1 patients"):
        run_cells(NOTEBOOKS[0], data_dir=str(data))
