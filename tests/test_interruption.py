"""One run ended ten times over, by every signal and in five notebooks, comes to the same bytes as one left alone."""

import random
import signal

import pandas as pd
import pytest

from nerveceg_lib.paths import STAGES
from tests.interruption import RUN, SIGNALS, assert_nothing_runs, assert_same, complete, interrupt

pytestmark = pytest.mark.slow
MOMENTS = (  # notebook, and the seconds after its start within which it ends the run: shorter than it takes
    *(("01", 7.0),) * 3,  # phantom and cache
    *(("02", 8.0),) * 2,
    *(("03", 9.0),) * 2,
    *(("04", 7.0),) * 2,
    ("06", 1.0),
)


def test_ten_interruptions_change_nothing(tmp_path):
    draw, root, left_alone = random.Random(7), tmp_path / "ended", tmp_path / "left_alone"
    codes = []
    for number, (stage, most) in enumerate(MOMENTS):
        kill = SIGNALS[number % len(SIGNALS)]
        codes.append(interrupt(RUN, root, f"] {stage}_", draw.uniform(0, most), kill))
    assert len(codes) == 10 and sum(code != 0 for code in codes) >= 8, "nearly all hit a run at work"
    complete(RUN, root)
    complete(RUN, left_alone)
    assert_same(root, left_alone)
    assert pd.read_csv(root / "tiny" / STAGES[5] / "submission.csv")["pixels"].notna().any()


def test_a_killed_phantom_leaves_no_data_set(tmp_path):
    phantom = ["phantom", str(tmp_path / "set"), "--subjects", "2", "--frames-per-subject", "40", "--test-frames", "2"]
    interrupt(phantom, tmp_path, "", 2.5, signal.SIGKILL)
    assert not (tmp_path / "set").exists()
    complete(phantom, tmp_path)
    assert len(list(tmp_path.glob("set/train/*.tif"))) == 160 and not list(tmp_path.glob(".unfinished*"))
    assert_nothing_runs(tmp_path)
