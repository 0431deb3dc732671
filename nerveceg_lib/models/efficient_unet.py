"""EfficientU-Net: a U-Net whose encoder is EfficientNet."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nerveceg_lib.models.blocks import ConcatSkip, DoubleConv, UpConv, initialise
from nerveceg_lib.models.efficientnet import VERSIONS, EfficientNetEncoder
from nerveceg_lib.models.unet import Decoder, WithPresence, pad

STEM_CHANNELS = 16  # of EfficientU-Net's unit at full resolution


class EfficientUNet(WithPresence):
    """Frame (B, 1, H, W) -> mask logits (B, 1, H, W), for any size.

    EfficientNet's features at stride 2 to 32 feed a U-Net decoder of the same widths; a light unit of its own handles
    the full resolution. With `presence_head` the network also has a presence head, as in EfficientNet. For the other
    arguments see `EfficientNetEncoder`.
    """

    def __init__(
        self,
        version: str,
        pretrained: bool = False,
        dropout: float = 0.2,
        drop_connect: float = 0.0,
        freeze_batch_norm: bool = False,
        presence_head: bool = False,
    ):
        encoder = EfficientNetEncoder(version, pretrained, drop_connect, freeze_batch_norm)
        super().__init__(encoder.widths[-1], presence_head, dropout)
        self.encoder = encoder
        self.stem = DoubleConv(1, STEM_CHANNELS)
        self.decoder = Decoder([STEM_CHANNELS, *encoder.level_widths], DoubleConv, ConcatSkip, UpConv)
        self.mask = nn.Conv2d(STEM_CHANNELS, 1, kernel_size=1)
        self.cam_layer, self.presence_cam_layer = "decoder.units.1", f"encoder.{encoder.cam_layer}"
        initialise(nn.ModuleList([self.stem, self.decoder, self.mask]))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.decode(image, self.levels(image)[0])

    def levels(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `WithPresence`."""
        return self.encoder.levels(pad(image, 32))

    def decode(self, image: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        """See `WithPresence`."""
        decoded = self.decoder([self.stem(pad(image, 32)), *levels])
        return self.mask(decoded[0])[..., : image.shape[-2], : image.shape[-1]]


EFFICIENT_UNETS: dict[str, Callable[..., EfficientUNet]] = {
    version.replace("net-", "-unet-"): partial(EfficientUNet, version) for version in VERSIONS
}
