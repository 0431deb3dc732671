"""Frames as a network sees them: resized, standardised, in batches, moved together with their masks."""

from typing import TypeVar

import kornia.augmentation as K
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.data.resized import open_resized

Batch = dict[str, torch.Tensor]
Whole = TypeVar("Whole")


def to_input(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Standardise each uint8 frame (N, H, W): float32 (N, 1, H, W), mean 0, standard deviation 1.

    Per frame, because gain differs between patients; a constant frame becomes all zeros.
    """
    pixels = torch.as_tensor(np.asarray(frames)).float().unsqueeze(1) / 255  # (N, 1, H, W)
    std, mean = torch.std_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
    return (pixels - mean) / std.clamp_min(1e-3)


class LabelledSet(Dataset):
    """What networks are trained and validated on: `rows` of the index, the files' `names`, and batches by place."""

    rows: np.ndarray
    names: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, places: list[int]) -> Batch:
        raise NotImplementedError


class FrameSet(LabelledSet):
    """Labelled frames `rows` of a cache at one input size."""

    def __init__(self, cache: FrameCache, rows: np.ndarray, size: tuple[int, int]):
        self.frames, self.masks = open_resized(cache, size)
        self.rows = np.asarray(rows)
        self.presence = cache.index["presence"].to_numpy()[self.rows].astype(np.float32)
        self.names = cache.index["path"].to_numpy()[self.rows]

    def __getitems__(self, places: list[int]) -> Batch:
        """A whole batch: image (B, 1, H, W) standardised, mask (B, 1, H, W) in 0..1, presence (B,) 0 or 1.

        `place` (B,) int64 is where in `names` (files' paths) a frame's stands.
        """
        rows = self.rows[places]
        return {
            "image": to_input(self.frames[rows]),
            "mask": torch.from_numpy(self.masks[rows]).unsqueeze(1).float() / 255,
            "presence": torch.from_numpy(self.presence[places]),
            "place": torch.tensor(places),
        }


def balanced(frames: pd.DataFrame) -> pd.DataFrame:
    """Rows of the index to train on; those with a nerve as many times as there are empty ones for each, rounded.

    Where four frames in five are empty, a network that learns masks and presence at once learns to draw nothing. Empty
    frames are never repeated: that was measured to harm.
    """
    counts = frames["presence"].value_counts().reindex([0, 1], fill_value=0)
    times = max(1, round(counts[0] / max(counts[1], 1)))
    return pd.concat([frames, *[frames[frames["presence"] == 1]] * (times - 1)], ignore_index=True)


def train_loader(frames: LabelledSet, batch_size: int, seed: int, processes: int = 1, process: int = 0) -> DataLoader:
    """Shuffled batches whose order depends on the seed and the epoch alone, so that a resumed run repeats it.

    Of `processes` side by side each takes its share: together their batches are those of one process with
    batches `processes` times as large. Batches are cut from memory, so worker processes would only cost time.
    """
    sampler: DistributedSampler[int] = DistributedSampler(frames, processes, process, shuffle=True, seed=seed)
    # a last batch of one frame would break batch norm
    drop_last = len(sampler) % batch_size == 1 and len(sampler) > 1
    return DataLoader(frames, batch_size, sampler=sampler, collate_fn=_as_is, drop_last=drop_last)


def eval_loader(frames: LabelledSet, batch_size: int, processes: int = 1, process: int = 0) -> DataLoader:
    """All frames in order; of several processes each takes every `processes`-th."""
    sampler: DistributedSampler[int] = DistributedSampler(frames, processes, process, shuffle=False)
    return DataLoader(frames, batch_size, sampler=sampler, collate_fn=_as_is)


def _as_is(batch: Whole) -> Whole:
    return batch


def augmentation() -> K.AugmentationSequential:
    """Random flip and affine map on the batch, image and mask together.

    kornia (Apache-2.0) works on the batch and the device and moves masks with images without
    torchvision; albumentations is frozen and its successor AGPL.
    """
    return K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(degrees=10, translate=(0.08, 0.08), scale=(0.9, 1.1), p=1.0),
        data_keys=["input", "mask"],
    )


def augment(transform: K.AugmentationSequential, batch: Batch) -> Batch:
    """Apply `transform` to image and mask, and a random contrast change of up to 15% to the image."""
    image, mask = transform(batch["image"], batch["mask"])
    contrast = 1 + 0.3 * (torch.rand(len(image), 1, 1, 1, device=image.device) - 0.5)
    return batch | {"image": image * contrast, "mask": mask}
