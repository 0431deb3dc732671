"""Run-length encoding as the Kaggle Ultrasound Nerve Segmentation competition defines it.

Pixels are numbered from 1, top to bottom and then left to right (column-major). A mask is a
string of `start length` pairs, sorted, disjoint and not touching; an empty mask is the empty string.
"""

import re

import numpy as np

from nerveceg_lib.errors import InputError

FRAME_SHAPE = (420, 580)
_DIGITS = 18  # more than any pixel number has, fewer than a 64-bit integer holds


def encode(mask: np.ndarray) -> str:
    """Encode a mask of shape (H, W), any dtype, non-zero = nerve. Raises InputError if not 2-D."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise InputError(f"RLE encodes a mask of shape (H, W); found shape {mask.shape}")
    drawn = mask != 0
    columns = np.flatnonzero(drawn.any(axis=0))
    if not len(columns):
        return ""
    first, last = columns[0], columns[-1]  # most columns of a frame are empty: leave them out
    pixels = np.zeros((last - first + 1) * mask.shape[0] + 2, dtype=bool)
    pixels[1:-1] = drawn[:, first : last + 1].ravel(order="F")
    edges = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    edges[1::2] -= edges[::2]  # ends -> lengths
    edges[::2] += first * mask.shape[0]
    return " ".join(map(str, edges.tolist()))


def decode(text: str, shape: tuple[int, int] = FRAME_SHAPE, where: str = "RLE") -> np.ndarray:
    """Decode `text` into a uint8 mask of `shape` (H, W) with values 0 and 1.

    `where` names the source (a file's row, say) in the message. Raises InputError on an odd count,
    anything but decimal digits, a start below 1, a length below 1, overlapping or unsorted runs,
    and runs that leave the frame; the message gives the position of the offending number. Runs that
    touch are accepted: they say unmistakably which pixels are meant, though `encode` would merge them.
    """
    numbers = _parse(text, where)
    size = shape[0] * shape[1]
    mask = np.zeros(size, dtype=np.uint8)
    before = 0  # end of the last run
    # plain integers: a mask has a hundred runs or so, too few to pay for arrays of them
    for pair, (start, length) in enumerate(zip(numbers[::2], numbers[1::2], strict=True)):
        end = start + length - 1
        if start <= before or length < 1 or end > size:
            raise InputError(_complaint(where, pair, start, length, before, size))
        mask[start - 1 : end] = 1
        before = end
    return mask.reshape(shape, order="F")


def _complaint(where: str, pair: int, start: int, length: int, before: int, size: int) -> str:
    position = f"{where}: number {2 * pair + 1}"
    if start < 1:
        return f"{position}: start is {start}, expected 1 or more"
    if length < 1:
        return f"{where}: number {2 * pair + 2}: length is {length}, expected 1 or more"
    if start <= before:
        return f"{position}: run starts at {start}, inside or before the run that ends at {before}"
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
