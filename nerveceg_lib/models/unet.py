"""The encoder-decoder that the U-Net family shares, and its members: they differ by the blocks they plug in."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from nerveceg_lib.errors import at_least
from nerveceg_lib.models import blocks
from nerveceg_lib.models.initialise import initialise
from nerveceg_lib.models.memory import call

Block = Callable[[int, int, int], nn.Module]
Up = Callable[[int, int, str], blocks.UpConv | blocks.PlainUp]


class Encoder(nn.Module):
    """Image (B, in_channels, H, W) -> features, finest first: level k is (B, widths[k], H / 2**k, W / 2**k)."""

    def __init__(self, in_channels: int, widths: list[int], block: Block, stem: Block | None = None):
        super().__init__()
        steps = zip(widths[:-1], widths[1:], strict=True)
        self.units = nn.ModuleList([(stem or block)(in_channels, widths[0], 1), *(block(i, o, 2) for i, o in steps)])

    def forward(self, x: torch.Tensor, checkpointing: bool = False) -> list[torch.Tensor]:
        features = []
        for block in self.units:
            features.append(x := call(block, x, checkpointing))
        return features


class Decoder(nn.Module):
    """Features, finest first, of `widths` channels -> decoded features of all levels but the coarsest, finest first."""

    def __init__(self, widths: list[int], block: Block, skip: Callable, up: Up, upsample: str):
        super().__init__()
        levels = range(len(widths) - 1)
        ups = [up(widths[level + 1], widths[level], upsample) for level in levels]
        self.up = nn.ModuleList(ups)
        self.skip = nn.ModuleList(skip(widths[level], level) for level in levels)
        joined = [widths[level] + ups[level].out_channels for level in levels]
        self.units = nn.ModuleList(block(joined[level], widths[level], 1) for level in levels)

    def forward(self, features: list[torch.Tensor], checkpointing: bool = False) -> list[torch.Tensor]:
        x = features[-1]
        decoded: list[torch.Tensor] = []
        for level in reversed(range(len(self.units))):
            joined = self.skip[level](features[level], self.up[level](x), x)
            x = call(self.units[level], joined, checkpointing)
            decoded.insert(0, x)
        return decoded


class EncoderDecoder(nn.Module):
    """U-shaped network: image (B, in_channels, H, W) -> mask logits (B, 1, H, W), any H and W.

    Level k has `base_channels * 2**k` channels; `depth` levels, hence depth - 1 halvings. Frames are padded
    with zeros to a multiple of the stride and the logits cropped back exactly. `upsample`: nearest, bilinear
    or transpose. `init`: see `initialise.SCHEMES`. `checkpointing` recomputes the blocks in the backward
    pass instead of keeping their activations: the same gradients from less memory.

    With `deep_supervision` (Lee et al. 2015, arXiv:1409.5185) each coarser decoder level has a head too,
    and `forward(image, deep=True)` returns the logits and a list of theirs, brought to the same (B, 1, H, W).
    `cam_layer` names the layer that Grad-CAM explains best. Raises InputError for options out of range.
    """

    def __init__(
        self,
        block: Block,
        skip: Callable = blocks.ConcatSkip,
        up: Up = blocks.UpConv,
        stem: Block | None = None,
        *,
        in_channels: int = 1,
        base_channels: int = 64,
        depth: int = 5,
        upsample: str = "nearest",
        init: str = "kaiming",
        checkpointing: bool = False,
        deep_supervision: bool = False,
    ):
        super().__init__()
        at_least(1, in_channels=in_channels, base_channels=base_channels)
        at_least(2, depth=depth)
        widths = [base_channels * 2**level for level in range(depth)]
        self.stride = 2 ** (depth - 1)
        self.checkpointing = checkpointing
        self.encoder = Encoder(in_channels, widths, block, stem)
        self.decoder = Decoder(widths, block, skip, up, upsample)
        supervised = widths[:-1] if deep_supervision else widths[:1]
        self.look_widths, self.cam_layer = (widths[0], widths[-1]), f"decoder.units.{min(1, depth - 2)}"
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, kernel_size=1) for width in supervised)
        initialise(self, init)

    def forward(self, image: torch.Tensor, deep: bool = False):
        _, decoded = self._features(image)
        height, width = image.shape[-2:]
        logits = self.heads[0](decoded[0])[..., :height, :width]
        if not deep:
            return logits
        coarser = [
            F.interpolate(self.heads[level](decoded[level]), scale_factor=2**level, mode="bilinear")
            for level in range(1, len(self.heads))
        ]
        return logits, [coarse[..., :height, :width] for coarse in coarser]

    def look(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Mask logits, the features below them (B, look_widths[0], H, W), the bottleneck (B, look_widths[1], h, w)."""
        bottleneck, decoded = self._features(image)
        fine = decoded[0][..., : image.shape[-2], : image.shape[-1]]
        return self.heads[0](fine), fine, bottleneck

    def _features(self, image: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        encoded = self.encoder(pad(image, self.stride), self.checkpointing)
        return encoded[-1], self.decoder(encoded, self.checkpointing)


def unet(dropout: float = 0.0, **options) -> EncoderDecoder:
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with same-padding, batch norm and resize-convolution.

    The paper's valid convolutions and mirrored tiles are left out: the whole frame fits at once.
    """
    return EncoderDecoder(partial(blocks.DoubleConv, dropout=dropout), **options)


def r2unet(recurrence: int = 2, dropout: float = 0.0, **options) -> EncoderDecoder:
    """Recurrent residual U-Net (Alom et al. 2018, arXiv:1802.06955); `recurrence` is the paper's t."""
    return EncoderDecoder(partial(blocks.RecurrentResidual, recurrence=recurrence, dropout=dropout), **options)


def attention_unet(gate_grid: str = "fine", dropout: float = 0.0, **options) -> EncoderDecoder:
    """Attention U-Net (Oktay et al. 2018, arXiv:1804.03999), for 2D frames.

    `gate_grid`: "coarse" is the paper's form, attention computed on the coarser grid and none at the finest level;
    "fine" the form in common use for 2D, which the widely quoted 34.9 M parameters belong to.
    """
    return EncoderDecoder(
        partial(blocks.DoubleConv, dropout=dropout), partial(blocks.AttentionSkip, grid=gate_grid), **options
    )


def r2attention_unet(recurrence: int = 2, gate_grid: str = "fine", dropout: float = 0.0, **options) -> EncoderDecoder:
    """R2U-Net's blocks with Attention U-Net's skips."""
    return EncoderDecoder(
        partial(blocks.RecurrentResidual, recurrence=recurrence, dropout=dropout),
        partial(blocks.AttentionSkip, grid=gate_grid),
        **options,
    )


def deep_residual_unet(shortcut: str = "identity", dropout: float = 0.0, depth: int = 4, **options) -> EncoderDecoder:
    """Deep Residual U-Net (Zhang et al. 2018, arXiv:1711.10684): pre-activation units, strided instead of pooled.

    As in the paper there are three down-samplings and no convolution after upsampling (so `upsample` is nearest or
    bilinear). With the weightless "identity" `shortcut` it has the paper's 7.8 M parameters; "projection", a 1x1
    convolution and in common use, makes 8.2 M.
    """
    block = partial(blocks.PreActivationResidual, shortcut=shortcut, dropout=dropout)
    return EncoderDecoder(block, up=blocks.PlainUp, stem=partial(block, stem=True), depth=depth, **options)


def pad(image: torch.Tensor, stride: int) -> torch.Tensor:
    """Pad (B, C, H, W) with zeros, below and to the right, to multiples of `stride`."""
    return F.pad(image, (0, -image.shape[-1] % stride, 0, -image.shape[-2] % stride))
