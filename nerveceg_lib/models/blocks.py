"""Blocks that plug into the encoder-decoder."""

import torch
from torch import nn


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU (U-Net's block; batch norm came later)."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float = 0.0):
        super().__init__(
            *conv_bn_relu(in_channels, out_channels),
            nn.Dropout2d(dropout) if dropout else nn.Identity(),
            *conv_bn_relu(out_channels, out_channels),
        )


class UpConv(nn.Sequential):
    """Double the size by nearest-neighbour upsampling, then a 3x3 convolution: no checkerboard patterns."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(nn.Upsample(scale_factor=2, mode="nearest"), *conv_bn_relu(in_channels, out_channels))


class ConcatSkip(nn.Module):
    """U-Net's skip connection: encoder features beside decoder features."""

    def __init__(self, channels: int):
        super().__init__()

    def forward(self, skip: torch.Tensor, decoded: torch.Tensor) -> torch.Tensor:
        return torch.cat([skip, decoded], dim=1)  # (B, 2C, H, W)


def conv_bn_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
