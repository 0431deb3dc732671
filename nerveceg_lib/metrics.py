"""The competition's Dice, the parts its mean consists of, and how certain a mean is."""

from collections.abc import Callable

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Return the Dice of two masks (H, W), non-zero = nerve. Two empty masks score 1, as in the competition.

    Raises ValueError for shapes that differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    prediction, truth = prediction != 0, truth != 0
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


def gated_scores(has_nerve: np.ndarray, mask_dice: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return the competition score of every frame (N,) once a gate has decided which masks to keep.

    Args:
        has_nerve: (N,) true label, 0 or 1.
        mask_dice: (N,) Dice of each predicted mask, 0 to 1; ignored where the mask is not kept.
        keep: (N,) bool, the gate's decision. A frame left blank scores 1 without a nerve and 0 with one.
    """
    return np.where(keep, mask_dice, 1.0 - np.asarray(has_nerve))


def score_parts(has_nerve: np.ndarray, mask_dice: np.ndarray, keep: np.ndarray) -> dict[str, float]:
    """Return the score and its parts: score = (1 - p) TNR + p TPR Dice, where p is the share of positive frames.

    Besides these there are the score of all masks empty, 1 - p, and of an oracle gate, which keeps the same masks on
    exactly the positive frames. A part without frames is NaN. The arguments are those of `gated_scores`.
    """
    has_nerve, keep = np.asarray(has_nerve).astype(bool), np.asarray(keep, bool)
    tpr, fpr = _mean(keep[has_nerve]), _mean(keep[~has_nerve])
    return {
        "score": _mean(gated_scores(has_nerve, mask_dice, keep)),
        "all_empty": _mean(~has_nerve),
        "oracle_gate": _mean(gated_scores(has_nerve, mask_dice, has_nerve)),
        "tpr": tpr,
        "tnr": 1 - fpr,
        "fpr": fpr,
        "fnr": 1 - tpr,
        "dice_true_positive": _mean(np.asarray(mask_dice)[has_nerve & keep]),
        "dice_positive": _mean(np.asarray(mask_dice)[has_nerve]),
    }


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def patient_interval(
    values: np.ndarray,
    patients: np.ndarray,
    trainings: np.ndarray | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of `values` (N,), resampling whole `patients` (N,).

    Frames of one patient resemble each other, so resampling frames would make the interval far too narrow. If the
    values come from several `trainings` (N,), such as the seeds of a sweep, these are resampled too, independently of
    the patients (Owen 2007, doi:10.1214/07-AOAS122); otherwise the interval holds for these trained networks only.

    Few patients vary less than the population they come from. The percentiles are therefore expanded as Student's t
    is wider than the normal distribution (Hesterberg 2015, doi:10.1080/00031305.2015.1089789, section 3.3). With fewer
    than six patients the interval is Student's own, about the mean of the draws. It stays between 0 and 1 if all draws
    do, and between -1 and 1 if they do, as differences of scores. Without values both ends are NaN.
    """
    if not len(values):
        return np.nan, np.nan
    names, columns = np.unique(patients, return_inverse=True)
    runs, rows = np.unique(np.zeros(len(values)) if trainings is None else trainings, return_inverse=True)
    sums, counts = np.zeros((2, len(runs), len(names)))
    np.add.at(sums, (rows, columns), values)
    np.add.at(counts, (rows, columns), 1)
    rng = np.random.default_rng(seed)
    run_weights, patient_weights = (rng.multinomial(n, np.full(n, 1 / n), draws) for n in sums.shape)
    totals, numbers = (np.einsum("dr,rp,dp->d", run_weights, table, patient_weights) for table in (sums, counts))
    return _percentiles(totals[numbers > 0] / numbers[numbers > 0], len(names), level)


def resampled_interval(
    statistic: Callable[[np.ndarray], float], patients: np.ndarray, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of `patient_interval` for any `statistic` of frames.

    `statistic` gets the positions (M,) of the resampled frames in `patients` (N,).
    """
    positions = [np.flatnonzero(patients == patient) for patient in np.unique(patients)]
    drawn = np.random.default_rng(seed).integers(len(positions), size=(1000, len(positions)))
    values = [statistic(np.concatenate([positions[n] for n in draw])) for draw in drawn]
    return _percentiles(values, len(positions), level)


def _percentiles(values, patients: int, level: float) -> tuple[float, float]:
    from scipy.stats import norm, t  # half a second to import

    tail, degrees = (1 - level) / 2, patients - 1
    widening = t.ppf(1 - tail, degrees) * np.sqrt(patients / degrees) if degrees else norm.ppf(1 - tail)
    low, high = np.quantile(values, norm.cdf([-widening, widening]))
    if patients < 6:  # few patients are often drawn alike, and no percentile lies beyond their extremes
        low, high = np.mean(values) + np.array([-widening, widening]) * np.std(values)
        if np.max(np.abs(values)) <= 1:  # scores, rates and their differences cannot leave their range
            low, high = np.clip([low, high], min(0.0, np.floor(np.min(values))), 1.0)
    return float(low), float(high)


def calibration_error(has_nerve: np.ndarray, probability: np.ndarray) -> float:
    """Return the expected calibration error of `probability` (N,) in 0 to 1, over ten equal bins."""
    import torch
    from torchmetrics.functional.classification import binary_calibration_error  # takes a second to import

    truth, stated = (torch.tensor(np.asarray(values)) for values in (has_nerve, probability))
    return float(binary_calibration_error(stated, truth, n_bins=10))
