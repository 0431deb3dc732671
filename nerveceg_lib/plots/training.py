"""Figures of trainings: the learning curves, and how well P(nerve) is calibrated."""

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
