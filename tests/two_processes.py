"""`torchrun --nproc-per-node 2 -m tests.two_processes CACHE FOLDER`: train a small network in two processes."""

import os
import sys
import time
from pathlib import Path

import torch
from torch import nn

from nerveceg_lib import runtime
from nerveceg_lib.data.cache import FrameCache, load_cache
from nerveceg_lib.data.datasets import FrameSet
from nerveceg_lib.training import SegmentationObjective, TrainingConfig, fit


def train(frames: FrameCache, folder: Path, batch_size: int, **options) -> None:
    """Train a network in which no layer mixes frames, so that every way to form a step of 8 frames gives the same."""
    positive = frames.index.loc[frames.index["has_nerve"] == 1, "row"].to_numpy()
    sets = [FrameSet(frames, rows, (32, 48)) for rows in (positive[:16], positive[16:21])]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.GELU(), nn.Conv2d(8, 1, 5, padding=2))
    config = TrainingConfig(epochs=4, batch_size=batch_size, lr=0.02, **options)
    fit(network, SegmentationObjective("bce_dice"), *sets, config, folder / "network.pt", {"size": (32, 48)})


def load_late(*arguments, load=torch.load, **options):
    """Read the best checkpoint long after the first process has, which removes it at the end."""
    time.sleep(2)
    return load(*arguments, **options)


if __name__ == "__main__":
    runtime.configure(seed=0)  # torchrun gives each process one thread
    if os.environ["LOCAL_RANK"] == "1":
        torch.load = load_late
    train(load_cache(Path(sys.argv[1])), Path(sys.argv[2]), batch_size=4, devices=2)
