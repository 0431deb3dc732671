"""The held-out frames of a run or of a whole sweep, and two of them side by side."""

from functools import partial

import numpy as np
import pandas as pd

from nerveceg_lib import metrics
from nerveceg_lib.inference.gate import load_gate
from nerveceg_lib.inference.two_stage import MASK_EVIDENCE
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, require, run_folder
from nerveceg_lib.runtime.io import read_json
from nerveceg_tools.sweep import REPEATS

PARTS = {
    "score": "score",
    "tnr": "TNR",
    "tpr": "TPR",
    "dice_true_positive": "Dice of kept masks",
    "dice_positive": "Dice of all masks, also dropped ones",
    "oracle_gate": "score behind an oracle gate",
}
CHANGED = 0.1  # least difference of a frame's Dice that counts as a change


def runs_of(name: str) -> list[str]:
    """Return the runs of the sweep `name`, or `name` alone if it is a run.

    Raises InputError for a sweep that is not finished, and for one that compares settings.
    """
    path = run_folder(name) / "results.csv"
    if not path.exists():
        return [name]
    table = pd.read_csv(path)
    settings = sorted({*table.columns[: table.columns.get_loc("run")]} - {*REPEATS})
    if settings:
        raise InputError(f"run: expected a run, or a sweep over {REPEATS}, found one over {settings}")
    if len(unfinished := table.loc[table["status"] != "done", ["run", "status"]]):
        first = " is ".join(unfinished.iloc[0])
        raise InputError(f"run: expected a finished sweep, found {len(unfinished)} of {len(table)} runs, {first}")
    return table["run"].tolist()


def heldout_frames(name: str) -> pd.DataFrame:
    """Return the held-out frames of a run or of all runs of a sweep, with the gate's P as `probability`.

    `training` numbers the trainings that held out the same frame. Raises InputError as `runs_of` does, for a run that
    has not come as far as notebook 4 or has changed since, and for runs on different data.
    """
    tables = []
    for run in runs_of(name):
        path = require(run, NOTEBOOKS[3], "heldout.csv")
        gate, *_ = load_gate(run)
        table = pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(MASK_EVIDENCE, ""))
        digest = read_json(require(run, NOTEBOOKS[0], "dataset.json"))["digest"]
        tables.append(table.assign(run=run, probability=gate.probability(table), digest=digest))
    frames = pd.concat(tables, ignore_index=True)
    if frames["digest"].nunique() > 1:
        raise InputError(f"run: expected runs on the same frames and masks, found others in the sweep {name}")
    return frames.assign(training=frames.groupby("row").cumcount())


def common_frames(run: str, other: str) -> pd.DataFrame:
    """Return the frames that both runs hold out; what differs has the ending `_other` for the other run.

    Raises InputError as `heldout_frames` does, for runs on different data, and if no frame is held out in both.
    """
    first, second = heldout_frames(run), heldout_frames(other)
    if first["digest"][0] != second["digest"][0]:
        raise InputError(f"--against: expected a run on the same frames and masks as {run}, found {other}")
    same, predicted = ["subject", "image", "training"], ["keep", "score", "mask_dice", "pixels"]
    both = first.merge(second[same + predicted], on=same, suffixes=("", "_other"))
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
    return pd.DataFrame(records).replace("^[+]?nan.*", "–", regex=True)  # no frame has such a mask


def patient_table(frames: pd.DataFrame, target: str) -> pd.DataFrame:
    """Return one row per patient, the lowest score first; `frames` are those of `heldout_frames`."""
    columns = {
        "frames": ("row", "size"),
        f"with a {target}": ("has_nerve", "sum"),
        "score": ("score", "mean"),
        "missed": ("missed", "sum"),
        "false masks": ("false", "sum"),
        "Dice of all masks": ("dice", "mean"),
    }
    positive, keep = frames["has_nerve"] == 1, frames["keep"].astype(bool)
    marked = frames.assign(missed=positive & ~keep, false=~positive & keep, dice=frames["mask_dice"].where(positive))
    table = marked.groupby("patient").agg(**columns).sort_values("score").reset_index()
    table.insert(4, "all masks empty", 1 - table[f"with a {target}"] / table["frames"])
    return table


def changed_frames(both: pd.DataFrame) -> pd.DataFrame:
    """Return the frames that only one run leaves blank, or whose Dice differs by CHANGED, the greatest loss first."""
    gain = both["score"] - both["score_other"]
    changed = (both["keep"].astype(bool) != both["keep_other"].astype(bool)) | (gain.abs() >= CHANGED)
    return both.assign(gain=gain)[changed].sort_values("gain", kind="stable")
