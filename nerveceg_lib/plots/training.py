"""Figures of trainings: the learning curves, how well P(nerve) is calibrated, and the runs of a sweep compared."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from nerveceg_lib.plots.style import NEUTRAL, PREDICTION


def learning_curves(curves: pd.DataFrame, metric_name: str) -> Figure:
    """Plot loss and validation metric against the epoch; `curves` is what `training.fit` returns."""
    figure, (loss, metric) = plt.subplots(1, 2, figsize=(9, 3))
    loss.plot(curves["epoch"], curves["loss"], "o-", color=NEUTRAL, label="training")
    loss.plot(curves["epoch"], curves["val_loss"], "o-", color=PREDICTION, label="validation")
    # on a linear axis the first epochs would flatten all others
    loss.set(xlabel="epoch", ylabel="loss", yscale="log", title="Loss")
    loss.yaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter=NullFormatter())
    loss.legend()
    metric.plot(curves["epoch"], curves["val_metric"], "o-", color=PREDICTION)
    metric.set(xlabel="epoch", ylabel=metric_name, title=f"{metric_name} on validation patients")
    for axis in (loss, metric):
        axis.xaxis.get_major_locator().set_params(integer=True)
    return figure


def reliability(axis: Axes, has_nerve: np.ndarray, probability: np.ndarray, label: str, colour: str) -> None:
    """Plot the observed share of nerves against P(nerve), in eight bins with about equally many frames."""
    from sklearn.calibration import calibration_curve  # takes a second to import, for this figure only

    if not axis.lines:
        axis.plot([0, 1], [0, 1], "--", color=NEUTRAL, linewidth=1, label="perfect")
        axis.set(xlabel="mean predicted P(nerve)", ylabel="observed share with a nerve", title="Calibration")
    observed, predicted = calibration_curve(has_nerve, probability, n_bins=8, strategy="quantile")
    axis.plot(predicted, observed, "o-", color=colour, label=label)
    axis.legend()


def sweep_results(names: pd.Series, values: pd.Series, label: str, by: str) -> Figure:
    """Plot one line per combination of the parameters `by`, one dot per run and a bar at their mean, the best on top.

    `names` (of the combination) and `values` have one entry per run; `label` says what the values are.
    """
    means = values.groupby(names).mean().sort_values()
    figure, axis = plt.subplots(figsize=(7, 0.35 * len(means) + 1.2))
    rows = names.map({name: row for row, name in enumerate(means.index)})
    axis.plot(values, rows, "o", color=PREDICTION, alpha=0.7, label="run")
    axis.plot(means, range(len(means)), "|", color="black", markersize=14, markeredgewidth=2, label="mean")
    axis.set_yticks(range(len(means)), means.index)
    axis.set(xlabel=label, ylim=(-0.6, len(means) - 0.4))
    axis.set_title("\n".join([f"{label} of {len(values)} runs", *([f"by {by}"] if by else [])]))
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
