"""The competition's folder layout: names, sizes and how its files are written.

train/{subject}_{image}.tif   train/{subject}_{image}_mask.tif   test/{image}.tif
train_masks.csv (subject,img,pixels)   sample_submission.csv (img,pixels)
solution.csv (img,pixels): test truth, only where it is known (phantoms, windows of open data)
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from nerveceg_lib.errors import InputError
from nerveceg_lib.rle import FRAME_SHAPE

_UNCOMPRESSED, _PACKBITS = 1, 32773  # TIFF compression tags


def image_path(root: Path, subject: int, image: int) -> Path:
    return Path(root) / "train" / f"{subject}_{image}.tif"


def mask_path(root: Path, subject: int, image: int) -> Path:
    return Path(root) / "train" / f"{subject}_{image}_mask.tif"


def test_path(root: Path, image: int) -> Path:
    return Path(root) / "test" / f"{image}.tif"


def write_frame(path: Path, frame: np.ndarray) -> None:
    """Write a (420, 580) uint8 ultrasound frame as an uncompressed grey TIFF."""
    _write(path, frame, _UNCOMPRESSED)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a (420, 580) mask (non-zero = nerve) as a grey TIFF of 0 and 255."""
    _write(path, (np.asarray(mask) != 0).astype(np.uint8) * 255, _PACKBITS)


def _write(path: Path, pixels: np.ndarray, compression: int) -> None:
    if pixels.shape != FRAME_SHAPE or pixels.dtype != np.uint8:
        raise InputError(f"{path}: expected uint8 pixels of shape {FRAME_SHAPE}, found {pixels.dtype} {pixels.shape}")
    # encoded in memory: OpenCV would not say why a file could not be written
    path.write_bytes(cv2.imencode(".tif", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, compression])[1].tobytes())


def write_train_masks(root: Path, rows: Iterable[tuple[int, int, str]]) -> None:
    """Write train_masks.csv from (subject, image, RLE) rows, sorted by subject and image."""
    table = pd.DataFrame(rows, columns=["subject", "img", "pixels"]).sort_values(["subject", "img"])
    table.to_csv(Path(root) / "train_masks.csv", index=False)


def write_test_tables(root: Path, rows: Iterable[tuple[int, str]]) -> None:
    """Write solution.csv (the truth) and sample_submission.csv (every mask `1 1`) from (image, RLE) rows."""
    table = pd.DataFrame(rows, columns=["img", "pixels"]).sort_values("img")
    table.to_csv(Path(root) / "solution.csv", index=False)
    table.assign(pixels="1 1").to_csv(Path(root) / "sample_submission.csv", index=False)
