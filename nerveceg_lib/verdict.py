"""What notebook 7 concludes from the frames of its arms: a table with intervals, and the words that follow from it."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nerveceg_lib.errors import InputError
from nerveceg_lib.metrics import patient_interval

SETTING = ["data", "empty_share"]
ONE_STAGE, ORACLE = "one stage, ", ", oracle gate"
ALL_EMPTY = "all masks empty"
TABLES = Path(__file__).parent / "tables"  # of the sweeps that notebook 7 shows, by `bias-table`


def pooled(paths: list[Path]) -> pd.DataFrame:
    """The frames that several runs of notebook 7 judged. Patients and frames of different runs are different ones."""
    parts = [pd.read_csv(path) for path in paths]
    if not parts:
        raise InputError("runs: expected results of notebook 7, found none")
    return pd.concat([part.assign(run=number) for number, part in enumerate(parts)], ignore_index=True)


def summarise(frames: pd.DataFrame, draws: int = 2000) -> pd.DataFrame:
    """One row a setting (SETTING), arm and clean-up: figures with 95% intervals over patients.

    `frames` holds the rows of `study.Lab.run` with the columns `run`, SETTING and `contradictory` (0/1). Beside the
    score and its parts there are: `gain` over the best one-stage arm after its clean-up, paired; `closed`, the share
    that it closes of that arm's distance to the ceiling (the best oracle gate's score less the share of contradictory
    frames); `ece` of P(nerve); `compute`, relative to the one-stage arms.
    """
    return pd.concat([_of_setting(part, draws) for _, part in frames.groupby(SETTING)], ignore_index=True)


def _of_setting(frames: pd.DataFrame, draws: int) -> pd.DataFrame:
    frames = pd.concat([frames, _all_empty(frames)])
    score = frames.pivot(index=["run", "row"], columns=["arm", "cleaned"], values="score")
    one_stage = [column for column in score if column[0].startswith(ONE_STAGE) and column[1]]
    if not one_stage:
        raise InputError(f"arms: expected at least one loss of one stage to compare with, found {set(frames['arm'])}")
    best = score[one_stage].mean().idxmax()
    cost = frames[frames["arm"] == best[0]].groupby("run")["gflops"].first().mean()
    oracle = max((score[way].mean() for way in score if way[0].endswith(ORACLE)), default=np.nan)
    ceiling = oracle - frames.drop_duplicates(["run", "row"])["contradictory"].mean()
    records = []
    for (arm, cleaned), part in frames.groupby(["arm", "cleaned"]):
        part = part.set_index(["run", "row"]).loc[score.index]
        patients = part.groupby(["run", "subject"]).ngroup().to_numpy()
        gain = score[arm, cleaned].to_numpy() - score[best].to_numpy()
        record = {name: part[name].iloc[0] for name in SETTING} | {"arm": arm, "cleaned": cleaned}
        record |= {
            "runs": part.index.unique("run").size,
            "patients": len(set(patients)),
            "frames": len(part),
            **_parts(part),
        }
        record["low"], record["high"] = patient_interval(part["score"].to_numpy(), patients, draws)
        record["compute"] = part.groupby("run")["gflops"].first().mean() / cost
        record["gain"], (record["gain_low"], record["gain_high"]) = gain.mean(), patient_interval(gain, patients, draws)
        room = ceiling - score[best].mean()  # none where all masks are bad
        record["ceiling"], record["closed"] = ceiling, gain.mean() / room if room > 0 else np.nan
        record["best_one_stage"] = best[0].removeprefix(ONE_STAGE)
        records.append(record)
    return pd.DataFrame(records)


def _all_empty(frames: pd.DataFrame) -> pd.DataFrame:
    blank = frames.drop_duplicates(["run", "row"]).assign(arm=ALL_EMPTY, drawn=0, gflops=0.0, probability=np.nan)
    return pd.concat([blank.assign(cleaned=cleaned, score=1.0 - blank["presence"]) for cleaned in (0, 1)])


def _parts(frames: pd.DataFrame) -> dict[str, float]:
    """Blank rate: of the frames with a nerve, those without a mask; false-mask rate: of the others, those with one."""
    nerve, drawn = frames["presence"] == 1, frames["drawn"] == 1
    known = frames["probability"].notna()
    return {
        "score": frames["score"].mean(),
        "dice_detected": frames.loc[nerve & drawn, "score"].mean(),
        "blank_rate": 1 - drawn[nerve].mean(),
        "false_mask_rate": drawn[~nerve].mean(),
        "ece": calibration_error(frames["presence"], frames["probability"]) if known.all() else np.nan,
    }


def reliability(frames: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Of each setting and gate, in `bins` of about equally many frames: mean P(nerve), share with a nerve, frames."""
    rows = frames[(frames["cleaned"] == 0) & frames["probability"].notna()]
    each = [*SETTING, "arm"]
    part = rows.groupby(each)["probability"].transform(lambda p: pd.qcut(p, bins, labels=False, duplicates="drop"))
    binned = rows.groupby([*each, part.rename("bin")])
    counted = binned.agg(predicted=("probability", "mean"), observed=("presence", "mean"), frames=("row", "size"))
    return counted.reset_index()


def calibration_error(presence: np.ndarray, probability: np.ndarray) -> float:
    """Expected calibration error of `probability` (0..1) over ten equal bins."""
    from torchmetrics.functional.classification import binary_calibration_error  # a second to import

    truth, stated = (torch.tensor(np.asarray(values)) for values in (presence, probability))
    return float(binary_calibration_error(stated, truth, n_bins=10))


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "not distinguishable"
