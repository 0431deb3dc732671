"""Presence judged by a segmenter: one trunk for both questions, so that masks teach it where to look."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nerveceg_lib.models.blocks import dropped
from nerveceg_lib.models.efficient_unet import EfficientUNet
from nerveceg_lib.models.unet import EncoderDecoder, unet


class SharedTrunk(nn.Module):
    """(B, in_channels, H, W) standardised frame -> presence logit (B,); any size.

    The head weighs three views of `segmenter`: the log-mean-exp of its mask logits (a soft maximum: is any pixel
    suspicious?), its finest features averaged under the mask (what does that place look like?) and its bottleneck
    averaged over the frame. With `coverage=True` forward also returns [mask logits], which are coverage logits at
    stride 1. `cam_layer` names the layer of the segmenter that Grad-CAM explains best.
    """

    def __init__(self, segmenter: EncoderDecoder | EfficientUNet, cam_layer: str, dropout: float = 0.2):
        super().__init__()
        self.segmenter, self.cam_layer = segmenter, f"segmenter.{cam_layer}"
        self.head = nn.Sequential(dropped(dropout, nn.Dropout), nn.Linear(1 + sum(segmenter.look_widths), 1))

    def forward(self, image: torch.Tensor, coverage: bool = False):
        masks, fine, bottleneck = self.segmenter.look(image)
        peak = masks.logsumexp((2, 3)) - math.log(masks[0].numel())  # (B, 1)
        attention = masks.sigmoid()
        place = (attention * fine).sum((2, 3)) / attention.sum((2, 3)).clamp_min(1e-6)  # (B, C)
        logit = self.head(torch.cat([peak, place, bottleneck.mean((2, 3))], dim=1)).squeeze(1)  # (B,)
        return (logit, [masks]) if coverage else logit


def shared_unet(dropout: float = 0.2, **options) -> SharedTrunk:
    """U-Net (`options`: those of `EncoderDecoder`) with a presence head."""
    return SharedTrunk(unet(**options), "encoder.units.3", dropout)


def shared_efficient_unet(
    version: str, in_channels: int = 1, pretrained: bool = False, dropout: float = 0.2
) -> SharedTrunk:
    """EfficientU-Net whose presence head sees the masks, too."""
    segmenter = EfficientUNet(version, in_channels, pretrained, presence_head=False)
    return SharedTrunk(segmenter, f"trunk.{segmenter.trunk.cam_layer}", dropout)


SHARED_TRUNKS: dict[str, Callable[..., SharedTrunk]] = {
    "shared-unet": shared_unet,
    **{f"shared-efficient-unet-b{n}": partial(shared_efficient_unet, f"efficientnet-b{n}") for n in (0, 4)},
}
