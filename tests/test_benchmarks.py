"""The benchmark framework: arithmetic of a row, fair turns, and a baseline that does the same job. Nothing is timed."""

import json

import cv2
import numpy as np
import pytest
import torch

from benchmarks import naive
from benchmarks.harness import paired_row, rate_row, report
from benchmarks.training import Clock
from nerveceg_lib import rle
from nerveceg_lib.data.datasets import FrameSet
from nerveceg_lib.models import build_model
from nerveceg_lib.training import SegmentationObjective, TrainingConfig, fit


def test_rate_row_by_hand():
    row = rate_row("x", "frames/s", 12, [6.0, 4.0, 12.0], [2.0, 2.0, 3.0], target=3, note="why")
    assert (row.baseline, row.figure) == (2, 6)  # of 2, 3, 1 and of 6, 6, 4
    assert (row.ratio, row.spread) == (3, (2, 4))  # of 3, 2, 4
    assert row.met and row.note == "why"
    with pytest.raises(ValueError):
        paired_row("x", "MiB", [10, 10], [20], target=1)


def test_report_goes_to_the_artefact_root(root, capsys):
    report([rate_row("quick | one", "frames/s", 10, [2.0], [1.0], target=1.5, note="memory")])
    stored = json.loads((root / "bench" / "benchmarks.json").read_text())
    assert [(row["name"], row["ratio"], row["met"]) for row in stored["rows"]] == [("quick | one", 2.0, True)]
    assert {"processor", "cores", "torch", "torch threads", "bf16 in hardware", "date"} <= set(stored["machine"])
    line = "| quick \\| one | frames/s | 5 | 10 | 2.00 | 2.00 to 2.00 | >= 1.5 | met | memory |"
    assert line in (root / "bench" / "benchmarks.md").read_text()
    assert "2.00 to 2.00" in capsys.readouterr().out.splitlines()[1]


def test_naive_segmentation_of_a_folder(phantom, tmp_path):
    torch.manual_seed(0)
    networks = build_model("efficientnet-b0"), build_model("unet", in_channels=3, base_channels=4)
    files = sorted((phantom / "test").glob("*.tif"))[:3]
    results = naive.segment_folder(files, *networks, tmp_path, size=(32, 48), threshold=0.0)
    assert list(results) == [file.stem for file in files] and any(text for _, text in results.values())
    for name, (_, text) in results.items():
        png = cv2.imread(str(tmp_path / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(rle.decode(text) * 255, png)


def test_clock_sees_every_epoch_from_inside(frames, tmp_path):
    objective, clock, some = SegmentationObjective("bce_dice"), Clock(), FrameSet(frames, np.arange(4), (32, 48))
    config = TrainingConfig(epochs=3, batch_size=2, lr=0.01)
    with clock.installed():
        fit(build_model("unet", base_channels=2), clock.watch(objective), some, some, config, tmp_path / "x.pt", {})
    assert len(clock.epochs) == 3 and all(0 < inside < wall for wall, inside in clock.epochs)
