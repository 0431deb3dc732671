"""The score-optimal gate: draw a mask where it wins more than a blank one, by all that both stages know.

A mask wins P(nerve) * E[Dice | nerve] on average, a blank frame P(no nerve); so draw iff
P(nerve) > 1 / (1 + E[Dice | nerve]). P comes from a logistic regression on the evidence of the stages, E[Dice] from
the mask's own probabilities; both are fitted on frames that neither network was fitted on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from nerveceg_lib.files import read_json
from nerveceg_lib.gate import Gate, choose_gate
from nerveceg_lib.metrics import gated_scores

EVIDENCE = {
    "classifier": ("probability",),
    "segmenter": ("mask_area", "peak", "inside", "entropy"),
    "fused": ("probability", "mask_area", "peak", "inside", "entropy"),
}


@dataclass(frozen=True)
class ScoreOptimalGate:
    """Fitted by `fit_gate`. `evidence` names what it looks at, the numbers are those of two linear models.

    Frames with P(nerve) of the first stage at or below `threshold` stay blank without a look at the second; it is -1,
    and all are looked at, if the evidence is the segmenter's alone.
    """

    evidence: str
    weights: list[float]  # one for each of EVIDENCE[evidence]
    intercept: float
    dice_slope: float
    dice_intercept: float
    threshold: float

    def presence(self, predictions: pd.DataFrame) -> np.ndarray:
        """Calibrated P(nerve) of each row: (N,) in 0..1; NaN where the second stage has seen nothing but should."""
        return _sigmoid(_features(predictions, self.evidence) @ np.array(self.weights) + self.intercept)

    def expected_dice(self, predictions: pd.DataFrame) -> np.ndarray:
        """E[Dice | nerve] of each row's mask: (N,) in 0..1."""
        return np.clip(self.dice_slope * predictions["soft_dice"].to_numpy(float) + self.dice_intercept, 0, 1)

    def draws(self, predictions: pd.DataFrame) -> np.ndarray:
        """Decide for each row of a table as `inference.prediction_table` makes it: bool (N,)."""
        wins = self.presence(predictions) > 1 / (1 + self.expected_dice(predictions))
        confident = predictions["probability"].to_numpy() > self.threshold
        return wins & confident & (predictions["mask_area"].to_numpy() > 0)


def fit_gate(predictions: pd.DataFrame, evidence: str) -> ScoreOptimalGate:
    """Fit on `predictions` that no network was fitted on: `presence`, `mask_dice` and `prediction_table`'s columns.

    Frames of one kind alone teach no more than their share: P is then the same for all.
    """
    weights, intercept = _presence_line(_features(predictions, evidence), predictions["presence"].to_numpy())
    outlined = predictions[(predictions["presence"] == 1) & (predictions["mask_area"] > 0)]
    fitted = ScoreOptimalGate(evidence, weights, intercept, *_dice_line(outlined), threshold=-1.0)
    if "probability" not in EVIDENCE[evidence]:
        return fitted  # the first stage has no say in it
    drawn = predictions.loc[fitted.draws(predictions), "probability"]
    # what lies below all that it draws here need not be segmented
    return replace(fitted, threshold=float(np.nextafter(drawn.min(), -1)) if len(drawn) else 1.0)


def _presence_line(features: np.ndarray, presence: np.ndarray) -> tuple[list[float], float]:
    """Weights and intercept of the logit of P(nerve)."""
    from sklearn.linear_model import LogisticRegression  # a second to import
    from sklearn.preprocessing import StandardScaler

    if len(set(presence)) < 2:
        share = (presence.sum() + 1) / (len(presence) + 2)
        return [0.0] * features.shape[1], float(_logit(share))
    scaler = StandardScaler().fit(features)
    line = LogisticRegression().fit(scaler.transform(features), presence)
    weights = line.coef_[0] / scaler.scale_
    return weights.tolist(), float(line.intercept_[0] - weights @ scaler.mean_)


def _dice_line(outlined: pd.DataFrame) -> tuple[float, float]:
    """Slope and intercept of the Dice of nerves by the `soft_dice` of their masks."""
    if len(outlined) < 2 or outlined["soft_dice"].nunique() < 2:
        return 0.0, float(outlined["mask_dice"].mean()) if len(outlined) else 0.0
    slope, level = np.polyfit(outlined["soft_dice"], outlined["mask_dice"], 1)
    return float(slope), float(level)


AnyGate = Gate | ScoreOptimalGate
GATES: dict[str, Callable[[pd.DataFrame], AnyGate]] = {
    "hard": lambda predictions: choose_gate(predictions)[0],
    **{evidence: partial(fit_gate, evidence=evidence) for evidence in EVIDENCE},
}


def cross_fitted(predictions: pd.DataFrame, kind: str, parts: int = 5) -> pd.DataFrame:
    """Columns `score` and, of score-optimal gates, `presence` of each row by a gate fitted on other patients alone.

    `predictions` as for `fit_gate`, with the column `subject`; `kind` is a name of GATES. NaN if there is one patient.
    """
    from sklearn.model_selection import GroupKFold

    found = pd.DataFrame({"score": np.nan, "presence": np.nan}, index=predictions.index)
    parts = min(parts, predictions["subject"].nunique())
    if parts < 2:
        return found
    for fitted_on, judged in GroupKFold(parts).split(predictions, groups=predictions["subject"]):
        part, chosen = predictions.iloc[judged], GATES[kind](predictions.iloc[fitted_on])
        found.iloc[judged, 0] = gated_scores(part["presence"], part["mask_dice"], chosen.draws(part))
        if isinstance(chosen, ScoreOptimalGate):
            found.iloc[judged, 1] = chosen.presence(part)
    return found


def load_gate(path: Path) -> tuple[AnyGate, str]:
    """The gate that notebook 4 stored as JSON, and the name in `cleanup.CLEANUPS` of what happens before it."""
    content = read_json(path)
    name = content.pop("cleanup", "none")
    return (ScoreOptimalGate if "evidence" in content else Gate)(**content), name


def _features(predictions: pd.DataFrame, evidence: str) -> np.ndarray:
    """Columns of `evidence`, each on a scale on which it acts about linearly: (N, columns)."""
    scales: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "probability": _logit, "peak": _logit, "mask_area": np.sqrt, "entropy": lambda x: np.log(x + 1e-4)
    }  # fmt: skip
    columns = [(name, predictions[name].to_numpy(float)) for name in EVIDENCE[evidence]]
    return np.stack([scales.get(name, np.asarray)(values) for name, values in columns], axis=1)


def _logit(probability: np.ndarray) -> np.ndarray:
    inner = np.clip(probability, 1e-4, 1 - 1e-4)
    return np.log(inner / (1 - inner))


def _sigmoid(logit: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logit))
