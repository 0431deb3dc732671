"""The tasks the kit trains: is a nerve present, where is it, and both at once in one trunk."""

import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc

from nerveceg_lib import losses
from nerveceg_lib.errors import InputError
from nerveceg_lib.training import Batch, Task


def presence_task(coverage_weight: float) -> Task:
    """Presence BCE plus `coverage_weight` times the auxiliary coverage loss; validated by AUROC."""

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        logit, maps = model(batch["image"], coverage=True)
        return losses.bce(logit, batch["presence"]) + coverage_weight * losses.coverage(maps, batch["mask"])

    return Task(objective, lambda model, batch: model(batch["image"]), auroc, "presence", "AUROC")


def auroc(scores: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
    """Area under the ROC curve of `scores` (N,), any increasing in P(nerve), against `presence` (N,) 0 or 1.

    Where all frames are of one kind no order is right or wrong: one half, as of chance.
    """
    presence = presence.long()
    return binary_auroc(scores, presence) if presence.unique().numel() == 2 else scores.new_tensor(0.5)


def shared_task(coverage_weight: float) -> Task:
    """Of a shared trunk: presence BCE, `coverage_weight` times pixel BCE on all frames, soft Dice on positive ones.

    Validated by the competition score of its masks under the best threshold on P(nerve), cut at its input's size: both
    questions count, as they do in the end.
    """

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        logit, (masks,) = model(batch["image"], coverage=True)
        total = losses.bce(logit, batch["presence"]) + coverage_weight * losses.bce(masks, batch["mask"])
        positive = batch["presence"] > 0.5
        return total + losses.dice(masks[positive], batch["mask"][positive]) if positive.any() else total

    def predict(model: nn.Module, batch: Batch) -> torch.Tensor:
        logit, (masks,) = model(batch["image"], coverage=True)
        return torch.stack([logit, _dice(masks > 0, batch["mask"])], dim=1)  # (B, 2)

    def best_score(predictions: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
        logits, dice = predictions.unbind(1)
        order = logits.argsort(descending=True)
        blank = 1 - presence[order]
        gained = (dice[order] * presence[order] - blank).cumsum(0)  # if the first 1, 2, ... are drawn
        return (blank.sum() + gained.max().clamp_min(0)) / len(presence)

    return Task(objective, predict, best_score, "presence", "score")


def segmentation_task(loss: str, deep_supervision: bool = False) -> Task:
    """The named loss of `losses.SEGMENTATION_LOSSES`; validated by mean Dice of the masks cut at 0.5.

    With `deep_supervision` the mean loss of the coarser levels is added, for networks built with their heads.
    """
    criterion = losses.segmentation_loss(loss)

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        if not deep_supervision:
            return criterion(model(batch["image"]), batch["mask"])
        logits, coarser = model(batch["image"], deep=True)
        return criterion(logits, batch["mask"]) + sum(criterion(c, batch["mask"]) for c in coarser) / len(coarser)

    return Task(objective, lambda model, batch: model(batch["image"]) > 0, _mean_dice, "mask", "Dice")


def one_trunk_task(loss: str) -> Task:
    """Both stages of a network with a presence head: its BCE on all frames, the named mask loss on positive ones.

    Validated by mean Dice on positive frames. The objective raises InputError for a network without such a head.
    """
    criterion = losses.segmentation_loss(loss)

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        if not hasattr(model, "presence_logit"):
            raise InputError(f"one_trunk: expected a network with a presence head, found {type(model).__name__}")
        logits, presence = model(batch["image"], presence=True)
        total = losses.bce(presence, batch["presence"])
        positive = batch["presence"] > 0.5
        return total + criterion(logits[positive], batch["mask"][positive]) if positive.any() else total

    def positive_dice(drawn: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        positive = mask.flatten(1).amax(1) > 0.5
        return _mean_dice(drawn[positive], mask[positive])

    return Task(objective, lambda model, batch: model(batch["image"]) > 0, positive_dice, "mask", "Dice")


def _mean_dice(drawn: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _dice(drawn, mask).mean()


def _dice(drawn: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Of each frame, (B,)."""
    drawn, truth = drawn.flatten(1), mask.flatten(1) > 0.5
    total = drawn.sum(1) + truth.sum(1)
    return torch.where(total > 0, 2 * (drawn & truth).sum(1) / total.clamp_min(1), 1.0)
