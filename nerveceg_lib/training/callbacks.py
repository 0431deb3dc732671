"""What watches over a training: reproducible random numbers, a guard against NaN, one line per epoch, the files."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities import rank_zero_only

from nerveceg_lib.models.checkpoints import write_tensors
from nerveceg_lib.runtime.errors import InputError


class ReproducibleSteps(Callback):
    """Seed each training step by itself, so that a resumed training repeats augmentation and dropout exactly."""

    def __init__(self, seed: int):
        self.seed = seed

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch, batch_index: int) -> None:
        step = trainer.current_epoch * int(trainer.num_training_batches) + batch_index
        step = step * trainer.world_size + trainer.global_rank
        # torch.manual_seed records the call stack three times for devices that may yet appear, which costs time
        seed = torch.default_generator.manual_seed if module.device.type == "cpu" else torch.manual_seed
        seed(self.seed * 1_000_003 + step)


class StopAtNonFinite(Callback):
    """Stop with InputError when loss or gradient is not finite, and name the frames of the batch."""

    def on_train_batch_start(self, trainer: L.Trainer, module: Any, batch, batch_index: int) -> None:
        self.names = module.train_set.names[batch["position"].cpu().numpy()]

    def on_before_backward(self, trainer: L.Trainer, module: L.LightningModule, loss: torch.Tensor) -> None:
        self._check("loss", loss, trainer)

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, optimizer) -> None:
        gradients = [weight.grad for weight in module.parameters() if weight.grad is not None]
        self._check("gradient", torch.nn.utils.get_total_norm(gradients), trainer)

    def _check(self, name: str, value: torch.Tensor, trainer: L.Trainer) -> None:
        if not value.isfinite():
            raise InputError(
                f"{name} is {value.item()} in epoch {trainer.current_epoch + 1}, expected a finite one; the checkpoint "
                "of the last whole epoch is kept: lower lr, or look at the frames of this batch: "
                + ", ".join(self.names)
            )


class EpochLog(Callback):
    """Print one plain line per epoch, and one every half minute within a long epoch; keep the learning curves.

    The lines read the same in a notebook, a terminal and papermill's log. The curves survive a resume.
    """

    SECONDS_BETWEEN_LINES = 30.0

    def __init__(self, metric_name: str):
        self.metric_name = metric_name
        self.records: list[dict[str, float]] = []
        self._unsaid: list[str] = []

    def state_dict(self) -> dict:
        return {"records": self.records}

    def load_state_dict(self, state: dict) -> None:
        self.records = state["records"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch:
            say(f"resumed after epoch {trainer.current_epoch}")

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.on_train_end(trainer, module)
        self._epoch_start = self._last_line = time.monotonic()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs, batch, index) -> None:
        if time.monotonic() - self._last_line > self.SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            say(f"  epoch {trainer.current_epoch + 1}: batch {index + 1}/{trainer.num_training_batches}")

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        figures = {name: float(trainer.callback_metrics[name]) for name in ("loss", "val_loss", "val_metric")}
        self.records.append({"epoch": trainer.current_epoch + 1, **figures})
        seconds = time.monotonic() - self._epoch_start
        assert trainer.max_epochs is not None  # `fit` sets it
        remaining = seconds * (trainer.max_epochs - trainer.current_epoch - 1)
        self._unsaid.append(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  loss {figures['loss']:.3f}  "
            f"validation loss {figures['val_loss']:.3f}  {self.metric_name} {figures['val_metric']:.3f}  "
            f"{seconds:.0f} s, at most {remaining:.0f} s left"
        )

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Print the line of the last epoch, now that its checkpoint is stored: what was printed survives a kill."""
        while self._unsaid:
            say(self._unsaid.pop())


class WholeCheckpoints(TorchCheckpointIO):
    """Write Lightning's checkpoints atomically beside their final name, not to the system's temporary folder."""

    def save_checkpoint(self, checkpoint: dict, path: str | Path, storage_options: None = None) -> None:
        write_tensors(Path(path), checkpoint)


@rank_zero_only
def say(line: str) -> None:
    """Print a line at once, in the first process only."""
    print(line, flush=True)


def quiet_lightning() -> None:
    """Silence the messages of Lightning that do not help a reader of the notebooks."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # the loaders read from memory, so workers would only add start-up time; the folder exists before training, and
    # holds checkpoints when it is resumed
    warnings.filterwarnings("ignore", message=".*(not have many workers|exists and is not empty|treespec, LeafSpec)")
