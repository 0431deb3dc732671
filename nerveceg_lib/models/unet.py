"""The encoder-decoder that the U-Net family shares. Its members differ only in the blocks that they plug in."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from nerveceg_lib.models import blocks
from nerveceg_lib.runtime.errors import at_least

Block = Callable[[int, int, int], nn.Module]
Up = Callable[[int, int], blocks.UpConv | blocks.PlainUp]
Skip = Callable[[int, int], nn.Module]


class Encoder(nn.Module):
    """Image (B, in_channels, H, W) -> features, finest first: level k is (B, widths[k], H / 2**k, W / 2**k)."""

    def __init__(self, in_channels: int, widths: list[int], block: Block, stem: Block | None = None):
        super().__init__()
        steps = zip(widths[:-1], widths[1:], strict=True)
        self.units = nn.ModuleList([(stem or block)(in_channels, widths[0], 1), *(block(i, o, 2) for i, o in steps)])

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        features = []
        for unit in self.units:
            x = unit(x)
            features.append(x)
        return features


class Decoder(nn.Module):
    """Features, finest first, of `widths` channels -> decoded features of all levels but the coarsest, finest first."""

    def __init__(self, widths: list[int], block: Block, skip: Skip, up: Up):
        super().__init__()
        levels = range(len(widths) - 1)
        ups = [up(widths[level + 1], widths[level]) for level in levels]
        self.up = nn.ModuleList(ups)
        self.skip = nn.ModuleList(skip(widths[level], level) for level in levels)
        joined = [widths[level] + ups[level].out_channels for level in levels]
        self.units = nn.ModuleList(block(joined[level], widths[level], 1) for level in levels)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        x = features[-1]
        decoded: list[torch.Tensor] = []
        for level in reversed(range(len(self.units))):
            upsampled = self.up[level](x)
            x = self.units[level](self.skip[level](features[level], upsampled, x))
            decoded.insert(0, x)
        return decoded


class WithPresence(nn.Module):
    """A segmenter that can have a presence head on its deepest features, and so answer both questions.

    The encoder alone judges presence; only frames that may hold a nerve need the decoder. `presence_cam_layer` names
    the layer that explains the presence logit best.
    """

    def __init__(self, deepest_width: int, presence_head: bool, dropout: float = 0.2):
        super().__init__()
        self.presence = None
        if presence_head:
            self.presence = nn.Sequential(blocks.dropout_layer(dropout), nn.Linear(deepest_width, 1))

    def levels(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the features of the padded image that `decode` takes, and the deepest ones, which the head judges."""
        raise NotImplementedError

    def decode(self, image: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        """Return the mask logits (B, 1, H, W) of images from their encoded features."""
        raise NotImplementedError

    def encode(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the features that `decode` takes, and presence logits (B,)."""
        assert self.presence is not None, "built without a presence head"
        levels, deepest = self.levels(image)
        return levels, self.presence(deepest.mean(dim=(2, 3))).squeeze(1)

    def presence_logit(self, image: torch.Tensor) -> torch.Tensor:
        """Return the presence logits (B,) without decoding a mask."""
        return self.encode(image)[1]


class EncoderDecoder(WithPresence):
    """U-shaped network: image (B, in_channels, H, W) -> mask logits (B, 1, H, W), for any H and W.

    Args:
        block: convolution unit of encoder and decoder.
        skip: connection between encoder and decoder at each level.
        up: upsampling between two levels of the decoder.
        stem: the encoder's first unit, `block` by default.
        levels: number of resolutions; there are levels - 1 halvings.
        in_channels: channels of the image.
        base_channels: channels of the finest level; level k has `base_channels * 2**k`.
        deep_supervision: give each coarser decoder level a head of its own (Lee et al. 2015, arXiv:1409.5185).
            `forward(image, deep=True)` then also returns the list of their logits, upsampled to (B, 1, H, W).
        presence_head: add a presence head on the coarsest features.

    Frames are padded with zeros to a multiple of the coarsest stride, and the logits are cropped back exactly.
    `cam_layer` names the layer that Grad-CAM explains best. Raises InputError for fewer than one channel.
    """

    def __init__(
        self,
        block: Block,
        skip: Skip = blocks.ConcatSkip,
        up: Up = blocks.UpConv,
        stem: Block | None = None,
        levels: int = 5,
        in_channels: int = 1,
        base_channels: int = 64,
        deep_supervision: bool = False,
        presence_head: bool = False,
    ):
        at_least(1, in_channels=in_channels, base_channels=base_channels)
        widths = [base_channels * 2**level for level in range(levels)]
        super().__init__(widths[-1], presence_head)
        self.stride = 2 ** (levels - 1)
        self.encoder = Encoder(in_channels, widths, block, stem)
        self.decoder = Decoder(widths, block, skip, up)
        self.cam_layer, self.presence_cam_layer = "decoder.units.1", f"encoder.units.{levels - 2}"
        head_widths = widths[:-1] if deep_supervision else widths[:1]
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, kernel_size=1) for width in head_widths)
        blocks.initialise(self)

    def forward(self, image: torch.Tensor, deep: bool = False):
        height, width = image.shape[-2:]
        decoded = self.decoder(self.levels(image)[0])
        logits = self.heads[0](decoded[0])[..., :height, :width]
        if not deep:
            return logits
        coarser = [
            F.interpolate(self.heads[level](decoded[level]), scale_factor=2**level, mode="bilinear")
            for level in range(1, len(self.heads))
        ]
        return logits, [coarse[..., :height, :width] for coarse in coarser]

    def levels(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """See `WithPresence`."""
        features = self.encoder(pad(image, self.stride))
        return features, features[-1]

    def decode(self, image: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        """See `WithPresence`."""
        return self.heads[0](self.decoder(levels)[0])[..., : image.shape[-2], : image.shape[-1]]


def unet(
    in_channels: int = 1, base_channels: int = 64, deep_supervision: bool = False, presence_head: bool = False
) -> EncoderDecoder:
    """Build U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with same-padding, batch norm and resize-convolution.

    The paper's valid convolutions and mirrored tiles are left out, because the whole frame fits at once.
    """
    return _build(blocks.DoubleConv, in_channels, base_channels, deep_supervision, presence_head)


def r2unet(
    in_channels: int = 1, base_channels: int = 64, deep_supervision: bool = False, presence_head: bool = False
) -> EncoderDecoder:
    """Build the recurrent residual U-Net (Alom et al. 2018, arXiv:1802.06955) with t = 2."""
    return _build(blocks.RecurrentResidual, in_channels, base_channels, deep_supervision, presence_head)


def attention_unet(
    in_channels: int = 1,
    base_channels: int = 64,
    deep_supervision: bool = False,
    presence_head: bool = False,
    attention_grid: str = "fine",
) -> EncoderDecoder:
    """Build Attention U-Net (Oktay et al. 2018, arXiv:1804.03999) for 2D frames.

    `attention_grid`: "coarse" is the paper's form, in which attention is computed on the coarser grid and not at all at
    the finest level; "fine" is the form in common use for 2D, to which the widely quoted 34.9 M parameters belong.
    """
    skip = partial(blocks.AttentionSkip, grid=attention_grid)
    return _build(blocks.DoubleConv, in_channels, base_channels, deep_supervision, presence_head, skip=skip)


def r2attention_unet(
    in_channels: int = 1,
    base_channels: int = 64,
    deep_supervision: bool = False,
    presence_head: bool = False,
    attention_grid: str = "fine",
) -> EncoderDecoder:
    """Build R2-Attention U-Net: R2U-Net's blocks with the skip connections of Attention U-Net."""
    skip = partial(blocks.AttentionSkip, grid=attention_grid)
    return _build(blocks.RecurrentResidual, in_channels, base_channels, deep_supervision, presence_head, skip=skip)


def deep_residual_unet(
    in_channels: int = 1,
    base_channels: int = 64,
    deep_supervision: bool = False,
    presence_head: bool = False,
    shortcut: str = "identity",
) -> EncoderDecoder:
    """Build Deep Residual U-Net (Zhang et al. 2018, arXiv:1711.10684): pre-activation units, strided, not pooled.

    As in the paper there are three halvings and no convolution after upsampling. With the "identity" `shortcut`, which
    has no weights, it has the paper's 7.8 M parameters; "projection", a 1x1 convolution in common use, makes 8.2 M.
    """
    block = partial(blocks.PreActivationResidual, shortcut=shortcut)
    plugs = {"up": blocks.PlainUp, "stem": partial(block, stem=True), "levels": 4}
    return _build(block, in_channels, base_channels, deep_supervision, presence_head, **plugs)


def _build(
    block: Block, in_channels: int, base_channels: int, deep_supervision: bool, presence_head: bool, **plugs
) -> EncoderDecoder:
    return EncoderDecoder(
        block, in_channels=in_channels, base_channels=base_channels, deep_supervision=deep_supervision,
        presence_head=presence_head, **plugs,
    )  # fmt: skip


def pad(image: torch.Tensor, stride: int) -> torch.Tensor:
    """Return (B, C, H, W) padded with zeros, below and to the right, to multiples of `stride`."""
    return F.pad(image, (0, -image.shape[-1] % stride, 0, -image.shape[-2] % stride))
