"""The gate between the stages: which predicted masks are drawn and which frames stay blank."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from nerveceg_lib.metrics import gated_scores

THRESHOLDS = np.round(np.arange(0.02, 1.0, 0.02), 2)
MIN_AREAS = (0, 1000, 2000, 3000, 4000, 5000)  # px; one real mask in a hundred is below 3,847


@dataclass(frozen=True)
class Gate:
    """Draw a mask iff P(nerve) > `threshold` and its area is at least `min_area` (and above 0) px."""

    threshold: float
    min_area: int

    def draws(self, predictions: pd.DataFrame) -> np.ndarray:
        """Decide for each row by `probability` (0..1) and `mask_area` (px at 420x580): bool (N,)."""
        area = predictions["mask_area"].to_numpy()
        confident = predictions["probability"].to_numpy() > self.threshold
        return confident & (area >= max(1, self.min_area))


def choose_gate(predictions: pd.DataFrame) -> tuple[Gate, pd.DataFrame]:
    """Choose the gate with the best competition score on `predictions`, frames of validation patients.

    Needs the columns `presence`, `probability`, `mask_area`, `mask_dice`. The score is a step function of
    the threshold, so it is first averaged over neighbouring thresholds: the middle of a plateau
    generalises better than its edge. Returns the gate and the grid: `threshold`, `min_area`, `score`.
    """
    presence, mask_dice = predictions["presence"].to_numpy(), predictions["mask_dice"].to_numpy()
    score = np.array(
        [
            [gated_scores(presence, mask_dice, Gate(t, a).draws(predictions)).mean() for t in THRESHOLDS]
            for a in MIN_AREAS
        ]
    )  # (areas, thresholds)
    # beyond the ends the last score goes on, or an end would be judged by fewer, hence luckier, neighbours
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
    return Gate(float(THRESHOLDS[threshold]), int(MIN_AREAS[area])), grid
