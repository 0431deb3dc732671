"""Split patients, never frames: masks of one patient resemble each other, and a network would recognise the patient."""

import warnings

import numpy as np
import pandas as pd

from nerveceg_lib.runtime.errors import InputError, one_of

PUBLISHED_PATIENTS = frozenset(range(1, 48))
PUBLISHED_HELDOUT = frozenset(range(36, 48))


def split_patients(
    index: pd.DataFrame, heldout_share: float, folds: int, seed: int, heldout_part: int = 0
) -> pd.DataFrame:
    """Add the columns `split` ("train", "heldout", "test") and `fold` (0 to folds - 1 for training frames, else -1).

    Args:
        index: one row per frame, with `set`, `subject` and `has_nerve`.
        heldout_share: share of the patients to hold out, above 0 and below 0.5.
        folds: number of patient-grouped folds of the training side, 2 or more.
        seed: of the shuffling.
        heldout_part: which of the round(1 / heldout_share) parts is held out, from 0. One run per part is a
            cross-validation in which every patient is held out once.

    Exactly the competition's 47 patients get the published split (36-47 held out). All others are split by patient,
    stratified by the share of frames with a nerve. Raises InputError for parameters out of range or too few patients.
    """
    if not 0 < heldout_share < 0.5:
        raise InputError(f"heldout_share: expected a number above 0 and below 0.5, found {heldout_share}")
    parts = max(2, round(1 / heldout_share))
    one_of("heldout_part", heldout_part, range(parts))
    index = index.assign(split=index["set"], fold=-1)
    labelled = index[index["set"] == "train"]
    if set(labelled["subject"]) == PUBLISHED_PATIENTS:
        heldout = labelled.index[labelled["subject"].isin(PUBLISHED_HELDOUT)]
    else:
        heldout = labelled.index[_group_folds(labelled, parts, seed, "heldout_share") == heldout_part]
    index.loc[heldout, "split"] = "heldout"
    train = index[index["split"] == "train"]
    index.loc[train.index, "fold"] = _group_folds(train, folds, seed, "folds")
    check_split(index)
    return index


def check_split(index: pd.DataFrame, name: str = "split") -> None:
    """Raise InputError if a patient is in two splits or in two folds; `name` says which table it is."""
    labelled = index[index["set"] == "train"]
    sides = labelled.groupby("subject")[["split", "fold"]].nunique().max(axis=1)
    shared = sides.index[sides > 1].tolist()
    if shared:
        raise InputError(f"{name}: expected each patient in one split and one fold, found {shared} on both sides")


def split_fold(index: pd.DataFrame, fold: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split the training rows of `index` into a training and a validation set; fold `fold` is used for validation.

    Raises InputError if one of the two has no frame with a nerve.
    """
    train_split = index[index["split"] == "train"]
    validates = train_split["fold"] == fold
    sets = train_split[~validates], train_split[validates]
    for rows, purpose in zip(sets, ("train", "validate"), strict=True):
        if not (rows["has_nerve"] == 1).any():
            usable = sorted(set(train_split.loc[train_split["has_nerve"] == 1, "fold"].tolist()))
            raise InputError(
                f"fold: expected one that leaves frames with a nerve to {purpose} on, found {fold}: {len(rows)} "
                f"frames, none with a nerve; folds with some: {usable}; if one fold has them all, lower folds"
            )
    return sets


def _group_folds(index: pd.DataFrame, folds: int, seed: int, parameter: str) -> np.ndarray:
    from sklearn.model_selection import StratifiedGroupKFold  # takes a second to import, and only notebook 1 splits

    patients = index["subject"].nunique()
    if folds < 2 or patients < folds:
        raise InputError(
            f"{parameter}: expected 2 or more groups and at least one patient for each, since no patient is divided; "
            f"found {folds} groups and {patients} patients; lower folds or raise heldout_share (three patients will do)"
        )
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    fold = np.full(len(index), -1)
    with warnings.catch_warnings():
        # with fewer positive frames than folds the split is stratified as well as possible
        warnings.filterwarnings("ignore", message="The least populated class")
        for number, (_, rows) in enumerate(splitter.split(index, index["has_nerve"], index["subject"])):
            fold[rows] = number
    return fold
