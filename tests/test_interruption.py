"""What is killed and run again gives the same bytes as what was left alone; `make torture` ends it at any moment."""

import re
import shutil
import signal

import pytest

from benchmarks.interruption import complete, interrupt
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_tools.run import NOTEBOOK_FOLDER
from tests.cells import PROFILE, run_cells

pytestmark = pytest.mark.slow


def test_a_killed_training_continues_as_if_nothing_had_happened(tmp_path, monkeypatch):
    ended, left_alone = tmp_path / "ended", tmp_path / "left_alone"
    monkeypatch.setenv("NERVECEG_RUNS", str(left_alone))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as `interrupt` does
    monkeypatch.chdir(NOTEBOOK_FOLDER)
    run_cells(NOTEBOOKS[0])
    shutil.copytree(left_alone, ended, ignore=shutil.ignore_patterns("*.png"))  # which `run_cells` does not draw
    run_cells(NOTEBOOKS[2], **{"segmenter.epochs": 10})
    command = ["run", "--profile", PROFILE, "--resume", "--only", "03", "-p", "segmenter.epochs", "10"]
    assert interrupt(command, ended, lambda printed: "epoch 3/10" in printed, signal.SIGKILL) == -signal.SIGKILL
    complete(command, ended)
    resumed = re.search(r"resumed after epoch (\d+)", ended.with_name("ended.log").read_text())
    assert resumed and int(resumed[1]) >= 3, "an epoch whose line was printed is stored"
    for name in ("segmenter.pt", "curves.csv", "metrics.json"):
        files = [root / "tiny" / NOTEBOOKS[2] / name for root in (ended, left_alone)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


def test_a_killed_phantom_leaves_no_data_set(tmp_path):
    options = ["--patients", "2", "--frames-per-patient", "60", "--test-frames", "2"]  # enough for two workers
    command, out = ["phantom", str(tmp_path / "set"), *options], tmp_path / "set"
    interrupt(command, tmp_path, lambda printed: any(tmp_path.glob(".unfinished-set/train/*.tif")), signal.SIGKILL)
    assert not out.exists()
    complete(command, tmp_path)
    assert len(list(out.glob("train/*.tif"))) == 240 and not list(tmp_path.glob(".unfinished*"))
