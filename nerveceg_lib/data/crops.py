"""Square crops around a proposed location, for the second, finer network of coarse-to-fine segmentation."""

import cv2
import numpy as np
import torch

from nerveceg_lib.data.cache import FrameCache, resize_frames
from nerveceg_lib.data.datasets import Augmentation, Batch, LabelledSet, to_input

SIDE = 192  # px: 99 in 100 real masks are less than 180 px long
MARGIN = 24  # px around training crops: proposals are that far off, and a rotation needs pixels to bring in


def propose(maps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Propose one location for each map of mask probabilities (B, h, w): row and column in frames of `shape`.

    The location is the centre of mass of the region that surrounds the highest smoothed probability and stays above
    half of it. Returns float64 (B, 2).
    """
    centres = np.empty((len(maps), 2))
    for number, probability in enumerate(maps):
        smooth = cv2.GaussianBlur(probability, (0, 0), 1.5)  # a single pixel is no nerve
        peak = np.unravel_index(smooth.argmax(), smooth.shape)
        _, labels = cv2.connectedComponents((smooth >= 0.5 * smooth[peak]).astype(np.uint8))
        weights = smooth * (labels == labels[peak]) + 1e-12  # a map of zeros has its centre in the middle
        rows, columns = np.indices(smooth.shape)
        centres[number] = (rows * weights).sum() / weights.sum(), (columns * weights).sum() / weights.sum()
    return (centres + 0.5) * np.divide(shape, maps.shape[1:])


def corners(centres: np.ndarray, shape: tuple[int, int], side: int = SIDE) -> np.ndarray:
    """Return the top left corners, int (B, 2), of square crops around `centres`, moved into frames of `shape`."""
    return np.clip(np.rint(centres - side / 2), 0, np.subtract(shape, side)).astype(int)


def cut(images: np.ndarray, top_left: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Return the crops (B, side, side) of images (B, H, W) with these top left corners (B, 2)."""
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(images, top_left, strict=True)])


def paste(maps: np.ndarray, top_left: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Put the probabilities of crops (B, h, w) back into empty frames: float32 (B, *shape)."""
    full = np.zeros((len(maps), *shape), np.float32)
    for frame, probability, (y, x) in zip(full, maps, top_left, strict=True):
        frame[y : y + SIDE, x : x + SIDE] = cv2.resize(probability, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return full


class CropSet(LabelledSet):
    """Crops of labelled frames `rows` around `centres` (len(rows), 2), each SIDE px wide and resized to `size` (h, w).

    Batches are those of `FrameSet`; a crop that misses the nerve counts as a frame without one. With `margin` the crops
    are MARGIN px wider on each side at the same scale, for `CropAugmentation`.
    """

    def __init__(self, frames: FrameCache, rows: np.ndarray, centres: np.ndarray, size: tuple[int, int], margin: bool):
        self.rows = np.asarray(rows)
        self.names, self.digest = frames.index["path"].to_numpy()[self.rows], frames.digest
        side = SIDE + 2 * MARGIN * margin
        wide = round(size[0] * side / SIDE), round(size[1] * side / SIDE)
        top_left = corners(centres, frames.images.shape[1:], side)
        self.images = np.empty((len(rows), *wide), np.uint8)
        self.masks = np.empty_like(self.images)
        for start in range(0, len(rows), 64):
            some = slice(start, start + 64)
            for source, scale, out in ((frames.images, 1, self.images), (frames.masks, 255, self.masks)):
                pieces = cut(source[self.rows[some]], top_left[some], side) * np.uint8(scale)
                out[some] = resize_frames(pieces, np.arange(len(pieces)), wide)

    def __getitems__(self, positions: list[int]) -> Batch:
        mask = torch.from_numpy(self.masks[positions]).unsqueeze(1).float() / 255
        image = to_input(self.images[positions])
        return {"image": image, "mask": mask, "has_nerve": _has_nerve(mask), "position": torch.tensor(positions)}


class CropAugmentation(Augmentation):
    """Change a batch of crops with a margin at random, then cut the margin off, down to `size` (h, w)."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def __call__(self, batch: Batch) -> Batch:
        return trim(super().__call__(batch), self.size)


def trim(batch: Batch, size: tuple[int, int]) -> Batch:
    """Return the middle (B, 1, *size) of a batch of wider crops, labelled by what is left of the mask."""
    top, left = ((batch["mask"].shape[axis] - size[axis - 2]) // 2 for axis in (2, 3))
    middle = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    mask = batch["mask"][middle]
    return batch | {"image": batch["image"][middle], "mask": mask, "has_nerve": _has_nerve(mask)}


def _has_nerve(mask: torch.Tensor) -> torch.Tensor:
    return (mask.amax((1, 2, 3)) > 0.5).float()
