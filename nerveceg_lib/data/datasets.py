"""Frames as a network sees them: resized, standardised, in batches, and augmented together with their masks."""

import kornia.augmentation as K
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from nerveceg_lib.data.cache import FrameCache, open_resized

Batch = dict[str, torch.Tensor]


def to_input(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Standardise each uint8 image (N, H, W): float32 (N, 1, H, W) with mean 0 and standard deviation 1.

    Each frame is standardised by itself, because gain differs between patients. A constant frame becomes all zeros.
    """
    pixels = torch.as_tensor(np.asarray(images)).float().unsqueeze(1) / 255  # (N, 1, H, W)
    std, mean = torch.std_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
    return (pixels - mean) / std.clamp_min(1e-3)


class FrameSet(Dataset):
    """Labelled frames of a cache, resized to one input size; what networks are trained and validated on.

    Args:
        frames: the frame cache.
        rows: rows of its index; a row that stands there twice is used twice.
        size: height and width of the network's input.

    It keeps `rows`, the `names` of their files, and the data set's `digest`.
    """

    def __init__(self, frames: FrameCache, rows: np.ndarray | pd.Series, size: tuple[int, int]):
        self.images, self.masks = open_resized(frames, size)
        self.rows = np.asarray(rows)
        self.has_nerve = frames.index["has_nerve"].to_numpy()[self.rows].astype(np.float32)
        self.names, self.digest = frames.index["path"].to_numpy()[self.rows], frames.digest

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, positions: list[int]) -> Batch:
        """Return a whole batch, all float32 but the last.

        image (B, 1, H, W) standardised; mask (B, 1, H, W), the share of nerve below each pixel; has_nerve (B,) 0 or 1;
        position (B,) int64, the index of each frame in `rows` and `names`.
        """
        rows = self.rows[positions]
        return {
            "image": to_input(self.images[rows]),
            "mask": torch.from_numpy(self.masks[rows]).unsqueeze(1).float() / 255,
            "has_nerve": torch.from_numpy(self.has_nerve[positions]),
            "position": torch.tensor(positions),
        }


def train_loader(frame_set: FrameSet, batch_size: int, seed: int, processes: int = 1, process: int = 0) -> DataLoader:
    """Return shuffled batches whose order depends on seed and epoch only, so that a resumed run repeats it.

    Of several `processes` each takes its share: their batches together are those of one process with batches
    `processes` times as large. Batches come from memory, so worker processes would only cost time.
    """
    sampler: DistributedSampler[int] = DistributedSampler(frame_set, processes, process, shuffle=True, seed=seed)
    # batch norm cannot train on a single frame
    drop_last = len(sampler) % batch_size == 1 and len(sampler) > 1
    return DataLoader(frame_set, batch_size, sampler=sampler, collate_fn=lambda batch: batch, drop_last=drop_last)


def eval_loader(frame_set: FrameSet, batch_size: int, processes: int = 1, process: int = 0) -> DataLoader:
    """Return all frames in order; of several processes each takes every `processes`-th frame."""
    sampler: DistributedSampler[int] = DistributedSampler(frame_set, processes, process, shuffle=False)
    return DataLoader(frame_set, batch_size, sampler=sampler, collate_fn=lambda batch: batch)


class Augmentation:
    """Change a batch at random: flip, rotate up to 10 degrees, shift up to 8%, zoom by 0.9 to 1.1, contrast up to 15%.

    Image and mask move together; only the image's contrast changes. kornia works on whole batches, on the network's
    device, and without torchvision.
    """

    def __init__(self) -> None:
        self.geometry = K.AugmentationSequential(
            K.RandomHorizontalFlip(p=0.5),
            K.RandomAffine(degrees=10, translate=(0.08, 0.08), scale=(0.9, 1.1), p=1.0),
            data_keys=["input", "mask"],
        )

    def __call__(self, batch: Batch) -> Batch:
        image, mask = self.geometry(batch["image"], batch["mask"])
        contrast = 1 + 0.3 * (torch.rand(len(image), 1, 1, 1, device=image.device) - 0.5)
        return batch | {"image": image * contrast, "mask": mask}
