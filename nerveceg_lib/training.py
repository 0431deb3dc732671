"""One training module for both tasks, run by Lightning. Model, objective, metric and data are passed in."""

import json
import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning as L
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

from nerveceg_lib.errors import at_least, one_of
from nerveceg_lib.files import read_json, write_csv, write_json

Batch = dict[str, torch.Tensor]
SCHEDULES = ("one_cycle", "constant")


@dataclass(frozen=True)
class Task:
    """What differs between the two stages.

    `objective(model, batch)` -> scalar loss; `predict(model, batch)` -> (B, ...) values collected over the
    validation set; `metric(predictions, batches' targets)` -> figure to maximise; `target` names the batch
    entry that the metric compares with.
    """

    objective: Callable[[nn.Module, Batch], torch.Tensor]
    predict: Callable[[nn.Module, Batch], torch.Tensor]
    metric: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    target: str
    metric_name: str


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train; `patience` counts epochs without a better validation figure, 0 = off."""

    epochs: int
    learning_rate: float
    weight_decay: float = 0.0
    kind: str = "one_cycle"
    patience: int = 0
    seed: int = 0

    def __post_init__(self):
        one_of("schedule", self.kind, SCHEDULES)
        at_least(1, epochs=self.epochs)


class TrainingModule(L.LightningModule):
    """Glue between a plain network and Lightning; the network knows nothing of it."""

    def __init__(self, model: nn.Module, task: Task, schedule: Schedule, augment: Callable[[Batch], Batch]):
        super().__init__()
        self.model, self.task, self.schedule, self.augment = model, task, schedule, augment
        self._predictions: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        # augmentation and dropout depend on seed and step alone, so a resumed run repeats them exactly
        torch.manual_seed(self.schedule.seed * 1_000_003 + self.global_step)
        loss = self.task.objective(self.model, self.augment(_channels_last(batch)))
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return loss

    def validation_step(self, batch: Batch, _: int) -> None:
        batch = _channels_last(batch)
        self.log("val_loss", self.task.objective(self.model, batch), batch_size=len(batch["image"]))
        self._predictions.append(self.task.predict(self.model, batch))
        self._targets.append(batch[self.task.target])

    def on_validation_epoch_end(self) -> None:
        figure = self.task.metric(torch.cat(self._predictions), torch.cat(self._targets))
        self.log("val_metric", figure)
        self._predictions.clear()
        self._targets.clear()

    def configure_optimizers(self):
        rate, decay = self.schedule.learning_rate, self.schedule.weight_decay
        optimizer = torch.optim.AdamW(self.parameters(), lr=rate, weight_decay=decay, fused=True)
        if self.schedule.kind == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
        return [optimizer], [{"scheduler": one_cycle, "interval": "step"}]


def fit(
    model: nn.Module,
    task: Task,
    schedule: Schedule,
    train: DataLoader,
    validation: DataLoader,
    augment: Callable[[Batch], Batch],
    folder: Path,
    fingerprint: dict,
    resume: bool = False,
) -> pd.DataFrame:
    """Train `model` in place and leave it with the weights of its best validation epoch.

    `folder` gets `last.ckpt` and `best.ckpt` while training runs (see `clear_progress`) and `curves.csv` at
    the end. With `resume` it goes on from `last.ckpt`, unless that belongs to another `fingerprint`
    (JSON-safe: everything that shapes the run). Returns the learning curves: `epoch`, `loss`, `val_loss`, `val_metric`.
    """
    _quiet_lightning()
    folder.mkdir(parents=True, exist_ok=True)
    last = folder / "last.ckpt"
    goes_on = resume and last.exists() and _belongs(folder, fingerprint)
    if not goes_on:
        clear_progress(folder)
        write_json(folder / "fingerprint.json", fingerprint)
    model.to(memory_format=torch.channels_last)
    module = TrainingModule(model, task, schedule, augment)
    log = EpochLog(task.metric_name)
    best = ModelCheckpoint(
        folder, "best", monitor="val_metric", mode="max", save_weights_only=True, enable_version_counter=False
    )
    callbacks = [log, best, ModelCheckpoint(folder, "last", enable_version_counter=False)]
    if schedule.patience:
        callbacks.append(EarlyStopping("val_metric", mode="max", patience=schedule.patience))
    trainer = L.Trainer(
        max_epochs=schedule.epochs,
        callbacks=callbacks,
        logger=False,
        deterministic="warn",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, train, validation, ckpt_path=last if goes_on else None, weights_only=True)
    state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    model.eval()
    curves = pd.DataFrame(log.records)
    write_csv(folder / "curves.csv", curves)
    return curves


def clear_progress(folder: Path) -> None:
    """Remove the checkpoints of a training in progress: call it once the finished network is saved."""
    for name in ("last.ckpt", "best.ckpt", "fingerprint.json"):
        (folder / name).unlink(missing_ok=True)


class EpochLog(Callback):
    """One plain line an epoch, and one every half minute within a long epoch: it reads the same in a
    notebook, a terminal and papermill's log. Keeps the learning curves, also across a resume."""

    SECONDS_BETWEEN_LINES = 30.0

    def __init__(self, metric_name: str):
        self.metric_name = metric_name
        self.records: list[dict[str, float]] = []

    def state_dict(self) -> dict:
        return {"records": self.records}

    def load_state_dict(self, state: dict) -> None:
        self.records = state["records"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch:
            print(f"resumed after epoch {trainer.current_epoch}", flush=True)

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._epoch_start = self._last_line = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch, index) -> None:
        if time.monotonic() - self._last_line > self.SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            print(
                f"  epoch {trainer.current_epoch + 1}: batch {index + 1}/{trainer.num_training_batches}",
                flush=True,
            )

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        figures = {name: float(trainer.callback_metrics[name]) for name in ("loss", "val_loss", "val_metric")}
        self.records.append({"epoch": trainer.current_epoch + 1, **figures})
        seconds = time.monotonic() - self._epoch_start
        left = seconds * (trainer.max_epochs - trainer.current_epoch - 1)
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {figures['loss']:.3f}  "
            f"validation loss {figures['val_loss']:.3f}  {self.metric_name} {figures['val_metric']:.3f}  "
            f"{seconds:.0f} s, at most {left:.0f} s left",
            flush=True,
        )


def _belongs(folder: Path, fingerprint: dict) -> bool:
    """True if the checkpoint in `folder` is of this very run; another one is started over, and said so."""
    path = folder / "fingerprint.json"
    same = path.exists() and read_json(path) == json.loads(json.dumps(fingerprint))  # tuples become lists
    if not same:
        print("the checkpoint found is of a run with other parameters: starting from the beginning")
    return same


def _channels_last(batch: Batch) -> Batch:
    return batch | {"image": batch["image"].contiguous(memory_format=torch.channels_last)}


def _quiet_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # our loaders read memory, so worker processes would only add start-up time
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval.*")
    # a stage's folder is made before training, and a resumed one holds checkpoints
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
