"""Figures of the notebooks, in one style. Truth is always blue, prediction always orange (Okabe-Ito)."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib_inline.backend_inline import set_matplotlib_formats

from nerveceg_lib.files import write_atomically
from nerveceg_lib.metrics import gated_scores

TRUTH, PREDICTION, NEUTRAL, HELDOUT = "#56B4E9", "#E69F00", "#666666", "#009E73"
METADATA = {"Software": None}  # else every matplotlib release changes every stored picture


def use_style(inline: str = "png") -> None:
    """Set the kit's figure style for this notebook; "jpeg" keeps one with many photographs small. Files stay PNG."""
    set_matplotlib_formats(inline, **({"metadata": METADATA} if inline == "png" else {"pil_kwargs": {"quality": 85}}))
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.labelsize": 9,
            "legend.frameon": False,
            "image.cmap": "gray",
        }
    )


def save(figure: Figure, path: Path) -> None:
    """Save a figure beside the stage's other artefacts, whole or not at all."""
    write_atomically(path, lambda unfinished: figure.savefig(unfinished, metadata=METADATA))


def frame_grid(
    frames: Sequence[np.ndarray],
    titles: Sequence[str],
    truths: Sequence[np.ndarray] | None = None,
    predictions: Sequence[np.ndarray] | None = None,
    heatmaps: Sequence[np.ndarray] | None = None,
    columns: int = 4,
) -> Figure:
    """Frames (H, W) uint8 with outlines of true and predicted masks, and heat maps (0..1) laid over."""
    rows = -(-len(frames) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 1.9 * rows), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for place, (axis, frame, title) in enumerate(zip(axes.flat, frames, titles, strict=False)):
        axis.imshow(frame, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8)
        if heatmaps is not None:
            heat = heatmaps[place]
            axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * np.sqrt(heat))
        for masks, colour in ((truths, TRUTH), (predictions, PREDICTION)):
            if masks is not None and np.any(masks[place]):
                axis.contour(masks[place], levels=[0.5], colors=[colour], linewidths=1.5)
    _outline_legend(figure, truths is not None, predictions is not None)
    return figure


def data_overview(index: pd.DataFrame) -> Figure:
    """Mask area, mask centroids and prevalence per patient of the labelled frames."""
    labelled = index[index["set"] == "train"]
    positive = labelled[labelled["presence"] == 1]
    figure, (area, place, patients) = plt.subplots(1, 3, figsize=(12, 3.4))
    area.hist(positive["area"], bins=40, color=TRUTH)
    area.set(xlabel="mask area (px)", ylabel="frames", title="Mask area of positive frames")
    place.scatter(positive["centroid_x"], positive["centroid_y"], s=4, color=TRUTH, alpha=0.5)
    place.set(xlim=(0, 580), ylim=(420, 0), xlabel="column (px)", ylabel="row (px)", title="Mask centroids")
    place.set_aspect("equal")
    share = labelled.groupby("subject")["presence"].mean().sort_values()
    held = labelled.groupby("subject")["split"].first().loc[share.index] == "heldout"
    patients.bar(range(len(share)), 100 * share, color=np.where(held, HELDOUT, NEUTRAL))
    patients.axhline(100 * labelled["presence"].mean(), color="black", linestyle="--", linewidth=1)
    patients.set(xlabel="patients, sorted", ylabel="frames with a nerve (%)", title="Prevalence per patient")
    handles = [Line2D([], [], color=c, linewidth=6) for c in (NEUTRAL, HELDOUT)]
    patients.legend(handles, ["training", "held out"], loc="upper left")
    return figure


