"""Read masks of any kind: black and white, classes by grey level, palette, colour or transparency."""

import re
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from nerveceg_lib import rle
from nerveceg_lib.data.io import describe_frames, list_frames
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import write_csv
from nerveceg_tools.importers import fit_frame, image_files, open_image, raise_all

ANY = "any"
VALUE = re.compile(r"[0-9]{1,3}|#[0-9a-fA-F]{6}")


def check_values(values: Sequence[str]) -> None:
    """Raise InputError for `values` of `read_mask` that are neither numbers, colours nor "any"."""
    wrong = [value for value in values if not VALUE.fullmatch(value)]
    if wrong and list(values) != [ANY]:
        raise InputError(f"--mask-values: expected numbers, colours such as '#00ff00', or {ANY}; found {wrong[0]!r}")


def read_mask(path: Path, values: Sequence[str] = ()) -> tuple[np.ndarray, str]:
    """Read a mask as uint8 (H, W), 1 = what is sought.

    Also return a value: without `values` the one that was taken for what is sought, with `values` the most frequent one
    besides 0 that is not sought; "" if there is none.

    Args:
        path: an image. Its values are colours if it has any or if `values` are colours; else the indices of a palette;
            else the transparency, if it varies; else grey levels. Of a JPEG only black and white count.
        values: those that are sought: numbers such as "2", colours such as "#00ff00", or "any" alone for all but 0.
            Without any the mask must have two values, and the one that is not 0 is sought.

    Raises InputError for a file that cannot be read, and without `values` for other than two values and for a mask that
    covers most of its frame.
    """
    pixels, coloured = _values(path, any(value.startswith("#") for value in values))
    if list(values) == [ANY]:
        return (pixels != 0).astype(np.uint8), ""
    if values:
        numbers = [int(value[1:], 16) if value.startswith("#") else int(value) for value in values]
        if coloured and not any(value.startswith("#") for value in values):
            raise InputError(f"{path}: expected grey levels or a palette, found colours, such as '#{pixels.max():06x}'")
        sought = np.isin(pixels, numbers)
        others = pixels[(pixels != 0) & ~sought]
        return sought.astype(np.uint8), _name(int(pd.Series(others).mode()[0]), coloured) if len(others) else ""
    present = sorted(pd.unique(pixels.ravel()).tolist())
    if len(present) > 2 or 0 not in present:
        expected = "expected the value 0 and one for what is sought"
        raise InputError(f"{path}: {expected}, found {_names(present, coloured)}; see --mask-values")
    mask = (pixels != 0).astype(np.uint8)
    if mask.mean() > 0.5:
        raise InputError(f"{path}: {mask.mean():.0%} of the frame is masked; `--mask-values 0` takes the rest")
    return mask, _name(present[1], coloured) if len(present) > 1 else ""


def _values(path: Path, as_colours: bool) -> tuple[np.ndarray, bool]:
    """Return the value of each pixel (H, W), and whether values are colours, red * 65536 + green * 256 + blue."""
    image = open_image(path)
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        return _black_or_white(path, np.asarray(image.convert("L"))), False
    if as_colours:
        return _colours(image), True
    if image.mode == "P":
        return np.asarray(image), False
    if image.mode in {"LA", "RGBA"} and np.ptp(alpha := np.asarray(image.getchannel("A"))):
        return alpha, False
    if image.mode in {"RGB", "RGBA"}:
        red, green, blue = (np.asarray(image.getchannel(name)) for name in "RGB")
        if (red != green).any() or (green != blue).any():
            return _colours(image), True
    return np.asarray(image.convert("L")), False


def _colours(image: Image.Image) -> np.ndarray:
    red, green, blue = (np.asarray(channel, np.int32) for channel in image.convert("RGB").split())
    return (red << 16) + (green << 8) + blue


def _black_or_white(path: Path, pixels: np.ndarray) -> np.ndarray:
    if np.mean((pixels > 63) & (pixels < 192)) > 0.02 or 0 < pixels.max() < 192:
        found = f"values from {pixels.min()} to {pixels.max()}"
        raise InputError(f"{path}: expected a mask in black and white, found {found}; PNG keeps other values")
    return (pixels > 127) * np.uint8(255)


def _names(values: list[int], coloured: bool) -> str:
    return f"{', '.join(_name(value, coloured) for value in values[:6])}{' and more' if len(values) > 6 else ''}"


def _name(value: int, coloured: bool) -> str:
    return f"#{value:06x}" if coloured else str(value)


def import_masks(masks: Path, data: Path, out: Path, values: Sequence[str] = ()) -> str:
    """Write the masks that another system has drawn for the labelled frames of `data` as a table of RLE.

    Args:
        masks: a folder with a mask for each frame, named like its source or like {subject}_{image}, with or without
            _mask behind it; see `read_mask`. Masks of other sizes are scaled as `import_frames` scales frames.
        data: a folder in competition layout.
        out: the table to write: subject, img, pixels. Notebook 7 and the report compare it with the kit's own masks.
        values: see `read_mask`.

    Returns a line that counts them. Raises one InputError for all masks that are missing or cannot be read.
    """
    check_values(values)
    frames = describe_frames(data, list_frames(data)[0]).query("set == 'train'")
    by_name = {path.relative_to(masks).with_suffix("").as_posix(): path for path in image_files(masks)[0]}
    rows, faults = [], []
    for frame in frames.itertuples():
        names = (Path(frame.source).with_suffix("").as_posix(), f"{frame.subject}_{frame.image}")
        paths = [by_name[name] for name in (*names, *(f"{name}_mask" for name in names)) if name in by_name]
        try:
            if not paths:
                raise InputError(f"{masks}: expected a mask for each frame, found none for {names[0]} ({names[1]})")
            mask = fit_frame(read_mask(paths[0], values)[0], cv2.INTER_NEAREST)
            rows.append((frame.subject, frame.image, rle.encode(mask)))
        except InputError as error:
            faults.append(str(error))
    raise_all(faults)
    write_csv(out, pd.DataFrame(rows, columns=["subject", "img", "pixels"]))
    return f"{len(rows)} masks, {sum(pixels != '' for *_, pixels in rows)} of them not blank"
