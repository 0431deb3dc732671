"""What happens in every training step, at the end of every epoch, and which optimiser does it."""

from collections.abc import Callable
from dataclasses import dataclass

import lightning as L
import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR
from torch.utils.data import DataLoader

from nerveceg_lib.data.datasets import Batch, FrameSet, eval_loader, train_loader
from nerveceg_lib.models.efficientnet import EfficientNetEncoder
from nerveceg_lib.runtime.device import PRECISIONS
from nerveceg_lib.runtime.errors import InputError, one_of
from nerveceg_lib.runtime.parameters import out_of_range
from nerveceg_lib.training.objectives import Objective

SCHEDULES = ("one_cycle", "constant")
STRATEGIES = ("auto", "ddp", "ddp_find_unused_parameters_true")


@dataclass(frozen=True)
class TrainingConfig:
    """How long, how fast and on what to train.

    Args:
        epochs: passes over the training set.
        batch_size: frames per batch, in each process.
        lr: learning rate of AdamW; the highest one under the one-cycle schedule.
        encoder_lr_factor: the learning rate of EfficientNet encoders relative to `lr`; below 1 it protects ImageNet
            weights.
        schedule: "one_cycle" (warm-up over a fifth of all steps, then decay; Smith & Topin 2018) or "constant".
        patience: stop after this many epochs without a better validation figure; 0 never stops early.
        accumulate_grad_batches: batches per optimiser step.
        ema_decay: decay per step of a moving average of the weights, which then is validated and kept; 0 is off.
        seed: of the order of the frames, augmentation and dropout.
        precision: "fp32", "bf16" or "auto".
        devices: GPUs, or processes on the CPU, on each machine.
        num_nodes: machines.
        strategy: one of STRATEGIES; "auto" is "ddp" for more than one device.

    Raises InputError for values out of range.
    """

    epochs: int
    batch_size: int
    lr: float
    encoder_lr_factor: float = 1.0
    schedule: str = "one_cycle"
    patience: int = 0
    accumulate_grad_batches: int = 1
    ema_decay: float = 0.0
    seed: int = 0
    precision: str = "fp32"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self):
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("precision", self.precision, PRECISIONS)
        one_of("strategy", self.strategy, STRATEGIES)
        if mistakes := out_of_range(vars(self)):
            raise InputError("\n".join(mistakes))


class TrainingModule(L.LightningModule):
    """The training of one network: steps, validation, optimiser and schedule. The network knows nothing of it."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        train_set: FrameSet,
        validation_set: FrameSet,
        config: TrainingConfig,
        augment: Callable[[Batch], Batch] | None = None,
    ):
        super().__init__()
        self.network, self.objective, self.config, self.augment = network, objective, config, augment
        self.train_set, self.validation_set = train_set, validation_set
        self.validated: list[tuple[torch.Tensor, torch.Tensor]] = []  # predictions and targets of each batch

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        batch = _channels_last(batch)
        if self.augment:
            batch = self.augment(batch)
        loss = self.objective.loss(self.network, batch)
        if loss.ndim:
            raise InputError(f"loss: expected one number per batch, such as a mean, found shape {tuple(loss.shape)}")
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(batch["image"]), sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        batch = _channels_last(batch)
        self.log("val_loss", self.objective.loss(self.network, batch), batch_size=len(batch["image"]), sync_dist=True)
        self.validated.append((self.objective.predict(self.network, batch), batch[self.objective.target]))

    def on_validation_epoch_end(self) -> None:
        predictions, targets = (self._of_all_processes(torch.cat(v)) for v in zip(*self.validated, strict=True))
        self.log("val_metric", self.objective.metric(predictions, targets), sync_dist=True)
        self.validated.clear()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(parameter_groups(self.network, self.config), weight_decay=0.0, fused=True)
        scheduler = lr_schedule(optimizer, self.config, int(self.trainer.estimated_stepping_batches))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def train_dataloader(self) -> DataLoader:
        process = self.trainer.world_size, self.trainer.global_rank
        return train_loader(self.train_set, self.config.batch_size, self.config.seed, *process)

    def val_dataloader(self) -> DataLoader:
        process = self.trainer.world_size, self.trainer.global_rank
        return eval_loader(self.validation_set, 4 * self.config.batch_size, *process)

    def _of_all_processes(self, values: torch.Tensor) -> torch.Tensor:
        """Join what the processes predicted: process p had frames p, p + world size, … and repeats some at the end."""
        if self.trainer.world_size == 1:
            return values
        gathered = self.all_gather(values.float())  # (processes, frames, ...)
        assert isinstance(gathered, torch.Tensor)
        return gathered.transpose(0, 1).flatten(0, 1)[: len(self.validation_set)].to(values.dtype)


def parameter_groups(network: nn.Module, config: TrainingConfig) -> list[dict]:
    """Return the weights of EfficientNet encoders and all others, each as a group with its learning rate."""
    encoders = [module for module in network.modules() if isinstance(module, EfficientNetEncoder)]
    inside = dict.fromkeys(weight for encoder in encoders for weight in encoder.parameters())
    others = [weight for weight in network.parameters() if weight not in inside]
    groups = [{"params": others, "lr": config.lr}, {"params": [*inside], "lr": config.lr * config.encoder_lr_factor}]
    return [group for group in groups if group["params"]]


def lr_schedule(optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int) -> LRScheduler:
    """Return the learning rate schedule of `config` over `steps` optimiser steps."""
    if config.schedule == "constant":
        return ConstantLR(optimizer, factor=1.0)
    # a fifth of five steps is one: OneCycleLR would divide by zero if the warm-up ended with the first step
    highest = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, highest, total_steps=steps, pct_start=max(0.2, 1.1 / max(steps, 2)))


def _channels_last(batch: Batch) -> Batch:
    return batch | {"image": batch["image"].contiguous(memory_format=torch.channels_last)}
