"""Copy frames and masks of any size, in folders of any layout, into the competition's layout.

out/train/, out/test/     labelled frames with their masks, and frames without a mask
out/names.csv             set, subject, image, patient, source (the frame's file), and the columns of the caller's table
out/dataset.json          target: what the masks outline
out/skipped.csv           files that were left out because of a fault, with the reason
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

from nerveceg_lib.data import io
from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_lib.runtime.errors import InputError, one_of
from nerveceg_lib.runtime.io import new_folder, storing, whole_folder, write_csv, write_json
from nerveceg_lib.runtime.process import ahead, cores
from nerveceg_tools.importers import SUFFIXES, fit_frame, image_files, natural, raise_all, read_image, read_table
from nerveceg_tools.importers.masks import check_values, read_mask

ON_BAD = ("stop", "skip")
OUR_COLUMNS = ["set", "subject", "image", "patient", "source"]
SAME_ASPECT = 0.01  # relative difference of proportions that rounding may cause


@dataclass(frozen=True)
class Layout:
    """How the files of a data set are to be read.

    Args:
        subject: a regular expression; its first group in a frame's path below the images is the patient. Without one
            the patient is the only number in the names of the frame's folders, or for a frame in no folder the first of
            two numbers in its name.
        mask_values: what is sought in a mask; see `read_mask`.
        table: a CSV file whose first column names frames; its other columns are copied to names.csv. Frames that it
            does not name are left out.
        keep: a column of `table`; frames that have 0, no, false or nothing there are left out.
        on_bad: "stop" at faults, or "skip" the frames that have one.
        target: what the masks outline, in the singular, such as "lesion".
    """

    subject: str = ""
    mask_values: Sequence[str] = ()
    table: Path | None = None
    keep: str = ""
    on_bad: str = "stop"
    target: str = "nerve"


def import_frames(images: Path, masks: Path, out: Path, layout: Layout) -> str:
    """Copy all frames below `images` to the new or empty folder `out`, and return what was understood, as text.

    images, masks: folders; the mask of `a/b.png` is `a/b.*` or `a/b_mask.*` below `masks`. Frames without a mask become
    test frames.

    Colour is converted to grey. Frames of other sizes are scaled to fit into 420x580; if the proportions differ, the
    rest at the right or at the bottom is black. A mask of its frame's proportions is scaled to the frame. Raises one
    InputError that names up to ten faults, of names and of contents.
    """
    one_of("on_bad", layout.on_bad, ON_BAD)
    check_values(layout.mask_values)
    table, faults, left_out = _pair(Path(images), Path(masks))
    table, unlisted = _listed(table, layout)
    table = _with_patients(table, layout.subject)
    left_out += ["by the table"] * unlisted
    with storing(Path(out)), whole_folder(new_folder(out)) as folder:
        for name in ("train", "test"):
            (folder / name).mkdir()
        work = partial(_convert, folder, layout.mask_values)
        done = tqdm(ahead(work, table.itertuples(), cores(), depth=16), "frames", len(table), delay=5, mininterval=5)
        converted = pd.DataFrame(list(done), index=table.index, columns=["area", "scaled", "value", "fault"])
        bad = converted["fault"] != ""
        faults += map(_fault, table["source"][bad], converted["fault"][bad])
        values, unclear = Counter(converted["value"][converted["value"] != ""]), []
        if len(values) > 1 and not layout.mask_values:
            unclear = [f"{masks}: masks have different values, {sorted(values)}; --mask-values says which are sought"]
        reasons = [fault["reason"] for fault in faults] if layout.on_bad == "stop" else []
        raise_all(unclear + reasons, "; `--on-bad skip` leaves them out")
        gone = sorted({*table["patient"]} - {*table["patient"][~bad]}, key=natural)
        table, converted = table[~bad], converted[~bad]
        areas = converted["area"][table["set"] == "train"].to_numpy()
        if not areas.any():
            raise InputError(f"{masks}: expected masks that outline a {layout.target}, found {len(areas)} blank ones")
        write_csv(folder / "names.csv", table.drop(columns=["mask", "file"]))
        write_csv(folder / "skipped.csv", pd.DataFrame(faults, columns=["source", "reason"]))
        write_json(folder / "dataset.json", {"target": layout.target})
    left_out += ["with a fault (see skipped.csv)"] * len(faults)
    lines = _summary(table, areas, layout.target, int(converted["scaled"].sum()), left_out)
    lines += [f"patients without any frame that is left: {', '.join(gone)}"] * bool(gone)
    unsought = ", ".join(f"{value} in {count}" for value, count in values.most_common() if layout.mask_values)
    return "\n".join(lines + ([f"values in masks that are not sought: {unsought}"] if unsought else []))


def _summary(table: pd.DataFrame, areas: np.ndarray, target: str, scaled: int, left_out: list[str]) -> list[str]:
    train = table[table["set"] == "train"]
    positive = areas[areas > 0]
    examples = train.drop_duplicates("patient").head(3)
    named = ", ".join(f"{example.patient} ({example.source})" for example in examples.itertuples())
    lines = [
        f"{len(train)} labelled frames of {train['patient'].nunique()} patients, {len(table) - len(train)} test frames",
        f"patients: {named}{', …' if train['patient'].nunique() > 3 else ''}",
        f"with a {target}: {len(positive)} ({len(positive) / len(areas):.0%}); median area "
        f"{np.median(positive):,.0f} px of {math.prod(FRAME_SHAPE):,}",
    ]
    lines += [f"masks scaled to their frame: {scaled}"] * bool(scaled)
    counts = ", ".join(f"{count} {kind}" for kind, count in Counter(left_out).most_common())
    return lines + ([f"left out: {counts}"] if counts else [])


def _convert(folder: Path, mask_values: Sequence[str], row) -> tuple[int, bool, str, str]:
    """Write one frame and its mask.

    Returns the mask's area, whether it was scaled to its frame, the value that `read_mask` took, and what is wrong.
    """
    try:
        frame = read_image(row.file, "L")
        if row.mask is None:
            io.write_frame(io.test_path(folder, row.image), fit_frame(frame, cv2.INTER_AREA))
            return 0, False, "", ""
        mask, value = read_mask(row.mask, mask_values)
        scaled = mask.shape != frame.shape
        if scaled:
            mask = _scaled_to(frame.shape, mask, row.mask)
    except InputError as error:
        return 0, False, "", str(error)
    fitted = fit_frame(mask, cv2.INTER_NEAREST)
    io.write_frame(io.image_path(folder, row.subject, row.image), fit_frame(frame, cv2.INTER_AREA))
    io.write_mask(io.mask_path(folder, row.subject, row.image), fitted)
    return int(fitted.sum()), scaled, value, ""


def _scaled_to(shape: tuple[int, ...], mask: np.ndarray, path: Path) -> np.ndarray:
    vertical, horizontal = shape[0] / mask.shape[0], shape[1] / mask.shape[1]
    if abs(vertical / horizontal - 1) > SAME_ASPECT:
        expected = f"expected a mask of its frame's shape {shape} or proportions"
        raise InputError(f"{path}: {expected}, found {mask.shape}")
    return cv2.resize(mask, shape[::-1], interpolation=cv2.INTER_NEAREST)


def _pair(images: Path, masks: Path) -> tuple[pd.DataFrame, list[dict], list[str]]:
    """Return one row per frame: `set`, `source` (path below `images`), `file` and `mask` (None for test).

    Also returns the faults, and the kinds of all files that were left out.
    """
    frame_files, left_out = image_files(images)
    mask_files, other = image_files(masks)
    one_folder = images.resolve() == masks.resolve()
    if one_folder:
        mask_files, other = [path for path in frame_files if path.stem.endswith("_mask")], []
    frames, faults = _by_name(images, [path for path in frame_files if path not in set(mask_files)])
    masks_by_name, more_faults = _by_name(masks, mask_files)
    rows = []
    for name, path in frames.items():
        source = path.relative_to(images).as_posix()
        found = [masks_by_name.pop(candidate) for candidate in (name, f"{name}_mask") if candidate in masks_by_name]
        if len(found) > 1:
            faults.append(_fault(source, f"{path}: expected one mask, found {found[0]} and {found[1]}"))
            continue
        rows.append(("train" if found else "test", source, path, found[0] if found else None))
    if not any(mask for *_, mask in rows) and not faults:
        raise InputError(f"{masks}: expected masks named like the frames in {images}, or with _mask added; found none")
    suffixes = [path.suffix.lower() for path in {*left_out, *other}]
    kinds = ["hidden" if suffix in SUFFIXES else suffix or "without an ending" for suffix in suffixes]
    kinds += ["masks without a frame"] * len(masks_by_name)
    return pd.DataFrame(rows, columns=["set", "source", "file", "mask"]), faults + more_faults, kinds


def _fault(source: str, reason: str) -> dict:
    return {"source": source, "reason": reason}


def _by_name(folder: Path, paths: list[Path]) -> tuple[dict[str, Path], list[dict]]:
    """Return files by their path below `folder` without its ending, and a fault for each two that share one."""
    named: dict[str, Path] = {}
    faults = []
    for path in paths:
        source = path.relative_to(folder)
        name = source.with_suffix("").as_posix()
        if name in named:
            reason = f"{path}: expected one file of this name, found {named[name].name} beside it"
            faults.append(_fault(source.as_posix(), reason))
        named.setdefault(name, path)
    return named, faults


def _listed(table: pd.DataFrame, layout: Layout) -> tuple[pd.DataFrame, int]:
    """Join the columns of the caller's table, and drop the frames that it leaves out, whose number is returned."""
    if layout.table is None:
        if layout.keep:
            raise InputError("--keep: expected a column of the table that --frames names, found no table")
        return table, 0
    listed = read_table(layout.table)
    name, *others = listed.columns
    if layout.keep:
        one_of("--keep", layout.keep, others)
    key = table["source"].where(table["source"].isin(listed[name]), table["file"].map(lambda path: path.name))
    if twice := listed[name][listed[name].duplicated()].tolist():
        raise InputError(f"{layout.table}: expected each frame once, found {twice[0]!r} twice")
    if unknown := sorted({*listed[name]} - {*key}):
        raise InputError(
            f"{layout.table}: {len(unknown)} frames in column {name!r} have no file, such as {unknown[:3]}"
        )
    if layout.keep:
        listed = listed[~listed[layout.keep].str.lower().isin({"", "0", "no", "false"})]
    others = {column: f"listed_{column}" for column in others if column in OUR_COLUMNS}
    joined = table.assign(key=key).merge(listed.rename(columns={name: "key", **others}), on="key")
    return joined.drop(columns="key"), len(table) - len(joined)


