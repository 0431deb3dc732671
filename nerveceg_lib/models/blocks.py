"""Blocks that plug into the encoder-decoder.

Convolution units take `(in_channels, out_channels, stride)`; stride 2 halves the size. Ups take
`(in_channels, out_channels, mode)`, double the size and say in `out_channels` how many channels leave
them. Skips take `(channels, level)`, level 0 the finest, and join encoder features (B, C, H, W) with
decoded ones (B, C', H, W) and, if they like, with what these were upsampled from (B, 2C, H/2, W/2).
"""

import torch
import torch.nn.functional as F
from torch import nn

from nerveceg_lib.errors import InputError, at_least, one_of


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU (U-Net's unit; batch norm came later)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, dropout: float = 0.0):
        super().__init__(
            nn.MaxPool2d(2) if stride == 2 else nn.Identity(),
            *conv_bn_relu(in_channels, out_channels),
            dropped(dropout),
            *conv_bn_relu(out_channels, out_channels),
        )


class RecurrentConv(nn.Module):
    """3x3 convolution applied 1 + t times with the same weights: y <- f(x + y) (Liang & Hu 2015).

    Each step keeps batch statistics of its own, though not weights (Cooijmans et al. 2016, arXiv:1603.09025): the
    steps' activations differ, and statistics mixed over them make evaluation differ from training.
    """

    def __init__(self, channels: int, recurrence: int):
        super().__init__()
        at_least(1, recurrence=recurrence)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(1 + recurrence))
        self.relu = nn.ReLU()
        for norm in self.norms[1:]:
            norm.weight, norm.bias = self.norms[0].weight, self.norms[0].bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, *later = self.norms
        y = self.relu(first(self.conv(x)))
        for norm in later:
            y = self.relu(norm(self.conv(x + y)))
        return y


class RecurrentResidual(nn.Module):
    """R2U-Net's unit: two recurrent convolutions with a shortcut around both (Alom et al. 2018, fig. 4d)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, recurrence: int = 2, dropout: float = 0.0):
        super().__init__()
        self.enter = nn.Sequential(
            nn.MaxPool2d(2) if stride == 2 else nn.Identity(), nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )
        self.recurrent = nn.Sequential(
            RecurrentConv(out_channels, recurrence), dropped(dropout), RecurrentConv(out_channels, recurrence)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        return x + self.recurrent(x)


class PreActivationResidual(nn.Module):
    """Two times batch norm, ReLU, 3x3 convolution, and a shortcut (Zhang et al. 2018, fig. 1b).

    The first unit sees the image, which wants no activation before its convolution (`stem`). Where channels
    change, the "identity" shortcut has no weights: it cuts or zero-pads the channels (He et al. 2015, option A), so
    that in the decoder it hands on the encoder's features; "projection" is a 1x1 convolution.
    """

    def __init__(self, in_channels, out_channels, stride=1, shortcut="identity", dropout=0.0, stem=False):
        super().__init__()
        projects = one_of("shortcut", shortcut, ("identity", "projection")) == "projection"
        self.missing = out_channels - in_channels  # channels; negative: too many
        self.stride = stride
        self.project = nn.Conv2d(in_channels, out_channels, 1, stride) if projects else None
        self.residual = nn.Sequential(
            *([] if stem else [nn.BatchNorm2d(in_channels), nn.ReLU()]),
            nn.Conv2d(in_channels, out_channels, 3, stride, padding=1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            dropped(dropout),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.project is not None:
            return self.project(x) + self.residual(x)
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, 0, self.missing)) + self.residual(x)


class UpConv(nn.Sequential):
    """Double the size, then a 3x3 convolution (no checkerboard patterns); or a 2x2 "transpose" convolution."""

    def __init__(self, in_channels: int, out_channels: int, mode: str = "nearest"):
        if one_of("upsample", mode, ("nearest", "bilinear", "transpose")) == "transpose":
            transposed = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
            super().__init__(transposed, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True))
        else:
            super().__init__(nn.Upsample(scale_factor=2, mode=mode), *conv_bn_relu(in_channels, out_channels))
        self.out_channels = out_channels


class PlainUp(nn.Upsample):
    """Double the size and keep all channels."""

    def __init__(self, in_channels: int, out_channels: int, mode: str = "nearest"):
        super().__init__(scale_factor=2, mode=one_of("upsample", mode, ("nearest", "bilinear")))
        self.out_channels = in_channels


class ConcatSkip(nn.Module):
    """U-Net's skip connection: encoder features beside decoder features."""

    def __init__(self, channels: int, level: int):
        super().__init__()

    def forward(self, skip: torch.Tensor, decoded: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        return torch.cat([skip, decoded], dim=1)  # (B, C + C', H, W)


class AttentionSkip(nn.Module):
    """Additive attention gate before the concatenation (Oktay et al. 2018, arXiv:1804.03999, eq. 1-2).

    "fine": the gating signal is the upsampled decoder feature and attention has the skip's resolution, the
    form in common use for 2D. "coarse", the paper's: the signal is the coarser decoder feature, the skip is
    brought to its grid by a strided convolution and the attention upsampled again; the finest level, whose
    features mean too little yet, has no gate.
    """

    def __init__(self, channels: int, level: int, grid: str = "fine"):
        super().__init__()
        inner = max(1, channels // 2)
        self.grid = one_of("gate_grid", grid, ("fine", "coarse")) if grid != "coarse" or level else "none"
        if self.grid == "none":
            return
        fine = grid == "fine"
        signal = channels if fine else 2 * channels
        self.from_signal = nn.Sequential(nn.Conv2d(signal, inner, kernel_size=1), nn.BatchNorm2d(inner))
        step = 1 if fine else 2
        self.from_skip = nn.Sequential(nn.Conv2d(channels, inner, step, step), nn.BatchNorm2d(inner))
        self.relu = nn.ReLU()
        self.psi = nn.Sequential(nn.Conv2d(inner, 1, kernel_size=1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, skip: torch.Tensor, decoded: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        if self.grid != "none":
            signal = decoded if self.grid == "fine" else coarse
            attention = self.psi(self.relu(self.from_signal(signal) + self.from_skip(skip)))  # (B, 1, h, w)
            if self.grid == "coarse":
                attention = F.interpolate(attention, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            skip = attention * skip
        return torch.cat([skip, decoded], dim=1)  # (B, C + C', H, W)


def conv_bn_relu(in_channels: int, out_channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


def dropped(share: float, kind: type[nn.Module] = nn.Dropout2d) -> nn.Module:
    """Dropout of a `share` of whole feature maps; without dropout no pass over memory is spent."""
    if not 0 <= share < 1:
        raise InputError(f"dropout: expected 0 or more and below 1, found {share}")
    return kind(share) if share else nn.Identity()
