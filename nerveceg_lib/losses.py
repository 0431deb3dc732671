"""Losses on logits. `target` has the logits' shape, values in 0..1; each returns the mean over the batch."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from nerveceg_lib.errors import InputError


def bce(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy over all pixels; on an empty mask it pushes every pixel to background."""
    _check(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target)


def dice(logits: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """1 - soft Dice of each frame (Milletari et al. 2016, arXiv:1606.04797), in float32.

    Soft Dice = (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth): on an empty mask it falls from 1
    towards smooth / (sum(p) + smooth), so its gradient almost vanishes unless hardly any pixel is drawn.
    """
    _check(logits, target)
    probability = logits.float().sigmoid().flatten(1)  # (B, pixels)
    truth = target.float().flatten(1)
    overlap = (probability * truth).sum(1)
    total = probability.sum(1) + truth.sum(1)
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean()


def bce_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of `bce` and `dice`: steady pixel gradients with a per-frame overlap goal."""
    return bce(logits, target) + dice(logits, target)


def coverage(maps: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Mean BCE between coverage logits (B, 1, h, w) and the mask (B, 1, H, W) averaged over each cell."""
    losses = [bce(logits, F.adaptive_avg_pool2d(mask, logits.shape[-2:])) for logits in maps]
    return torch.stack(losses).mean()


SEGMENTATION_LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "bce": bce,
    "dice": dice,
    "bce_dice": bce_dice,
}


def segmentation_loss(name: str) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The loss registered under `name`. Raises InputError with the list for an unknown name."""
    if name not in SEGMENTATION_LOSSES:
        raise InputError(f"loss: expected one of {sorted(SEGMENTATION_LOSSES)}, found {name!r}")
    return SEGMENTATION_LOSSES[name]


def _check(logits: torch.Tensor, target: torch.Tensor) -> None:
    if logits.shape != target.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
