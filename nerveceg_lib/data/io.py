"""Read and write files in the competition's folder layout, and say clearly what is wrong with a bad one.

train/{subject}_{image}.tif   train/{subject}_{image}_mask.tif   test/{image}.tif
train_masks.csv (subject,img,pixels)   sample_submission.csv (img,pixels)
solution.csv (img,pixels): the truth of the test frames, only where it is known (phantoms, windows of open data)
names.csv, dataset.json: what an importer knows of the frames and of the data; see `describe_frames` and `read_target`
"""

import io
import re
import struct
import warnings
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import read_json

# Pillow raises these for broken files besides its own error, because it trusts the types and ranges in headers
BROKEN = (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, struct.error)
MOST_PIXELS = 16_000_000  # larger images are not decoded: a small file can promise any size
SUBMISSION_COLUMNS = ["img", "pixels"]
COLUMNS = ["set", "subject", "image", "path", "mask_path"]
NAMED = {
    2: "expected a frame named {subject}_{image}.tif, numbers without leading zeros, nine digits at most",
    1: "expected a frame named {image}.tif, a number without leading zeros, nine digits at most",
}
_UNCOMPRESSED, _PACKBITS = 1, 32773  # TIFF compression tags


def list_frames(data_dir: Path) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """List `train/{subject}_{image}.tif` and `test/{image}.tif`, training frames first, in numeric order.

    Columns: `set` ("train" or "test"), `subject` (0 for test), `image`, `path` and `mask_path` relative to `data_dir`
    ("" for test). Endings may be in upper case; hidden files are left out. Also returns `path` and `reason` of each
    file whose name does not fit or is there twice. Raises InputError if there is no training frame.
    """
    rows, odd = [], []
    for folder, count in (("train", 2), ("test", 1)):
        names = sorted(path.name for path in (data_dir / folder).glob("[!.]*"))
        masks = {name.lower(): name for name in names if name.lower().endswith("_mask.tif")}
        for name in (name for name in names if name.lower().endswith(".tif") and name.lower() not in masks):
            numbers = re.fullmatch("_".join(["(0|[1-9][0-9]{0,8})"] * count), stem := name[:-4])
            if not numbers:
                odd.append({"path": f"{folder}/{name}", "reason": f"{data_dir / folder / name}: {NAMED[count]}"})
                continue
            mask = f"train/{masks.get(f'{stem}_mask.tif', f'{stem}_mask.tif')}" if count == 2 else ""
            *subject, image = map(int, numbers.groups())
            rows.append((folder, *(subject or [0]), image, f"{folder}/{name}", mask))
    table = pd.DataFrame(sorted(rows, key=lambda row: (row[0] == "test", *row[1:])), columns=COLUMNS)
    if not (table["set"] == "train").any():
        raise InputError("\n".join(row["reason"] for row in odd) or f"{data_dir / 'train'}: no frame found; {NAMED[2]}")
    twins = table.duplicated(["set", "subject", "image"])
    twice = "expected one file of this name, found one with another ending beside it"
    odd += [{"path": path, "reason": f"{data_dir / path}: {twice}"} for path in table["path"][twins]]
    return table[~twins].reset_index(drop=True), odd


def describe_frames(data_dir: Path, listing: pd.DataFrame) -> pd.DataFrame:
    """Add `patient`, `source` and `clean` to the table of `list_frames`.

    `patient` is the patient's own name and `source` the file that the frame was made from; without names.csv they are
    the number of the subject and `path`. `clean` is 0 for frames with marks that give the answer away, else 1. Raises
    InputError if names.csv does not name every frame.
    """
    path, keys = data_dir / "names.csv", ["set", "subject", "image"]
    if not path.exists():
        numbers = listing["subject"].astype(str).where(listing["set"] == "train", "")
        return listing.assign(patient=numbers, source=listing["path"], clean=1)
    names = pd.read_csv(path, dtype=str).reindex(columns=[*keys, "patient", "source", "clean"])
    names = names.astype({"subject": int, "image": int}).fillna({"patient": "", "clean": 1}).drop_duplicates(keys)
    described = listing.merge(names.astype({"clean": int}), on=keys, how="left")
    if (unnamed := described["source"].isna()).any():
        raise InputError(f"{path}: expected a row for each frame, found none for {described['path'][unnamed].iloc[0]}")
    return described


def read_target(data_dir: Path) -> str:
    """Return what the masks outline: "nerve", unless dataset.json in the data's folder says something else."""
    path = data_dir / "dataset.json"
    return read_json(path).get("target", "nerve") if path.exists() else "nerve"


