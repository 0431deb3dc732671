"""The competition's Dice, what its mean is made of, and how sure one can be of a mean."""

from collections.abc import Callable

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks (H, W), non-zero = nerve; two empty masks score 1, as the competition has it."""
    overlap, total = _overlap(prediction, truth)
    return 2 * overlap / total if total else 1.0


def iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union (Jaccard index) of two masks (H, W), non-zero = nerve; two empty masks score 1."""
    overlap, total = _overlap(prediction, truth)
    return overlap / (total - overlap) if total else 1.0


def patient_interval(
    values: np.ndarray, patients: np.ndarray, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (N,), resampling whole `patients` (N,).

    Frames of one patient resemble each other, so resampling frames would make the interval far too narrow.
    """
    groups, index = np.unique(patients, return_inverse=True)
    sums, counts = np.bincount(index, weights=values), np.bincount(index)
    drawn = np.random.default_rng(seed).integers(len(groups), size=(draws, len(groups)))
    return _percentiles(sums[drawn].sum(1) / counts[drawn].sum(1), level)


def resampled_interval(
    statistic: Callable[[np.ndarray], float], patients: np.ndarray, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """As `patient_interval`, of any `statistic` of resampled frames, given by their places (M,) in `patients` (N,)."""
    places = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    drawn = np.random.default_rng(seed).integers(len(places), size=(1000, len(places)))
    return _percentiles([statistic(np.concatenate([places[n] for n in draw])) for draw in drawn], level)


def gated_scores(presence: np.ndarray, mask_dice: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Competition score of every frame once a gate has decided which masks are drawn.

    `presence` (N,) 0/1 truth; `mask_dice` (N,) Dice of the mask if drawn, ignored where nothing is;
    `drawn` (N,) bool. A blank frame scores 1 without a nerve and 0 with one.
    """
    return np.where(drawn, mask_dice, 1.0 - np.asarray(presence))


def score_parts(presence: np.ndarray, mask_dice: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    """The score and its parts: score = (1 - p) TNR + p TPR Dice, p = share of positive frames.

    Also the all-empty baseline (1 - p) and the oracle gate: the same masks drawn exactly on the positives.
    A part without frames (no positive drawn, say) is NaN.
    """
    presence, drawn = np.asarray(presence).astype(bool), np.asarray(drawn, bool)
    mean = lambda values: float(np.mean(values)) if len(values) else float("nan")  # noqa: E731
    return {
        "score": mean(gated_scores(presence, mask_dice, drawn)),
        "all_empty": mean(~presence),
        "oracle_gate": mean(gated_scores(presence, mask_dice, presence)),
        "tpr": mean(drawn[presence]),
        "tnr": mean(~drawn[~presence]),
        "dice_true_positives": mean(np.asarray(mask_dice)[presence & drawn]),
        "dice_positives": mean(np.asarray(mask_dice)[presence]),
    }


def _percentiles(values, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _overlap(prediction: np.ndarray, truth: np.ndarray) -> tuple[int, int]:
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    prediction, truth = prediction != 0, truth != 0
    return int((prediction & truth).sum()), int(prediction.sum()) + int(truth.sum())
