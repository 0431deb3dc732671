"""The one training module: both tasks learn, and an interrupted run ends exactly like an undisturbed one."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from nerveceg_lib import losses, tasks, training
from nerveceg_lib.compute import Hardware
from nerveceg_lib.data import cache
from nerveceg_lib.data.dataset import FrameSet, augment, augmentation, eval_loader
from nerveceg_lib.errors import InputError
from nerveceg_lib.inference import predict_presence
from nerveceg_lib.models import SEGMENTERS, build_model, supported
from tests.conftest import REPOSITORY

SIZE = (48, 64)


@pytest.fixture(scope="module")
def frames(phantom, tmp_path_factory):
    return cache.open_cache(phantom, tmp_path_factory.mktemp("cache"), progress=False)


def unchanged(batch):
    return batch


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
    data = training.Data(some, some, 4, change)
    curves = training.fit(model, tasks.segmentation_task("bce_dice"), schedule, data, folder, fingerprint, resume)
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
    schedule, data = training.Schedule(epochs=15, learning_rate=0.02), training.Data(ten_times, eight, 8, unchanged)
    curves = training.fit(model, tasks.segmentation_task("bce_dice"), schedule, data, tmp_path, {})
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
    curves = training.fit(model, task, schedule, training.Data(some, some, 8, unchanged), tmp_path, {})
    assert curves["val_metric"].max() > 0.6


def test_one_trunk_learns_both_stages(frames, tmp_path):
    torch.manual_seed(0)
    rows = frames.index.loc[frames.index["set"] == "train", "row"].to_numpy()[:24]
    model, some = build_model("efficient-unet-b0", dropout=0.0), FrameSet(frames, rows, SIZE)
    data = training.Data(some, some, 8, unchanged)
    curves = training.fit(model, tasks.one_trunk_task("bce_dice"), training.Schedule(16, 0.005), data, tmp_path, {})
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
    data = training.Data(some, some, 8, unchanged)
    curves = training.fit(model, tasks.presence_task(20.0), schedule, data, tmp_path, {})
    assert curves["loss"].iloc[-1] < 0.6 * curves["loss"].iloc[0]
    assert curves["val_metric"].max() > 0.85


def test_a_shared_trunk_learns_outlines_of_positive_frames_alone(frames):
    rows = frames.index.loc[frames.index["set"] == "train", "row"].to_numpy()[:8]
    model = build_model("shared-unet", base_channels=4, depth=3).eval()
    batch, task = next(iter(eval_loader(FrameSet(frames, rows, SIZE), 8))), tasks.shared_task(5.0)
    positive = batch["presence"] > 0.5
    assert 0 < positive.sum() < 8
    with torch.no_grad():
        logit, (masks,) = model(batch["image"], coverage=True)
        both = losses.bce(logit, batch["presence"]) + 5 * losses.bce(masks, batch["mask"])
        outline = losses.dice(masks[positive], batch["mask"][positive])
        assert task.objective(model, batch).item() == pytest.approx((both + outline).item(), rel=1e-5)
        empty = batch | {"presence": torch.zeros(8)}
        without = losses.bce(logit, empty["presence"]) + 5 * losses.bce(masks, batch["mask"])
        assert task.objective(model, empty).item() == pytest.approx(without.item(), rel=1e-5)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_with_the_frames_named(what, frames, tmp_path):
    class Poisoned(nn.Module):
        """Finite until the second epoch, then with a loss of NaN or with a gradient of infinity alone."""

        def __init__(self):
            super().__init__()
            self.weight, self.steps = nn.Parameter(torch.ones(1)), 0

        def forward(self, image):
            self.steps += self.training
            logits = self.weight * image
            if self.training and self.steps == 4:
                logits = (
                    logits * torch.nan if what == "loss" else logits + (self.weight - self.weight.detach()).abs().sqrt()
                )
            return logits

    some = positives(frames, 6)
    data, schedule = training.Data(some, some, 2, unchanged), training.Schedule(epochs=3, learning_rate=0.01)
    message = f"{what} is (nan|inf) in epoch 2, expected a finite one.*look at the frames of this batch: train/"
    with pytest.raises(InputError, match=message) as error:
        training.fit(Poisoned(), tasks.segmentation_task("bce"), schedule, data, tmp_path, {})
    named = str(error.value).split("batch: ")[1].split(", ")
    assert len(named) == 2 and set(named) <= set(some.names)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 0 and kept["state_dict"]["model.weight"].isfinite().all()


def test_early_stopping_stops(frames, tmp_path):
    model, some = build_model("unet", base_channels=2, depth=2), positives(frames, 4)
    never_better = replace(tasks.segmentation_task("dice"), metric=lambda drawn, mask: torch.tensor(0.5))
    schedule = training.Schedule(epochs=50, learning_rate=0.01, kind="constant", patience=2)
    curves = training.fit(model, never_better, schedule, training.Data(some, some, 4, unchanged), tmp_path, {})
    assert len(curves) == 3


def test_impossible_schedules_are_refused():
    with pytest.raises(InputError, match="schedule: expected one of.*'cosine'"):
        training.Schedule(epochs=1, learning_rate=0.1, kind="cosine")
    with pytest.raises(InputError, match="epochs: expected 1 or more, found 0"):
        training.Schedule(epochs=0, learning_rate=0.1)


def test_two_processes_train_like_one_with_the_doubled_batch(frames, tmp_path):
    """And the second one may be late to read the best checkpoint: torchrun fails if either process does."""
    torchrun = ["torch.distributed.run", "--nproc-per-node", "2", "-m"]
    for devices, start in ((1, []), (2, torchrun)):
        command = [sys.executable, "-m", *start, "tests.two_processes", frames.folder, tmp_path / str(devices), devices]
        subprocess.run(list(map(str, command)), cwd=REPOSITORY, check=True, timeout=300)
    one, two = (pd.read_csv(tmp_path / str(devices) / "curves.csv") for devices in (1, 2))
    assert len(one) == 4 and one["loss"].iloc[-1] < 0.95 * one["loss"].iloc[0]
    # the five validation frames are six for two processes, whose mean loss counts one of them twice
    pd.testing.assert_frame_equal(one.drop(columns="val_loss"), two.drop(columns="val_loss"), rtol=1e-4)
    np.testing.assert_allclose(one["val_loss"], two["val_loss"], rtol=0.1)


def test_accumulated_batches_make_one_step(frames, tmp_path):
    """Four frames at once, or twice two: the same mean gradient where no layer mixes frames."""
    curves = {}
    for batch, accumulate in ((4, 1), (2, 2)):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Conv2d(4, 1, 3, padding=1))
        schedule = training.Schedule(epochs=3, learning_rate=0.05, accumulate=accumulate)
        some = positives(frames, 8)
        data, folder = training.Data(some, some, batch, unchanged), tmp_path / str(batch)
        curves[batch] = training.fit(model, tasks.segmentation_task("bce"), schedule, data, folder, {})
    pd.testing.assert_frame_equal(curves[4], curves[2], rtol=1e-4)


def test_moving_average_of_weights_is_what_is_kept(frames, tmp_path):
    """One step an epoch at a constant rate: average_k = decay average_(k-1) + (1 - decay) weights_k."""

    def train(folder, **options):
        torch.manual_seed(0)
        model, some = torch.nn.Conv2d(1, 1, 1), positives(frames, 4)
        schedule = training.Schedule(learning_rate=0.05, kind="constant", **options)
        data = training.Data(some, some, 4, unchanged)
        better = replace(tasks.segmentation_task("bce"), metric=lambda *_: torch.tensor(float(next(rising))))
        rising = iter(range(100))
        training.fit(model, better, schedule, data, tmp_path / folder, {})
        return model.weight.item()

    steps = [train(f"plain{epochs}", epochs=epochs) for epochs in (1, 2, 3)]
    average = steps[0]
    for weight in steps[1:]:
        average = 0.5 * average + 0.5 * weight
    assert train("averaged", epochs=3, ema=0.5) == pytest.approx(average, rel=1e-4)
    with pytest.raises(InputError, match="ema: expected 0 or more and below 1, found 1"):
        training.Schedule(epochs=1, learning_rate=0.1, ema=1.0)


def test_bf16_trains_too(frames, tmp_path):
    torch.manual_seed(0)
    model, some = build_model("unet", base_channels=4, depth=3), positives(frames, 8)
    task, data = tasks.segmentation_task("bce_dice"), training.Data(some, some, 8, unchanged)
    curves = training.fit(
        model, task, training.Schedule(40, 0.02), data, tmp_path, {}, hardware=Hardware(precision="bf16")
    )
    assert curves["loss"].iloc[-1] < 0.6 * curves["loss"].iloc[0]
    assert {weights.dtype for weights in model.parameters()} == {torch.float32}
