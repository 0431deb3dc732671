"""EfficientNet (Tan & Le 2019, arXiv:1905.11946) as trunk of the presence classifier and of EfficientU-Net."""

from urllib.error import URLError

import torch
from efficientnet_pytorch import EfficientNet
from torch import nn

from nerveceg_lib.errors import InputError


class EfficientNetTrunk(nn.Module):
    """Image (B, in_channels, H, W), one channel or three -> features at stride 4, 8, 16 and the last; any size.

    A grey channel is expanded to the three that ImageNet weights expect. `pretrained` loads those, which needs
    a network or a filled cache (InputError without). `drop_connect` (stochastic depth) helps runs of many
    epochs and hurts short ones. Padding is computed per input: the library's static padding silently fixes
    another geometry when the size differs from the one given at construction.
    """

    def __init__(self, version: str, in_channels: int = 1, pretrained: bool = False, drop_connect: float = 0.0):
        super().__init__()
        if in_channels not in (1, 3):
            raise InputError(f"in_channels: expected 1 (grey, expanded) or 3 for {version}, found {in_channels}")
        options = {"image_size": None, "drop_connect_rate": drop_connect}
        self.net = _load_pretrained(version, options) if pretrained else EfficientNet.from_name(version, **options)
        _lighten(self.net)
        if not pretrained:
            _prepare_for_scratch(self.net)
        blocks, stride = [block._block_args for block in self.net._blocks], 2
        reached = {}  # stride -> index of the last block there
        for index, block in enumerate(blocks):
            stride *= block.stride if isinstance(block.stride, int) else block.stride[0]
            reached[stride] = index
        self.level_widths = [blocks[index].output_filters for _, index in sorted(reached.items())]  # strides 2 to 32
        self.widths = [*self.level_widths[1:4], self.net._fc.in_features]
        self.net._fc = nn.Identity()
        self.cam_layer = f"net._blocks.{reached[8]}"

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        levels, last = self.levels(image)
        return [*levels[1:4], last]

    def levels(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features at stride 2, 4, 8, 16, 32, and the last ones (stride 32, made wide for classification)."""
        endpoints = self.net.extract_endpoints(image.expand(-1, 3, -1, -1))
        return [endpoints[f"reduction_{level}"] for level in range(1, 6)], endpoints["reduction_6"]


def _load_pretrained(name: str, options: dict) -> EfficientNet:
    try:
        return EfficientNet.from_pretrained(name, **options)
    except URLError as error:
        raise InputError(
            f"pretrained: ImageNet weights of {name} could not be fetched ({error.reason}); "
            "set pretrained=False, or run once with a network"
        ) from error


def _lighten(module: nn.Module) -> None:
    """The same function in fewer passes over memory: torch's fused SiLU instead of the library's Swish, and padding
    by the convolution itself, not by a copy, wherever it is the same on both sides (stride 1)."""
    for name, child in module.named_children():
        if name == "_swish":
            setattr(module, name, nn.SiLU())
        elif isinstance(child, nn.Conv2d) and tuple(child.stride) == (1, 1):
            child.__class__ = nn.Conv2d
            child.padding = tuple(size // 2 for size in child.kernel_size)
        else:
            _lighten(child)


def _prepare_for_scratch(net: EfficientNet) -> None:
    """Start every residual block as the identity, and let batch norm follow a run of a few hundred steps.

    Zero-initialised last gammas: Goyal et al. 2017, arXiv:1706.02677. The library's momentum of 0.01 is
    made for 350 ImageNet epochs; on short runs its statistics lag behind the weights.
    """
    for block in net._blocks:
        shape = block._block_args
        if block.id_skip and shape.stride in (1, [1]) and shape.input_filters == shape.output_filters:
            nn.init.zeros_(block._bn2.weight)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
