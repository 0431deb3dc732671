"""Run-length encoding (RLE) as the Kaggle Ultrasound Nerve Segmentation competition defines it.

Pixels are numbered from 1, from top to bottom and then from left to right (column-major). A mask is a string of `start
length` pairs, which are sorted and disjoint and do not touch. An empty mask is the empty string.
"""

import re

import numpy as np

from nerveceg_lib.runtime.errors import InputError

FRAME_SHAPE = (420, 580)
_DIGITS = 18  # more than any pixel number has, fewer than a 64-bit integer holds


def encode(mask: np.ndarray) -> str:
    """Return the RLE of a mask (H, W), any dtype, non-zero = nerve. Raises InputError if it is not 2-D."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise InputError(f"RLE encodes a mask of shape (H, W); found shape {mask.shape}")
    drawn = mask != 0
    columns = np.flatnonzero(drawn.any(axis=0))
    if not len(columns):
        return ""
    first, last = columns[0], columns[-1]  # most columns of a frame are empty and are left out
    pixels = np.zeros((last - first + 1) * mask.shape[0] + 2, dtype=bool)
    pixels[1:-1] = drawn[:, first : last + 1].ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges[1::2] -= edges[::2]  # ends -> lengths
    edges[::2] += first * mask.shape[0]
    return " ".join(map(str, edges.tolist()))


def decode(text: str, shape: tuple[int, int] = FRAME_SHAPE, where: str = "RLE") -> np.ndarray:
    """Decode an RLE into a mask, uint8 0 and 1, of `shape` (H, W).

    `where` names the source in error messages, such as the row of a file. Raises InputError, with the position of the
    bad number, for an odd count, anything but decimal digits, a start or length below 1, overlapping or unsorted runs,
    and runs that leave the frame. Runs that touch are accepted, since it is clear which pixels they mean, although
    `encode` would merge them.
    """
    numbers = _parse(text, where)
    size = shape[0] * shape[1]
    mask = np.zeros(size, dtype=np.uint8)
    previous_end = 0
    # a mask has about a hundred runs, too few for arrays to be faster than plain integers
    for pair, (start, length) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
        end = start + length - 1
        if start <= previous_end or length < 1 or end > size:
            raise InputError(_run_error(where, pair, start, length, previous_end, size))
        mask[start - 1 : end] = 1
        previous_end = end
    return mask.reshape(shape, order="F")


def _run_error(where: str, pair: int, start: int, length: int, previous_end: int, size: int) -> str:
    position = f"{where}: number {2 * pair + 1}"
    if start < 1:
        return f"{position}: start is {start}, expected 1 or more"
    if length < 1:
        return f"{where}: number {2 * pair + 2}: length is {length}, expected 1 or more"
    if start <= previous_end:
        return f"{position}: run starts at {start}, inside or before the run that ends at {previous_end}"
    return f"{position}: run {start} {length} ends at {start + length - 1}, outside the {size}-pixel frame"


def _parse(text: str, where: str) -> list[int]:
    if not isinstance(text, str):
        raise InputError(f"{where}: expected a string of `start length` pairs, found {text!r}")
    tokens = text.split()
    if not re.fullmatch(r"[0-9 ]*", text) or max(map(len, tokens), default=0) > _DIGITS:
        for position, token in enumerate(tokens, start=1):
            if not re.fullmatch(rf"-?[0-9]{{1,{_DIGITS}}}", token):
                raise InputError(f"{where}: number {position}: expected a whole number, found {token[:40]!r}")
    if len(tokens) % 2:
        raise InputError(f"{where}: {len(tokens)} numbers, expected an even count of `start length` pairs")
    return [int(token) for token in tokens]
