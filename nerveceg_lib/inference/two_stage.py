"""Both stages joined: presence first, masks for the frames that may hold a nerve; in batches and constant memory.

Reading and resizing, the networks, and bringing masks back to full size overlap: two threads work a few batches ahead
of and behind the networks, which release Python's lock while they compute.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from torch import nn

from nerveceg_lib import metrics, rle
from nerveceg_lib.data.cache import FrameCache
from nerveceg_lib.inference.ensemble import Ensemble, PresenceEnsemble, Size, full_size, mask_probability
from nerveceg_lib.models.checkpoints import load_checkpoint
from nerveceg_lib.runtime.errors import InputError, one_of
from nerveceg_lib.runtime.folders import NOTEBOOKS, require
from nerveceg_lib.runtime.process import ahead

GATE_NETWORKS = ("classifier", "segmenter")
MASK_EVIDENCE = ("peak", "inside", "entropy", "soft_dice")


class Prediction(NamedTuple):
    """P(nerve) of a frame, its mask (uint8 0 and 1, in the frame's shape) and its `mask_evidence`.

    Mask and evidence are None if the second stage did not see the frame.
    """

    probability: float
    mask: np.ndarray | None
    evidence: dict[str, float] | None = None


class System(Protocol):
    """Both stages joined: `TwoNetworks` or `OneNetwork`."""

    def read(self, images: np.ndarray) -> object:
        """Turn uint8 images (B, H, W) into the inputs of a call."""

    def __call__(self, inputs, /, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return P(nerve) (B,), which of them exceed `threshold` (B,), and the masks of those frames.

        Masks are probabilities (networks, frames above the threshold, h, w), or None if there is no such frame.
        """


class TwoNetworks:
    """A classifier and a segmenter. The second stage sees only frames that pass the first."""

    def __init__(self, presence: PresenceEnsemble, segmenter: Ensemble):
        self.presence, self.segmenter = presence, segmenter

    def read(self, images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the inputs of both stages."""
        batch = self.presence.read(images)
        return batch, batch if self.segmenter.size == self.presence.size else self.segmenter.read(images)

    def __call__(self, inputs: tuple[torch.Tensor, torch.Tensor], threshold: float):
        """See `System`."""
        presence_input, segmenter_input = inputs
        probability = self.presence(presence_input).cpu().double()  # the threshold's precision
        passes = probability > threshold
        masks = self.segmenter.each(segmenter_input[passes]).cpu() if passes.any() else None
        return probability, passes, masks


class OneNetwork:
    """Segmenters with a presence head. Their decoder sees only the frames that pass the first stage."""

    def __init__(self, ensemble: Ensemble):
        self.ensemble, self.read = ensemble, ensemble.read

    def __call__(self, batch: torch.Tensor, threshold: float):
        """See `System`. Presence is averaged over the networks, and each network decodes what it encoded."""
        masks = []
        with self.ensemble.computing():
            views = list(self.ensemble.views(batch))
            encoded = [network.encode(image) for network, image, _ in views]
            probability = torch.stack([logit for _, logit in encoded]).float().sigmoid().mean(0).cpu().double()
            passes = probability > threshold
            for (network, image, mirrored), (levels, _) in zip(views, encoded, strict=True):
                if passes.any():
                    logits = network.decode(image[passes], [features[passes] for features in levels])
                    masks.append(mask_probability(logits, mirrored))
        return probability, passes, torch.stack(masks).cpu() if masks else None


def segment(
    system: System,
    batches: Iterable,
    threshold: float = -1.0,
    load: Callable = np.asarray,
    clean: Callable = np.asarray,
) -> Iterator[Prediction]:
    """Yield the predictions of frames in their order.

    Args:
        system: both stages.
        batches: anything that `load` turns into uint8 images (B, H, W).
        threshold: frames with P(nerve) above it get a mask; the default gives every frame one.
        load: turns one of `batches` into images, in a thread.
        clean: the last step for each mask; see `postprocessing.CLEANUPS`.
    """

    def read(batch) -> tuple:
        images = load(batch)
        return images.shape[1:], system.read(images)

    outputs = ((shape, *system(inputs, threshold)) for shape, inputs in ahead(read, batches))
    for predictions in ahead(partial(_finish, clean), outputs):
        yield from predictions


def _finish(clean: Callable, output: tuple) -> list[Prediction]:
    """Turn what a system returned for one batch into a prediction per frame."""
    shape, probability, passes, masks = output
    if masks is None:
        return [Prediction(p, None) for p in probability.tolist()]
    # evidence is averaged over the networks: a mean of maps is less certain than each of them, and gates are fitted to
    # single networks
    evidence = {name: values.mean(0).tolist() for name, values in mask_evidence(masks).items()}
    mean_masks = masks.mean(0).numpy()
    predictions, number = [], 0
    for p, passed in zip(probability.tolist(), passes.tolist(), strict=True):
        if not passed:
            predictions.append(Prediction(p, None))
            continue
        mask = clean(full_size(mean_masks[number], shape))
        predictions.append(Prediction(p, mask, {name: values[number] for name, values in evidence.items()}))
        number += 1
    return predictions


def mask_evidence(masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """Summarise mask probabilities (..., h, w) by four figures, each (...).

    peak: the highest probability. inside: the mean of those above 0.5, 0 if there are none. entropy: the mean over all
    pixels, in nats. soft_dice: the expected Dice of the mask cut at 0.5, if each pixel's probability were right.
    """
    frame = (-2, -1)
    inside, total = masks > 0.5, masks.sum(frame)
    count, mass = inside.sum(frame), (masks * inside).sum(frame)
    return {
        "peak": masks.amax(frame),
        "inside": mass / count.clamp_min(1),
        "entropy": (torch.special.entr(masks) + torch.special.entr(1 - masks)).mean(frame),
        "soft_dice": 2 * mass / (count + total).clamp_min(1e-6),
    }


def prediction_table(predictions: Iterable[Prediction], rows: np.ndarray, truth=None) -> pd.DataFrame:
    """Return one row per prediction: `row`, `mask_area` (px), `pixels` (RLE), `probability`, and `mask_evidence`.

    If `truth` is given, there is also `mask_dice`, against `truth[row]`. Without a mask it counts as blank, and its
    evidence is NaN.
    """
    columns = ["row", "mask_area", "pixels", *([] if truth is None else ["mask_dice"]), "probability", *MASK_EVIDENCE]
    records = []
    for row, (probability, mask, evidence) in zip(rows, predictions, strict=True):
        mask = np.zeros(rle.FRAME_SHAPE, np.uint8) if mask is None else mask
        record = {"row": row, "mask_area": int(mask.sum()), "pixels": rle.encode(mask), "probability": probability}
        score = {} if truth is None else {"mask_dice": metrics.dice(mask, truth[row])}
        records.append(record | score | (evidence or {}))
    return pd.DataFrame(records, columns=columns)


def load_system(
    runs: Sequence[str],
    gate_from: str = "classifier",
    flip: bool = False,
    precision: str = "fp32",
    frames: FrameCache | None = None,
) -> tuple[System, dict]:
    """Load the trained networks of one run, or of several to average, and join both stages.

    Args:
        runs: names of runs; the networks of several are averaged.
        gate_from: "classifier" takes P(nerve) from the classifiers of notebook 2, "segmenter" from the presence heads
            of segmenters that notebook 3 trained with `presence_head`.
        flip, precision: see `Ensemble`.
        frames: the frames that the networks are to be applied to; see `load_checkpoint`.

    Returns the system, and the metadata of the first run's network that gives P(nerve). Raises InputError for missing
    networks, input sizes or folds that do not fit together, and presence heads that were not trained.
    """
    one_network = one_of("gate_from", gate_from, GATE_NETWORKS) == "segmenter"
    segmenters, size, segmenter_metadata = _networks(runs, NOTEBOOKS[2], "segmenter", frames)
    if one_network:
        if not all(metadata["options"].get("presence_head") for metadata in segmenter_metadata):
            raise InputError("gate_from: the segmenter has no trained presence head; run notebook 3 with presence_head")
        return OneNetwork(Ensemble(segmenters, size, precision, flip)), segmenter_metadata[0]
    classifiers, classifier_size, classifier_metadata = _networks(runs, NOTEBOOKS[1], "classifier", frames)
    for run, first, second in zip(runs, classifier_metadata, segmenter_metadata, strict=True):
        if first["fold"] != second["fold"]:
            raise InputError(
                f"fold of run {run}: expected both networks to leave out the same one, found {first['fold']} and "
                f"{second['fold']}; one of them was trained on the patients that the gate is tuned on"
            )
    presence = PresenceEnsemble(classifiers, classifier_size, precision, flip)
    return TwoNetworks(presence, Ensemble(segmenters, size, precision, flip)), classifier_metadata[0]


class PresenceHead(nn.Module):
    """The encoder and the presence head of a segmenter: standardised frame (B, 1, H, W) -> presence logit (B,)."""

    def __init__(self, network):
        super().__init__()
        self.network, self.cam_layer = network, f"network.{network.presence_cam_layer}"

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.network.presence_logit(image)


def load_presence_network(run: str, gate_from: str, frames: FrameCache | None = None) -> tuple[nn.Module, Size]:
    """Return the network of `run` that gives P(nerve), as a classifier, and its input size; see `load_system`."""
    [network], size, _ = _networks([run], NOTEBOOKS[GATE_NETWORKS.index(gate_from) + 1], gate_from, frames)
    return (PresenceHead(network) if gate_from == "segmenter" else network), size


def _networks(
    runs: Sequence[str], notebook: str, name: str, frames: FrameCache | None
) -> tuple[list[nn.Module], Size, list[dict]]:
    paths = [require(run, notebook, f"{name}.pt") for run in runs]
    loaded = [load_checkpoint(path, frames) for path in paths]
    sizes = {tuple(metadata["size"]) for _, metadata in loaded}
    if len(sizes) > 1:
        raise InputError(f"{name}s of {list(runs)}: expected one input size, found {sorted(sizes)}")
    return [network for network, _ in loaded], sizes.pop(), [metadata for _, metadata in loaded]
