"""Figures of notebooks 2 and 3: the learning curves, and what a classifier predicts."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from nerveceg_lib.plots.style import NEUTRAL, PREDICTION, TRUTH


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


def presence_report(has_nerve: np.ndarray, probability: np.ndarray, threshold: float, bins: int = 8) -> Figure:
    """Plot a histogram of P(nerve) by true label, a reliability diagram, and the confusion matrix at `threshold`."""
    from sklearn.calibration import calibration_curve  # takes a second to import, for this figure only
    from sklearn.metrics import ConfusionMatrixDisplay

    has_nerve = np.asarray(has_nerve).astype(bool)
    figure, (histogram, calibration, confusion) = plt.subplots(1, 3, figsize=(12, 3.4))
    edges = np.linspace(0, 1, 21)
    histogram.hist(probability[~has_nerve], edges, color=NEUTRAL, alpha=0.7, label="no nerve")
    histogram.hist(probability[has_nerve], edges, color=TRUTH, alpha=0.7, label="nerve")
    histogram.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    histogram.set(xlabel="predicted P(nerve)", ylabel="frames", title="Predictions by true label")
    histogram.legend(loc="upper center", frameon=True, edgecolor="none")  # the threshold may run behind it
    observed, predicted = calibration_curve(has_nerve, probability, n_bins=bins, strategy="quantile")
    calibration.plot([0, 1], [0, 1], "--", color=NEUTRAL, linewidth=1, label="perfect")
    calibration.plot(predicted, observed, "o-", color=PREDICTION, label="classifier")
    calibration.set(xlabel="mean predicted P(nerve)", ylabel="observed share with a nerve", title="Calibration")
    calibration.legend()
    ConfusionMatrixDisplay.from_predictions(
        has_nerve, probability > threshold, labels=[False, True], display_labels=["no nerve", "nerve"],
        cmap="Blues", colorbar=False, ax=confusion,
    )  # fmt: skip
    confusion.set(xlabel="predicted", ylabel="true", title="Confusion (frames)")
    return figure
