"""One style for all figures. Truth is always blue, prediction always orange (Okabe & Ito's colours)."""

from collections.abc import Callable, Sequence
from inspect import getsource
from io import BytesIO
from pathlib import Path
from textwrap import dedent

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Code, display
from IPython.display import Image as EmbeddedImage
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from nerveceg_lib.runtime.io import write_atomically

TRUTH, PREDICTION, NEUTRAL, HELDOUT = "#56B4E9", "#E69F00", "#666666", "#009E73"


def use_style() -> None:
    """Set the style of all figures."""
    plt.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.h_pad": 0.07,  # inches; with matplotlib's 0.04 a title touches the edge
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": 10,
            "axes.labelsize": 9,
            "legend.frameon": False,
            "image.cmap": "gray",
        }
    )


def show(figure: Figure, path: Path) -> None:
    """Display a figure in the notebook and save it as PNG. It is rendered once for both, and closed.

    The notebook keeps JPEG if that takes less than half of the space, as for photographs; charts stay sharp. A figure
    of 200 dpi is shown at the size that it would have at 100.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    plt.close(figure)
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    write_atomically(path, lambda unfinished: picture.save(unfinished, "PNG"))
    png, jpeg = path.read_bytes(), BytesIO()
    picture.save(jpeg, "JPEG")
    display(EmbeddedImage(jpeg.getvalue() if jpeg.tell() < len(png) / 2 else png, retina=figure.dpi > 100))


def show_source(*parts: Callable) -> None:
    """Display the code of functions, methods and classes in a notebook, each under its full name."""
    for part in parts:
        display(Code(f"# {part.__module__}.{part.__qualname__}\n{dedent(getsource(part))}", language="python"))


def frame_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    truths: Sequence[np.ndarray] | None = None,
    predictions: Sequence[np.ndarray] | None = None,
    heatmaps: Sequence[np.ndarray] | None = None,
    columns: int = 4,
) -> Figure:
    """Draw images (H, W) in 0 to 255, with the outlines of true and predicted masks (H, W) and heat maps in 0 to 1."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(2.2 * columns, 1.75 * rows + 0.4), squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    for number, (axis, image, title) in enumerate(zip(axes.flat, images, titles, strict=False)):
        axis.imshow(image, cmap="gray", vmin=0, vmax=255)
        axis.set_title(title, fontsize=8)
        if heatmaps is not None:
            heat = heatmaps[number]
            axis.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.75 * np.sqrt(heat))
        for masks, colour in ((truths, TRUTH), (predictions, PREDICTION)):
            if masks is not None and np.any(masks[number]):
                axis.contour(masks[number], levels=[0.5], colors=[colour], linewidths=1.5)
    _outline_legend(figure, truths is not None, predictions is not None)
    return figure


def _outline_legend(figure: Figure, truth: bool, prediction: bool) -> None:
    entries = [(TRUTH, "true outline")] * truth + [(PREDICTION, "predicted outline")] * prediction
    if entries:
        handles = [Line2D([], [], color=colour) for colour, _ in entries]
        labels = [label for _, label in entries]
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9)
