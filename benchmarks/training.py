"""Training: steps of the U-Net against a naive loop, and what an epoch spends outside the network."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from benchmarks import harness, naive, networks
from nerveceg_lib import compute, runtime, tasks, training
from nerveceg_lib.data import dataset
from nerveceg_lib.models import build_model


def rows(quick: bool = False) -> list[harness.Row]:
    """Throughput of training steps, and the overhead of an epoch at the demo's size."""
    runtime.configure(seed=0)
    return [_steps(quick), *(_overhead(*stage, quick) for stage in STAGES)]


def _steps(quick: bool, batch: int = 2) -> harness.Row:
    """The same number of frames a step, the kit's augmentation included."""
    steps, given = (2 if quick else 4), networks.frames()
    index = given.index[given.index["presence"] == 1]
    data = networks.data_folder()
    pairs = [(data / row.path, data / row.mask_path) for row in index.itertuples()]
    plain = build_model("unet", in_channels=3)
    adam = torch.optim.Adam(plain.parameters(), 1e-3)

    def naive_steps() -> None:
        naive.train_steps(plain, adam, iter(naive.loader(pairs, networks.SIZE, batch)), steps)

    model, task = build_model("unet").to(memory_format=torch.channels_last), tasks.segmentation_task("bce_dice")
    frames = dataset.FrameSet(given, index["row"].to_numpy()[: batch * steps], networks.SIZE)
    move = dataset.augmentation()
    loaded = training.Data(frames, frames, batch, lambda part: dataset.augment(move, part))
    module = training.TrainingModule(model, task, training.Schedule(1, 1e-3, kind="constant"), loaded)
    adamw = module.configure_optimizers()

    def own_steps() -> None:
        for part in dataset.train_loader(frames, batch, 0):
            with compute.autocast("auto"):
                loss = task.objective(model.train(), loaded.augment(part))
            loss.backward()
            adamw.step()
            adamw.zero_grad()

    seconds = harness.alternate({"naive": naive_steps, "own": own_steps}, repeats=3)
    return harness.rate_row(
        "training step, U-Net 64 at 400x400, batch 2", "frames/s", batch * steps, seconds["naive"], seconds["own"], 2.0,
        f"{compute.resolve_precision('auto')}, channels last; with augmentation, which the naive loop lacks",
    )  # fmt: skip


STAGES = (
    ("efficientnet-b4", {}, lambda: tasks.presence_task(20.0), (64, 96), 8),
    ("unet", {"base_channels": 12}, lambda: tasks.segmentation_task("bce_dice"), (96, 128), 4),
)


def _overhead(name: str, config: dict, task: Callable, size: tuple[int, int], batch: int, quick: bool) -> harness.Row:
    """Share of the second and later epochs, without validation, that is not forward, backward or optimiser."""
    given, clock = networks.frames(), Clock()
    some = dataset.FrameSet(given, given.index["row"].to_numpy()[: 48 if quick else 240], size)
    move = dataset.augmentation()
    data = training.Data(some, some, batch, lambda part: dataset.augment(move, part))
    torch.manual_seed(0)
    model, given_task = build_model(name, **config), task()
    timed_task = replace(given_task, objective=clock.timed(given_task.objective))
    with tempfile.TemporaryDirectory() as folder, clock.installed():
        training.fit(model, timed_task, training.Schedule(4, 0.003), data, Path(folder), {})
    wall, inside = np.array(clock.epochs[1:]).T
    return harness.paired_row(
        f"share of an epoch outside the network, {name} at {size[0]}x{size[1]}", "", wall / wall, 1 - inside / wall,
        target=0.10, at_least=False, on_figure=True, note="loading, augmentation, logging, checkpoints; no validation",
    )  # fmt: skip


class Clock:
    """Seconds of each epoch, validation apart, and those of them spent in forward, backward and optimiser."""

    def __init__(self):
        self.epochs: list[tuple[float, float]] = []
        self.inside = 0.0

    def timed(self, work: Callable) -> Callable:
        """`work`, whose seconds count as inside."""

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
            patch.object(training, "EpochLog", self._log()),
        ):
            yield

    def _log(clock) -> type:  # noqa: N805 - `self` is the log's
        class TimedLog(training.EpochLog):
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
