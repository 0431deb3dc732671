"""Training: every objective is learnt, an interrupted training ends like an undisturbed one, and mistakes are named."""

import math
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from nerveceg_lib import losses, training
from nerveceg_lib.data.datasets import Augmentation, FrameSet
from nerveceg_lib.models import build_model, supported
from nerveceg_lib.models.checkpoints import load_checkpoint
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.training import PresenceHeadObjective, SegmentationObjective, TrainingConfig
from nerveceg_lib.training.objectives import auroc, frame_dice
from tests import two_processes
from tests.conftest import REPOSITORY

SIZE = (48, 64)
BCE_DICE = SegmentationObjective("bce_dice")
SMALL_UNET = {"model": "unet", "options": {"base_channels": 2}, "size": SIZE}


def train(network, train_set, folder, objective=BCE_DICE, validation_set=None, **options):
    """Call `fit` with a short configuration; `options` are those of `TrainingConfig` and of `fit`."""
    of_fit = {name: options.pop(name) for name in ("augment", "resume", "metadata") if name in options}
    config = TrainingConfig(**{"epochs": 3, "batch_size": 4, "lr": 0.01} | options)
    sets = train_set, validation_set or train_set
    return training.fit(network, objective, *sets, config, folder / "network.pt", **{"metadata": SMALL_UNET} | of_fit)


def small_unet():
    torch.manual_seed(0)
    return build_model("unet", base_channels=2)


