"""The gate between the stages: it decides which predicted masks to keep and which frames to leave blank.

A mask gains P(nerve) * E[Dice | nerve] on average, a blank frame P(no nerve). The optimal gate therefore keeps a mask
iff P(nerve) > 1 / (1 + E[Dice | nerve]). P comes from a logistic regression on what the stages know, E[Dice] from the
mask's own probabilities. Both are fitted on frames that neither network was trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from scipy.special import expit, logit

from nerveceg_lib.data.prepared import basis
from nerveceg_lib.metrics import gated_scores
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, require, show
from nerveceg_lib.runtime.io import read_json

THRESHOLDS = np.round(np.arange(0.02, 1.0, 0.02), 2)
MIN_AREAS = (0, 1000, 2000, 3000, 4000, 5000)  # px; one real mask in a hundred is below 3,847
EVIDENCE = {
    "classifier": ("probability",),
    "segmenter": ("mask_area", "peak", "inside", "entropy"),
    "fused": ("probability", "mask_area", "peak", "inside", "entropy"),
}


@dataclass(frozen=True)
class HardGate:
    """Keep a mask iff P(nerve) > `threshold` and its area is at least `min_area` (and above 0) px."""

    threshold: float
    min_area: int

    def keep(self, predictions: pd.DataFrame) -> np.ndarray:
        """Decide for each row by `probability` (0 to 1) and `mask_area` (px at 420x580): bool (N,)."""
        confident = predictions["probability"].to_numpy() > self.threshold
        return confident & (predictions["mask_area"].to_numpy() >= max(1, self.min_area))


def search_gate(predictions: pd.DataFrame) -> tuple[HardGate, pd.DataFrame]:
    """Find the hard gate with the best competition score on `predictions` of validation patients.

    Needs the columns `has_nerve`, `probability`, `mask_area` and `mask_dice`. The score is a step function of the
    threshold, so it is averaged over neighbouring thresholds first: the middle of a plateau generalises better than its
    edge. Returns the gate and the grid: `threshold`, `min_area`, `score`.
    """
    has_nerve, mask_dice = predictions["has_nerve"].to_numpy(), predictions["mask_dice"].to_numpy()
    score = np.array(
        [
            [gated_scores(has_nerve, mask_dice, HardGate(t, a).keep(predictions)).mean() for t in THRESHOLDS]
            for a in MIN_AREAS
        ]
    )  # (areas, thresholds)
    # repeat the end scores: otherwise the ends would be averaged over fewer, hence luckier, neighbours
    padded = np.pad(score, ((0, 0), (2, 2)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=1).mean(axis=2)
    area, threshold = np.unravel_index(smooth.argmax(), smooth.shape)
    grid = pd.DataFrame(
        {
            "threshold": np.tile(THRESHOLDS, len(MIN_AREAS)),
            "min_area": np.repeat(MIN_AREAS, len(THRESHOLDS)),
            "score": score.ravel(),
        }
    )
    return HardGate(float(THRESHOLDS[threshold]), int(MIN_AREAS[area])), grid


@dataclass(frozen=True)
class ScoreOptimalGate:
    """The gate that `fit_gate` fits; the numbers are those of two linear models.

    Args:
        evidence: a name in EVIDENCE: the columns that P(nerve) is computed from.
        weights: one for each column.
        intercept: of the logit of P(nerve).
        dice_slope, dice_intercept: E[Dice | nerve] as a linear function of `soft_dice`.
        threshold: frames whose P(nerve) of the first stage is not above it stay blank without the second stage; -1, so
            that all frames reach the second stage, if the evidence is the segmenter's only.
    """

    evidence: str
    weights: list[float]
    intercept: float
    dice_slope: float
    dice_intercept: float
    threshold: float

    def probability(self, predictions: pd.DataFrame) -> np.ndarray:
        """Return the calibrated P(nerve) of each row (N,), NaN where the second stage was needed but not run."""
        return expit(_features(predictions, self.evidence) @ np.array(self.weights) + self.intercept)

    def expected_dice(self, predictions: pd.DataFrame) -> np.ndarray:
        """Return E[Dice | nerve] of each row's mask, (N,) in 0 to 1."""
        return np.clip(self.dice_slope * predictions["soft_dice"].to_numpy(float) + self.dice_intercept, 0, 1)

    def keep(self, predictions: pd.DataFrame) -> np.ndarray:
        """Decide for each row of a table that `prediction_table` made: bool (N,)."""
        gains = self.probability(predictions) > 1 / (1 + self.expected_dice(predictions))
        confident = predictions["probability"].to_numpy() > self.threshold
        return gains & confident & (predictions["mask_area"].to_numpy() > 0)


