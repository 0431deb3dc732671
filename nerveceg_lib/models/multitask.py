"""Networks that answer both questions: is a nerve present, and where is it?"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nerveceg_lib.models.blocks import ConcatSkip, DoubleConv, UpConv, dropout_layer, initialise
from nerveceg_lib.models.efficientnet import LITE, VERSIONS, EfficientNetEncoder
from nerveceg_lib.models.unet import Decoder, EncoderDecoder, pad, unet

STEM_CHANNELS = 16  # of EfficientU-Net's unit at full resolution


class EfficientUNet(nn.Module):
    """Frame (B, 1, H, W) -> mask logits (B, 1, H, W), for any size; with `presence=True` also presence logits (B,).

    EfficientNet's features at stride 2 to 32 feed a U-Net decoder of the same widths; a light unit of its own handles
    the full resolution. The presence head sits on the bottleneck as in EfficientNet; with `presence_head=False` the
    network only segments. For the other arguments see `EfficientNetEncoder`.
    """

    def __init__(
        self,
        version: str,
        pretrained: bool = False,
        dropout: float = 0.2,
        drop_connect: float = 0.0,
        freeze_batch_norm: bool = False,
        presence_head: bool = True,
    ):
        super().__init__()
        self.encoder = EfficientNetEncoder(version, pretrained, drop_connect, freeze_batch_norm)
        head = nn.Sequential(dropout_layer(dropout), nn.Linear(self.encoder.widths[-1], 1))
        self.presence = head if presence_head else None
        self.stem = DoubleConv(1, STEM_CHANNELS)
        self.decoder = Decoder([STEM_CHANNELS, *self.encoder.level_widths], DoubleConv, ConcatSkip, UpConv)
        self.mask = nn.Conv2d(STEM_CHANNELS, 1, kernel_size=1)
        self.feature_widths, self.cam_layer = (STEM_CHANNELS, self.encoder.widths[-1]), "decoder.units.1"
        initialise(nn.ModuleList([self.stem, self.decoder, self.mask]))

    def forward(self, image: torch.Tensor, presence: bool = False):
        if not presence:
            return self.features(image)[0]
        levels, presence_logit = self.encode(image)
        return self.decode(image, levels), presence_logit

    def encode(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the features at stride 2 to 32 of the padded image, and presence logits (B,)."""
        assert self.presence is not None, "built without a presence head"
        levels, last = self.encoder.levels(pad(image, 32))
        return levels, self.presence(last.mean(dim=(2, 3))).squeeze(1)

    def presence_logit(self, image: torch.Tensor) -> torch.Tensor:
        """Return the presence logits (B,) without decoding a mask."""
        return self.encode(image)[1]

    def decode(self, image: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        """Return the mask logits (B, 1, H, W) of images from their encoded features."""
        return self.mask(self._decoded(image, levels))

    def features(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return mask logits, the finest features (B, feature_widths[0], H, W) and the last (B, ..[1], h, w)."""
        levels, last = self.encoder.levels(pad(image, 32))
        finest = self._decoded(image, levels)
        return self.mask(finest), finest, last

    def _decoded(self, image: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        decoded = self.decoder([self.stem(pad(image, 32)), *levels])
        return decoded[0][..., : image.shape[-2], : image.shape[-1]]


class SharedTrunk(nn.Module):
    """Standardised frame (B, 1, H, W) -> presence logit (B,), for any size: a segmenter that also judges presence.

    The presence head sees three summaries of the `segmenter`: the log-mean-exp of its mask logits (a soft maximum: is
    any pixel suspicious?), its finest features averaged under the mask (what does that place look like?), and its
    bottleneck averaged over the frame. Masks thereby teach the classifier where to look.

    With `coverage=True` forward also returns [mask logits], which are coverage logits at stride 1. `cam_layer` is the
    segmenter's layer that Grad-CAM explains best.
    """

    def __init__(self, segmenter: EncoderDecoder | EfficientUNet, cam_layer: str):
        super().__init__()
        self.segmenter, self.cam_layer = segmenter, f"segmenter.{cam_layer}"
        self.head = nn.Sequential(dropout_layer(0.2), nn.Linear(1 + sum(segmenter.feature_widths), 1))

    def forward(self, image: torch.Tensor, coverage: bool = False):
        masks, logit = self.encode(image)
        return (logit, masks) if coverage else logit

    def encode(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return [mask logits], which `decode` takes, and presence logits (B,)."""
        masks, finest, bottleneck = self.segmenter.features(image)
        peak = masks.logsumexp((2, 3)) - math.log(masks[0].numel())  # (B, 1)
        attention = masks.sigmoid()
        under_mask = (attention * finest).sum((2, 3)) / attention.sum((2, 3)).clamp_min(1e-6)  # (B, C)
        logit = self.head(torch.cat([peak, under_mask, bottleneck.mean((2, 3))], dim=1)).squeeze(1)  # (B,)
        return [masks], logit

    def decode(self, image: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
        """Return the mask logits (B, 1, H, W) of images that were encoded."""
        return masks[0]


def shared_unet(base_channels: int = 64) -> SharedTrunk:
    """Build a U-Net with a presence head that sees its masks."""
    return SharedTrunk(unet(base_channels=base_channels), "encoder.units.3")


def shared_efficient_unet(version: str, pretrained: bool = False, freeze_batch_norm: bool = False) -> SharedTrunk:
    """Build an EfficientU-Net with a presence head that sees its masks."""
    segmenter = EfficientUNet(version, pretrained, freeze_batch_norm=freeze_batch_norm, presence_head=False)
    return SharedTrunk(segmenter, f"encoder.{segmenter.encoder.cam_layer}")


EFFICIENT_UNETS: dict[str, Callable[..., EfficientUNet]] = {
    version.replace("net-", "-unet-"): partial(EfficientUNet, version) for version in VERSIONS
}
SHARED_TRUNKS: dict[str, Callable[..., SharedTrunk]] = {
    "shared-unet": shared_unet,
    **{
        f"shared-{version.replace('net-', '-unet-')}": partial(shared_efficient_unet, version)
        for version in (*LITE, "efficientnet-b0", "efficientnet-b4")
    },
}