def learning_curves(curves: pd.DataFrame, metric_name: str) -> Figure:
    """Loss and validation metric against the epoch."""
    figure, (loss, metric) = plt.subplots(1, 2, figsize=(9, 3))
    loss.plot(curves["epoch"], curves["loss"], "o-", color=NEUTRAL, label="training")
    loss.plot(curves["epoch"], curves["val_loss"], "o-", color=PREDICTION, label="validation")
    loss.set(xlabel="epoch", ylabel="loss", yscale="log", title="Loss")  # the first epochs' would flatten the rest
    loss.legend()
    metric.plot(curves["epoch"], curves["val_metric"], "o-", color=PREDICTION)
    metric.set(xlabel="epoch", ylabel=metric_name, title=f"{metric_name} on validation patients")
    for axis in (loss, metric):
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def presence_report(presence: np.ndarray, probability: np.ndarray, threshold: float, bins: int = 8) -> Figure:
    """Histogram by true label, reliability diagram, and confusion matrix at `threshold`."""
    from sklearn.calibration import calibration_curve  # a second to import, for this figure alone

    presence = np.asarray(presence).astype(bool)
    figure, (histogram, calibration, confusion) = plt.subplots(1, 3, figsize=(12, 3.4))
    edges = np.linspace(0, 1, 21)
    histogram.hist(probability[~presence], edges, color=NEUTRAL, alpha=0.7, label="no nerve")
    histogram.hist(probability[presence], edges, color=TRUTH, alpha=0.7, label="nerve")
    histogram.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    histogram.set(xlabel="predicted P(nerve)", ylabel="frames", title="Predictions by true label")
    histogram.legend(loc="upper center")
    observed, predicted = calibration_curve(presence, probability, n_bins=bins, strategy="quantile")
    calibration.plot([0, 1], [0, 1], "--", color=NEUTRAL, linewidth=1, label="perfect")
    calibration.plot(predicted, observed, "o-", color=PREDICTION, label="classifier")
    calibration.set(xlabel="mean predicted P(nerve)", ylabel="observed share with a nerve", title="Calibration")
    calibration.legend()
    _confusion(confusion, presence, probability > threshold)
    return figure