def fit_gate(predictions: pd.DataFrame, evidence: str) -> ScoreOptimalGate:
    """Fit a gate on `predictions` of frames that no network was trained on.

    Needs `has_nerve`, `mask_dice` and the columns of `prediction_table`. If all frames have the same label, P(nerve) is
    the same for every frame.
    """
    weights, intercept = _presence_line(_features(predictions, evidence), predictions["has_nerve"].to_numpy())
    outlined = predictions[(predictions["has_nerve"] == 1) & (predictions["mask_area"] > 0)]
    gate = ScoreOptimalGate(evidence, weights, intercept, *_dice_line(outlined), threshold=-1.0)
    if "probability" not in EVIDENCE[evidence]:
        return gate
    kept = predictions.loc[gate.keep(predictions), "probability"]
    # frames below everything that is kept here need not reach the second stage
    return replace(gate, threshold=float(np.nextafter(kept.min(), -1)) if len(kept) else 1.0)


def _presence_line(features: np.ndarray, has_nerve: np.ndarray) -> tuple[list[float], float]:
    """Return weights and intercept of the logit of P(nerve)."""
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from sklearn.preprocessing import StandardScaler

    if len(set(has_nerve)) < 2:
        share = (has_nerve.sum() + 1) / (len(has_nerve) + 2)
        return [0.0] * features.shape[1], float(logit(share))
    scaler = StandardScaler().fit(features)
    line = LogisticRegression().fit(scaler.transform(features), has_nerve)
    weights = line.coef_[0] / scaler.scale_
    return weights.tolist(), float(line.intercept_[0] - weights @ scaler.mean_)


def _dice_line(outlined: pd.DataFrame) -> tuple[float, float]:
    """Return slope and intercept of the Dice of nerves as a function of the `soft_dice` of their masks."""
    if len(outlined) < 2 or outlined["soft_dice"].nunique() < 2:
        return 0.0, float(outlined["mask_dice"].mean()) if len(outlined) else 0.0
    slope, intercept = np.polyfit(outlined["soft_dice"], outlined["mask_dice"], 1)
    return float(slope), float(intercept)


AnyGate = HardGate | ScoreOptimalGate
GATES: dict[str, Callable[[pd.DataFrame], AnyGate]] = {
    "hard": lambda predictions: search_gate(predictions)[0],
    **{evidence: partial(fit_gate, evidence=evidence) for evidence in EVIDENCE},
}


def load_gate(run: str) -> tuple[AnyGate, str, dict]:
    """Return the gate that notebook 4 stored for `run`, and what it was fitted to.

    That is the name of the clean-up before it (see CLEANUPS), and the arguments of `load_system`: runs and how to use
    their networks.

    Raises InputError if the frames, the split or the networks have changed since: whatever notebook 4 wrote is of
    something else then.
    """
    path = require(run, NOTEBOOKS[3], "gate.json")
    content = read_json(path)
    before = content.pop("basis") if "system" in content else {run: {}}  # an older release wrote less
    now = {other: basis(other) for other in before}
    changed = [name for other in now for name, value in now[other].items() if before[other].get(name) != value]
    if changed:
        raise InputError(f"{show(path)}: made before {', '.join(changed)} changed; run {NOTEBOOKS[3]} again")
    cleanup, system = content.pop("cleanup"), content.pop("system")
    return (ScoreOptimalGate if "evidence" in content else HardGate)(**content), cleanup, system


def _features(predictions: pd.DataFrame, evidence: str) -> np.ndarray:
    """Return the columns of `evidence`, (N, columns), each on a scale on which its effect is about linear."""
    scales: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "probability": _clipped_logit,
        "peak": _clipped_logit,
        "mask_area": np.sqrt,
        "entropy": lambda entropy: np.log(entropy + 1e-4),
    }
    columns = [(name, predictions[name].to_numpy(float)) for name in EVIDENCE[evidence]]
    return np.stack([scales.get(name, np.asarray)(values) for name, values in columns], axis=1)


def _clipped_logit(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability, 1e-4, 1 - 1e-4))
