"""The one training module: both tasks learn, and an interrupted run ends exactly like an undisturbed one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from nerveceg_lib import losses, tasks, training
from nerveceg_lib.data import cache
from nerveceg_lib.data.dataset import FrameSet, augment, augmentation, eval_loader, train_loader
from nerveceg_lib.errors import InputError
from nerveceg_lib.inference import predict_presence
from nerveceg_lib.models import SEGMENTERS, build_model, supported

SIZE = (48, 64)


@pytest.fixture(scope="module")
def frames(phantom, tmp_path_factory):
    return cache.open_cache(phantom, tmp_path_factory.mktemp("cache"), progress=False)


def positives(frames, count, repeat=1):
    rows = frames.index.loc[frames.index["presence"] == 1, "row"].to_numpy()[:count]
    return FrameSet(frames, np.tile(rows, repeat), SIZE)


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


@pytest.mark.parametrize("name", [*(n for n in SEGMENTERS if "efficient" not in n), "efficient-unet-b0"])
def test_every_segmenter_overfits_eight_frames(name, frames, tmp_path):
    torch.manual_seed(0)
    model, eight = build_model(name, **supported(name, base_channels=8)), positives(frames, 8)
    ten_times = positives(frames, 8, repeat=10)
    curves = training.fit(
        model, tasks.segmentation_task("bce_dice"), training.Schedule(epochs=15, learning_rate=0.02),
        train_loader(ten_times, 8, 0), eval_loader(eight, 8), lambda batch: batch, tmp_path, {},
    )  # fmt: skip
    assert curves["val_metric"].max() >= 0.98


def test_deep_supervision_trains_a_network_too(frames, tmp_path):
    torch.manual_seed(0)
    model, some = build_model("unet", base_channels=4, depth=3, deep_supervision=True), positives(frames, 8)
    task, schedule = tasks.segmentation_task("dice", deep_supervision=True), training.Schedule(40, 0.02)
    batch = next(iter(eval_loader(some, 8)))
    coarser = model(batch["image"], deep=True)[1]
    plain = tasks.segmentation_task("dice").objective(model, batch)
    assert task.objective(model, batch).item() == pytest.approx(
        plain.item() + sum(losses.dice(c, batch["mask"]).item() for c in coarser) / len(coarser), rel=1e-5
    )
    curves = training.fit(
        model, task, schedule, train_loader(some, 8, 0), eval_loader(some, 8), lambda batch: batch, tmp_path, {}
    )
    assert curves["val_metric"].max() > 0.6


def test_one_trunk_learns_both_stages(frames, tmp_path):
    torch.manual_seed(0)
    rows = frames.index.loc[frames.index["set"] == "train", "row"].to_numpy()[:24]
    model, some = build_model("efficient-unet-b0", dropout=0.0), FrameSet(frames, rows, SIZE)
    curves = training.fit(
        model, tasks.one_trunk_task("bce_dice"), training.Schedule(16, 0.005), train_loader(some, 8, 0),
        eval_loader(some, 24), lambda batch: batch, tmp_path, {},
    )  # fmt: skip
    assert curves["val_metric"].max() > 0.7
    presence = frames.index["presence"].to_numpy()[rows]
    probability = predict_presence(model, frames.frames, rows, SIZE)
    assert roc_auc_score(presence, probability) > 0.85


def test_one_trunk_leaves_the_masks_of_empty_frames_alone(frames):
    model, some = build_model("efficient-unet-b0").eval(), positives(frames, 2)
    batch, task = next(iter(eval_loader(some, 2))), tasks.one_trunk_task("dice")
    both = task.objective(model, batch)
    empty = task.objective(model, batch | {"presence": torch.zeros(2)})
    assert both > 0.5 > 0 and torch.isfinite(empty)
    empty.backward()
    assert model.mask.weight.grad is None and model.presence[1].weight.grad is not None
    with pytest.raises(InputError, match="one_trunk: expected a network with a presence head, found EncoderDecoder"):
        task.objective(build_model("unet", base_channels=4), batch)


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
