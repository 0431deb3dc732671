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
from lightning.pytorch.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.utils.data import DataLoader

from nerveceg_lib.checkpoints import WholeCheckpoints
from nerveceg_lib.compute import Hardware, channels_last, resolve_precision
from nerveceg_lib.data.dataset import Batch, LabelledSet, eval_loader, train_loader
from nerveceg_lib.errors import InputError, at_least, one_of
from nerveceg_lib.files import read_json, storing, write_csv, write_json

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
    """How long and how fast to train.

    `patience` counts epochs without a better validation figure, 0 = off. `accumulate` batches make one step.
    `ema` (0..1, 0 = off) is the decay, a step, of an exponential moving average of the weights, which then is
    what gets validated and kept.
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 0.0
    kind: str = "one_cycle"
    patience: int = 0
    accumulate: int = 1
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self):
        one_of("schedule", self.kind, SCHEDULES)
        at_least(1, epochs=self.epochs, accumulate=self.accumulate)
        if not 0 <= self.ema < 1:
            raise InputError(f"ema: expected 0 or more and below 1, found {self.ema}")


@dataclass(frozen=True)
class Data:
    """Frames to train and validate on, frames a batch (in each process), and the augmentation of a batch."""

    train: LabelledSet
    validation: LabelledSet
    batch: int
    augment: Callable[[Batch], Batch]


class TrainingModule(L.LightningModule):
    """Glue between a plain network and Lightning; the network knows nothing of it."""

    def __init__(self, model: nn.Module, task: Task, schedule: Schedule, data: Data):
        super().__init__()
        self.model, self.task, self.schedule, self.data = model, task, schedule, data
        self._predictions: list[torch.Tensor] = []
        self._targets: list[torch.Tensor] = []
        self._batch = torch.empty(0, dtype=torch.long)  # places of the frames just trained on

    def train_dataloader(self) -> DataLoader:
        place = self.trainer.world_size, self.trainer.global_rank
        return train_loader(self.data.train, self.data.batch, self.schedule.seed, *place)

    def val_dataloader(self) -> DataLoader:
        place = self.trainer.world_size, self.trainer.global_rank
        return eval_loader(self.data.validation, 4 * self.data.batch, *place)

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        # augmentation and dropout depend on seed, batch and process alone, so a resumed run repeats them exactly
        seen = self.current_epoch * int(self.trainer.num_training_batches) + index
        place = seen * self.trainer.world_size + self.trainer.global_rank
        # without a GPU torch.manual_seed notes the call stack thrice, for devices that may yet appear
        seed = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed
        seed(self.schedule.seed * 1_000_003 + place)
        loss = self.task.objective(self.model, self.data.augment(_channels_last(batch)))
        self._batch = batch["place"]
        self._stop_unless_finite("loss", loss)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]), sync_dist=True)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        gradients = [weight.grad for weight in self.parameters() if weight.grad is not None]
        self._stop_unless_finite("gradient", torch.nn.utils.get_total_norm(gradients))

    def _stop_unless_finite(self, what: str, value: torch.Tensor) -> None:
        if not value.isfinite():
            names = ", ".join(self.data.train.names[self._batch.cpu().numpy()])
            raise InputError(
                f"{what} is {value.item()} in epoch {self.current_epoch + 1}, expected a finite one; the checkpoint of "
                f"the last whole epoch is kept: lower the rate, or look at the frames of this batch: {names}"
            )

    def validation_step(self, batch: Batch, _: int) -> None:
        batch = _channels_last(batch)
        loss = self.task.objective(self.model, batch)
        self.log("val_loss", loss, batch_size=len(batch["image"]), sync_dist=True)
        self._predictions.append(self.task.predict(self.model, batch))
        self._targets.append(batch[self.task.target])

    def on_validation_epoch_end(self) -> None:
        predictions, targets = (self._of_all_processes(torch.cat(x)) for x in (self._predictions, self._targets))
        self.log("val_metric", self.task.metric(predictions, targets), sync_dist=True)
        self._predictions.clear()
        self._targets.clear()

    def _of_all_processes(self, values: torch.Tensor) -> torch.Tensor:
        if self.trainer.world_size == 1:
            return values
        own = values.float().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.trainer.world_size)]
        torch.distributed.all_gather(parts, own)
        together = torch.stack(parts, dim=1).flatten(0, 1)  # frame i was in process i mod world
        return together[: len(self.data.validation)].to(values.dtype)  # the sampler pads to equal shares

    def configure_optimizers(self):
        rate = self.schedule.learning_rate
        optimizer = torch.optim.AdamW(self.parameters(), rate, weight_decay=self.schedule.weight_decay, fused=True)
        if self.schedule.kind == "constant":
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        one_cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.2)
        return [optimizer], [{"scheduler": one_cycle, "interval": "step"}]


def fit(
    model: nn.Module,
    task: Task,
    schedule: Schedule,
    data: Data,
    folder: Path,
    fingerprint: dict,
    resume: bool = False,
    hardware: Hardware | None = None,
) -> pd.DataFrame:
    """Train `model` in place and leave it with the weights of its best validation epoch.

    `folder` gets `last.ckpt` and `best.ckpt` while training runs (see `clear_progress`) and `curves.csv` at
    the end. With `resume` it goes on from `last.ckpt`, unless that belongs to another `fingerprint`
    (JSON-safe: everything that shapes the run). Returns the learning curves: `epoch`, `loss`, `val_loss`, `val_metric`.
    With several processes each calls this function; files and messages are the first one's.
    """
    _quiet_lightning()
    last = folder / "last.ckpt"
    goes_on = resume and last.exists() and _belongs(folder, fingerprint)
    if not goes_on:
        _start_over(folder, fingerprint)
    channels_last(model)
    module, log = TrainingModule(model, task, schedule, data), EpochLog(task.metric_name)
    # Lightning puts the averaged weights into whole checkpoints alone
    best = ModelCheckpoint(
        folder, "best", "val_metric", mode="max", save_weights_only=not schedule.ema, enable_version_counter=False
    )
    callbacks = [log, best, ModelCheckpoint(folder, "last", enable_version_counter=False)]
    if schedule.patience:
        callbacks.append(EarlyStopping("val_metric", mode="max", patience=schedule.patience))
    if schedule.ema:
        callbacks.append(EMAWeightAveraging(decay=schedule.ema))
    trainer = _trainer(schedule, hardware or Hardware(), callbacks)
    with storing(last):
        trainer.fit(module, ckpt_path=last if goes_on else None, weights_only=True)
    module.load_state_dict(torch.load(best.best_model_path, map_location="cpu", weights_only=True)["state_dict"])
    trainer.strategy.barrier()  # the first process may remove the checkpoint once all have read it
    model.eval()
    curves = pd.DataFrame(log.records)
    rank_zero_only(write_csv)(folder / "curves.csv", curves)
    return curves


def _trainer(schedule: Schedule, hardware: Hardware, callbacks: list[Callback]) -> L.Trainer:
    several = hardware.devices * hardware.num_nodes > 1
    return L.Trainer(
        max_epochs=schedule.epochs,
        accumulate_grad_batches=schedule.accumulate,
        devices=hardware.devices,
        num_nodes=hardware.num_nodes,
        strategy="ddp" if several and hardware.strategy == "auto" else hardware.strategy,
        precision="bf16-mixed" if resolve_precision(hardware.precision) == "bf16" else "32-true",
        use_distributed_sampler=False,
        plugins=[WholeCheckpoints()],
        callbacks=callbacks,
        logger=False,
        deterministic="warn",
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


@rank_zero_only
def _start_over(folder: Path, fingerprint: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    clear_progress(folder)
    write_json(folder / "fingerprint.json", fingerprint)


@rank_zero_only
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
            _say(f"resumed after epoch {trainer.current_epoch}")

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._epoch_start = self._last_line = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch, index) -> None:
        if time.monotonic() - self._last_line > self.SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            _say(f"  epoch {trainer.current_epoch + 1}: batch {index + 1}/{trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        figures = {name: float(trainer.callback_metrics[name]) for name in ("loss", "val_loss", "val_metric")}
        self.records.append({"epoch": trainer.current_epoch + 1, **figures})
        seconds = time.monotonic() - self._epoch_start
        assert trainer.max_epochs is not None  # `_trainer` gave it
        left = seconds * (trainer.max_epochs - trainer.current_epoch - 1)
        _say(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {figures['loss']:.3f}  "
            f"validation loss {figures['val_loss']:.3f}  {self.metric_name} {figures['val_metric']:.3f}  "
            f"{seconds:.0f} s, at most {left:.0f} s left"
        )


def _belongs(folder: Path, fingerprint: dict) -> bool:
    """True if the checkpoint in `folder` is of this very run; another one is started over, and said so."""
    path = folder / "fingerprint.json"
    same = path.exists() and read_json(path) == json.loads(json.dumps(fingerprint))  # tuples become lists
    if not same:
        _say("the checkpoint found is of a run with other parameters: starting from the beginning")
    return same


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)


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
