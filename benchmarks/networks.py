"""Phantom frames and trained networks for the benchmarks, made once and kept below the artefact root.

Agreement of two ways to run a network says little about one with random weights, whose logits all lie near the
threshold. A few minutes of training at the benchmark's own scale make outlines; they need not be good ones.
"""

from pathlib import Path

import numpy as np
import torch
from efficientnet_pytorch import EfficientNet
from torch import nn

from nerveceg_lib import paths, tasks, training
from nerveceg_lib.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.compute import Hardware
from nerveceg_lib.data import cache, dataset, source
from nerveceg_lib.models import CLASSIFIERS, build_model

SIZE = (400, 400)
CROP = 128
PHANTOM = {"subjects": 16, "frames_per_subject": 16, "test_frames": 0, "difficulty": "easy", "contradictory": 0.0}


def data_folder() -> Path:
    """256 phantom frames of 16 patients, written once."""
    return source.resolve_data("auto", **PHANTOM)


def frames() -> cache.FrameCache:
    """The same, decoded."""
    data = data_folder()
    return cache.open_cache(data, source.cache_dir(data))


def trained(name: str) -> nn.Module:
    """A classifier, a segmenter, or an EfficientU-Net for both, trained for a while on `frames`, in eval mode."""
    path = paths.artefact_root() / "bench" / "networks" / f"{name}.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"training {name} once, for some minutes", flush=True)
        model = (train_classifier if name in CLASSIFIERS else train_segmenter)(name)
        save_checkpoint(path, model, name, {})
    return load_checkpoint(path)[0]


def train_classifier(name: str) -> nn.Module:
    """At half the benchmark's size, which is a quarter of its time."""
    torch.manual_seed(0)
    given, model = frames(), build_model(name)
    rows = given.index["row"].to_numpy()
    parts = [dataset.FrameSet(given, part, (200, 200)) for part in (rows, rows[::8])]
    data = training.Data(*parts, 8, lambda batch: batch)
    folder = paths.artefact_root() / "bench" / "training"
    hardware = Hardware(precision="auto")
    training.fit(model, tasks.presence_task(20.0), training.Schedule(12, 0.003), data, folder, {}, hardware=hardware)
    return model.eval()


def train_segmenter(name: str, steps: int = 240, batch: int = 4) -> nn.Module:
    """On crops of frames at the benchmark's scale, half of them around the nerve: a tenth of the pixels of frames."""
    torch.manual_seed(0)
    draw = np.random.default_rng(0)
    given, model = frames(), build_model(name).to(memory_format=torch.channels_last).train()
    rows = given.index.loc[given.index["presence"] == 1, "row"].to_numpy()
    positive = dataset.FrameSet(given, rows, SIZE)
    task = (tasks.one_trunk_task if hasattr(model, "presence_logit") else tasks.segmentation_task)("bce_dice")
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        whole = positive.__getitems__(draw.integers(0, len(positive), batch).tolist())
        crops = [_crop(image, mask, draw) for image, mask in zip(whole["image"], whole["mask"], strict=True)]
        image, mask = (torch.stack(part) for part in zip(*crops, strict=True))
        optimizer.zero_grad()
        task.objective(model, {"image": image, "mask": mask, "presence": mask.flatten(1).amax(1)}).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def _crop(image: torch.Tensor, mask: torch.Tensor, draw: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A square around the nerve or, for every other crop, anywhere."""
    high = SIZE[0] - CROP
    top, left = draw.integers(0, high + 1, 2)
    if draw.random() < 0.5:
        middle = mask[0].nonzero().float().mean(0).numpy() - CROP / 2 + draw.uniform(-40, 40, 2)
        top, left = middle.clip(0, high).astype(int)
    window = (..., slice(top, top + CROP), slice(left, left + CROP))
    return image[window], mask[window]


def as_people_build_it(name: str, model: nn.Module) -> nn.Module:
    """The same function as `model` of repeated grey frames: efficientnet-pytorch's own network, or a U-Net whose
    first weights are split in three."""
    if name.startswith("efficientnet"):
        twin = EfficientNet.from_name(name, num_classes=1, image_size=None)
        head = {f"_fc.{key}": weights for key, weights in model.head[-1].state_dict().items()}
        twin.load_state_dict(model.trunk.net.state_dict() | head)
        return twin.eval()
    twin, state = build_model(name, in_channels=3), model.state_dict()
    for key, weights in twin.state_dict().items():
        if weights.shape != state[key].shape:
            state[key] = state[key].expand_as(weights) / 3
    twin.load_state_dict(state)
    return twin.eval()


def frame_paths(count: int) -> list[Path]:
    """TIFF files of `count` frames, 41% of them with a nerve as in the competition's data, well mixed."""
    data, index = data_folder(), frames().index
    positive, empty = (index.loc[index["presence"] == value, "path"].tolist() for value in (1, 0))
    share = np.diff(np.floor(np.arange(count + 1) * 0.41))
    return [data / (positive if one else empty).pop() for one in share]
