"""Training: steps of the U-Net against a naive loop, and the time that an epoch spends outside the network."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch

from benchmarks import harness, naive, networks
from nerveceg_lib.data.datasets import Augmentation, FrameSet, train_loader
from nerveceg_lib.models import build_model
from nerveceg_lib.runtime import configure, device
from nerveceg_lib.training import PresenceObjective, SegmentationObjective, TrainingConfig, callbacks, fit
from nerveceg_lib.training.objectives import Objective

TRAININGS = (  # those of notebooks 2 and 3 in the demo: network, its options, objective, input size, batch size
    ("efficientnet-b4", {}, PresenceObjective(20.0), (64, 96), 8),
    ("unet", {"base_channels": 12}, SegmentationObjective("bce_dice"), (96, 128), 4),
)


def rows(quick: bool = False) -> list[harness.Row]:
    """Throughput of training steps, and the overhead of an epoch at the demo's size."""
    configure(seed=0)
    return [_steps(quick), *(_overhead(*training, quick) for training in TRAININGS)]


def _steps(quick: bool, batch_size: int = 2) -> harness.Row:
    """Compare the same number of frames per step; only the kit's step augments them."""
    steps, cache = (2 if quick else 4), networks.frames()
    index = cache.index[cache.index["has_nerve"] == 1]
    data = networks.data_folder()
    pairs = [(data / row.path, data / row.mask_path) for row in index.itertuples()]
    plain = build_model("unet", in_channels=3)
    adam = torch.optim.Adam(plain.parameters(), 1e-3)

    def naive_steps() -> None:
        naive.train_steps(plain, adam, iter(naive.loader(pairs, networks.SIZE, batch_size)), steps)

    network, objective = device.channels_last(build_model("unet")).train(), SegmentationObjective("bce_dice")
    frames, augment = FrameSet(cache, index["row"][: batch_size * steps], networks.SIZE), Augmentation()
    adamw = torch.optim.AdamW(network.parameters(), 1e-3, weight_decay=0.0, fused=True)

    def own_steps() -> None:
        for batch in train_loader(frames, batch_size, 0):
            with device.autocast("auto"):
                loss = objective.loss(network, augment(batch))
            loss.backward()
            adamw.step()
            adamw.zero_grad()

    seconds = harness.alternate({"naive": naive_steps, "own": own_steps}, repeats=3)
    name = f"training step, U-Net 64 at {networks.SIZE[0]}x{networks.SIZE[1]}, batch {batch_size}"
    note = f"{device.resolve_precision('auto')}, channels last; with augmentation, which the naive loop lacks"
    return harness.rate_row(name, "frames/s", batch_size * steps, seconds["naive"], seconds["own"], 2.0, note)


def _overhead(
    name: str, options: dict, objective: Objective, size: tuple[int, int], batch_size: int, quick: bool
) -> harness.Row:
    """Share of the second and later epochs, without validation, that is not forward, backward or optimiser."""
    cache, clock = networks.frames(), Clock()
    frames = FrameSet(cache, cache.index["row"][: 24 if quick else 240], size)
    torch.manual_seed(0)
    network, config = build_model(name, **options), TrainingConfig(epochs=4, batch_size=batch_size, lr=0.003)
    with tempfile.TemporaryDirectory() as folder, clock.installed():
        fit(network, clock.watch(objective), frames, frames, config, Path(folder) / "network.pt", {}, Augmentation())
    wall, inside = np.array(clock.epochs[1:]).T
    return harness.paired_row(
        f"share of an epoch outside the network, {name} at {size[0]}x{size[1]}", "", wall / wall, 1 - inside / wall,
        target=0.10, at_least=False, on_figure=True, note="loading, augmentation, logging, checkpoints; no validation",
    )  # fmt: skip


class Clock:
    """Seconds of each epoch without its validation, and how many of them forward, backward and optimiser took."""

    def __init__(self):
        self.epochs: list[tuple[float, float]] = []
        self.inside = 0.0

    def watch(self, objective: Objective) -> SimpleNamespace:
        """Return `objective` with a loss whose seconds count as inside."""
        names = ("predict", "metric", "target", "metric_name")
        return SimpleNamespace(loss=self.timed(objective.loss), **{name: getattr(objective, name) for name in names})

    def timed(self, work: Callable) -> Callable:
        """Return `work` so that its seconds count as inside."""

        def run(*arguments, **options):
            start = time.perf_counter()
            result = work(*arguments, **options)
            self.inside += time.perf_counter() - start
            return result

        return run

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Time what Lightning calls: it hands the optimiser a closure that holds forward and backward."""
        update = torch.optim.AdamW.step

        def step(optimizer, closure=None):
            loss = closure() if closure else None
            self.timed(update)(optimizer)
            return loss

        backward = self.timed(torch.Tensor.backward)
        with (
            patch.object(torch.Tensor, "backward", backward),
            patch.object(torch.optim.AdamW, "step", step),
            patch.object(callbacks, "EpochLog", self._log()),
        ):
            yield

    def _log(clock) -> type:  # noqa: N805 - `self` is the log's
        class TimedLog(callbacks.EpochLog):
            def on_train_epoch_start(self, *arguments) -> None:
                super().on_train_epoch_start(*arguments)
                self.began, clock.inside = time.perf_counter(), 0.0

            def on_validation_start(self, *arguments) -> None:
                self.paused, self.counted = time.perf_counter(), clock.inside

            def on_validation_end(self, *arguments) -> None:
                self.began += time.perf_counter() - self.paused
                clock.inside = self.counted  # validation's forward passes do not count

            def on_train_epoch_end(self, *arguments) -> None:
                super().on_train_epoch_end(*arguments)
                clock.epochs.append((time.perf_counter() - self.began, clock.inside))

        return TimedLog
