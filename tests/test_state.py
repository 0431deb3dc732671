"""Any sequence of commands ends with the figures that a fresh run of the final state gives, or with a refusal."""

import os
import random
import shutil
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from nerveceg_lib.data import io
from nerveceg_lib.data.splits import split_patients
from nerveceg_lib.runtime.folders import NOTEBOOKS, run_folder
from nerveceg_lib.runtime.io import read_json
from nerveceg_tools import run
from nerveceg_tools.cli import main
from tests.cells import PROFILE, TINY, run_cells

pytestmark = pytest.mark.slow
SEQUENCES = int(os.environ.get("NERVECEG_STATES", 3))
ALL = "01,02,03,04,06"  # no notebook reads what notebook 5 writes
TRAINED = {"classifier": NOTEBOOKS[1], "segmenter": NOTEBOOKS[2]}


def execute(notebook, values, output, verbosity, bar):
    """Stand in for papermill, whose kernels take most of the time."""
    run_cells(notebook, **values)
    shutil.copy(run.NOTEBOOK_FOLDER / f"{notebook}.ipynb", output)


@pytest.fixture(scope="module")
def known():
    """The results of fresh runs by the state of their files, see `read_state`."""
    return {}


def command(rng, data, new):
    """Do one thing that a user may do, and return the exit code."""
    folder, parameters = run_folder("tiny"), ["--profile", PROFILE, "-p", "data_dir", str(data)]
    for name in ("seed", "data.split_seed", "classifier.epochs", "segmenter.epochs"):
        parameters += ["-p", name, str(rng.randint(1, 2))] if rng.random() < 0.3 else []
    run_all = ["run", "-q", *parameters, *["--resume"] * rng.randint(0, 1), "--only", ALL]
    kind = rng.choice(["run", "run", "only", "only", "fit", "delete", "replace", "predict", "report", "interrupt"])
    if kind == "interrupt":
        moment = [None] * rng.randint(0, 25) + [KeyboardInterrupt] + [None] * 99
        with mock.patch("os.fsync", side_effect=moment):
            return main(run_all)
    if kind == "run":
        return main(run_all)
    if kind == "only":
        return main([*run_all[:-1], rng.choice(["01", "02", "03", "04", "01,04", "02,06", "06"])])
    if kind == "fit":
        return main(["fit", rng.choice([*TRAINED]), *parameters])
    if kind == "predict":
        return main(["predict", str(new), str(data.with_name("masks")), "--run", "tiny"])
    if kind == "report":
        return main(["report", "tiny"])
    if kind == "replace":
        path = io.image_path(data, rng.randint(1, 6), rng.randint(1, 8))
        io.write_frame(path, np.roll(io.read_frame(path), 50, axis=1))
    elif files := sorted(path for path in folder.glob("0*/*") if path.suffix in {".pt", ".json", ".csv"}):
        rng.choice(files).unlink()
    return 0


def read_state(folder):
    """Return what shaped the files of a run: the digest of its data, the split, seed and epochs of each network."""
    index = pd.read_csv(folder / NOTEBOOKS[0] / "frames.csv")
    arguments = [TINY[f"data.{name}"] for name in ("heldout_share", "folds")]
    splits = [split_patients(index.drop(columns=["split", "fold"]), *arguments, seed)["fold"] for seed in range(3)]
    seed = [split.tolist() for split in splits].index(index["fold"].tolist())
    config = [read_json(folder / TRAINED[name] / f"{name}.json")["training"]["config"] for name in TRAINED]
    digest = read_json(folder / NOTEBOOKS[0] / "dataset.json")["digest"]
    return digest, seed, *((each["seed"], each["epochs"]) for each in config)


def read_results(folder):
    """Return what a run says of its frames: masks, decisions and scores, and the submission if it is up to date."""
    names = [(NOTEBOOKS[3], "heldout.csv"), (NOTEBOOKS[3], "test.csv"), (NOTEBOOKS[5], "submission.csv")]
    current = run.current_metrics(folder)
    return [pd.read_csv(folder.joinpath(*name), keep_default_na=False) for name in names if name[0] in current]


def run_afresh(state, data, root):
    """Run the notebooks one by one with what the state says, in an artefact root of its own."""
    _, split_seed, (classifier_seed, classifier_epochs), (segmenter_seed, segmenter_epochs) = state
    values = {
        "01": {"data.split_seed": split_seed},
        "02": {"seed": classifier_seed, "classifier.epochs": classifier_epochs},
        "03": {"seed": segmenter_seed, "segmenter.epochs": segmenter_epochs},
        "04": {},
        "06": {},
    }
    shared = ["run", "-q", "--profile", PROFILE, "-p", "data_dir", str(data)]
    with mock.patch.dict(os.environ, NERVECEG_RUNS=str(root)):
        for notebook, parameters in values.items():
            words = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
            assert main([*shared, *words, "--only", notebook]) == 0
        return read_state(run_folder("tiny")), read_results(run_folder("tiny"))


@pytest.mark.parametrize("number", range(SEQUENCES))
def test_what_a_run_says_is_true_of_its_files(number, known, phantom, tmp_path, monkeypatch):
    rng = random.Random(number)
    monkeypatch.setattr(run, "_execute", execute)
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(run.NOTEBOOK_FOLDER)
    data = shutil.copytree(phantom, tmp_path / "data")
    (data / "train_masks.csv").unlink()
    for step in range(rng.randint(1, 5)):
        assert command(rng, data, phantom / "test") in {0, 2, 130}
        check(known, data, tmp_path / f"fresh-{step}")
    assert main(["run", "-q", "--profile", PROFILE, "-p", "data_dir", str(data), "--only", ALL, "--resume"]) == 0
    assert NOTEBOOKS[3] in run.current_metrics(run_folder("tiny"))
    check(known, data, tmp_path / "fresh")


def check(known, data, root):
    """Compare the figures that a run presents with those of a fresh run of the same state."""
    folder = run_folder("tiny")
    if NOTEBOOKS[3] not in run.current_metrics(folder):
        return
    state = read_state(folder)
    if state not in known:
        fresh_state, results = run_afresh(state, data, root)
        known[fresh_state] = results
        if fresh_state != state:  # frames were replaced after notebook 1 had read them
            return
    for table, expected in zip(read_results(folder), known[state], strict=False):
        pd.testing.assert_frame_equal(table, expected)
