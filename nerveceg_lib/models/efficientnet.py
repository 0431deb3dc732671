"""EfficientNet (Tan & Le 2019, arXiv:1905.11946) as nerve-presence classifier."""

from urllib.error import URLError

import torch
from efficientnet_pytorch import EfficientNet
from torch import nn

from nerveceg_lib.errors import InputError

COVERAGE_LEVELS = ("reduction_2", "reduction_3", "reduction_4")  # feature maps at stride 4, 8 and 16


class EfficientNetPresence(nn.Module):
    """(B, 1, H, W) standardised frame -> presence logit (B,); any size.

    The grey channel is expanded to the three that ImageNet weights expect. With `coverage=True` forward
    also returns logits of the share of nerve pixels below each cell at stride 4, 8 and 16, for the
    auxiliary loss that teaches a network trained from scratch where to look.

    `pretrained` loads ImageNet weights, which needs a network or a filled cache (InputError without).
    `dropout` acts before the last layer; `drop_connect` (stochastic depth) helps runs of many epochs and hurts
    short ones. Padding is computed per input: the library's static padding silently fixes another geometry when the
    size differs from the one given at construction.
    """

    def __init__(self, name: str, pretrained: bool = False, dropout: float = 0.2, drop_connect: float = 0.0):
        super().__init__()
        options = {"image_size": None, "dropout_rate": dropout, "drop_connect_rate": drop_connect}
        self.net = _load_pretrained(name, options) if pretrained else EfficientNet.from_name(name, **options)
        channels = self.net._fc.in_features
        self.net._fc = nn.Linear(channels, 1)
        _replace_swish(self.net)
        if not pretrained:
            _prepare_for_scratch(self.net)
        widths = self._endpoint_widths()
        self.coverage = nn.ModuleDict({level: _coverage_head(widths[level]) for level in COVERAGE_LEVELS})

    def forward(self, image: torch.Tensor, coverage: bool = False):
        endpoints = self.net.extract_endpoints(image.expand(-1, 3, -1, -1))
        pooled = endpoints["reduction_6"].mean(dim=(2, 3))  # (B, C)
        logit = self.net._fc(self.net._dropout(pooled)).squeeze(1)  # (B,)
        if not coverage:
            return logit
        return logit, [self.coverage[level](endpoints[level]) for level in COVERAGE_LEVELS]

    def _endpoint_widths(self) -> dict[str, int]:
        was_training = self.training
        with torch.no_grad():
            endpoints = self.eval().net.extract_endpoints(torch.zeros(1, 3, 64, 64))
        self.train(was_training)
        return {level: features.shape[1] for level, features in endpoints.items()}


def _coverage_head(channels: int) -> nn.Conv2d:
    """Starts at the coverage of a typical frame (2%), so that the first steps do not go into the bias."""
    head = nn.Conv2d(channels, 1, kernel_size=1)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, -4.0)
    return head


def _load_pretrained(name: str, options: dict) -> EfficientNet:
    try:
        return EfficientNet.from_pretrained(name, **options)
    except URLError as error:
        raise InputError(
            f"pretrained: ImageNet weights of {name} could not be fetched ({error.reason}); "
            "set pretrained=False, or run once with a network"
        ) from error


def _replace_swish(module: nn.Module) -> None:
    """torch's fused SiLU instead of the library's hand-written Swish: same function, fewer passes."""
    for name, child in module.named_children():
        if name == "_swish":
            setattr(module, name, nn.SiLU())
        else:
            _replace_swish(child)


def _prepare_for_scratch(net: EfficientNet) -> None:
    """Start every residual block as the identity, and let batch norm follow a run of a few hundred steps.

    Zero-initialised last gammas: Goyal et al. 2017, arXiv:1706.02677. The library's momentum of 0.01 is
    made for 350 ImageNet epochs; on short runs its statistics lag behind the weights.
    """
    for block in net._blocks:
        if block.id_skip and block._block_args.stride in (1, [1]) and _keeps_width(block):
            nn.init.zeros_(block._bn2.weight)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1


def _keeps_width(block: nn.Module) -> bool:
    return block._block_args.input_filters == block._block_args.output_filters
