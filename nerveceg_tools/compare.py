"""Two runs on the same held-out frames: by how much their scores differ, and which frames changed."""

from functools import partial

import numpy as np
import pandas as pd

from nerveceg_lib import metrics
from nerveceg_lib.runtime import folders
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_lib.runtime.io import read_json

PARTS = {"score": "score", "tnr": "TNR", "tpr": "TPR", "dice_true_positive": "Dice of drawn masks"}
CHANGED = 0.1  # least difference of a frame's Dice that counts as a change


def common_frames(run: str, other: str) -> pd.DataFrame:
    """Return the frames that both runs hold out; what differs has the ending `_other` for the other run.

    Raises InputError for a run that has not come as far as notebook 4, for runs on different data, and if no frame is
    held out in both.
    """
    tables = []
    for name in (run, other):
        path = folders.require(name, NOTEBOOKS[3], "heldout.csv")
        digest = read_json(folders.require(name, NOTEBOOKS[0], "dataset.json"))["digest"]
        tables.append(pd.read_csv(path, keep_default_na=False).assign(digest=digest))
    first, second = tables
    if first["digest"][0] != second["digest"][0]:
        raise InputError(f"--against: expected a run on the same frames and masks as {run}, found {other}")
    predicted = ["subject", "image", "keep", "score", "mask_dice", "pixels"]
    both = first.merge(second[predicted], on=["subject", "image"], suffixes=("", "_other"))
    if both.empty:
        raise InputError(f"--against: expected a run that holds out frames that {run} holds out, found {other}")
    return both


def score_table(both: pd.DataFrame, run: str, other: str) -> pd.DataFrame:
    """Return the score and its parts of both runs, and their differences with paired 95% intervals over patients."""
    has_nerve = both["has_nerve"].to_numpy()

    def parts(rows, ending):
        dice, keep = both["mask_dice" + ending].to_numpy()[rows], both["keep" + ending].to_numpy(bool)[rows]
        return metrics.score_parts(has_nerve[rows], dice, keep)

    def difference(rows, part):
        return parts(rows, "")[part] - parts(rows, "_other")[part]

    everything, records = np.arange(len(both)), []
    for part, label in PARTS.items():
        low, high = metrics.resampled_interval(partial(difference, part=part), both["subject"].to_numpy())
        values = {name: f"{parts(everything, ending)[part]:.3f}" for name, ending in {run: "", other: "_other"}.items()}
        change = f"{difference(everything, part):+.3f} ({low:+.3f} to {high:+.3f})"
        records.append({"": label, **values, "difference": change})
    return pd.DataFrame(records)


def changed_frames(both: pd.DataFrame) -> pd.DataFrame:
    """Return the frames that only one run leaves blank, or whose Dice differs by CHANGED, the greatest loss first."""
    gain = both["score"] - both["score_other"]
    changed = (both["keep"].astype(bool) != both["keep_other"].astype(bool)) | (gain.abs() >= CHANGED)
    return both.assign(gain=gain)[changed].sort_values("gain", kind="stable")
