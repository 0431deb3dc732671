"""The figures of notebook 7. Each arm has one colour and marker everywhere (Okabe-Ito)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from nerveceg_lib.plots import NEUTRAL, PREDICTION
from nerveceg_lib.verdict import ALL_EMPTY

STYLES = {  # arm -> colour, line style, marker
    "one stage, bce": ("#999999", "--", "o"),
    "one stage, dice": ("#CC79A7", "--", "s"),
    "one stage, tversky": ("#009E73", "--", "^"),
    "one stage, bce_dice": ("#0072B2", "--", "D"),
    "one stage, bce_dice-balanced": ("#56B4E9", "--", "x"),
    "efficientnet-b4, hard gate": ("#D55E00", "-", "v"),
    "second-look, fused gate": (PREDICTION, "-", "P"),
    "second-look, oracle gate": ("#000000", ":", ""),
    ALL_EMPTY: ("#BBBBBB", ":", ""),
}
ORDER = ["phantom, easy", "phantom, medium", "phantom, hard"]


def bias_curves(table: pd.DataFrame) -> Figure:
    """Score (above) and blank rate on positives (below) against the share of empty frames, one column a data set.

    `table` as `verdict.summarise` makes it; arms after clean-up.
    """
    table = table[table["cleaned"] == 1]
    names = sorted(set(table["data"]), key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    figure, axes = plt.subplots(2, len(names), figsize=(3.4 * len(names) + 2.4, 5.6), squeeze=False, sharey="row")
    for (top, bottom), name in zip(axes.T, names, strict=True):
        for arm, (colour, line, marker) in STYLES.items():
            rows = table[(table["data"] == name) & (table["arm"] == arm)].sort_values("empty_share")
            style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 5, "label": arm}
            top.plot(100 * rows["empty_share"], rows["score"], **style)
            top.fill_between(
                100 * rows["empty_share"], rows["low"], rows["high"], color=colour, alpha=0.12, linewidth=0
            )
            if "oracle" not in arm and arm != ALL_EMPTY:
                bottom.plot(100 * rows["empty_share"], 100 * rows["blank_rate"], **style)
        top.set_title(name)
        bottom.set_xlabel("frames without a nerve (%)")
    axes[0, 0].set_ylabel("competition score")
    axes[1, 0].set(ylabel="nerves left blank (%)", ylim=(-3, 103))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return figure


def gains(table: pd.DataFrame, title: str) -> Figure:
    """Gain of each arm over the best one-stage arm, with paired 95% intervals; filled: after clean-up.

    `table` holds one setting of what `verdict.summarise` makes.
    """
    order = table[table["cleaned"] == 1].sort_values("gain")["arm"].tolist()
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(order) + 1.2))
    for cleaned, face in ((0, "white"), (1, None)):
        rows = table[table["cleaned"] == cleaned].set_index("arm").loc[order]
        places = np.arange(len(order)) + (0.12 if cleaned else -0.12)
        error = [rows["gain"] - rows["gain_low"], rows["gain_high"] - rows["gain"]]
        colours = [STYLES.get(arm, (NEUTRAL,))[0] for arm in order]
        axis.errorbar(
            rows["gain"], places, xerr=error, fmt="none", elinewidth=1.2,
            ecolor=colours,  # type: ignore[arg-type]  # one a bar, of which the stub knows nothing
        )  # fmt: skip
        axis.scatter(rows["gain"], places, c=face or colours, edgecolors=colours, s=26, zorder=3)
    axis.axvline(0, color="black", linewidth=1)
    axis.set_yticks(range(len(order)), order)
    best = table["best_one_stage"].iloc[0]
    axis.set(xlabel=f"score minus that of one stage, {best}, after clean-up", title=title)
    return figure


def reliability_curves(tables: dict[str, pd.DataFrame], arms: list[str]) -> Figure:
    """Observed share of nerves against P(nerve) of some `arms`; each named table is of `verdict.reliability`."""
    figure, axes = plt.subplots(1, len(tables), figsize=(4.4 * len(tables), 3.8), squeeze=False, sharey=True)
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        axis.plot([0, 1], [0, 1], "--", color=NEUTRAL, linewidth=1, label="perfect")
        for arm in arms:
            rows = table[table["arm"] == arm]
            colour, line, marker = STYLES.get(arm, (NEUTRAL, "-", "o"))
            axis.plot(rows["predicted"], rows["observed"], linestyle=line, marker=marker, color=colour, label=arm)
        axis.set(xlabel="mean stated P(nerve)", title=name)
    axes[0, 0].set_ylabel("observed share with a nerve")
    axes[0, 0].legend(loc="upper left", fontsize=8)
    return figure
