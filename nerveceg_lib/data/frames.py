"""Read one ultrasound frame or mask, and say clearly what is wrong with a bad one."""

import io
import struct
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from nerveceg_lib.errors import InputError
from nerveceg_lib.rle import FRAME_SHAPE

# what Pillow raises for broken files beside its own error: it trusts the types and ranges that headers state
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)
MOST_PIXELS = 16_000_000  # a camera's picture is named with its size; what promises more is not decoded


def read_frame(path: Path) -> np.ndarray:
    """Read a frame as uint8 of shape (420, 580). Raises InputError naming the file if it is anything else."""
    return _read(path, "frame")


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as uint8 of shape (420, 580), values 0 and 1. Raises InputError if it is anything else."""
    pixels = _read(path, "mask")
    mask = (pixels != 0).view(np.uint8)
    if not np.array_equal(pixels, mask * np.uint8(255)):
        raise InputError(f"{path}: expected mask values 0 and 255, found {np.unique(pixels)[:8].tolist()}")
    return mask


def _read(path: Path, kind: str) -> np.ndarray:
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{path}: {kind} is missing") from error
    except OSError as error:  # a folder, or no permission
        raise InputError(f"{path}: expected a readable image, found: {error.strerror}") from error
    pixels = _decode(content)
    if pixels is None:
        raise InputError(f"{path}: expected a readable image, found {len(content)} bytes that do not decode")
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or pixels.shape != FRAME_SHAPE:
        found = f"{pixels.dtype} of shape {pixels.shape}"
        raise InputError(f"{path}: expected an 8-bit grey {kind} of shape {FRAME_SHAPE}, found {found}")
    return pixels


def _decode(content: bytes) -> np.ndarray | None:
    """Decoded pixels, or None. OpenCV believes the lengths that a file states: 272 bytes made it ask for 4 GB."""
    warnings.filterwarnings("ignore", module=r"PIL\..*")  # of broken headers: our one message says it
    try:
        with Image.open(io.BytesIO(content), formats=("TIFF", "PNG")) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            return np.asarray(image.convert("RGB") if image.mode == "P" else image)
    except (*BROKEN, Image.DecompressionBombError):
        return None
