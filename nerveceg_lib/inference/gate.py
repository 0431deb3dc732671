"""The gate between the stages: it decides which predicted masks to keep and which frames to leave blank.

A mask gains P(nerve) * E[Dice | nerve] on average, a blank frame P(no nerve). The optimal gate therefore keeps a mask
iff P(nerve) > 1 / (1 + E[Dice | nerve]). P comes from a logistic regression on what the stages know, E[Dice] from the
mask's own probabilities. Both are fitted on frames that neither network was trained on. These are often few, so the
default gate starts from a prior: what such regressions looked like for other networks on other data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import betaln, expit, logit

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
    "bayesian": ("probability", "peak"),
}


# first stage, peak, constant: the weights of a bayesian gate are expected to lie around these, each with a standard
# deviation of 1; `python -m benchmarks.gates` prints what the networks of its bank suggest
PRIOR = (1.5, 1.0, -0.5)
CENTER, SCALE = np.array([0.0, 4.0]), 3.0  # bring the two features to similar scales
BASE_RATE = (6.0, 9.0)  # the prior of the share of frames with a nerve, as frames with and without one
WITHIN_PATIENT = 0.1  # assumed correlation of frames of one patient: n of them count as n / (1 + 0.1 (n - 1))


@dataclass(frozen=True)
class HardGate:
    """Keep a mask iff P(nerve) > `threshold` and its area is at least `min_area` (and above 0) px."""

    threshold: float
    min_area: int

    def probability(self, predictions: pd.DataFrame) -> np.ndarray:
        """Return P(nerve) of each row (N,) as the first stage states it, without calibration."""
        return predictions["probability"].to_numpy()

    def keep(self, predictions: pd.DataFrame) -> np.ndarray:
        """Decide for each row by `probability` (0 to 1) and `mask_area` (px at 420x580): bool (N,)."""
        confident = self.probability(predictions) > self.threshold
        return confident & (predictions["mask_area"].to_numpy() >= max(1, self.min_area))


def search_gate(predictions: pd.DataFrame) -> tuple[HardGate, pd.DataFrame]:
    """Find the hard gate with the best competition score on `predictions` of validation patients.

    Needs the columns `has_nerve`, `probability`, `mask_area` and `mask_dice`. The score is a step function of the
    threshold, so it is averaged over neighbouring thresholds first: the middle of a plateau generalises better than its
    edge. Returns the gate and the score of each minimum area (rows) and threshold (columns).
    """
    has_nerve, mask_dice = predictions["has_nerve"].to_numpy(), predictions["mask_dice"].to_numpy()
    scores = [
        [gated_scores(has_nerve, mask_dice, HardGate(t, a).keep(predictions)).mean() for t in THRESHOLDS]
        for a in MIN_AREAS
    ]
    # repeat the end scores: otherwise the ends would be averaged over fewer, hence luckier, neighbours
    padded = np.pad(scores, ((0, 0), (2, 2)), mode="edge")
    smooth = np.lib.stride_tricks.sliding_window_view(padded, 5, axis=1).mean(axis=2)
    area, threshold = np.unravel_index(smooth.argmax(), smooth.shape)
    gate = HardGate(float(THRESHOLDS[threshold]), int(MIN_AREAS[area]))
    return gate, pd.DataFrame(scores, MIN_AREAS, THRESHOLDS)


@dataclass(frozen=True)
class ScoreOptimalGate:
    """The gate that `fit_gate` and `fit_bayesian_gate` fit; the numbers are those of two linear models.

    Args:
        evidence: a name in EVIDENCE: the columns that P(nerve) is computed from.
        weights: one for each column.
        intercept: of the logit of P(nerve).
        dice_slope, dice_intercept: E[Dice | nerve] as a linear function of `soft_dice`.
        threshold: frames whose P(nerve) of the first stage is not above it stay blank without the second stage; -1, so
            that all frames reach the second stage, if the evidence is the segmenter's only.
        informative: the probability that the evidence says anything about the label.
        base_rate: P(nerve) of every frame if it does not.
    """

    evidence: str
    weights: list[float]
    intercept: float
    dice_slope: float
    dice_intercept: float
    threshold: float = -1.0
    informative: float = 1.0
    base_rate: float = 0.5

    def probability(self, predictions: pd.DataFrame) -> np.ndarray:
        """Return the calibrated P(nerve) of each row (N,), NaN where the second stage was needed but not run."""
        line = expit(features(predictions, self.evidence) @ np.array(self.weights) + self.intercept)
        return self.informative * line + (1 - self.informative) * self.base_rate

    def expected_dice(self, predictions: pd.DataFrame) -> np.ndarray:
        """Return E[Dice | nerve] of each row's mask, (N,) in 0 to 1."""
        return np.clip(self.dice_slope * predictions["soft_dice"].to_numpy(float) + self.dice_intercept, 0, 1)

    def gains(self, predictions: pd.DataFrame) -> np.ndarray:
        """Return where a mask is worth more than a blank frame: bool (N,)."""
        return self.probability(predictions) > 1 / (1 + self.expected_dice(predictions))

    def keep(self, predictions: pd.DataFrame) -> np.ndarray:
        """Decide for each row of a table that `prediction_table` made: bool (N,)."""
        confident = predictions["probability"].to_numpy() > self.threshold
        return self.gains(predictions) & confident & (predictions["mask_area"].to_numpy() > 0)


