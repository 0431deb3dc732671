"""Building blocks of the U-Net family.

Convolution units take `(in_channels, out_channels, stride)`; stride 2 halves the height and width. Upsampling blocks
take `(in_channels, out_channels)`, double the height and width, and store in `out_channels` how many channels they
return. Skip connections take `(channels, level)`, where level 0 is the finest; they join the encoder's features
(B, C, H, W) with the decoder's (B, C', H, W), and may use the coarser features that were upsampled (B, 2C, H/2, W/2).
"""

import torch
import torch.nn.functional as F
from torch import nn

from nerveceg_lib.runtime.errors import InputError, one_of

RECURRENCE = 2  # t of the paper (Alom et al. 2018)


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions, each with batch norm and ReLU: U-Net's unit (the paper has no batch norm yet)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__(
            nn.MaxPool2d(2) if stride == 2 else nn.Identity(),
            *conv_bn_relu(in_channels, out_channels),
            *conv_bn_relu(out_channels, out_channels),
        )


class RecurrentConv(nn.Module):
    """A 3x3 convolution that is applied 1 + t times with the same weights: y <- f(x + y) (Liang & Hu 2015).

    Each step has its own batch statistics, though not its own weights (Cooijmans et al. 2016, arXiv:1603.09025). The
    activations of the steps differ, and statistics mixed over them would make evaluation differ from training.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(1 + RECURRENCE))
        self.relu = nn.ReLU()
        for norm in self.norms[1:]:
            norm.weight, norm.bias = self.norms[0].weight, self.norms[0].bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first_norm, *other_norms = self.norms
        y = self.relu(first_norm(self.conv(x)))
        for norm in other_norms:
            y = self.relu(norm(self.conv(x + y)))
        return y


class RecurrentResidual(nn.Module):
    """R2U-Net's unit: two recurrent convolutions with a shortcut around both (Alom et al. 2018, fig. 4d)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.enter = nn.Sequential(
            nn.MaxPool2d(2) if stride == 2 else nn.Identity(), nn.Conv2d(in_channels, out_channels, kernel_size=1)
        )
        self.recurrent = nn.Sequential(RecurrentConv(out_channels), RecurrentConv(out_channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        return x + self.recurrent(x)


class PreActivationResidual(nn.Module):
    """Batch norm, ReLU and a 3x3 convolution, twice, with a shortcut around both (Zhang et al. 2018, fig. 1b).

    The first unit (`stem`) sees the image, which needs no activation before its convolution. If the number of channels
    changes, the "identity" shortcut cuts channels off or pads them with zeros and has no weights (He et al. 2015,
    option A), so that in the decoder it passes the encoder's features on; "projection" is a 1x1 convolution.
    """

    def __init__(self, in_channels, out_channels, stride=1, shortcut="identity", stem=False):
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
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.project is not None:
            return self.project(x) + self.residual(x)
        identity = x[:, :, :: self.stride, :: self.stride]
        return F.pad(identity, (0, 0, 0, 0, 0, self.missing)) + self.residual(x)


class UpConv(nn.Sequential):
    """Double the height and width by nearest neighbours, then a 3x3 convolution, which avoids checkerboard patterns."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(nn.Upsample(scale_factor=2, mode="nearest"), *conv_bn_relu(in_channels, out_channels))
        self.out_channels = out_channels


class PlainUp(nn.Upsample):
    """Double the height and width and keep all channels."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(scale_factor=2, mode="nearest")
        self.out_channels = in_channels


class ConcatSkip(nn.Module):
    """U-Net's skip connection: the encoder's features beside the decoder's."""

    def __init__(self, channels: int, level: int):
        super().__init__()

    def forward(self, skip: torch.Tensor, decoded: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        return torch.cat([skip, decoded], dim=1)  # (B, C + C', H, W)


class AttentionSkip(nn.Module):
    """An additive attention gate before the concatenation (Oktay et al. 2018, arXiv:1804.03999, eq. 1-2).

    With the `grid` "fine" the gating signal is the upsampled decoder feature and attention has the resolution of the
    skip connection; this form is in common use for 2D images. "coarse" is the paper's: the signal is the coarser
    decoder feature, a strided convolution brings the skip connection to its grid, and the attention is upsampled again.
    The finest level then has no gate, because its features do not carry enough information yet.
    """

    def __init__(self, channels: int, level: int, grid: str = "fine"):
        super().__init__()
        inner = max(1, channels // 2)
        self.grid = one_of("attention_grid", grid, ("fine", "coarse")) if grid != "coarse" or level else "none"
        if self.grid == "none":
            return
        fine = grid == "fine"
        signal_channels = channels if fine else 2 * channels
        self.from_signal = nn.Sequential(nn.Conv2d(signal_channels, inner, kernel_size=1), nn.BatchNorm2d(inner))
        stride = 1 if fine else 2
        self.from_skip = nn.Sequential(nn.Conv2d(channels, inner, stride, stride), nn.BatchNorm2d(inner))
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
    """Return a 3x3 convolution, batch norm and ReLU."""
    return [nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


def dropout_layer(rate: float) -> nn.Module:
    """Return dropout at `rate`, or the identity for 0. Raises InputError for a rate outside [0, 1)."""
    if not 0 <= rate < 1:
        raise InputError(f"dropout: expected 0 or more and below 1, found {rate}")
    return nn.Dropout(rate) if rate else nn.Identity()


def initialise(module: nn.Module) -> None:
    """Draw the weights of all convolutions and linear layers anew (He et al. 2015), and reset batch norm."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.reset_parameters()
