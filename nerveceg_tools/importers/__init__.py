"""Import data sets of other layouts: copy them into the competition's layout."""

import re
import shutil
from http.client import HTTPException
from itertools import compress
from pathlib import Path
from typing import Literal
from urllib.request import urlopen
from zipfile import BadZipFile

import cv2
import numpy as np
import pandas as pd
from PIL import Image, ImageOps

from nerveceg_lib.data.io import decode
from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_lib.runtime.errors import InputError

FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}
MOST_NAMED = 10  # faults in one message
MODES = {"1", "L", "LA", "P", "RGB", "RGBA"}  # Pillow's modes of at most 8 bits per channel that have a grey value


def read_image(path: Path, mode: Literal["L", "RGB"]) -> np.ndarray:
    """Read an image with at most 8 bits per channel, turned as its EXIF orientation says.

    Returns uint8 of shape (H, W) for the mode "L" (grey) and (H, W, 3) for "RGB". Raises InputError naming the file if
    it cannot be read, is too large, has more bits or more than one page.
    """
    return np.asarray(open_image(path).convert(mode))


def open_image(path: Path) -> Image.Image:
    """Open an image as `read_image` does, in Pillow's mode of the file."""
    content = path.read_bytes()
    image = decode(content, FORMATS)
    if image is None:
        raise InputError(f"{path}: expected a readable image, found {len(content)} bytes that do not decode")
    if (pages := getattr(image, "n_frames", 1)) > 1:
        raise InputError(f"{path}: expected one picture in a file, found {pages}; save each as a file of its own")
    if image.mode not in MODES:
        raise InputError(f"{path}: expected 8 bits per channel, found Pillow's mode {image.mode}")
    return ImageOps.exif_transpose(image)


def raise_all(faults: list[str], advice: str = "") -> None:
    """Raise one InputError that names the first of many `faults`, if there are any; `advice` follows the last."""
    if faults:
        more = [f"and {len(faults) - MOST_NAMED} more{advice}"] * (len(faults) > MOST_NAMED)
        raise InputError("\n".join(faults[:MOST_NAMED] + more))


def image_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the images below `folder` in natural order ("2" before "10"), and the other files that were left out.

    Hidden files and folders, such as .ipynb_checkpoints, and what macOS puts into archives are among those left out.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of images, found none")
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: natural(path.as_posix()))
    hidden = re.compile(r"(^|/)(\.|__MACOSX)")
    is_image = [
        path.suffix.lower() in SUFFIXES and not hidden.search(path.relative_to(folder).as_posix()) for path in files
    ]
    return list(compress(files, is_image)), [path for path, image in zip(files, is_image, strict=True) if not image]


def natural(name: str) -> list:
    """Return a key that sorts names in natural order: "2" before "10"."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def download(url: str, folder: Path) -> Path:
    """Download and unpack a zip archive in `folder`, and return the one folder that it holds.

    `unpack_archive` leaves out members whose path would lead out of the folder. Raises InputError if it fails.
    """
    archive, unpacked = folder / "archive.zip", folder / "unpacked"
    try:
        with urlopen(url, timeout=60) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
        shutil.unpack_archive(archive, unpacked)
        return next(unpacked.iterdir())
    except (OSError, ValueError, HTTPException, BadZipFile) as error:
        raise InputError(
            f"{url}: expected a zip archive to download, found: {error}; "
            "the folder of a local copy can be given instead"
        ) from error


def read_table(path: Path, separator: str = ",") -> pd.DataFrame:
    """Read a CSV file as text, with "" for what is missing. Raises InputError if it cannot be read or has no column."""
    try:
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a CSV file with a line of column names, found: {error}") from error


def fit_frame(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    """Scale an image (H, W) so that it just fits into the competition's frame (420, 580); the rest is black."""
    height, width = _fitted(pixels.shape)
    fitted = np.zeros(FRAME_SHAPE, np.uint8)
    fitted[:height, :width] = cv2.resize(pixels, (width, height), interpolation=interpolation)
    return fitted


def unfit_mask(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Bring a mask (420, 580) of a frame that `fit_frame` scaled back to the frame's own `shape` (H, W)."""
    height, width = _fitted(shape)
    return cv2.resize(mask[:height, :width], shape[::-1], interpolation=cv2.INTER_NEAREST)


def _fitted(shape: tuple[int, ...]) -> tuple[int, int]:
    scale = min(FRAME_SHAPE[0] / shape[0], FRAME_SHAPE[1] / shape[1])
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))  # a sliver keeps one pixel
