"""Import data sets of other layouts: copy them into the competition's layout."""

from pathlib import Path
from typing import Literal

import numpy as np

from nerveceg_lib.data.io import decode
from nerveceg_lib.runtime.errors import InputError

FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
MODES = {"1", "L", "P", "RGB", "RGBA"}  # Pillow's modes of at most 8 bits per channel that have a grey value


def read_image(path: Path, mode: Literal["L", "RGB"]) -> np.ndarray:
    """Read an image with at most 8 bits per channel.

    Returns uint8 of shape (H, W) for the mode "L" (grey) and (H, W, 3) for "RGB". Raises InputError naming the file if
    it cannot be read, is too large or has more bits.
    """
    content = path.read_bytes()
    image = decode(content, FORMATS)
    if image is None:
        raise InputError(f"{path}: expected a readable image, found {len(content)} bytes that do not decode")
    if image.mode not in MODES:
        raise InputError(f"{path}: expected 8 bits per channel, found Pillow's mode {image.mode}")
    return np.asarray(image.convert(mode))