def fit_gate(predictions: pd.DataFrame, evidence: str) -> ScoreOptimalGate:
    """Fit a gate on `predictions` of frames that no network was trained on.

    Needs `has_nerve`, `mask_dice` and the columns of `prediction_table`. If all frames have the same label, P(nerve) is
    the same for every frame.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import
    from sklearn.preprocessing import StandardScaler

    values, has_nerve = features(predictions, evidence), predictions["has_nerve"].to_numpy()
    if len(set(has_nerve)) < 2:
        share = (has_nerve.sum() + 1) / (len(has_nerve) + 2)
        return ScoreOptimalGate(evidence, [0.0] * values.shape[1], float(logit(share)), *_dice_line(predictions))
    scaler = StandardScaler().fit(values)
    line = LogisticRegression().fit(scaler.transform(values), has_nerve)
    weights = line.coef_[0] / scaler.scale_
    intercept = line.intercept_[0] - weights @ scaler.mean_
    gate = ScoreOptimalGate(evidence, weights.tolist(), float(intercept), *_dice_line(predictions))
    return replace(gate, threshold=_first_threshold(gate, predictions))


def fit_bayesian_gate(predictions: pd.DataFrame, prior: Sequence[float] = PRIOR) -> ScoreOptimalGate:
    """Fit a gate that starts from `prior` and moves away from it as far as `predictions` of unseen patients demand.

    Needs `subject` and the columns of `fit_gate`; there may be no rows. Evidence that says nothing must not decide, so
    P(nerve) is averaged with the share of frames with a nerve. How much each of the two counts depends on which
    explains the labels better; before the first frame they count the same.
    """
    has_nerve, counts = predictions["has_nerve"].to_numpy(), frame_weights(predictions)
    weights, evidence = posterior(predictions, prior)
    positive, empty = np.add(BASE_RATE, (counts @ has_nerve, counts @ (1 - has_nerve)))
    evidence_of_constant = betaln(positive, empty) - betaln(*BASE_RATE)
    slopes = weights[:2] / SCALE
    gate = ScoreOptimalGate(
        "bayesian",
        slopes.tolist(),
        float(weights[2] - slopes @ CENTER),
        *_dice_line(predictions),
        informative=float(expit(evidence - evidence_of_constant)),
        base_rate=float(positive / (positive + empty)),
    )
    return replace(gate, threshold=_first_threshold(gate, predictions))


def frame_weights(predictions: pd.DataFrame) -> np.ndarray:
    """Return how much each frame counts (N,): frames of one `subject` resemble each other (Kish's design effect)."""
    frames_of_patient = predictions.groupby("subject")["subject"].transform("size").to_numpy(float)
    return 1 / (1 + WITHIN_PATIENT * (frames_of_patient - 1))


def posterior(predictions: pd.DataFrame, mean: Sequence[float], spread: float = 1.0) -> tuple[np.ndarray, float]:
    """Return the most probable weights (3,) of the two features and the constant, and the log evidence.

    The features are logits minus CENTER, divided by SCALE. The prior of the weights is normal, around `mean` with a
    standard deviation of `spread`. The evidence is the probability of the labels, averaged over the prior by Laplace's
    approximation: a normal distribution around the most probable weights.
    """
    standardised = (features(predictions, "bayesian") - CENTER) / SCALE
    design = np.column_stack([standardised, np.ones(len(standardised))])
    has_nerve, counts = predictions["has_nerve"].to_numpy(), frame_weights(predictions)

    def loss(weights):
        logits = design @ weights
        return counts @ (np.logaddexp(0, logits) - has_nerve * logits) + np.sum(((weights - mean) / spread) ** 2) / 2

    mode = minimize(loss, mean).x
    probability = expit(design @ mode)
    curvature = np.eye(3) + spread**2 * design.T * (counts * probability * (1 - probability)) @ design
    return mode, float(-loss(mode) - np.linalg.slogdet(curvature)[1] / 2)


def _first_threshold(gate: ScoreOptimalGate, predictions: pd.DataFrame) -> float:
    """Return a P(nerve) of the first stage that no mask can make up for.

    The best mask is one that is certain and has the best area and entropy in `predictions`.
    """
    columns = EVIDENCE[gate.evidence]
    if "probability" not in columns or predictions.empty:
        return -1.0
    signs = dict(zip(columns, gate.weights, strict=True)) | {"soft_dice": gate.dice_slope}
    best = {name: predictions[name].max() if sign > 0 else predictions[name].min() for name, sign in signs.items()}
    best |= {name: 1.0 for name in ("peak", "inside", "soft_dice") if signs.get(name, 0) > 0}
    steps = np.linspace(0, 1, 1001)
    gains = gate.gains(pd.DataFrame(best | {"probability": steps}))
    return float(steps[gains.argmax()] - 0.001) if gains.any() else 1.0


def _dice_line(predictions: pd.DataFrame) -> tuple[float, float]:
    """Return slope and intercept of the Dice of nerves as a function of the `soft_dice` of their masks.

    Two masks whose `soft_dice` is right are added, so that few nerves do not tilt the line.
    """
    outlined = predictions[(predictions["has_nerve"] == 1) & (predictions["mask_area"] > 0)]
    added = (0.5, 1.0)
    slope, intercept = np.polyfit(np.r_[outlined["soft_dice"], added], np.r_[outlined["mask_dice"], added], 1)
    return float(slope), float(intercept)


AnyGate = HardGate | ScoreOptimalGate
GATES: dict[str, Callable[[pd.DataFrame], AnyGate]] = {
    "hard": lambda predictions: search_gate(predictions)[0],
    **{evidence: partial(fit_gate, evidence=evidence) for evidence in ("classifier", "segmenter", "fused")},
    "bayesian": fit_bayesian_gate,
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


def features(predictions: pd.DataFrame, evidence: str) -> np.ndarray:
    """Return the columns of `evidence`, (N, columns), each on a scale on which its effect is about linear."""
    scales: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "mask_area": np.sqrt,
        "inside": np.asarray,
        "entropy": lambda entropy: np.log(entropy + 1e-4),
    }
    columns = [(name, predictions[name].to_numpy(float)) for name in EVIDENCE[evidence]]
    return np.stack([scales.get(name, _clipped_logit)(values) for name, values in columns], axis=1)


def _clipped_logit(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability, 1e-4, 1 - 1e-4))
