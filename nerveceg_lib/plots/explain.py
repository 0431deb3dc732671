"""Explanation maps side by side, for notebooks 5 and 9 and for `nerveceg explain`."""

from collections.abc import Sequence

import cv2
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nerveceg_lib.explain import METHODS
from nerveceg_lib.plots.style import TRUTH

COLOUR_MAPS = {"signed": "managua_r", "evidence": "inferno", "picture": "gray"}  # perceptually uniform


def map_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    maps: dict[str, np.ndarray],
    outlines: Sequence[np.ndarray] | None = None,
    outlined: str = "true outline",
    colour: str = TRUTH,
) -> Figure:
    """Draw a grid with one row per frame and one column per explanation method.

    A map is laid over its frame, more opaque where it is stronger; signed maps run from cyan (against) to yellow (for).
    The maps of one method share one scale, so the rows can be compared.

    Args:
        images: frames (H, W), uint8, drawn in the first column.
        titles: one title per frame.
        maps: the maps (N, h, w) of each method; its name may be followed by a space and a number.
        outlines: masks (H, W), outlined in every column.
        outlined, colour: what these are, for the legend, and their colour.
    """
    shape = len(images), 1 + len(maps)
    figure, axes = plt.subplots(*shape, figsize=(1.75 * shape[1], 1.55 * shape[0] + 0.3), squeeze=False)
    for row, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes[row, 0].imshow(image, cmap="gray", vmin=0, vmax=255)
        axes[row, 0].set_title(title, fontsize=7)
    for column, (name, stack) in enumerate(maps.items(), start=1):
        map_type = METHODS[name.split(" ")[0]].map_type
        # the scale is a high quantile, because a few extreme pixels would dim all the others
        scale = max(np.quantile(np.abs(stack), 0.995), np.finfo(np.float32).tiny)
        axes[0, column].set_title("-\n".join(name.rsplit("-", 1)) if len(name) > 15 else name, fontsize=7)
        for row, image in enumerate(images):
            resized = cv2.resize(stack[row] / scale, image.shape[::-1], interpolation=cv2.INTER_LINEAR)
            _draw_map(axes[row, column], image, resized, map_type)
    for (row, _), axis in np.ndenumerate(axes):
        axis.axis("off")
        if outlines is not None and np.any(outlines[row]):
            axis.contour(outlines[row], levels=[0.5], colors=[colour], linewidths=1)
    if outlines is not None:
        figure.legend([Line2D([], [], color=colour)], [outlined], loc="outside lower center", fontsize=8)
    return figure


def _draw_map(axis: Axes, image: np.ndarray, values: np.ndarray, map_type: str) -> None:
    lowest = 0 if map_type == "evidence" else -1
    values = np.clip(values, lowest, 1)
    if map_type == "picture":
        axis.imshow(values, cmap=COLOUR_MAPS[map_type], vmin=lowest, vmax=1)
        return
    axis.imshow(image, cmap="gray", vmin=0, vmax=255)
    axis.imshow(values, cmap=COLOUR_MAPS[map_type], vmin=lowest, vmax=1, alpha=0.75 * np.sqrt(np.abs(values)))
