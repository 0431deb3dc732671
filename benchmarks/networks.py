"""Phantom frames and trained networks for the benchmarks, made once and kept below the artefact root.

Whether two ways to run a network agree cannot be judged with random weights, since their logits all lie near the
threshold. A few minutes of training at the benchmark's own scale give outlines; they need not be good ones.
"""

from pathlib import Path

import numpy as np
import torch
from efficientnet_pytorch import EfficientNet
from torch import nn

from nerveceg_lib.data.cache import FrameCache, open_cache
from nerveceg_lib.data.datasets import FrameSet
from nerveceg_lib.data.prepared import cache_dir
from nerveceg_lib.models import CLASSIFIERS, EFFICIENT_UNETS, build_model
from nerveceg_lib.models.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.runtime import folders
from nerveceg_lib.runtime.device import channels_last
from nerveceg_lib.training import PresenceHeadObjective, PresenceObjective, SegmentationObjective, TrainingConfig, fit
from nerveceg_tools.phantom import make_phantom

SIZE, CROP = (400, 400), 128
STEPS = {"classifier": 384, "segmenter": 240}
PHANTOM = {"patients": 16, "frames_per_patient": 16, "test_frames": 0, "difficulty": "easy", "contradictory": 0.0}


def shrink() -> None:
    """Make all that follows small, to see that it runs; what it says of speed and masks then means nothing."""
    global SIZE, CROP, STEPS
    SIZE, CROP, STEPS = (128, 128), 64, {"classifier": 32, "segmenter": 12}


def data_folder() -> Path:
    """Return the folder of 256 phantom frames of 16 patients, which is written once."""
    return make_phantom(**PHANTOM)


def frames() -> FrameCache:
    """Return the same frames, decoded."""
    data = data_folder()
    return open_cache(data, cache_dir(data))


def trained(name: str) -> nn.Module:
    """Return a classifier, a segmenter, or an EfficientU-Net for both stages, briefly trained on `frames`."""
    path = folders.artefact_root() / "bench" / "networks" / f"{name}-{SIZE[0]}" / "network.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"training {name} once", flush=True)
        train = train_classifier if name in CLASSIFIERS else train_segmenter
        train(name, path)
    return load_checkpoint(path)[0]


def train_classifier(name: str, path: Path, batch_size: int = 8) -> None:
    """Train on frames of half the benchmark's height and width, which takes a quarter of its time."""
    torch.manual_seed(0)
    cache, network, size = frames(), build_model(name), (SIZE[0] // 2, SIZE[1] // 2)
    rows = cache.index["row"].to_numpy()
    epochs = STEPS["classifier"] * batch_size // len(rows)
    config = TrainingConfig(epochs, batch_size, lr=0.003, precision="auto")
    sets = FrameSet(cache, rows, size), FrameSet(cache, rows[::8], size)
    fit(network, PresenceObjective(20.0), *sets, config, path, {"model": name, "options": {}, "size": size})


def train_segmenter(name: str, path: Path, batch_size: int = 4) -> None:
    """Train on crops of frames at the benchmark's scale, half of them around the nerve: a tenth of a frame's pixels."""
    torch.manual_seed(0)
    draw, steps = np.random.default_rng(0), STEPS["segmenter"]
    options = {"presence_head": True} if name in EFFICIENT_UNETS else {}
    cache, network = frames(), channels_last(build_model(name, **options)).train()
    positive = FrameSet(cache, cache.index.loc[cache.index["has_nerve"] == 1, "row"], SIZE)
    objective = (PresenceHeadObjective if options else SegmentationObjective)("bce_dice")
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        whole = positive.__getitems__(draw.integers(0, len(positive), batch_size).tolist())
        crops = [_crop(image, mask, draw) for image, mask in zip(whole["image"], whole["mask"], strict=True)]
        image, mask = (torch.stack(tensors) for tensors in zip(*crops, strict=True))
        optimizer.zero_grad()
        objective.loss(network, {"image": image, "mask": mask, "has_nerve": mask.flatten(1).amax(1)}).backward()
        optimizer.step()
        schedule.step()
    save_checkpoint(path, network, {"model": name, "options": options, "size": SIZE})


def _crop(image: torch.Tensor, mask: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a square, half of the time around the nerve and else anywhere."""
    high = SIZE[0] - CROP
    top, left = draw.integers(0, high + 1, 2)
    if draw.random() < 0.5:
        middle = mask[0].nonzero().float().mean(0).numpy() - CROP / 2 + draw.uniform(-40, 40, 2)
        top, left = middle.clip(0, high).astype(int)
    window = (..., slice(top, top + CROP), slice(left, left + CROP))
    return image[window], mask[window]


def as_people_build_it(name: str, network: nn.Module) -> nn.Module:
    """Return a network for three channels that computes the same as `network` does for one.

    It is efficientnet-pytorch's own network, or a U-Net whose first weights are split in three.
    """
    if name.startswith("efficientnet"):
        twin = EfficientNet.from_name(name, num_classes=1, image_size=None)
        head = {f"_fc.{key}": weights for key, weights in network.head[-1].state_dict().items()}
        twin.load_state_dict(network.encoder.net.state_dict() | head)
        return twin.eval()
    twin, state = build_model(name, in_channels=3), network.state_dict()
    for key, weights in twin.state_dict().items():
        if weights.shape != state[key].shape:
            state[key] = state[key].expand_as(weights) / 3
    twin.load_state_dict(state)
    return twin.eval()


def frame_paths(count: int) -> list[Path]:
    """Return TIFF files of `count` frames, well mixed; 41% have a nerve, as in the competition's data."""
    data, index = data_folder(), frames().index
    positive, empty = (index.loc[index["has_nerve"] == value, "path"].tolist() for value in (1, 0))
    share = np.diff(np.floor(np.arange(count + 1) * 0.41))
    return [data / (positive if one else empty).pop() for one in share]
