"""List the frames of a competition folder and split its patients."""

import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from nerveceg_lib.errors import InputError, one_of

PUBLISHED_PATIENTS = frozenset(range(1, 48))
PUBLISHED_HELDOUT = frozenset(range(36, 48))


def list_frames(data_dir: Path) -> pd.DataFrame:
    """List `train/{subject}_{image}.tif` and `test/{image}.tif`, train first, in numeric order.

    Columns: `set` ("train" or "test"), `subject` (0 for test), `image`, `path` and `mask_path` relative
    to `data_dir` ("" for test). Raises InputError for an empty folder or a name that does not fit.
    """
    train = [("train", *_numbers(path, 2)) for path in _frame_files(data_dir / "train")]
    test = [("test", 0, *_numbers(path, 1)) for path in _frame_files(data_dir / "test")]
    if not train:
        raise InputError(f"{data_dir / 'train'}: no frame found, expected files named {{subject}}_{{image}}.tif")
    table = pd.DataFrame(sorted(train) + sorted(test), columns=["set", "subject", "image"])
    stem = table["subject"].astype(str) + "_" + table["image"].astype(str)
    is_train = table["set"] == "train"
    table["path"] = np.where(is_train, "train/" + stem + ".tif", "test/" + table["image"].astype(str) + ".tif")
    table["mask_path"] = np.where(is_train, "train/" + stem + "_mask.tif", "")
    return table


def split_patients(
    frames: pd.DataFrame, heldout_share: float, folds: int, seed: int, heldout_part: int = 0
) -> pd.DataFrame:
    """Add `split` ("train", "heldout", "test") and `fold` (0..folds-1 for train frames, else -1).

    With exactly the competition's 47 patients the published split is taken (36-47 held out); any other
    set is split by patient, stratified by prevalence: into as many parts as `heldout_share` goes into 1, of which
    `heldout_part` (0, 1, ...) is held out; one run for each part is a cross-validation. Raises InputError if the
    patients are too few, or for a part that there is not.
    """
    if not 0 < heldout_share < 0.5:
        raise InputError(f"heldout_share: expected a number above 0 and below 0.5, found {heldout_share}")
    parts = max(2, round(1 / heldout_share))
    one_of("heldout_part", heldout_part, range(parts))
    frames = frames.assign(split=frames["set"], fold=-1)
    labelled = frames[frames["set"] == "train"]
    subjects = set(labelled["subject"])
    if subjects == PUBLISHED_PATIENTS:
        heldout = labelled.index[labelled["subject"].isin(PUBLISHED_HELDOUT)]
    else:
        heldout = labelled.index[_group_folds(labelled, parts, seed, "heldout_share") == heldout_part]
    frames.loc[heldout, "split"] = "heldout"
    train = frames[frames["split"] == "train"]
    frames.loc[train.index, "fold"] = _group_folds(train, folds, seed, "folds")
    check_split(frames)
    return frames


def check_split(frames: pd.DataFrame, where: str = "split") -> None:
    """Raise InputError if a patient is in two splits or in two folds; `where` names the table."""
    labelled = frames[frames["set"] == "train"]
    sides = labelled.groupby("subject")[["split", "fold"]].nunique().max(axis=1)
    shared = sides.index[sides > 1].tolist()
    if shared:
        raise InputError(f"{where}: expected each patient in one split and one fold, found {shared} on both sides")


def _group_folds(frames: pd.DataFrame, folds: int, seed: int, asked_by: str) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold  # a second to import, and only notebook 1 splits

    patients = frames["subject"].nunique()
    if folds < 2 or patients < folds:
        raise InputError(
            f"{asked_by}: expected 2 or more groups of patients and enough patients, since none is torn apart; "
            f"found {folds} groups and {patients} patients"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = np.full(len(frames), -1)
    with warnings.catch_warnings():
        # fewer positive frames than folds: stratified as well as can be, which is all that is asked
        warnings.filterwarnings("ignore", message="The least populated class")
        for number, (_, rows) in enumerate(splitter.split(frames, frames["presence"], frames["subject"])):
            fold[rows] = number
    return fold


def _frame_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*.tif") if not path.stem.endswith("_mask")]


def _numbers(path: Path, count: int) -> tuple[int, ...]:
    numbers = re.fullmatch("_".join(["(0|[1-9][0-9]{0,8})"] * count), path.stem)
    if not numbers:
        expected = "{subject}_{image}.tif" if count == 2 else "{image}.tif"
        raise InputError(
            f"{path}: expected a frame named {expected}, numbers without leading zeros, nine digits at most"
        )
    return tuple(map(int, numbers.groups()))