def noisy_network():
    """Build a network with batch norm and dropout."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 8, 5, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout2d(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(8, 1, 5, padding=2))


@pytest.fixture
def positive(frames):
    """Return frames with a nerve: `positive(8)`, or `positive(8, times=10)` to have them several times."""
    rows = frames.index.loc[frames.index["has_nerve"] == 1, "row"].to_numpy()
    return lambda count, times=1: FrameSet(frames, np.tile(rows[:count], times), SIZE)


def same_weights(network, other):
    return all(map(torch.equal, network.state_dict().values(), other.state_dict().values()))


class Interrupted(Exception):
    """Stands for a power cut."""


class Counting(Augmentation):
    """Augment, count the batches, and interrupt the training after some of them."""

    def __init__(self, last_batch=math.inf):
        super().__init__()
        self.last_batch, self.batches = last_batch, 0

    def __call__(self, batch):
        self.batches += 1
        if self.batches > self.last_batch:
            raise Interrupted
        return super().__call__(batch)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
@pytest.mark.parametrize("moment", ["in epoch 3", "after the last epoch"])
def test_resumed_training_equals_an_undisturbed_one(moment, ema_decay, positive, tmp_path, capsys, monkeypatch):
    whole, resumed, folder = noisy_network(), noisy_network(), tmp_path / "cut"
    curves = train(whole, positive(8), tmp_path / "whole", augment=Augmentation(), ema_decay=ema_decay)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(training.loop, "_finish", Mock(side_effect=Interrupted))
        augment = Counting(5 if moment == "in epoch 3" else math.inf)  # there are two batches per epoch
        train(noisy_network(), positive(8), folder, augment=augment, ema_decay=ema_decay)
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt", "training.json"}
    resumed_curves = train(resumed, positive(8), folder, augment=Augmentation(), ema_decay=ema_decay, resume=True)
    assert "resumed after epoch 2" in capsys.readouterr().out or moment == "after the last epoch"
    pd.testing.assert_frame_equal(resumed_curves, curves, check_exact=True)
    assert same_weights(whole, resumed)
    assert {path.name for path in folder.iterdir()} == {"network.pt", "network.json", "curves.csv"}


def test_a_finished_training_is_read_and_one_of_another_recipe_starts_over(positive, tmp_path, capsys):
    def again(resume=True, shift=0.0, data=None, order=1, **options):
        """Return how many batches were trained on, the curves and the network."""
        network, four, augment = small_unet(), positive(4), Counting()
        network.heads[0].bias.data += shift
        four.digest, four.rows = data or four.digest, four.rows[::order]
        curves = train(network, four, tmp_path, augment=augment, resume=resume, **{"epochs": 1} | options)
        return augment.batches, curves, network

    batches, curves, network = again()
    assert batches == 1
    batches, read_curves, read_network = again()
    assert batches == 0 and "network.pt is finished and of the same training" in capsys.readouterr().out
    pd.testing.assert_frame_equal(read_curves, curves)
    assert same_weights(read_network, network) and not read_network.training
    assert again(resume=False)[0] == 1
    recipes = [{"shift": 1e-3}, {"data": "other files"}, {"order": -1}, {"validation_set": positive(3)}, {"lr": 0.02}]
    recipes += [{"objective": SegmentationObjective("dice")}, {"metadata": SMALL_UNET | {"fold": 3}}]
    for recipe in recipes:
        again()
        assert again(**recipe)[0] == 1 and again(**recipe)[0] == 0, recipe


def test_an_unfinished_training_of_another_recipe_starts_over(positive, tmp_path, capsys):
    train(small_unet(), positive(4), tmp_path)
    with pytest.raises(Interrupted):
        train(small_unet(), positive(4), tmp_path, lr=0.02, augment=Counting(2))
    assert load_checkpoint(tmp_path / "network.pt")[1]["training"]["config"]["lr"] == 0.01, "it stays until replaced"
    curves = train(small_unet(), positive(4), tmp_path, lr=0.03, resume=True)
    assert "of another training: starting from the beginning" in capsys.readouterr().out
    assert curves["epoch"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("objective", "epochs", "least"), [(BCE_DICE, 6, 0.9), (PresenceHeadObjective("bce_dice"), 8, 0.85)]
)
def test_a_few_frames_are_learnt_by_heart(objective, epochs, least, frames, positive, tmp_path):
    """Notebooks 2 and 8 check that the other networks learn."""
    torch.manual_seed(0)
    network = build_model("unet", base_channels=8, presence_head=objective is not BCE_DICE)
    rows = positive(8).rows if objective is BCE_DICE else np.arange(24)
    many, few = (FrameSet(frames, np.tile(rows, times), SIZE) for times in (80 // len(rows), 1))
    options = {"epochs": epochs, "lr": 0.02, "batch_size": 8, "precision": "bf16"}
    assert train(network, many, tmp_path, objective, few, **options)["val_metric"].max() > least
    assert {weights.dtype for weights in network.parameters()} == {torch.float32}
    if objective is not BCE_DICE:
        batch = few.__getitems__(list(range(24)))
        with torch.no_grad():
            assert auroc(network.presence_logit(batch["image"]), batch["has_nerve"]) > 0.85


def test_deep_supervision_adds_the_mean_loss_of_the_coarser_levels(positive):
    network, batch = build_model("unet", base_channels=2, deep_supervision=True), positive(2).__getitems__([0, 1])
    logits, coarser = network.eval()(batch["image"], deep=True)
    assert [level.shape for level in coarser] == [logits.shape] * 3
    finest, *others = [losses.dice(level, batch["mask"]).item() for level in (logits, *coarser)]
    assert SegmentationObjective("dice", True).loss(network, batch).item() == pytest.approx(finest + np.mean(others))


@pytest.mark.parametrize("name", ["efficient-unet-b0", "unet"])
def test_a_presence_head_leaves_the_masks_of_empty_frames_alone(name, positive):
    network = build_model(name, presence_head=True, **supported(name, base_channels=4)).eval()
    objective, last = PresenceHeadObjective("dice"), [*network.decoder.parameters()][-1]
    batch = positive(2).__getitems__([0, 1])
    objective.loss(network, batch | {"has_nerve": torch.zeros(2)}).backward()
    assert last.grad is None and network.presence[1].weight.grad is not None
    objective.loss(network, batch).backward()
    assert last.grad is not None
    with pytest.raises(InputError, match="presence_head: expected a network that has one, found EncoderDecoder"):
        objective.loss(small_unet(), batch)


def test_validation_figures_by_hand():
    mask = torch.zeros(3, 1, 1, 4)
    mask[:2, ..., :2] = 0.6  # above one half: nerve
    predicted = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]).bool().reshape(3, 1, 1, 4)
    assert frame_dice(predicted, mask).tolist() == pytest.approx([2 / 5, 0, 1])
    assert PresenceHeadObjective("dice").metric(predicted, mask).item() == pytest.approx(1 / 5)  # of positive frames
    assert auroc(torch.tensor([0.1, 0.4, 0.3]), torch.tensor([0, 1, 1])) == 1
    assert auroc(torch.tensor([0.1, 0.4]), torch.tensor([1, 1])) == 0.5


class Poisoned(nn.Module):
    """Finite until the second epoch, then with a loss of NaN, or with a gradient of infinity only."""

    def __init__(self, name):
        super().__init__()
        self.weight, self.steps, self.name = nn.Parameter(torch.ones(1)), 0, name

    def forward(self, image):
        self.steps += self.training
        logits = self.weight * image
        if not self.training or self.steps != 4:
            return logits
        return logits * torch.nan if self.name == "loss" else logits + (self.weight - self.weight.detach()).abs().sqrt()


@pytest.mark.parametrize("name", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_training_and_names_the_frames(name, positive, tmp_path):
    message = f"{name} is (nan|inf) in epoch 2, expected a finite one.*lower lr, or look at the frames .*: train/"
    with pytest.raises(InputError, match=message) as error:
        train(Poisoned(name), positive(6), tmp_path, SegmentationObjective("bce"), batch_size=2)
    names = str(error.value).split("batch: ")[1].split(", ")
    assert len(names) == 2 and set(names) <= set(positive(6).names)
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["epoch"] == 0 and kept["state_dict"]["network.weight"].isfinite().all()


def test_a_loss_that_forgets_its_mean_is_refused(positive, tmp_path, monkeypatch):
    monkeypatch.setitem(losses.SEGMENTATION_LOSSES, "forgetful", lambda logits, target: (logits - target).mean(3))
    with pytest.raises(InputError, match=r"loss: expected one number per batch, such as a mean, found shape \(2, 1"):
        train(small_unet(), positive(6), tmp_path, SegmentationObjective("forgetful"), batch_size=2)


@pytest.fixture
def scripted(monkeypatch, positive, tmp_path):
    """Return a function that trains one step per epoch, with given validation figures."""

    def train_scripted(network, *figures, **options):
        remaining = iter(figures)
        monkeypatch.setattr(SegmentationObjective, "metric", lambda *_: torch.tensor(next(remaining)))
        options = {"epochs": len(figures), "lr": 0.05, "schedule": "constant"} | options
        return train(network, positive(4), tmp_path, **options)

    return train_scripted


def test_patience_stops_early_and_the_best_epoch_is_kept(scripted):
    network, two_epochs = small_unet(), small_unet()
    assert len(scripted(network, 0.1, 0.5, 0.2, 0.3, epochs=50, patience=2)) == 4
    scripted(two_epochs, 0.1, 0.5)
    assert same_weights(network, two_epochs)


def test_moving_average_of_weights_is_what_is_kept(scripted):
    """One step an epoch at a constant rate: average_k = decay average_(k-1) + (1 - decay) weights_k."""

    def last_weight(*figures, **options):
        torch.manual_seed(0)
        network = nn.Conv2d(1, 1, 1)
        scripted(network, *figures, **options)
        return network.weight.item()

    first, second, third = last_weight(0.1), last_weight(0.1, 0.2), last_weight(0.1, 0.2, 0.3)
    average = 0.5 * (0.5 * first + 0.5 * second) + 0.5 * third
    assert last_weight(0.1, 0.2, 0.3, ema_decay=0.5) == pytest.approx(average, rel=1e-4)


@pytest.mark.slow
def test_accumulated_batches_and_two_processes_train_like_one_large_batch(frames, tmp_path):
    two_processes.train(frames, tmp_path / "one", batch_size=8)
    two_processes.train(frames, tmp_path / "accumulated", batch_size=4, accumulate_grad_batches=2)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tests.two_processes"]
    subprocess.run([*torchrun, str(frames.folder), str(tmp_path / "two")], cwd=REPOSITORY, check=True, timeout=300)
    one, *others = (pd.read_csv(tmp_path / name / "curves.csv") for name in ("one", "accumulated", "two"))
    assert len(one) == 4 and one["loss"].iloc[-1] < 0.95 * one["loss"].iloc[0]
    for other in others:
        pd.testing.assert_frame_equal(one.drop(columns="val_loss"), other.drop(columns="val_loss"), rtol=1e-4)
        # two processes validate the five frames as six, so that their mean loss counts one of them twice
        np.testing.assert_allclose(one["val_loss"], other["val_loss"], rtol=0.1)


def test_configurations_out_of_range_are_refused():
    wrong = {"lr": math.nan, "batch_size": 0, "patience": -1, "ema_decay": 1.0, "schedule": "cosine"}
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"{name}: expected .*, found {value!r}$"):
            TrainingConfig(**{"epochs": 1, "batch_size": 1, "lr": 0.1} | {name: value})
