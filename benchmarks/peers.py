"""Training and inference of the networks that people would otherwise take, against ours of the same size.

segmentation_models.pytorch needs torchvision, which has no CPU build. Its U-Net is therefore built after its design, as
in notebook 7, on the encoder of efficientnet-pytorch, which that library has adopted.
"""

from collections.abc import Callable

import torch
from efficientnet_pytorch import EfficientNet
from monai.networks.nets import BasicUNet
from torch import nn

from benchmarks import harness
from nerveceg_lib.inference.fuse import for_inference
from nerveceg_lib.models import build_model
from nerveceg_lib.models.efficientnet import EfficientNetEncoder
from nerveceg_lib.runtime import configure, device
from nerveceg_lib.runtime.folders import STUDIES
from nerveceg_lib.training import SegmentationObjective
from tests.cells import definitions

BATCH_SIZE = 4
TARGETS = {("smp", "training"): 1.2, ("smp", "inference"): 1.3, ("MONAI", "training"): 1, ("MONAI", "inference"): 1}


class PackageEncoder(EfficientNetEncoder):
    """The same encoder as efficientnet-pytorch builds it."""

    def __init__(self, version: str):
        super().__init__(version)
        self.net = EfficientNet.from_name(version)


def rows(quick: bool = False) -> list[harness.Row]:
    """Training steps and inference in fp32 and bf16."""
    configure(seed=0)
    size = (128, 128) if quick else (256, 256)
    smp = definitions(STUDIES[0], segmenter="unet").SmpUNet("efficientnet-b4")
    smp.encoder = PackageEncoder("efficientnet-b4")
    monai = BasicUNet(spatial_dims=2, in_channels=1, out_channels=1, features=(32, 64, 128, 256, 512, 32))
    pairs = {
        "smp": ("U-Net with EfficientNet-B4, against smp's", smp, build_model("efficient-unet-b4")),
        "MONAI": ("U-Net 32, against MONAI's", monai, build_model("unet", base_channels=32)),
    }
    table = []
    for peer, (name, theirs, ours) in pairs.items():
        for precision in ("fp32", "bf16"):
            for task, work in {"training": training, "inference": inference}.items():
                jobs = {
                    "theirs": work(theirs, size, precision, own=False),
                    "ours": work(ours, size, precision, own=True),
                }
                seconds = harness.alternate(jobs, repeats=2 if quick else 6)
                title = f"{task} in {precision}, {name}, {size[0]}x{size[1]}"
                both = seconds["theirs"], seconds["ours"]
                table.append(harness.rate_row(title, "frames/s", BATCH_SIZE, *both, TARGETS[peer, task]))
    return table


def training(network: nn.Module, size: tuple[int, int], precision: str, own: bool) -> Callable:
    """Return a training step, of ours as notebook 3 does it, of theirs as PyTorch's tutorials do it."""
    objective, batch = SegmentationObjective("bce_dice"), {"image": torch.randn(BATCH_SIZE, 1, *size)}
    batch["mask"] = (torch.rand(BATCH_SIZE, 1, *size) > 0.9).float()
    if own:
        network = device.channels_last(network)
        batch["image"] = batch["image"].contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, fused=own)

    def step() -> None:
        network.train()
        with device.autocast(precision):
            loss = objective.loss(network, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(network: nn.Module, size: tuple[int, int], precision: str, own: bool) -> Callable:
    """Return a forward pass, of ours as notebook 4 does it, of theirs in evaluation mode."""
    image, network = torch.randn(BATCH_SIZE, 1, *size), network.eval()
    if own:
        image = image.contiguous(memory_format=torch.channels_last)
        network = device.channels_last(for_inference(network, image[:1]))

    @torch.inference_mode()
    def forward() -> None:
        with device.autocast(precision):
            network(image)

    return forward
