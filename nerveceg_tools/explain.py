"""Explain one frame of a reader's own: a picture with both probabilities, the mask, and a map per method."""

from pathlib import Path

import cv2
import numpy as np

from nerveceg_lib import plots
from nerveceg_lib.data.cache import resize_frames
from nerveceg_lib.data.datasets import to_input
from nerveceg_lib.explain import METHODS, explain
from nerveceg_lib.inference.gate import load_gate
from nerveceg_lib.inference.postprocessing import CLEANUPS
from nerveceg_lib.inference.two_stage import load_presence_network, load_system, prediction_table, segment
from nerveceg_lib.models.checkpoints import load_checkpoint
from nerveceg_lib.plots.explain import map_grid
from nerveceg_lib.rle import decode
from nerveceg_lib.runtime import process
from nerveceg_lib.runtime.errors import one_of
from nerveceg_lib.runtime.folders import NOTEBOOKS, require
from nerveceg_lib.runtime.io import write_atomically
from nerveceg_tools.importers import fit_frame, read_image

OF_THE_SEGMENTER = ("seg-grad-cam", "attention-gate")


def explain_frame(path: Path, out: Path, run: str, methods: list[str]) -> str:
    """Write the maps of one frame to the PNG `out`, and return what the networks of `run` say about the frame.

    path: a frame of any size and colour, which is scaled as `predict` scales it. methods: names in METHODS; those of
    OF_THE_SEGMENTER explain the segmenter, all others the network that gives P. Raises InputError for a frame that
    cannot be read, a missing run, unknown methods, and methods that are not defined for the run's network.
    """
    for method in methods:
        one_of("--method", method, METHODS)
    process.configure(seed=0)
    gate, cleanup, setup = load_gate(run)
    system, _ = load_system(**setup)
    frame = fit_frame(read_image(path, "L"), cv2.INTER_AREA)
    predictions = segment(system, [frame[None]], clean=CLEANUPS[cleanup])  # also if the first stage sees nothing
    table = prediction_table(predictions, np.arange(1))
    keep, probabilities = bool(gate.keep(table)[0]), (table["probability"].iloc[0], gate.probability(table)[0])
    presence, size = load_presence_network(setup["runs"][0], setup["gate_from"])
    segmenter, metadata = load_checkpoint(require(setup["runs"][0], NOTEBOOKS[2], "segmenter.pt"))
    maps = {}
    for method in methods:
        network, shape = (segmenter, metadata["size"]) if method in OF_THE_SEGMENTER else (presence, size)
        maps[method] = explain(
            network, to_input(resize_frames(frame[None], np.arange(1), tuple(shape))), method
        ).numpy()
    mask = decode(table["pixels"].iloc[0]) * keep
    verdict = f"mask of {mask.sum():,} px" if keep else "blank mask"
    statement = "first stage {:.2f}, gate {:.2f}\n".format(*probabilities) + verdict
    plots.use_style()
    figure = map_grid([frame], [statement], maps, [mask], outlined="predicted outline", colour=plots.PREDICTION)
    write_atomically(out, lambda unfinished: figure.savefig(unfinished, format="png"))
    return statement
