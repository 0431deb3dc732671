"""A run that is killed and resumed gives the same bytes as one left alone."""

import signal

import pandas as pd
import pytest

from benchmarks.interruption import ONLY, PARAMETERS, RUN, assert_same, complete, interrupt
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_tools.run import NOTEBOOK_FOLDER, flatten
from tests.cells import run_cells

pytestmark = pytest.mark.slow


def test_a_killed_training_continues_as_if_nothing_had_happened(tmp_path, monkeypatch):
    ended, left_alone = tmp_path / "ended", tmp_path / "left_alone"
    assert interrupt(RUN, ended, lambda printed: "epoch 10/30" in printed, signal.SIGKILL) == -signal.SIGKILL
    complete(RUN, ended)
    monkeypatch.setenv("NERVECEG_RUNS", str(left_alone))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(NOTEBOOK_FOLDER)
    for notebook in NOTEBOOKS:
        if notebook[:2] in ONLY:
            run_cells(notebook, **flatten(PARAMETERS))
    assert_same(ended, left_alone)
    assert pd.read_csv(ended / "tiny" / NOTEBOOKS[5] / "submission.csv")["pixels"].notna().any()


def test_a_killed_phantom_leaves_no_data_set(tmp_path):
    options = ["--patients", "2", "--frames-per-patient", "60", "--test-frames", "2"]  # enough for two workers
    command, out = ["phantom", str(tmp_path / "set"), *options], tmp_path / "set"
    interrupt(command, tmp_path, lambda printed: any(tmp_path.glob(".unfinished-set/train/*.tif")), signal.SIGKILL)
    assert not out.exists()
    complete(command, tmp_path)
    assert len(list(out.glob("train/*.tif"))) == 240 and not list(tmp_path.glob(".unfinished*"))
