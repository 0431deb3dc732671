"""Square pieces of frames around a proposed place, for a second and closer look."""

import cv2
import numpy as np
import torch

from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.data.dataset import Batch, LabelledSet, to_input
from nerveceg_lib.data.resized import resize_frames

SIDE = 192  # px: of real masks 99 in 100 are less than 180 px long
MARGIN = 24  # px around training crops: proposals are that far off, and rotation needs something to bring in


def propose(maps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Place to look at in mask probabilities (B, h, w): row and column in frames of `shape` (H, W), float64 (B, 2).

    It is the centre of mass of the region around the highest smoothed probability that stays above half of it.
    """
    places = np.empty((len(maps), 2))
    for number, map_ in enumerate(maps):
        smooth = cv2.GaussianBlur(map_, (0, 0), 1.5)  # one lonely pixel is no nerve
        peak = np.unravel_index(smooth.argmax(), smooth.shape)
        _, labels = cv2.connectedComponents((smooth >= 0.5 * smooth[peak]).astype(np.uint8))
        weights = smooth * (labels == labels[peak]) + 1e-12  # a map of zeros has its centre in the middle
        rows, columns = np.indices(smooth.shape)
        places[number] = (rows * weights).sum() / weights.sum(), (columns * weights).sum() / weights.sum()
    return (places + 0.5) * np.divide(shape, maps.shape[1:])


def corners(places: np.ndarray, shape: tuple[int, int], side: int = SIDE) -> np.ndarray:
    """Top left corners, int (B, 2), of square crops around `places` (B, 2), moved to lie inside frames of `shape`."""
    return np.clip(np.rint(places - side / 2), 0, np.subtract(shape, side)).astype(int)


def cut(frames: np.ndarray, at: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Crops (B, side, side) of frames (B, H, W) with their top left corners `at` (B, 2)."""
    return np.stack([frame[y : y + side, x : x + side] for frame, (y, x) in zip(frames, at, strict=True)])


def paste(maps: np.ndarray, at: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Probabilities (B, h, w) of crops, brought back to their places in empty frames: float32 (B, *shape)."""
    full = np.zeros((len(maps), *shape), np.float32)
    for frame, map_, (y, x) in zip(full, maps, at, strict=True):
        frame[y : y + SIDE, x : x + SIDE] = cv2.resize(map_, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    return full


class CropSet(LabelledSet):
    """Crops of labelled frames `rows` around `places` (len(rows), 2), each SIDE px resized to `size` (h, w).

    Batches are as `FrameSet` gives them; a crop that misses the nerve is one without. With `margin` there are MARGIN
    px more on each side at the same scale: move them about, then `trim`.
    """

    def __init__(self, cache: FrameCache, rows: np.ndarray, places: np.ndarray, size: tuple[int, int], margin: bool):
        self.rows = np.asarray(rows)
        self.names = cache.index["path"].to_numpy()[self.rows]
        side = SIDE + 2 * MARGIN * margin
        wide = round(size[0] * side / SIDE), round(size[1] * side / SIDE)
        at = corners(places, cache.frames.shape[1:], side)
        self.frames = np.empty((len(rows), *wide), np.uint8)
        self.masks = np.empty_like(self.frames)
        for start in range(0, len(rows), 64):
            part = slice(start, start + 64)
            for source, scale, out in ((cache.frames, 1, self.frames), (cache.masks, 255, self.masks)):
                pieces = cut(source[self.rows[part]], at[part], side) * np.uint8(scale)
                out[part] = resize_frames(pieces, np.arange(len(pieces)), wide)

    def __getitems__(self, places: list[int]) -> Batch:
        mask = torch.from_numpy(self.masks[places]).unsqueeze(1).float() / 255
        image, place = to_input(self.frames[places]), torch.tensor(places)
        return {"image": image, "mask": mask, "presence": _presence(mask), "place": place}


def trim(batch: Batch, size: tuple[int, int]) -> Batch:
    """The middle of a batch of wider crops, (B, 1, *size); presence is that of what is left."""
    top, left = ((batch["mask"].shape[axis] - size[axis - 2]) // 2 for axis in (2, 3))
    middle = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    mask = batch["mask"][middle]
    return batch | {"image": batch["image"][middle], "mask": mask, "presence": _presence(mask)}


def _presence(mask: torch.Tensor) -> torch.Tensor:
    return (mask.amax((1, 2, 3)) > 0.5).float()
