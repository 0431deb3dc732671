"""EfficientU-Net: both stages in one trunk. Encoder and presence head see every frame, the decoder few."""

from functools import partial

import torch
from torch import nn

from nerveceg_lib.errors import at_least
from nerveceg_lib.models.blocks import ConcatSkip, DoubleConv, UpConv, dropped
from nerveceg_lib.models.efficientnet import EfficientNetTrunk
from nerveceg_lib.models.initialise import initialise
from nerveceg_lib.models.unet import Decoder, pad


class EfficientUNet(nn.Module):
    """Image (B, in_channels, H, W) -> mask logits (B, 1, H, W), any size; `presence=True` also gives logits (B,).

    EfficientNet's features at stride 2 to 32 under a U-Net decoder of the same widths; the full resolution has a
    light unit of its own (`stem_channels`). The presence head is EfficientNet's, on the bottleneck; without it
    (`presence_head=False`) there are masks alone. For the options of the trunk see `EfficientNetTrunk`; `init` is
    for the decoder and the stem.
    """

    def __init__(
        self,
        version: str,
        in_channels: int = 1,
        pretrained: bool = False,
        stem_channels: int = 16,
        dropout: float = 0.2,
        drop_connect: float = 0.0,
        upsample: str = "nearest",
        init: str = "kaiming",
        checkpointing: bool = False,
        presence_head: bool = True,
    ):
        super().__init__()
        at_least(1, stem_channels=stem_channels)
        self.checkpointing = checkpointing
        self.trunk = EfficientNetTrunk(version, in_channels, pretrained, drop_connect)
        head = nn.Sequential(dropped(dropout, nn.Dropout), nn.Linear(self.trunk.widths[-1], 1))
        self.presence = head if presence_head else None
        self.stem = DoubleConv(in_channels, stem_channels)
        self.decoder = Decoder([stem_channels, *self.trunk.level_widths], DoubleConv, ConcatSkip, UpConv, upsample)
        self.mask = nn.Conv2d(stem_channels, 1, kernel_size=1)
        self.look_widths, self.cam_layer = (stem_channels, self.trunk.widths[-1]), "decoder.units.1"
        initialise(nn.ModuleList([self.stem, self.decoder, self.mask]), init)

    def forward(self, image: torch.Tensor, presence: bool = False):
        if not presence:
            return self.look(image)[0]
        levels, presence_logit = self.encode(image)
        return self.decode(image, levels), presence_logit

    def encode(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features at stride 2 to 32 of the padded image, and presence logits (B,)."""
        assert self.presence is not None, "built without a presence head"
        levels, last = self.trunk.levels(pad(image, 32))
        return levels, self.presence(last.mean(dim=(2, 3))).squeeze(1)

    def look(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mask logits, the features below them (B, look_widths[0], H, W), the last ones (B, look_widths[1], h, w)."""
        levels, last = self.trunk.levels(pad(image, 32))
        fine = self._decoded(image, levels)
        return self.mask(fine), fine, last

    def presence_logit(self, image: torch.Tensor) -> torch.Tensor:
        """The first stage alone: presence logits (B,)."""
        return self.encode(image)[1]

    def decode(self, image: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        """Mask logits (B, 1, H, W) of images from their features."""
        return self.mask(self._decoded(image, levels))

    def _decoded(self, image: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        decoded = self.decoder([self.stem(pad(image, 32)), *levels], self.checkpointing)
        return decoded[0][..., : image.shape[-2], : image.shape[-1]]


EFFICIENT_UNETS = {f"efficient-unet-b{n}": partial(EfficientUNet, f"efficientnet-b{n}") for n in range(8)}
