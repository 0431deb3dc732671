"""The encoder-decoder that every U-Net variant shares; variants plug in other blocks."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from nerveceg_lib.errors import InputError
from nerveceg_lib.models.blocks import ConcatSkip, DoubleConv, UpConv


class EncoderDecoder(nn.Module):
    """U-shaped network: (B, in_channels, H, W) -> mask logits (B, 1, H, W), any H and W.

    `block(in, out)` makes the convolution unit of a level, `skip(channels)` joins encoder and decoder.
    Level k has `base_channels * 2**k` channels; `depth` levels, hence depth - 1 halvings. Frames are
    padded with zeros to a multiple of the stride and the logits cropped back exactly.
    """

    def __init__(
        self,
        in_channels: int,
        base_channels: int,
        depth: int,
        block: Callable[[int, int], nn.Module],
        skip: Callable[[int], nn.Module] = ConcatSkip,
    ):
        super().__init__()
        for option, value, least in (("base_channels", base_channels, 1), ("depth", depth, 2)):
            if value < least:
                raise InputError(f"{option}: expected {least} or more, found {value}")
        width = [base_channels * 2**level for level in range(depth)]
        self.stride = 2 ** (depth - 1)
        self.encoder = nn.ModuleList(map(block, [in_channels, *width[:-1]], width))
        self.up = nn.ModuleList(UpConv(2 * channels, channels) for channels in width[:-1])
        self.skip = nn.ModuleList(skip(channels) for channels in width[:-1])
        self.decoder = nn.ModuleList(block(2 * channels, channels) for channels in width[:-1])
        self.head = nn.Conv2d(base_channels, 1, kernel_size=1)
        self.apply(_kaiming)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[-2:]
        x = F.pad(image, (0, -width % self.stride, 0, -height % self.stride))
        features = []
        for level, block in enumerate(self.encoder):
            x = block(F.max_pool2d(x, 2) if level else x)  # (B, base * 2**level, H / 2**level, W / 2**level)
            features.append(x)
        for level in reversed(range(len(self.decoder))):
            joined = self.skip[level](features[level], self.up[level](x))
            x = self.decoder[level](joined)
        return self.head(x)[..., :height, :width]


def unet(in_channels: int = 1, base_channels: int = 64, depth: int = 5, dropout: float = 0.0) -> EncoderDecoder:
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with same-padding, batch norm and resize-convolution.

    The paper's valid convolutions and mirrored tiles are left out: the whole frame fits at once.
    """
    return EncoderDecoder(in_channels, base_channels, depth, lambda i, o: DoubleConv(i, o, dropout))


def _kaiming(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.zeros_(module.bias)
