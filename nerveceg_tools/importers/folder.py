"""Copy frames and masks of any size, in folders of any layout, into the competition's layout.

out/train/, out/test/     labelled frames with their masks, and frames without a mask
out/names.csv             set, subject, image, source: the file from which each frame was made
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from nerveceg_lib.data import io
from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import new_folder, storing, whole_folder
from nerveceg_tools.importers import SUFFIXES, fit_frame, image_files, open_image, read_image

MOST_DIGITS = 9  # of a patient's number, in the names of the competition's layout


def import_frames(images: Path, masks: Path, out: Path, subject: str = "", nerve_values: Sequence[int] = ()) -> str:
    """Copy all frames below `images` to the new or empty folder `out`, and return what there was to copy, as text.

    images, masks: folders; the mask of `a/b.png` is `a/b.*` or `a/b_mask.*` below `masks`. Frames without a mask become
        test frames.
    subject: a regular expression; its first group in the frame's path below `images` is the patient's number. Without
        one, it is the only number in the names of the frame's folders; for a frame in no folder, the first of two
        numbers in its name.
    nerve_values: the mask values that mean nerve. Without any, masks have two values, and the one that is not 0 is
        nerve; see `read_mask`.

    Colour is converted to grey. Frames of other sizes are scaled to fit into 420x580; if the proportions differ, the
    rest at the right or at the bottom is black. Raises InputError for a frame or a mask that cannot be used, and for
    names that can be read in two ways.
    """
    table, left_out = _pair(Path(images), Path(masks), subject)
    areas = []
    with storing(Path(out)), whole_folder(new_folder(out)) as folder:
        for name in ("train", "test"):
            (folder / name).mkdir()
        for row in tqdm(table.itertuples(), "frames", len(table), delay=5, mininterval=5):
            frame = read_image(row.source, "L")
            if row.mask is None:
                io.write_frame(io.test_path(folder, row.image), fit_frame(frame, cv2.INTER_AREA))
                continue
            mask = read_mask(row.mask, nerve_values)
            if mask.shape != frame.shape:
                raise InputError(f"{row.mask}: expected a mask of its frame's shape {frame.shape}, found {mask.shape}")
            io.write_frame(io.image_path(folder, row.subject, row.image), fit_frame(frame, cv2.INTER_AREA))
            fitted = fit_frame(mask, cv2.INTER_NEAREST)
            io.write_mask(io.mask_path(folder, row.subject, row.image), fitted)
            areas.append(int(fitted.sum()))
        table.drop(columns="mask").to_csv(folder / "names.csv", index=False)
    train = table[table["set"] == "train"]
    return _summary(np.array(areas), train["subject"].nunique(), len(table) - len(train), left_out)


def _summary(areas: np.ndarray, patients: int, test_count: int, left_out: list[str]) -> str:
    with_nerve = areas[areas > 0]
    lines = [
        f"{len(areas)} labelled frames of {patients} patients, {test_count} test frames",
        f"with a nerve: {len(with_nerve)} ({len(with_nerve) / len(areas):.0%}); median area "
        f"{np.median(with_nerve) if len(with_nerve) else 0:,.0f} px of {math.prod(FRAME_SHAPE):,}",
    ]
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(left_out).most_common())
    return "\n".join(lines + ([f"left out: {counts}"] if counts else []))


def read_mask(path: Path, nerve_values: Sequence[int] = ()) -> np.ndarray:
    """Read a mask of any kind as uint8 (H, W), 1 = nerve.

    Values are the indices of a palette, the transparency if it varies, else grey values; of a JPEG only black and
    white. Unless `nerve_values` chooses, raises InputError for other than two values and if most of the frame is nerve.
    """
    image = open_image(path)
    values = np.asarray(image if image.mode == "P" else image.convert("L"))
    if image.mode in {"LA", "RGBA"} and np.ptp(alpha := np.asarray(image.getchannel("A"))):
        values = alpha
    if path.suffix.lower() in {".jpg", ".jpeg"}:
        if np.mean((values > 63) & (values < 192)) > 0.02 or 0 < values.max() < 192:
            found = f"values from {values.min()} to {values.max()}"
            raise InputError(f"{path}: expected a mask in black and white, found {found}; PNG keeps other values")
        values = (values > 127) * np.uint8(255)
    if nerve_values:
        return np.isin(values, nerve_values).astype(np.uint8)
    present = np.unique(values).tolist()
    if len(present) > 2 or 0 not in present:
        some = f"{present[:6]}{' and more' if len(present) > 6 else ''}"
        raise InputError(f"{path}: expected the value 0 and one for the nerve, found {some}; see --nerve-values")
    mask = (values != 0).astype(np.uint8)
    if mask.mean() > 0.5:
        raise InputError(f"{path}: {mask.mean():.0%} of the frame is nerve; `--nerve-values 0` takes the rest")
    return mask


def _pair(images: Path, masks: Path, subject: str) -> tuple[pd.DataFrame, list[str]]:
    """One row per frame: `set`, `subject` (0 for test), `image`, `source` and `mask` (None for test).

    Also returns the kinds of all files that were left out.
    """
    frame_files, left_out = image_files(images)
    mask_files, other = image_files(masks)
    one_folder = images.resolve() == masks.resolve()
    if one_folder:
        mask_files, other = [path for path in frame_files if path.stem.endswith("_mask")], []
    frames = _by_name(images, [path for path in frame_files if path not in set(mask_files)])
    masks_by_name = _by_name(masks, mask_files)
    rows = []
    for name, path in frames.items():
        found = [masks_by_name.pop(candidate) for candidate in (name, f"{name}_mask") if candidate in masks_by_name]
        if len(found) > 1:
            raise InputError(f"{path}: expected one mask, found {found[0]} and {found[1]}")
        number = _patient(path.relative_to(images), subject) if found else 0
        mask = found[0] if found else None
        rows.append({"set": "train" if found else "test", "subject": number, "source": path, "mask": mask})
    if not any(row["mask"] for row in rows):
        raise InputError(f"{masks}: expected masks named like the frames in {images}, or with _mask added; found none")
    table = pd.DataFrame(rows)
    table["image"] = table.groupby(["set", "subject"]).cumcount() + 1
    suffixes = [path.suffix.lower() for path in {*left_out, *other}]
    kinds = ["hidden" if suffix in SUFFIXES else suffix or "without an ending" for suffix in suffixes]
    kinds += ["masks without a frame"] * len(masks_by_name)
    return table[["set", "subject", "image", "source", "mask"]], kinds


def _by_name(folder: Path, paths: list[Path]) -> dict[str, Path]:
    """Return files by their path below `folder` without its ending. Raises InputError if two share one."""
    named: dict[str, Path] = {}
    for path in paths:
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in named:
            raise InputError(f"{path}: expected one file of this name, found {named[name].name} beside it")
        named[name] = path
    return named


def _patient(path: Path, subject: str) -> int:
    in_folder = len(path.parts) > 1
    numbers = re.findall("[0-9]+", path.parent.as_posix() if in_folder else path.stem)
    if subject:
        try:
            match = re.search(subject, path.as_posix())
            numbers = [match[1]] if match else []
        except (re.error, IndexError) as error:
            raise InputError(f"--subject: expected a regular expression with a group, found {subject!r}") from error
    elif len(numbers) != (1 if in_folder else 2):
        expected = "one number in its folders' names" if in_folder else "two numbers, the patient's and the image's"
        raise InputError(f"{path}: expected {expected}, found {len(numbers)}; --subject can say where the patient is")
    if not numbers or not re.fullmatch(f"[0-9]{{1,{MOST_DIGITS}}}", numbers[0] or ""):
        what = f"a patient's number of at most {MOST_DIGITS} digits in {path.as_posix()!r}"
        raise InputError(f"--subject: expected {what}, found {numbers[0] if numbers else 'none'}")
    return int(numbers[0])
