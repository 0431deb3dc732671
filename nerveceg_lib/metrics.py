"""The competition's Dice and what its mean is made of."""

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks (H, W), non-zero = nerve; two empty masks score 1, as the competition has it."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    prediction, truth = prediction != 0, truth != 0
    total = int(prediction.sum()) + int(truth.sum())
    return 2 * int((prediction & truth).sum()) / total if total else 1.0


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
