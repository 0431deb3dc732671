"""The losses. They take logits and a target of the same shape (B, 1, H, W) with values in 0 to 1, and return a scalar.

Pixel losses (bce, focal, boundary_bce) are averaged over all pixels. Overlap losses (dice, tversky, focal_tversky,
lovasz_hinge) are computed for each frame and averaged over the frames. All of them compute in float32 or wider and
raise InputError for shapes that differ. Every docstring says what an **empty** mask does to the loss.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.parameters import find

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def bce(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy. Empty mask: every pixel is pushed towards the background."""
    logits, target = _wide(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target)


def focal(logits: torch.Tensor, target: torch.Tensor, positive: float = 0.25, gamma: float = 2.0) -> torch.Tensor:
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): cross-entropy times (1 - p of the true class) ** gamma.

    `positive` is the weight of nerve pixels, 1 - `positive` that of the background. Empty mask: like `bce`, but pixels
    that are already certain to be background have no weight.
    """
    logits, target = _wide(logits, target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = logits.sigmoid()
    wrong = probability * (1 - target) + (1 - probability) * target
    weight = positive * target + (1 - positive) * (1 - target)
    return (weight * wrong**gamma * entropy).mean()


def boundary_bce(logits: torch.Tensor, target: torch.Tensor, width: int = 5, strength: float = 4.0) -> torch.Tensor:
    """Binary cross-entropy with the weights of `boundary_weights`, similar to Ronneberger et al. 2015, eq. 2.

    Empty mask: there is no boundary, so the loss is `bce`.
    """
    logits, target = _wide(logits, target)
    return F.binary_cross_entropy_with_logits(logits, target, boundary_weights(target, width, strength))


def boundary_weights(target: torch.Tensor, width: int = 5, strength: float = 4.0) -> torch.Tensor:
    """Return pixel weights: 1 far from the outline, up to 1 + `strength` * width / (width + 1) on both sides of it.

    They rise within `width` px. Nerve and background are each averaged over 0 to `width` erosions, which leaves 1 deep
    inside a region and 1 / (width + 1) at its border. The edge of the frame does not count as an outline.
    """
    depth = torch.zeros_like(target)
    for region in (target, 1 - target):
        smooth = eroded = region
        for _ in range(width):
            eroded = -F.max_pool2d(-eroded, kernel_size=3, stride=1, padding=1)
            smooth = smooth + eroded
        depth = depth + region * smooth / (width + 1)
    return 1 + strength * (1 - depth)


def dice(logits: torch.Tensor, target: torch.Tensor, smooth: float = 1.0) -> torch.Tensor:
    """1 - soft Dice (Milletari et al. 2016, arXiv:1606.04797), which is `tversky` with both weights one half.

    Soft Dice = (2 sum(p t) + smooth) / (sum(p) + sum(t) + smooth). Empty mask: soft Dice is smooth / (sum(p) + smooth),
    so the gradient almost vanishes unless hardly any pixel is predicted.
    """
    return tversky(logits, target, false_positive=0.5, false_negative=0.5, smooth=smooth / 2)


def tversky(
    logits: torch.Tensor,
    target: torch.Tensor,
    false_positive: float = 0.3,
    false_negative: float = 0.7,
    smooth: float = 1.0,
) -> torch.Tensor:
    """1 - Tversky index (Salehi et al. 2017, arXiv:1706.05721); each weight is named after what it penalises.

    Index = (TP + smooth) / (TP + false_positive * FP + false_negative * FN + smooth), with TP = sum(p t) and so on.
    Empty mask: 1 - smooth / (false_positive * sum(p) + smooth), whose gradient is as weak as that of `dice`.
    """
    return (1 - _tversky_index(logits, target, false_positive, false_negative, smooth)).mean()


def focal_tversky(
    logits: torch.Tensor,
    target: torch.Tensor,
    false_positive: float = 0.3,
    false_negative: float = 0.7,
    gamma: float = 0.75,
    smooth: float = 1.0,
) -> torch.Tensor:
    """(1 - Tversky index) ** gamma (Abraham & Khan 2019, arXiv:1810.07842, whose 1 / gamma is 3/4).

    Empty mask: as `tversky`, to the power gamma. The slope of the power is infinite at 0, so the loss is cut off for a
    frame that is right to one part in a million.
    """
    index = _tversky_index(logits, target, false_positive, false_negative, smooth)
    return ((1 - index).clamp_min(1e-6) ** gamma).mean()


def lovasz_hinge(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Lovasz extension of the Jaccard loss over hinge errors (Berman et al. 2018, arXiv:1705.08790, eq. 8-9).

    A soft target is cut at one half. Empty mask: the hinge error of the worst pixel only.
    """
    logits, target = _wide(logits.flatten(1), target.flatten(1))
    truth = (target > 0.5).to(logits)
    errors = 1 - logits * (2 * truth - 1)  # (B, pixels)
    errors, order = errors.sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    total = truth.sum(dim=1, keepdim=True)
    jaccard = 1 - (total - truth.cumsum(1)) / (total + (1 - truth).cumsum(1))  # loss if the first k are wrong
    step = jaccard.diff(dim=1, prepend=torch.zeros_like(total))
    return (errors.relu() * step).sum(1).mean()


def bce_dice(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """`bce` plus `dice`: steady gradients at every pixel and overlap in every frame. Empty mask: mostly `bce`."""
    return bce(logits, target) + dice(logits, target)


def coverage(maps: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Mean BCE of coverage logits (B, 1, h, w) and the mask (B, 1, H, W), averaged over the area of each cell."""
    losses = [bce(logits, F.adaptive_avg_pool2d(mask, (logits.shape[-2], logits.shape[-1]))) for logits in maps]
    return torch.stack(losses).mean()


SEGMENTATION_LOSSES: dict[str, Loss] = {
    loss.__name__: loss for loss in (bce, dice, bce_dice, tversky, focal_tversky, focal, lovasz_hinge, boundary_bce)
}


def segmentation_loss(name: str) -> Loss:
    """Return the loss called `name`, or "module:function" for one of your own, such as "my_losses:focal"."""
    return find("loss", name, SEGMENTATION_LOSSES)


def _tversky_index(logits, target, false_positive: float, false_negative: float, smooth: float) -> torch.Tensor:
    logits, target = _wide(logits.flatten(1), target.flatten(1))  # (B, pixels)
    probability = logits.sigmoid()
    hit = (probability * target).sum(1)
    extra = (probability * (1 - target)).sum(1)
    missed = ((1 - probability) * target).sum(1)
    return (hit + smooth) / (hit + false_positive * extra + false_negative * missed + smooth)


def _wide(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both in float32 or wider: half precision cannot hold sums over the pixels of a frame."""
    if logits.shape != target.shape:
        found = f"found {tuple(logits.shape)} for targets of {tuple(target.shape)}"
        raise InputError(f"model: expected a network whose output has the shape of its target, {found}")
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.to(wide), target.to(wide)