def read_frame(path: Path) -> np.ndarray:
    """Read a frame as uint8 (420, 580). Raises InputError that names the file if it is anything else."""
    return _read(path, "frame")


def read_mask(path: Path) -> np.ndarray:
    """Read a mask as uint8 (420, 580) with values 0 and 1. Raises InputError if the file is anything else."""
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
    image = decode(content, ("TIFF", "PNG"))
    if image is None:
        raise InputError(f"{path}: expected a readable image, found {len(content)} bytes that do not decode")
    pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    if pixels.ndim != 2 or pixels.dtype != np.uint8 or pixels.shape != FRAME_SHAPE:
        shape = f"{pixels.dtype} of shape {pixels.shape}"
        raise InputError(f"{path}: expected an 8-bit grey {kind} of shape {FRAME_SHAPE}, found {shape}")
    return pixels


def decode(content: bytes, formats: tuple[str, ...]) -> Image.Image | None:
    """Decode an image of one of Pillow's `formats`. Returns None for bytes that do not decode or promise too much.

    OpenCV is not used for this: it believes the lengths in a header, and 272 bytes made it ask for 4 GB.
    """
    warnings.filterwarnings("ignore", module=r"PIL\..*")  # broken headers; the caller's one message says it
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            image.load()
            return image
    except (*BROKEN, Image.DecompressionBombError):
        return None


def image_path(root: Path, subject: int, image: int) -> Path:
    """Return the path of a training frame."""
    return Path(root) / "train" / f"{subject}_{image}.tif"


def mask_path(root: Path, subject: int, image: int) -> Path:
    """Return the path of a training frame's mask."""
    return Path(root) / "train" / f"{subject}_{image}_mask.tif"


def test_path(root: Path, image: int) -> Path:
    """Return the path of a test frame."""
    return Path(root) / "test" / f"{image}.tif"


def write_frame(path: Path, frame: np.ndarray) -> None:
    """Write a frame, uint8 (420, 580), as an uncompressed grey TIFF. Raises InputError for another shape or dtype."""
    _write(path, frame, _UNCOMPRESSED)


def write_mask(path: Path, mask: np.ndarray) -> None:
    """Write a mask (420, 580), non-zero = nerve, as a grey TIFF of 0 and 255. Raises InputError for another shape."""
    _write(path, (np.asarray(mask) != 0).astype(np.uint8) * 255, _PACKBITS)


def _write(path: Path, pixels: np.ndarray, compression: int) -> None:
    if pixels.shape != FRAME_SHAPE or pixels.dtype != np.uint8:
        raise InputError(f"{path}: expected uint8 pixels of shape {FRAME_SHAPE}, found {pixels.dtype} {pixels.shape}")
    # encoded in memory, because OpenCV does not say why a file could not be written
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


def read_masks_csv(path: Path, columns: list[str] = SUBMISSION_COLUMNS) -> pd.DataFrame:
    """Read a table of RLE masks as text; an empty mask stays "" instead of NaN.

    A byte order mark and Windows line ends are accepted. Raises InputError for other columns, ids that are no whole
    numbers, and ids that occur twice.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # else surplus fields are dropped
            table = pd.read_csv(path, keep_default_na=False, dtype=str, index_col=False, encoding="utf-8-sig")
    except (
        pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError, OSError
    ) as error:  # fmt: skip
        raise InputError(f"{path}: expected a CSV with columns {columns}, found: {error}") from error
    if list(table.columns) != columns:
        raise InputError(f"{path}: expected columns {columns}, found {list(table.columns)}")
    ids = columns[:-1]
    for name in ids:
        odd = ~table[name].str.fullmatch("[0-9]{1,9}")
        if odd.any():
            raise InputError(
                _in_row(path, odd, f"expected a whole number as {name}, found {table[name][odd].iloc[0]!r}")
            )
        table[name] = table[name].astype(int)
    if (twice := table.duplicated(ids)).any():
        raise InputError(_in_row(path, twice, f"expected each {' and '.join(ids)} once, found one twice"))
    return table


def read_other_masks(path: Path, frames: pd.DataFrame) -> list[str]:
    """Return the RLE of each of `frames` in a table of subject, img, pixels. Raises InputError if one is missing."""
    table = read_masks_csv(path, ["subject", "img", "pixels"]).set_index(["subject", "img"])["pixels"]
    keys = list(zip(frames["subject"], frames["image"], strict=True))
    if missing := [key for key in keys if key not in table]:
        raise InputError(f"{path}: expected a mask for each labelled frame, found none for {missing[0]}")
    return table[keys].tolist()


def _in_row(path: Path, bad: pd.Series, message: str) -> str:
    return f"{path}: row {int(bad.to_numpy().argmax()) + 2}: {message}"
