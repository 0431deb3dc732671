"""Presence classifiers: an encoder of any kind, a presence head, and coverage heads for the auxiliary loss."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from nerveceg_lib.models.blocks import dropout_layer
from nerveceg_lib.models.efficientnet import VERSIONS, EfficientNetEncoder

RESNET_LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


class PresenceClassifier(nn.Module):
    """Standardised frame (B, 1, H, W) -> presence logit (B,), for any size.

    Args:
        encoder: module that returns the features at stride 4, 8 and 16 and the last ones, with `widths` channels. Its
            `cam_layer` names the layer that Grad-CAM explains best.
        dropout: rate of dropout before the last layer, 0 to 1.

    With `coverage=True` forward also returns a list of three maps of logits, at stride 4, 8 and 16: the share of nerve
    pixels below each cell. Only the auxiliary loss uses them; it teaches a network trained from scratch where to look.
    """

    def __init__(self, encoder: "EfficientNetEncoder | ResNetEncoder", dropout: float = 0.2):
        super().__init__()
        self.encoder = encoder
        self.cam_layer = f"encoder.{encoder.cam_layer}"
        *map_widths, last_width = encoder.widths
        self.head = nn.Sequential(dropout_layer(dropout), nn.Linear(last_width, 1))
        self.coverage = nn.ModuleList(_coverage_head(width) for width in map_widths)

    def forward(self, image: torch.Tensor, coverage: bool = False):
        *maps, last = self.encoder(image)
        logit = self.head(last.mean(dim=(2, 3))).squeeze(1)  # (B,)
        if not coverage:
            return logit
        return logit, [head(features) for head, features in zip(self.coverage, maps, strict=True)]


def _coverage_head(channels: int) -> nn.Conv2d:
    """Build a head that starts at the coverage of a typical frame (2%), which saves the first training steps."""
    head = nn.Conv2d(channels, 1, kernel_size=1)
    nn.init.zeros_(head.weight)
    assert head.bias is not None
    nn.init.constant_(head.bias, -4.0)
    return head


class ResNetEncoder(nn.Module):
    """ResNet (He et al. 2015, arXiv:1512.03385) from MONAI, without its last layer."""

    cam_layer = "net.layer2"

    def __init__(self, layers: int):
        super().__init__()
        from monai.networks.nets import ResNet  # takes seconds to import

        block, expansion = ("bottleneck", 4) if layers >= 50 else ("basic", 1)
        self.net = ResNet(
            block, list(RESNET_LAYERS[layers]), [64, 128, 256, 512], spatial_dims=2, n_input_channels=1,
            conv1_t_stride=2, feed_forward=False, bias_downsample=False,
        )  # fmt: skip
        self.widths = [width * expansion for width in (64, 128, 256, 512)]

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        net = self.net
        x4 = net.layer1(net.maxpool(net.act(net.bn1(net.conv1(image)))))  # (B, C, H / 4, W / 4)
        x8 = net.layer2(x4)
        x16 = net.layer3(x8)
        return [x4, x8, x16, net.layer4(x16)]


def efficientnet(
    version: str,
    pretrained: bool = False,
    dropout: float = 0.2,
    drop_connect: float = 0.0,
    freeze_batch_norm: bool = False,
) -> PresenceClassifier:
    """Build EfficientNet (see `EfficientNetEncoder`) as presence classifier."""
    return PresenceClassifier(EfficientNetEncoder(version, pretrained, drop_connect, freeze_batch_norm), dropout)


def resnet(layers: int) -> PresenceClassifier:
    """Build ResNet with 18, 34, 50, 101 or 152 `layers` as presence classifier."""
    return PresenceClassifier(ResNetEncoder(layers), dropout=0.0)


CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    **{version: partial(efficientnet, version) for version in VERSIONS},
    **{f"resnet{layers}": partial(resnet, layers) for layers in RESNET_LAYERS},
}
