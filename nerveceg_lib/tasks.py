"""The two tasks the kit trains: is a nerve present, and where is it."""

import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc

from nerveceg_lib import losses
from nerveceg_lib.training import Batch, Task


def presence_task(coverage_weight: float) -> Task:
    """Presence BCE plus `coverage_weight` times the auxiliary coverage loss; validated by AUROC."""

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        logit, maps = model(batch["image"], coverage=True)
        return losses.bce(logit, batch["presence"]) + coverage_weight * losses.coverage(maps, batch["mask"])

    def auroc(logits: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        return binary_auroc(logits, presence.long())

    return Task(objective, lambda model, batch: model(batch["image"]), auroc, "presence", "AUROC")


def segmentation_task(loss: str) -> Task:
    """The named loss of `losses.SEGMENTATION_LOSSES`; validated by mean Dice of the masks cut at 0.5."""
    criterion = losses.segmentation_loss(loss)

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        return criterion(model(batch["image"]), batch["mask"])

    def mean_dice(drawn: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        drawn, truth = drawn.flatten(1), mask.flatten(1) > 0.5
        total = drawn.sum(1) + truth.sum(1)
        return torch.where(total > 0, 2 * (drawn & truth).sum(1) / total.clamp_min(1), 1.0).mean()

    return Task(objective, lambda model, batch: model(batch["image"]) > 0, mean_dice, "mask", "Dice")
