"""Figures of notebook 4: the gate and the score."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nerveceg_lib.metrics import gated_scores
from nerveceg_lib.plots.style import NEUTRAL, PREDICTION, TRUTH


def gate_search(grid: pd.DataFrame, threshold: float, min_area: int) -> Figure:
    """Plot the validation score against the threshold, one line per minimum area, and mark the best gate."""
    figure, axis = plt.subplots(figsize=(6, 3.2))
    areas = sorted(grid["min_area"].unique())
    for area, colour in zip(areas, plt.cm.viridis(np.linspace(0.1, 0.9, len(areas))), strict=True):
        line = grid[grid["min_area"] == area]
        axis.plot(line["threshold"], line["score"], color=colour, linewidth=1.2, label=f"{area} px")
    axis.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axis.set(xlabel="threshold on P(nerve)", ylabel="score on validation patients")
    axis.set_title(f"Hard gate: P(nerve) > {threshold:.2f} and area of {min_area} px or more")
    axis.legend(title="minimum area", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def calibrated_gate(
    has_nerve: np.ndarray, mask_dice: np.ndarray, probability: dict[str, np.ndarray], optimum: float, bins: int = 8
) -> Figure:
    """Plot the reliability of two named probabilities, and the score against the threshold on the second.

    `optimum` is the theoretical best threshold; it is marked.
    """
    from sklearn.calibration import calibration_curve  # takes a second to import, for this figure only

    figure, (reliability, score) = plt.subplots(1, 2, figsize=(9, 3.4))
    reliability.plot([0, 1], [0, 1], "--", color=NEUTRAL, linewidth=1, label="perfect")
    for (name, values), colour in zip(probability.items(), (NEUTRAL, PREDICTION), strict=True):
        observed, predicted = calibration_curve(has_nerve, values, n_bins=bins, strategy="quantile")
        reliability.plot(predicted, observed, "o-", color=colour, label=name)
    reliability.set(xlabel="mean predicted P(nerve)", ylabel="observed share with a nerve", title="Calibration")
    reliability.legend()
    name, values = list(probability.items())[-1]
    thresholds = np.linspace(0, 1, 101)
    scores = [gated_scores(has_nerve, mask_dice, values > threshold).mean() for threshold in thresholds]
    score.plot(thresholds, scores, color=PREDICTION, label=name)
    score.axvline(optimum, color="black", linestyle="--", linewidth=1, label=f"optimum by theory: {optimum:.2f}")
    score.set(xlabel="threshold on P(nerve)", ylabel="competition score", title="Score on held-out patients")
    score.legend(loc="lower center")
    return figure


def score_bars(parts: dict[str, dict[str, float]]) -> Figure:
    """Plot the score of each named set of frames between the all-empty baseline and the oracle gate."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    bars_of = (
        ("all_empty", "all masks empty", "#BBBBBB"),
        ("score", "two stages", PREDICTION),
        ("oracle_gate", "oracle gate", TRUTH),
    )
    for offset, (name, label, colour) in enumerate(bars_of):
        values = [scores[name] for scores in parts.values()]
        bars = axis.bar(np.arange(len(parts)) + 0.27 * (offset - 1), values, 0.25, color=colour, label=label)
        axis.bar_label(bars, fmt="%.3f", fontsize=8)
    axis.set_xticks(range(len(parts)), list(parts))
    axis.set(ylim=(0, 1.08), ylabel="mean Dice per frame", title="Competition score")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
