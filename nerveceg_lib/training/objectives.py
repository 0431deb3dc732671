"""The objectives of training: what is minimised on the training frames, and what is maximised on the validation frames.

Each objective has the same interface:

loss(network, batch)          scalar to minimise
predict(network, batch)       (B, ...) what is collected over the validation set
metric(predictions, targets)  figure to maximise, of the predictions and of the batches' entry called `target`
metric_name                   what the figure is called in logs and plots
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import nn
from torchmetrics.functional.classification import binary_auroc

from nerveceg_lib import losses
from nerveceg_lib.data.datasets import Batch
from nerveceg_lib.models.unet import WithPresence
from nerveceg_lib.runtime.errors import InputError


class Objective(Protocol):
    """What `fit` needs; see the top of this module."""

    target: ClassVar[str]
    metric_name: ClassVar[str]

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor: ...
    def predict(self, network: nn.Module, batch: Batch) -> torch.Tensor: ...
    def metric(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor: ...


@dataclass(frozen=True)
class PresenceObjective:
    """Is a nerve present? Cross-entropy plus `coverage_weight` times the coverage loss; validated by AUROC."""

    coverage_weight: float
    target: ClassVar[str] = "has_nerve"
    metric_name: ClassVar[str] = "AUROC"

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        logit, maps = network(batch["image"], coverage=True)
        return losses.bce(logit, batch["has_nerve"]) + self.coverage_weight * losses.coverage(maps, batch["mask"])

    def predict(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        return network(batch["image"])

    def metric(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return auroc(predictions, targets)


@dataclass(frozen=True)
class SegmentationObjective:
    """Where is the nerve? A loss of `losses.SEGMENTATION_LOSSES`; validated by the mean Dice of masks cut at 0.5.

    With `deep_supervision` the mean loss of the coarser decoder levels is added; the network needs their heads.
    """

    loss_name: str
    deep_supervision: bool = False
    target: ClassVar[str] = "mask"
    metric_name: ClassVar[str] = "Dice"

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        criterion = losses.segmentation_loss(self.loss_name)
        if not self.deep_supervision:
            return criterion(network(batch["image"]), batch["mask"])
        logits, coarser = network(batch["image"], deep=True)
        return criterion(logits, batch["mask"]) + sum(criterion(c, batch["mask"]) for c in coarser) / len(coarser)

    def predict(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        return network(batch["image"]) > 0  # a logit of 0 is a probability of 0.5

    def metric(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return frame_dice(predictions, targets).mean()


@dataclass(frozen=True)
class PresenceHeadObjective(SegmentationObjective):
    """Both questions in one network: presence cross-entropy on all frames, the mask loss on positive frames.

    Validated by the mean Dice of positive frames. Raises InputError for a network without a presence head.
    """

    def loss(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        if not isinstance(network, WithPresence) or network.presence is None:
            raise InputError(f"presence_head: expected a network that has one, found {type(network).__name__}")
        levels, presence_logit = network.encode(batch["image"])
        total = losses.bce(presence_logit, batch["has_nerve"])
        positive = batch["has_nerve"] > 0.5
        if not positive.any():
            return total
        # the decoder takes most of the time and would learn nothing from empty frames
        logits = network.decode(batch["image"][positive], [features[positive] for features in levels])
        return total + losses.segmentation_loss(self.loss_name)(logits, batch["mask"][positive])

    def metric(self, predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        positive = targets.flatten(1).amax(1) > 0.5
        return frame_dice(predictions[positive], targets[positive]).mean()


def auroc(scores: torch.Tensor, has_nerve: torch.Tensor) -> torch.Tensor:
    """Return the area under the ROC curve of `scores` (N,), which increase with P(nerve), against labels (N,) 0 or 1.

    It is one half, as by chance, if all frames have the same label.
    """
    has_nerve = has_nerve.long()
    return binary_auroc(scores, has_nerve) if has_nerve.unique().numel() == 2 else scores.new_tensor(0.5)


def frame_dice(predicted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the Dice (B,) of each predicted mask, bool (B, 1, H, W), and the true mask, cut at 0.5."""
    predicted, truth = predicted.flatten(1), mask.flatten(1) > 0.5
    total = predicted.sum(1) + truth.sum(1)
    return torch.where(total > 0, 2 * (predicted & truth).sum(1) / total.clamp_min(1), 1.0)