def _with_patients(table: pd.DataFrame, subject: str) -> pd.DataFrame:
    """Add `patient` (text), `subject` (their number, 0 for test frames) and `image`.

    Patients that are named by numbers keep these, others are counted in natural order. Raises one InputError for all
    frames whose patient would have to be guessed.
    """
    patients, unclear = [], defaultdict(list)
    for row in table.itertuples():
        try:
            patients.append("" if row.set == "test" else patient_of(row.source, subject))
        except InputError as error:
            unclear[str(error)].append(row.source)
    if unclear:
        lines = [f"{len(frames)} frames ({', '.join(frames[:3])}): {reason}" for reason, frames in unclear.items()]
        raise InputError("\n".join(lines))
    table = table.assign(patient=patients)
    names = sorted({*table["patient"]} - {""}, key=natural)
    as_numbers = all(re.fullmatch("[0-9]{1,9}", name) for name in names) and len({*map(int, names)}) == len(names)
    numbers = {"": 0} | {name: int(name) if as_numbers else count for count, name in enumerate(names, start=1)}
    table["subject"] = table["patient"].map(numbers)
    table["image"] = table.groupby(["set", "subject"]).cumcount() + 1
    return table[OUR_COLUMNS + [column for column in table if column not in OUR_COLUMNS]]


def patient_of(source: str, subject: str) -> str:
    """Return the patient of the frame at the path `source`. Raises InputError if it would have to be guessed."""
    path = Path(source)
    if subject:
        try:
            match = re.search(subject, source)
            patient = match and match[1]
        except (re.error, IndexError) as error:
            raise InputError(f"--subject: expected a regular expression with a group, found {subject!r}") from error
        if not patient:
            raise InputError(f"--subject: expected a patient in each name, found none by {subject!r}")
        return patient
    in_folder = len(path.parts) > 1
    numbers = re.findall("[0-9]+", path.parent.as_posix() if in_folder else path.stem)
    if len(numbers) != (1 if in_folder else 2):
        expected = "one number in their folders' names" if in_folder else "two numbers, the patient's and the image's"
        pattern = "^([^/]+)/" if in_folder else "^([^_]+)_"
        raise InputError(f"expected {expected}; say where the patient is, as in --subject '{pattern}'")
    return numbers[0]
