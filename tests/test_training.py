"""The one training module: both tasks learn, and an interrupted run ends exactly like an undisturbed one."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from nerveceg_lib import tasks, training
from nerveceg_lib.data import cache
from nerveceg_lib.data.dataset import FrameSet, augment, augmentation, eval_loader, train_loader
from nerveceg_lib.errors import InputError
from nerveceg_lib.models import build_model

SIZE = (48, 64)


@pytest.fixture(scope="module")
def frames(phantom, tmp_path_factory):
    return cache.open_cache(phantom, tmp_path_factory.mktemp("cache"), progress=False)


def positives(frames, count):
    return FrameSet(frames, frames.index.loc[frames.index["presence"] == 1, "row"].to_numpy()[:count], SIZE)


def train_unet(frames, folder, epochs, total=3, resume=False, stop_after=None, seed=0):
    torch.manual_seed(seed)
    model = build_model("unet", base_channels=4, depth=3, dropout=0.1)
    some, move = positives(frames, 8), augmentation()
    schedule = training.Schedule(epochs=epochs, learning_rate=0.01, seed=seed)
    fingerprint = {"epochs": total, "seed": seed}
    change = interrupt_after(stop_after, lambda batch: augment(move, batch))
    curves = training.fit(
        model, tasks.segmentation_task("bce_dice"), schedule, train_loader(some, 4, seed), eval_loader(some, 8),
        change, folder, fingerprint, resume,
    )  # fmt: skip
    return model, curves


def interrupt_after(batches, change):
    seen = []

    def count_and_change(batch):
        seen.append(1)
        if batches is not None and len(seen) > batches:
            raise RuntimeError("pulled the plug")
        return change(batch)

    return count_and_change


def test_resumed_training_equals_an_undisturbed_one(frames, tmp_path, capsys):
    whole, curves = train_unet(frames, tmp_path / "whole", 3)
    with pytest.raises(RuntimeError, match="pulled the plug"):
        train_unet(frames, tmp_path / "cut", 3, stop_after=5)  # 2 batches an epoch: dies in epoch 3
    capsys.readouterr()
    resumed, resumed_curves = train_unet(frames, tmp_path / "cut", 3, resume=True)
    assert "resumed after epoch 2" in capsys.readouterr().out
    pd.testing.assert_frame_equal(resumed_curves, curves)
    for name, weights in whole.state_dict().items():
        assert torch.equal(weights, resumed.state_dict()[name]), name


def test_checkpoint_of_other_parameters_is_not_resumed(frames, tmp_path, capsys):
    with pytest.raises(RuntimeError):
        train_unet(frames, tmp_path, 3, stop_after=5)
    _, curves = train_unet(frames, tmp_path, 2, total=2, resume=True)
    assert "starting from the beginning" in capsys.readouterr().out
    assert curves["epoch"].tolist() == [1, 2]


def test_cleared_progress_leaves_only_the_curves(frames, tmp_path):
    _, curves = train_unet(frames, tmp_path, 2)
    assert {p.name for p in tmp_path.iterdir()} == {"best.ckpt", "last.ckpt", "fingerprint.json", "curves.csv"}
    training.clear_progress(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["curves.csv"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "curves.csv"), curves)


def test_unet_overfits_eight_frames(frames, tmp_path):
    torch.manual_seed(0)
    model, some = build_model("unet", base_channels=8, depth=4), positives(frames, 8)
    schedule = training.Schedule(epochs=120, learning_rate=0.02)
    curves = training.fit(
        model, tasks.segmentation_task("bce_dice"), schedule, train_loader(some, 8, 0), eval_loader(some, 8),
        lambda batch: batch, tmp_path, {},
    )  # fmt: skip
    assert curves["val_metric"].max() > 0.95


def test_classifier_learns_presence_with_the_coverage_loss(frames, tmp_path):
    torch.manual_seed(0)
    rows = frames.index.loc[frames.index["set"] == "train", "row"].to_numpy()
    model, some = build_model("efficientnet-b0", dropout=0.0), FrameSet(frames, rows[:24], (64, 64))
    schedule = training.Schedule(epochs=12, learning_rate=0.003)
    curves = training.fit(
        model, tasks.presence_task(20.0), schedule, train_loader(some, 8, 0), eval_loader(some, 24),
        lambda batch: batch, tmp_path, {},
    )  # fmt: skip
    assert curves["loss"].iloc[-1] < 0.6 * curves["loss"].iloc[0]
    assert curves["val_metric"].max() > 0.85


def test_early_stopping_stops(frames, tmp_path):
    model, some = build_model("unet", base_channels=2, depth=2), positives(frames, 4)
    never_better = replace(tasks.segmentation_task("dice"), metric=lambda drawn, mask: torch.tensor(0.5))
    schedule = training.Schedule(epochs=50, learning_rate=0.01, kind="constant", patience=2)
    curves = training.fit(
        model, never_better, schedule, train_loader(some, 4, 0), eval_loader(some, 4),
        lambda batch: batch, tmp_path, {},
    )  # fmt: skip
    assert len(curves) == 3


def test_impossible_schedules_are_refused():
    with pytest.raises(InputError, match="schedule: expected one of.*'cosine'"):
        training.Schedule(epochs=1, learning_rate=0.1, kind="cosine")
    with pytest.raises(InputError, match="epochs: expected 1 or more, found 0"):
        training.Schedule(epochs=0, learning_rate=0.1)
