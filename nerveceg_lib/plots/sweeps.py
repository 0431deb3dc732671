"""The figure of a sweep: runs compared."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from nerveceg_lib.plots.style import PREDICTION


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
