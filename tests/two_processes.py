"""Started by test_training, with torchrun if DEVICES is 2: `tests.two_processes CACHE FOLDER DEVICES`.

A step has 8 frames in all.
"""

import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from nerveceg_lib import runtime, tasks, training
from nerveceg_lib.compute import Hardware
from nerveceg_lib.data import cache
from nerveceg_lib.data.dataset import FrameSet


def main(opened: Path, folder: Path, devices: int) -> None:
    runtime.configure(seed=0, threads=1)
    frames = cache.load_cache(opened)
    positive = frames.index.loc[frames.index["presence"] == 1, "row"].to_numpy()
    parts = [FrameSet(frames, rows, (32, 48)) for rows in (positive[:16], positive[16:21])]
    torch.manual_seed(0)
    # without batch norm, whose statistics are each process's own, the two ways are the same sums
    model = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.GELU(), nn.Conv2d(8, 1, 5, padding=2))
    data = training.Data(*parts, 8 // devices, lambda batch: batch)
    schedule = training.Schedule(epochs=4, learning_rate=0.02)
    if os.environ.get("LOCAL_RANK") == "1":
        slow_down_loading()
    training.fit(
        model, tasks.segmentation_task("bce_dice"), schedule, data, folder, {}, False, Hardware("fp32", devices)
    )
    training.clear_progress(folder)


def slow_down_loading() -> None:
    """The second process reads the best checkpoint long after the first one has."""
    load = torch.load

    def late(*arguments, **options):
        time.sleep(2)
        return load(*arguments, **options)

    torch.load = late


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
