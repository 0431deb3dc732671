"""The interface of every classifier: a trunk of any kind under one presence head and the coverage heads."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nerveceg_lib.errors import at_least
from nerveceg_lib.models.blocks import RecurrentResidual, dropped
from nerveceg_lib.models.efficientnet import EfficientNetTrunk
from nerveceg_lib.models.initialise import initialise
from nerveceg_lib.models.unet import Encoder, pad

RESNET_LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class PresenceClassifier(nn.Module):
    """(B, in_channels, H, W) standardised frame -> presence logit (B,); any size.

    `trunk(image)` gives the features at stride 4, 8 and 16 and the last ones, of `trunk.widths` channels;
    `trunk.cam_layer` names the layer that Grad-CAM explains best. With `coverage=True` forward also returns
    logits of the share of nerve pixels below each cell at stride 4, 8 and 16, for the auxiliary loss that
    teaches a network trained from scratch where to look. `dropout` acts before the last layer.
    """

    def __init__(self, trunk: "EfficientNetTrunk | ResNetTrunk | R2UNetTrunk", dropout: float = 0.2):
        super().__init__()
        self.trunk = trunk
        self.cam_layer = f"trunk.{trunk.cam_layer}"
        *maps, last = trunk.widths
        self.head = nn.Sequential(dropped(dropout, nn.Dropout), nn.Linear(last, 1))
        self.coverage = nn.ModuleList(_coverage_head(width) for width in maps)

    def forward(self, image: torch.Tensor, coverage: bool = False):
        *maps, last = self.trunk(image)
        logit = self.head(last.mean(dim=(2, 3))).squeeze(1)  # (B,)
        if not coverage:
            return logit
        return logit, [head(features) for head, features in zip(self.coverage, maps, strict=True)]


class ResNetTrunk(nn.Module):
    """ResNet (He et al. 2015, arXiv:1512.03385) as MONAI has it, without its last layer."""

    cam_layer = "net.layer2"

    def __init__(self, layers: int, in_channels: int):
        super().__init__()
        from monai.networks.nets import ResNet  # seconds to import, so not for all

        block, growth = ("bottleneck", 4) if layers >= 50 else ("basic", 1)
        self.net = ResNet(
            block, list(RESNET_LAYERS[layers]), [64, 128, 256, 512], spatial_dims=2, n_input_channels=in_channels,
            conv1_t_stride=2, feed_forward=False, bias_downsample=False,
        )  # fmt: skip
        self.widths = [width * growth for width in (64, 128, 256, 512)]

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        net = self.net
        x4 = net.layer1(net.maxpool(net.act(net.bn1(net.conv1(image)))))  # (B, C, H / 4, W / 4)
        x8 = net.layer2(x4)
        x16 = net.layer3(x8)
        return [x4, x8, x16, net.layer4(x16)]


class R2UNetTrunk(nn.Module):
    """The encoder of R2U-Net (Alom et al. 2018, arXiv:1802.06955), four halvings deep."""

    cam_layer = "encoder.units.3"

    def __init__(self, in_channels: int, base_channels: int, recurrence: int):
        super().__init__()
        at_least(1, in_channels=in_channels, base_channels=base_channels)
        widths = [base_channels * 2**level for level in range(5)]
        self.encoder = Encoder(in_channels, widths, partial(RecurrentResidual, recurrence=recurrence))
        self.widths = [*widths[2:], widths[-1]]
        initialise(self, "kaiming")

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        height, width = image.shape[-2:]
        _, _, *features = self.encoder(pad(image, 16))
        x4, x8, x16 = (x[..., : -(-height // s), : -(-width // s)] for x, s in zip(features, (4, 8, 16), strict=True))
        return [x4, x8, x16, x16]


def efficientnet(
    version: str, in_channels: int = 1, pretrained: bool = False, dropout: float = 0.2, drop_connect: float = 0.0
) -> PresenceClassifier:
    """EfficientNet (see `EfficientNetTrunk`) as presence classifier."""
    return PresenceClassifier(EfficientNetTrunk(version, in_channels, pretrained, drop_connect), dropout)


def resnet(layers: int, in_channels: int = 1, dropout: float = 0.0) -> PresenceClassifier:
    """ResNet of 18, 34, 50, 101 or 152 `layers` as presence classifier."""
    return PresenceClassifier(ResNetTrunk(layers, in_channels), dropout)


def r2unet_encoder(
    in_channels: int = 1, base_channels: int = 64, recurrence: int = 2, dropout: float = 0.0
) -> PresenceClassifier:
    """Encoder of R2U-Net with `recurrence` t as presence classifier."""
    return PresenceClassifier(R2UNetTrunk(in_channels, base_channels, recurrence), dropout)


CLASSIFIERS: dict[str, Callable[..., PresenceClassifier]] = {
    **{f"efficientnet-b{n}": partial(efficientnet, f"efficientnet-b{n}") for n in range(8)},
    **{f"resnet{layers}": partial(resnet, layers) for layers in RESNET_LAYERS},
    "r2unet-encoder": r2unet_encoder,
}


def _coverage_head(channels: int) -> nn.Conv2d:
    """Starts at the coverage of a typical frame (2%), so that the first steps do not go into the bias."""
    head = nn.Conv2d(channels, 1, kernel_size=1)
    nn.init.zeros_(head.weight)
    assert head.bias is not None
    nn.init.constant_(head.bias, -4.0)
    return head
