"""The six notebooks as a user runs them, at a tiny size: to the end, again, and on given masks."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from nerveceg_lib import rle
from nerveceg_lib.data import layout
from nerveceg_lib.data.phantom_set import write_phantom
from nerveceg_lib.paths import STAGES
from nerveceg_lib.runner import NOTEBOOKS
from nerveceg_lib.submission import validate_submission
from tests.cells import TINY, run_cells
from tests.conftest import REPOSITORY, SHARED

pytestmark = pytest.mark.slow


def command(*arguments):
    return [sys.executable, "-m", "nerveceg_lib", "run", "--profile", "tests/tiny.yaml", *arguments]


def run(root, *arguments, check=True):
    environment = os.environ | {"NERVECEG_RUNS": str(root)}
    done = subprocess.run(command(*arguments), cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipeline")
    return root, run(root)


def test_all_six_notebooks_end_in_a_valid_submission(finished):
    root, done = finished
    folder = root / "tiny"
    assert [(folder / f"{stage}.ipynb").exists() for stage in STAGES] == [True] * 6
    data = next(root.glob("phantom-*"))
    table = validate_submission(folder / STAGES[5] / "submission.csv", data / "sample_submission.csv")
    assert len(table) == 10
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == set(STAGES)
    assert 0 <= metrics[STAGES[3]]["score"] <= 1
    assert "[6/6] 06_submission_rle: done" in done.stdout and "submission.csv" in done.stdout
    assert not list(folder.rglob("*.ckpt")), "progress checkpoints are cleared once the network is saved"


def test_resume_of_a_finished_run_does_nothing_again(finished):
    root, _ = finished
    done = run(root, "--resume")
    assert done.stdout.count("done before, skipped") == 6


def test_fit_trains_what_the_notebook_trains_and_torchrun_spreads_it(finished, tmp_path):
    """Notebook 3's batches of 4: by one process exactly, and by two with batches of 2, whose batch norms differ."""
    root = shutil.copytree(finished[0], tmp_path / "runs")
    folder = root / "tiny" / STAGES[2]
    notebook = pd.read_csv(folder / "curves.csv")
    fit = ["nerveceg_lib", "fit", "segmenter", "--profile", "tests/tiny.yaml"]
    two = [
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "-m",
        *fit,
        "-p",
        "devices",
        "2",
        "-p",
        "segmenter_batch",
        "2",
    ]
    for command, tolerance in ((fit, 1e-6), (two, 0.1)):
        (folder / "segmenter.pt").unlink()
        done = subprocess.run(
            [sys.executable, "-m", *command], cwd=REPOSITORY, env=os.environ | {"NERVECEG_RUNS": str(root)},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("epoch 4/4") == 1
        curves = pd.read_csv(folder / "curves.csv")
        np.testing.assert_allclose(curves["loss"], notebook["loss"], rtol=tolerance)
        assert (folder / "segmenter.pt").exists() and not list(folder.glob("*.ckpt"))


def test_given_masks_go_through_01_and_06(tmp_path):
    """Own masks, no network: a folder in competition layout whose masks are submitted as they are."""
    data = tmp_path / "data set"
    write_phantom(data, subjects=6, frames_per_subject=6, test_frames=6, workers=1, progress=False)
    arguments = ["-p", "data_dir", str(data), "-p", "masks_csv", str(data / "solution.csv"), "--only", "01,06"]
    run(tmp_path / "runs", *arguments)
    submission = (tmp_path / "runs" / "tiny" / STAGES[5] / "submission.csv").read_text()
    assert submission == (data / "solution.csv").read_text()


def test_the_real_masks_go_through_01_and_06(tmp_path, monkeypatch, capsys):
    """All 3,716 real strings against our encoder, in a folder of phantom frames under the real masks."""
    table = SHARED / "data" / "kaggle-facts" / "real_masks_rle.csv"
    if not table.exists():
        pytest.skip(f"needs {table.name} of the shared data")
    masks = pd.read_csv(table, keep_default_na=False)
    data = tmp_path / "data"
    write_phantom(data, subjects=1, frames_per_subject=2, test_frames=20, workers=1, progress=False)
    frame = (data / "train" / "1_1.tif").rename(tmp_path / "frame.tif")
    shutil.rmtree(data / "train")
    (data / "train").mkdir()
    for subject, image, pixels in masks.itertuples(index=False):
        os.link(frame, layout.image_path(data, subject, image))
        layout.write_mask(layout.mask_path(data, subject, image), rle.decode(pixels))
    shutil.copy(table, data / "train_masks.csv")  # with its CRLF line ends
    layout.write_test_tables(data, list(enumerate(masks["pixels"][:20], start=1)))
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(NOTEBOOKS)
    run_cells(STAGES[0], data_dir=str(data))
    run_cells(STAGES[5], masks_csv=str(data / "solution.csv"))
    assert "masks: 3716  equal to train_masks.csv: 3716" in capsys.readouterr().out
    submission = (tmp_path / "runs" / TINY["run"] / STAGES[5] / "submission.csv").read_text()
    assert submission == (data / "solution.csv").read_text()


def test_broken_frame_is_named_and_nothing_after_it_runs(tmp_path):
    data = tmp_path / "data"
    write_phantom(data, subjects=6, frames_per_subject=6, test_frames=0, workers=1, progress=False)
    (data / "train" / "2_3.tif").write_bytes(b"II*\0broken")
    done = run(tmp_path / "runs", "-p", "data_dir", str(data), check=False)
    assert done.returncode == 2
    assert "2_3.tif" in done.stderr and "[2/6]" not in done.stdout
