"""Labelled frames and masks at one input size: made once from the cache, then memory-mapped by every run."""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from filelock import FileLock

from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.files import storing, whole_folder
from nerveceg_lib.paths import beside


def resize_frames(frames: np.ndarray, rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize whole frames `rows` to `size` (height, width): uint8 (len(rows), height, width)."""
    out = np.empty((len(rows), *size), np.uint8)
    for place, row in enumerate(rows):
        out[place] = cv2.resize(frames[row], size[::-1], interpolation=cv2.INTER_AREA)
    return out


def open_resized(cache: FrameCache, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Memory-mapped frames and soft masks of all labelled rows: uint8 (rows, height, width), both.

    A soft mask holds the share of nerve pixels below each input pixel times 255, so that thin borders survive.
    The files lie in the cache's folder and go with it when it is rebuilt.
    """
    folder = beside(cache.folder) / f"resized-{size[0]}x{size[1]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            # a disk that fills up under a memory map kills the process, so ask before
            with storing(folder, needed=2 * len(cache.masks) * size[0] * size[1]), whole_folder(folder) as unfinished:
                for name, source, scale in (("frames", cache.frames, 1), ("masks", cache.masks, 255)):
                    _write(unfinished / f"{name}.npy", source, len(cache.masks), size, scale)
    frames, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("frames", "masks"))
    return frames, masks


def _write(path, source: np.ndarray, count: int, size: tuple[int, int], scale: int) -> None:
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *size))

    def fill(start: int) -> None:
        rows = slice(start, min(start + 64, count))
        scaled = source[rows] * np.uint8(scale)
        out[rows] = resize_frames(scaled, np.arange(len(scaled)), size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(fill, range(0, count, 64)))
    out.flush()
