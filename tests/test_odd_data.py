"""Training sets and paths that nobody would choose: they go through the notebooks, or the message says why not."""

import json
import shutil

import cv2
import numpy as np
import pytest

from nerveceg_lib import paths, runner
from nerveceg_lib.__main__ import main
from nerveceg_lib.data import frames, layout
from nerveceg_lib.data.phantom_set import write_phantom
from nerveceg_lib.errors import InputError
from nerveceg_lib.submission import validate_submission
from tests.cells import TINY, run_cells
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
NERVE = np.zeros(frames.FRAME_SHAPE, np.uint8)
NERVE[100:180, 200:300] = 1


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "data"
    options = {"subjects": 8, "frames_per_subject": 6, "test_frames": 4, "seed": 0, "difficulty": "easy"}
    return write_phantom(folder, **options, workers=1) or folder


@pytest.fixture
def data(made, tmp_path, monkeypatch):
    """A data set to spoil; a run on it in the notebooks' folder."""
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(runner.NOTEBOOKS)
    data = shutil.copytree(made, tmp_path / "data")
    (data / "train_masks.csv").unlink()
    return data


def without_nerve(data):
    for path in data.glob("train/*_mask.tif"):
        layout.write_mask(path, 0 * NERVE)


def with_nerve_everywhere(data):
    for path in data.glob("train/*_mask.tif"):
        if not frames.read_mask(path).any():
            layout.write_mask(path, NERVE)


def constant(data):
    for path in [*data.glob("train/*[0-9].tif"), *data.glob("test/*.tif")]:
        cv2.imwrite(str(path), np.full(frames.FRAME_SHAPE, 90, np.uint8))


def only(pattern):
    def spoil(data):
        for path in set(data.glob("train/*")) - set(data.glob(f"train/{pattern}")):
            path.unlink()

    return spoil


@pytest.mark.parametrize(
    "spoil, changes, auroc",
    [
        (with_nerve_everywhere, {}, 0.5),  # of one kind of frames no order is wrong
        (constant, {}, 0.5),  # all frames get the same probability
        (lambda data: None, {"classifier_batch": 1, "segmenter_batch": 1}, None),
    ],
    ids=["a nerve in every frame", "constant frames", "batches of one"],
)
def test_goes_through(spoil, changes, auroc, data, tmp_path):
    spoil(data)
    for stage in (*paths.STAGES[:4], paths.STAGES[5]):
        run_cells(stage, data_dir=str(data), **changes)
    run = tmp_path / "runs" / TINY["run"]
    assert auroc is None or json.loads((run / paths.STAGES[1] / "metrics.json").read_text())["auroc"] == auroc
    table = validate_submission(run / paths.STAGES[5] / "submission.csv", data / "sample_submission.csv")
    assert len(table) == 4


def test_no_frame_with_a_nerve(data):
    without_nerve(data)
    run_cells(paths.STAGES[0], data_dir=str(data))
    for stage in (paths.STAGES[1], paths.STAGES[2], paths.STUDIES[0]):
        with pytest.raises(InputError, match=r"with a nerve to train on, found 0: \d+ frames, none .*: \[\]"):
            run_cells(stage)


@pytest.mark.parametrize("pattern", ["1_*", "1_1[._]*"], ids=["one patient", "one frame"])
def test_too_few_to_be_split(pattern, data):
    only(pattern)(data)
    with pytest.raises(InputError, match="heldout_share: expected 2 or more groups .*found 4 groups and 1 patients"):
        run_cells(paths.STAGES[0], data_dir=str(data))


def test_spaces_other_scripts_and_long_paths(made, tmp_path, monkeypatch, capsys):
    place = tmp_path / "Ärzte & Söhne's [1] %d" / "神経 超音波" / ("x" * 200) / ("y" * 200) / ("z" * 200)
    place.mkdir(parents=True)
    data = shutil.copytree(made, place / "the data")
    monkeypatch.setenv("NERVECEG_RUNS", str(place / "runs"))
    options = ["--profile", str(REPOSITORY / "tests" / "tiny.yaml"), "-p", "data_dir", str(data)]
    assert main(["run", *options, "-p", "run", "Lauf 1 – 神経 [a]", "--only", "01,02,03,04,06"]) == 0
    assert main(["predict", str(data / "test"), str(place / "aus gabe"), "--run", "Lauf 1 – 神経 [a]"]) == 0
    capsys.readouterr()
    assert main(["run", *options, "-p", "run", "r" * 300]) == 2
    assert "r" * 300 + ": expected a path that can be used, found: File name too long" in capsys.readouterr().err