def gate_search(grid: pd.DataFrame, threshold: float, min_area: int) -> Figure:
    """Validation score against the threshold, one line a minimum area; the chosen gate is marked."""
    figure, axis = plt.subplots(figsize=(6, 3.2))
    areas = sorted(grid["min_area"].unique())
    for area, colour in zip(areas, plt.cm.viridis(np.linspace(0.1, 0.9, len(areas))), strict=True):
        line = grid[grid["min_area"] == area]
        axis.plot(line["threshold"], line["score"], color=colour, linewidth=1.2, label=f"{area} px")
    axis.axvline(threshold, color="black", linestyle="--", linewidth=1)
    axis.set(xlabel="threshold on P(nerve)", ylabel="score on validation patients")
    axis.set_title(f"Gate: P(nerve) > {threshold:.2f} and area of {min_area} px or more")
    axis.legend(title="minimum area", fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def calibrated_gate(
    presence: np.ndarray, mask_dice: np.ndarray, probability: dict[str, np.ndarray], optimum: float, bins: int = 8
) -> Figure:
    """Reliability of each named probability, and the score against the threshold on the last; `optimum` is marked."""
    from sklearn.calibration import calibration_curve  # a second to import, for this figure alone

    figure, (reliability, score) = plt.subplots(1, 2, figsize=(9, 3.4))
    reliability.plot([0, 1], [0, 1], "--", color=NEUTRAL, linewidth=1, label="perfect")
    for (name, values), colour in zip(probability.items(), (NEUTRAL, PREDICTION), strict=True):
        observed, predicted = calibration_curve(presence, values, n_bins=bins, strategy="quantile")
        reliability.plot(predicted, observed, "o-", color=colour, label=name)
    reliability.set(xlabel="mean predicted P(nerve)", ylabel="observed share with a nerve", title="Calibration")
    reliability.legend()
    name, values = list(probability.items())[-1]
    thresholds = np.linspace(0, 1, 101)
    scores = [gated_scores(presence, mask_dice, values > threshold).mean() for threshold in thresholds]
    score.plot(thresholds, scores, color=PREDICTION, label=name)
    score.axvline(optimum, color="black", linestyle="--", linewidth=1, label=f"optimum by theory: {optimum:.2f}")
    score.set(xlabel="threshold on P(nerve)", ylabel="competition score", title="Score on held-out patients")
    score.legend(loc="lower center")
    return figure


def score_bars(parts: dict[str, dict[str, float]]) -> Figure:
    """The score of each named set of frames beside its all-empty baseline and its oracle-gate ceiling."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    kinds = (
        ("all_empty", "all masks empty", "#BBBBBB"),
        ("score", "two stages", PREDICTION),
        ("oracle_gate", "oracle gate", TRUTH),
    )
    for offset, (kind, label, colour) in enumerate(kinds):
        values = [scores[kind] for scores in parts.values()]
        bars = axis.bar(np.arange(len(parts)) + 0.27 * (offset - 1), values, 0.25, color=colour, label=label)
        axis.bar_label(bars, fmt="%.3f", fontsize=8)
    axis.set_xticks(range(len(parts)), list(parts))
    axis.set(ylim=(0, 1.08), ylabel="mean Dice per frame", title="Competition score")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def dice_against_cost(table: pd.DataFrame) -> Figure:
    """One line a network, the cheapest (`gmacs`) on top: `dice` with its interval (`dice_low`, `dice_high`)."""
    figure, axis = plt.subplots(figsize=(7, 0.45 * len(table) + 1))
    table = table.sort_values("gmacs", ascending=False)
    error = [table["dice"] - table["dice_low"], table["dice_high"] - table["dice"]]
    places = range(len(table))
    axis.errorbar(table["dice"], places, xerr=error, fmt="o", color=PREDICTION, ecolor=NEUTRAL, capsize=3)
    axis.set_yticks(places, [f"{row.name} ({row.gmacs:.2g})" for row in table.itertuples()])
    axis.set(xlabel="Dice on held-out positive frames", ylabel="network (billion multiply-adds)")
    axis.set_title("Accuracy with 95% intervals over patients, cheapest network first")
    axis.set_ylim(-0.6, len(table) - 0.4)
    return figure


def sweep_results(names: pd.Series, values: pd.Series, label: str, by: str) -> Figure:
    """One line a combination (`names`, of the parameters `by`), one dot a run, a bar at their mean, the highest on top.

    `names` and `values` hold one entry a run; `label` says what the values are.
    """
    means = values.groupby(names).mean().sort_values()
    figure, axis = plt.subplots(figsize=(7, 0.35 * len(means) + 1.2))
    places = names.map({name: place for place, name in enumerate(means.index)})
    axis.plot(values, places, "o", color=PREDICTION, alpha=0.7, label="run")
    axis.plot(means, range(len(means)), "|", color="black", markersize=14, markeredgewidth=2, label="mean")
    axis.set_yticks(range(len(means)), means.index)
    axis.set(xlabel=label, ylim=(-0.6, len(means) - 0.4))
    axis.set_title("\n".join([f"{label} of {len(values)} runs", *([f"by {by}"] if by else [])]))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def histogram(values: np.ndarray, xlabel: str, title: str) -> Figure:
    """Histogram of one figure a frame in 0..1, with its median."""
    figure, axis = plt.subplots(figsize=(6, 2.8))
    axis.hist(values, np.linspace(0, 1, 41).tolist(), color=PREDICTION)
    axis.axvline(np.median(values), color="black", linestyle="--", linewidth=1, label=f"median {np.median(values):.3f}")
    axis.set(xlabel=xlabel, ylabel="frames", title=title)
    axis.legend()
    return figure


def _confusion(axis: Axes, truth: np.ndarray, predicted: np.ndarray) -> None:
    counts = np.array([[np.sum((truth == t) & (predicted == p)) for p in (0, 1)] for t in (0, 1)])
    axis.imshow(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1.4)
    for row, column in np.ndindex(2, 2):
        axis.text(column, row, f"{counts[row, column]}", ha="center", va="center", fontsize=12)
    axis.set_xticks((0, 1), ["blank", "nerve"])
    axis.set_yticks((0, 1), ["no nerve", "nerve"])
    axis.set(xlabel="predicted", ylabel="true", title="Confusion (frames)")


def _outline_legend(figure: Figure, truth: bool, prediction: bool) -> None:
    shown = [(TRUTH, "true outline")] * truth + [(PREDICTION, "predicted outline")] * prediction
    if shown:
        handles = [Line2D([], [], color=colour) for colour, _ in shown]
        labels = [label for _, label in shown]
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
