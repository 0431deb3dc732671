"""Figures of notebook 5: any maps of any frames side by side, and how far the maps can be trusted."""

from collections.abc import Iterable, Sequence
from itertools import cycle, product

import cv2
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nerveceg_lib.explain import METHODS
from nerveceg_lib.plots import NEUTRAL, TRUTH

COLOURS = {"signed": "managua_r", "evidence": "inferno", "picture": "gray"}  # perceptually uniform
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")


def gallery(
    frames: Sequence[np.ndarray],
    titles: Sequence[str],
    maps: dict[str, np.ndarray],
    truths: Sequence[np.ndarray] | None = None,
) -> Figure:
    """One row a frame (H, W) uint8 under its title, one column a method of `maps` (name -> (frames, h, w)).

    The maps of one method share one scale, so rows can be compared; signed ones go from cyan (against) to yellow (for).
    Maps are laid over the frame, the thicker the stronger. `truths` (H, W) are outlined, in every column.
    """
    shape = len(frames), 1 + len(maps)
    figure, axes = plt.subplots(*shape, figsize=(1.75 * shape[1], 1.55 * shape[0] + 0.3), squeeze=False)
    for row, (frame, title) in enumerate(zip(frames, titles, strict=True)):
        axes[row, 0].imshow(frame, cmap="gray", vmin=0, vmax=255)
        axes[row, 0].set_title(title, fontsize=7)
    for column, (name, stack) in enumerate(maps.items(), start=1):
        kind = METHODS[name.split(" ")[0]].kind
        scale = max(np.quantile(np.abs(stack), 0.995), np.finfo(np.float32).tiny)  # a few pixels do not dim the rest
        axes[0, column].set_title("-\n".join(name.rsplit("-", 1)) if len(name) > 15 else name, fontsize=7)
        for row, frame in enumerate(frames):
            value = cv2.resize(stack[row] / scale, frame.shape[::-1], interpolation=cv2.INTER_LINEAR)
            _draw(axes[row, column], frame, value, kind)
    for row, axis in ((place[0], axis) for place, axis in np.ndenumerate(axes)):
        axis.axis("off")
        if truths is not None and np.any(truths[row]):
            axis.contour(truths[row], levels=[0.5], colors=[TRUTH], linewidths=1)
    if truths is not None:
        figure.legend([Line2D([], [], color=TRUTH)], ["true outline"], loc="outside lower center", fontsize=8)
    return figure


def on_frame(map_: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """A map (h, w) of evidence at the frame's size (H, W), from 0 to 1."""
    full = cv2.resize(map_, frame.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return full / max(full.max(), np.finfo(np.float32).tiny)


def _draw(axis, frame: np.ndarray, value: np.ndarray, kind: str) -> None:
    low = {"evidence": 0, "signed": -1, "picture": -1}[kind]
    value = np.clip(value, low, 1)
    if kind == "picture":
        axis.imshow(value, cmap=COLOURS[kind], vmin=low, vmax=1)
        return
    axis.imshow(frame, cmap="gray", vmin=0, vmax=255)
    axis.imshow(value, cmap=COLOURS[kind], vmin=low, vmax=1, alpha=0.75 * np.sqrt(np.abs(value)))


def faithfulness_curves(curves: dict[str, tuple[np.ndarray, np.ndarray]], score: str) -> Figure:
    """Deletion and insertion curves by method; `score` says what is on the upright axis."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
    for (name, pair), style in zip(curves.items(), _styles(curves), strict=True):
        for axis, curve in zip(axes, pair, strict=True):
            axis.plot(np.linspace(0, 100, len(curve)), curve, label=name, linewidth=1.4, **style)
    axes[0].set(xlabel="pixels taken out, strongest first (%)", ylabel=score, title="Deletion: lower is better")
    axes[1].set(xlabel="pixels put in, strongest first (%)", title="Insertion: higher is better")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def cascade(table: pd.DataFrame, limit: float) -> Figure:
    """Similarity of each method's maps (rows) to those of networks with ever more random layers (columns, 0 to 1)."""
    figure, axis = plt.subplots(figsize=(8, 3.4))
    for (name, line), style in zip(table.iterrows(), _styles(table.index), strict=True):
        axis.plot([0, *(100 * table.columns)], [1, *line], marker="o", markersize=3, linewidth=1.4, label=name, **style)
    axis.axhline(limit, color=NEUTRAL, linewidth=1)
    axis.set(xlabel="layers with random weights, from the output (%)", ylabel="rank correlation with the map")
    axis.set_title("Sanity: a map that stays alike does not show what was learned")
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _styles(names: Iterable[str]) -> list[dict]:
    """Line styles that stay apart: methods in colour, what they are compared with in dotted greys."""
    methods = cycle({"linestyle": line, "color": colour} for line, colour in product(("-", "--"), OKABE_ITO))
    rivals = cycle({"linestyle": ":", "color": grey} for grey in ("0.0", "0.4", "0.65"))
    return [next(methods if name in METHODS else rivals) for name in names]
