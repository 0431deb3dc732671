"""Frames and masks of any size, in folders of any layout, copied into the competition's.

out/train/, out/test/     labelled frames with their masks, and frames without a mask
out/names.csv             set, subject, image, source: which file became which frame
"""

import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from nerveceg_lib.data import layout
from nerveceg_lib.data.frames import BROKEN
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import new_folder, storing, whole_folder
from nerveceg_lib.rle import FRAME_SHAPE

ENDINGS = {".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp"}
GREY = {"1", "L", "P", "RGB", "RGBA"}  # Pillow's modes of 8 bits or fewer, which have a grey


def import_frames(images: Path, masks: Path, out: Path, subject: str = r"(\d+)") -> str:
    """Copy all frames below `images` to the new or empty folder `out`; returns a line that counts them.

    The mask of `a/b.png` is `a/b.*` or `a/b_mask.*` below `masks`, non-zero = nerve, and of the frame's size; frames
    without one become test frames. `subject` is a regular expression, whose first group in a frame's path below
    `images` is the number of its patient. Colour becomes grey; other sizes are brought to 420x580, with black added at
    the right or below where the proportions differ. Raises InputError for a frame or mask that does not fit.
    """
    listing = _listing(Path(images), Path(masks), subject)
    with storing(Path(out)), whole_folder(new_folder(out)) as folder:
        for name in ("train", "test"):
            (folder / name).mkdir()
        for row in tqdm(listing.itertuples(), "frames", len(listing), delay=5, mininterval=5):
            frame = _read(row.source)
            if row.mask is None:
                layout.write_frame(layout.test_path(folder, row.image), _fit(frame, cv2.INTER_AREA))
                continue
            mask = _read(row.mask)
            if mask.shape != frame.shape:
                raise InputError(f"{row.mask}: expected a mask of its frame's shape {frame.shape}, found {mask.shape}")
            layout.write_frame(layout.image_path(folder, row.subject, row.image), _fit(frame, cv2.INTER_AREA))
            layout.write_mask(layout.mask_path(folder, row.subject, row.image), _fit(mask, cv2.INTER_NEAREST))
        listing.drop(columns="mask").to_csv(folder / "names.csv", index=False)
    train = listing[listing["set"] == "train"]
    patients = train["subject"].nunique()
    return f"{len(train)} labelled frames of {patients} patients, {len(listing) - len(train)} test frames"


def _listing(images: Path, masks: Path, subject: str) -> pd.DataFrame:
    """`set`, `subject` (0 for test), `image`, `source` and `mask` (None for test) of every frame."""
    known = {path.relative_to(masks).with_suffix("").as_posix(): path for path in _pictures(masks)}
    rows = []
    for path in _pictures(images):
        name = path.relative_to(images).with_suffix("").as_posix()
        if name.endswith("_mask"):
            continue
        mask = known.get(f"{name}_mask") or (known.get(name) if masks.resolve() != images.resolve() else None)
        rows.append({"set": "train" if mask else "test", "subject": 0, "source": path, "mask": mask})
        if mask:
            rows[-1]["subject"] = _number(path.relative_to(images).as_posix(), subject)
    if not any(row["mask"] for row in rows):
        raise InputError(f"{masks}: expected masks called as the frames in {images}, or with _mask behind; found none")
    table = pd.DataFrame(rows)
    table["image"] = table.groupby(["set", "subject"]).cumcount() + 1
    return table[["set", "subject", "image", "source", "mask"]]


def _number(path: str, subject: str) -> int:
    try:
        found = re.search(subject, path)
        return int(found[1] if found else "")  # no number either
    except (re.error, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"--subject: expected a regular expression whose group is a patient's number in {path!r}, found {subject!r}"
        ) from error


def _pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of frames or masks, found none")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)


def _read(path: Path) -> np.ndarray:
    """Grey pixels, uint8 (H, W)."""
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image.convert("L"))
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: expected a readable image, found {error}") from error
    if mode not in GREY:
        raise InputError(f"{path}: expected 8 bits a channel, found Pillow's mode {mode}")
    return pixels


def _fit(pixels: np.ndarray, interpolation: int) -> np.ndarray:
    """Resized to the competition's frame as large as fits, the rest black."""
    scale = min(FRAME_SHAPE[0] / pixels.shape[0], FRAME_SHAPE[1] / pixels.shape[1])
    height, width = (round(side * scale) for side in pixels.shape)
    fitted = np.zeros(FRAME_SHAPE, np.uint8)
    fitted[:height, :width] = cv2.resize(pixels, (width, height), interpolation=interpolation)
    return fitted
