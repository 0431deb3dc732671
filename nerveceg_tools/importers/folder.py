"""Copy frames and masks of any size, in folders of any layout, into the competition's layout.

out/train/, out/test/     labelled frames with their masks, and frames without a mask
out/names.csv             set, subject, image, source: the file from which each frame was made
"""

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from nerveceg_lib.data import io
from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import new_folder, storing, whole_folder
from nerveceg_tools.importers import read_image

SUFFIXES = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}


def import_frames(images: Path, masks: Path, out: Path, subject: str = r"(\d+)") -> str:
    """Copy all frames below `images` to the new or empty folder `out`, and return a line that counts them.

    images, masks: folders; the mask of `a/b.png` is `a/b.*` or `a/b_mask.*` below `masks`, where non-zero pixels are
    nerve. Frames without a mask become test frames.
    subject: a regular expression; its first group in the frame's path below `images` is the patient's number.

    Colour is converted to grey. Frames of other sizes are scaled to fit into 420x580; if the proportions differ, the
    rest at the right or at the bottom is black. Raises InputError for a frame or a mask that cannot be used.
    """
    table = _pair(Path(images), Path(masks), subject)
    with storing(Path(out)), whole_folder(new_folder(out)) as folder:
        for name in ("train", "test"):
            (folder / name).mkdir()
        for row in tqdm(table.itertuples(), "frames", len(table), delay=5, mininterval=5):
            frame = read_image(row.source, "L")
            if row.mask is None:
                io.write_frame(io.test_path(folder, row.image), _fit(frame, cv2.INTER_AREA))
                continue
            mask = read_image(row.mask, "L")
            if mask.shape != frame.shape:
                raise InputError(f"{row.mask}: expected a mask of its frame's shape {frame.shape}, found {mask.shape}")
            io.write_frame(io.image_path(folder, row.subject, row.image), _fit(frame, cv2.INTER_AREA))
            io.write_mask(io.mask_path(folder, row.subject, row.image), _fit(mask, cv2.INTER_NEAREST))
        table.drop(columns="mask").to_csv(folder / "names.csv", index=False)
    train = table[table["set"] == "train"]
    test_count, patients = len(table) - len(train), train["subject"].nunique()
    return f"{len(train)} labelled frames of {patients} patients, {test_count} test frames"


def _pair(images: Path, masks: Path, subject: str) -> pd.DataFrame:
    """One row per frame: `set`, `subject` (0 for test), `image`, `source` and `mask` (None for test)."""
    mask_files = {path.relative_to(masks).with_suffix("").as_posix(): path for path in _image_files(masks)}
    rows = []
    for path in _image_files(images):
        name = path.relative_to(images).with_suffix("").as_posix()
        if name.endswith("_mask"):
            continue
        mask = mask_files.get(f"{name}_mask") or (mask_files.get(name) if masks.resolve() != images.resolve() else None)
        number = _patient(path.relative_to(images).as_posix(), subject) if mask else 0
        rows.append({"set": "train" if mask else "test", "subject": number, "source": path, "mask": mask})
    if not any(row["mask"] for row in rows):
        raise InputError(f"{masks}: expected masks named like the frames in {images}, or with _mask added; found none")
    table = pd.DataFrame(rows)
    table["image"] = table.groupby(["set", "subject"]).cumcount() + 1
    return table[["set", "subject", "image", "source", "mask"]]


def _patient(path: str, subject: str) -> int:
    try:
        match = re.search(subject, path)
        return int(match[1] if match else "")  # "" is no number either
    except (re.error, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"--subject: expected a regular expression whose group is a patient's number in {path!r}, found {subject!r}"
        ) from error


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of frames or masks, found none")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)


def _fit(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    """Scale an image so that it just fits into the competition's frame; the rest is black."""
    scale = min(FRAME_SHAPE[0] / pixels.shape[0], FRAME_SHAPE[1] / pixels.shape[1])
    height, width = (round(side * scale) for side in pixels.shape)
    fitted = np.zeros(FRAME_SHAPE, np.uint8)
    fitted[:height, :width] = cv2.resize(pixels, (width, height), interpolation=interpolation)
    return fitted
