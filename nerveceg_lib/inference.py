"""Run trained networks over frames: the gate first, masks for what passes it; in batches and constant memory.

Reading and resizing, networks, and bringing masks back to full size overlap: two threads work a few
batches ahead of and behind the networks, which release Python's lock while they compute.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from nerveceg_lib import compute, metrics, rle
from nerveceg_lib.data.dataset import to_input
from nerveceg_lib.data.resized import resize_frames
from nerveceg_lib.folding import for_inference

Item = TypeVar("Item")
Result = TypeVar("Result")
Size = tuple[int, int]


class Prediction(NamedTuple):
    """P(nerve) of a frame, its mask (uint8 0/1, the frame's shape) and what `mask_evidence` says of it.

    Mask and evidence are None if the gate kept the frame blank.
    """

    probability: float
    mask: np.ndarray | None
    evidence: dict[str, float] | None = None


class System(Protocol):
    """Both stages joined: `TwoNetworks`, `OneTrunk`, or `looks.TwoLooks`."""

    def read(self, frames: np.ndarray) -> object:
        """Whatever the call takes, of uint8 frames (B, H, W)."""

    def __call__(self, inputs, /, threshold: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """P(nerve) (B,), which of them are above `threshold` (B,), and mask probabilities (networks, kept, h, w)."""


class Stage:
    """The networks of one stage made ready: rewritten for inference, channels last, on the device, in `precision`.

    Called with a batch of `read`, it gives probabilities, float32: (B,) of classifiers, (B, h, w) of segmenters.
    Those of several networks are averaged, and with `flip` those of the mirrored frames too.
    """

    def __init__(self, networks: Sequence[nn.Module], size: Size, precision: str = "fp32", flip: bool = False):
        example = torch.zeros(1, 1, *size)
        ready = [for_inference(each, example.to(next(each.parameters(), example).device)) for each in networks]
        self.networks = [compute.channels_last(network.to(compute.device())) for network in ready]
        self.size, self.precision, self.flip = size, compute.resolve_precision(precision), flip

    def read(self, frames: np.ndarray) -> torch.Tensor:
        """uint8 frames (B, H, W) -> standardised input (B, 1, h, w)."""
        return to_input(resize_frames(frames, np.arange(len(frames)), self.size))

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return self.each(lambda network, image: network(image), batch).mean(0)

    def each(self, run: Callable, batch: torch.Tensor) -> torch.Tensor:
        """Probabilities of `run(network, image)`, logits (B,) or (B, 1, h, w): (networks and mirrorings, B, ...)."""
        batch = batch.to(compute.device()).contiguous(memory_format=torch.channels_last)
        views = [False, True] if self.flip else [False]
        with torch.inference_mode(), compute.autocast(self.precision):
            found = [self._probability(run, network, batch, flip) for network in self.networks for flip in views]
        return torch.stack(found)

    @staticmethod
    def _probability(run: Callable, network: nn.Module, batch: torch.Tensor, flip: bool) -> torch.Tensor:
        probability = run(network, batch.flip(-1) if flip else batch).float().sigmoid()
        if probability.ndim == 1:
            return probability
        return (probability.flip(-1) if flip else probability).squeeze(1)  # (B, h, w)


class PresenceStage(Stage):
    """A gate of classifiers, or of the presence heads of EfficientU-Nets."""

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        return self.each(_presence_logit, batch).mean(0)


def _presence_logit(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    return getattr(network, "presence_logit", network)(image)


class TwoNetworks:
    """Gate and segmenters of their own: the second stage sees only frames that pass the first."""

    def __init__(self, gate: PresenceStage, segmenter: Stage):
        self.gate, self.segmenter = gate, segmenter

    def read(self, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs of both stages."""
        batch = self.gate.read(frames)
        return batch, batch if self.segmenter.size == self.gate.size else self.segmenter.read(frames)

    def __call__(self, inputs: tuple[torch.Tensor, torch.Tensor], threshold: float):
        """See `System`."""
        probability = self.gate(inputs[0]).cpu()
        kept = probability > threshold
        if not kept.any():
            return probability, kept, None
        return probability, kept, self.segmenter.each(lambda network, image: network(image), inputs[1][kept]).cpu()


class Encodes(Protocol):
    """A network that `OneTrunk` can run; see `EfficientUNet`."""

    def encode(self, image: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Features, and presence logits (B,)."""

    def decode(self, image: torch.Tensor, levels: list[torch.Tensor]) -> torch.Tensor:
        """Mask logits (B, 1, H, W)."""


class OneTrunk:
    """EfficientU-Nets trained for both stages: encoder and head see every frame, the decoder those that pass."""

    def __init__(self, stage: Stage):
        self.stage, self.read = stage, stage.read

    def __call__(self, batch: torch.Tensor, threshold: float):
        """See `System`; the gate is the mean presence, and each network decodes what it encoded."""
        encoded = []

        def encode(network: Encodes, image: torch.Tensor) -> torch.Tensor:
            levels, logit = network.encode(image)
            encoded.append((image, levels))
            return logit

        def decode(network: Encodes, _: torch.Tensor) -> torch.Tensor:
            image, levels = next(remembered)
            return network.decode(image[chosen], [features[chosen] for features in levels])

        probability = self.stage.each(encode, batch).mean(0)
        chosen, remembered = probability > threshold, iter(encoded)
        masks = self.stage.each(decode, batch).cpu() if chosen.any() else None
        return probability.cpu(), chosen.cpu(), masks


def segment(
    system: System,
    batches: Iterable,
    threshold: float = -1.0,
    load: Callable = np.asarray,
    clean: Callable = np.asarray,
) -> Iterator[Prediction]:
    """Predictions of frames in their order. `load` of each of `batches` gives uint8 frames (B, H, W).

    Masks are drawn where P(nerve) > `threshold`; the default draws all. `clean` (see `cleanup.CLEANUPS`) has the last
    word on each.
    """

    def read(batch) -> tuple:
        frames = load(batch)
        return frames.shape[1:], system.read(frames)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as finisher:
        inputs = ahead(reader, read, batches)
        found = ((shape, *system(given, threshold)) for shape, given in inputs)
        for predictions in ahead(finisher, partial(_finish, clean), found):
            yield from predictions


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], depth: int = 2
) -> Iterator[Result]:
    """`work` of each item, in order, with at most `depth` more of them under way."""
    waiting: deque = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def predict_presence(
    model: nn.Module, frames: np.ndarray, rows: np.ndarray, size: Size, batch_size: int = 32, precision: str = "fp32"
) -> np.ndarray:
    """P(nerve) of frames `rows` of `frames` (N, 420, 580) uint8, resized to `size`: float32 (len(rows),).

    `model` is a classifier, or a segmenter with a presence head of its own.
    """
    stage = PresenceStage([model], size, precision)
    found = [stage(stage.read(batch)).cpu() for batch in batches_of(frames, rows, batch_size, "presence")]
    return torch.cat(found).numpy() if found else np.empty(0, np.float32)


def predict_masks(
    model: nn.Module, frames: np.ndarray, rows: np.ndarray, size: Size, batch_size: int = 8, precision: str = "fp32"
) -> Iterator[np.ndarray]:
    """Yield the mask of each of `rows` in turn: uint8 0/1 of the frames' full shape (420, 580)."""
    stage = Stage([model], size, precision)
    for batch in batches_of(frames, rows, batch_size, "masks"):
        yield from (full_size(mask, frames.shape[1:]) for mask in stage(stage.read(batch)).cpu().numpy())


def batches_of(frames: np.ndarray, rows: np.ndarray, size: int, what: str) -> Iterator[np.ndarray]:
    """Frames `rows` in batches of `size`, with a progress bar called `what` where it takes long."""
    for start in tqdm(range(0, len(rows), size), what, mininterval=5, delay=5):
        yield frames[rows[start : start + size]]


def full_size(probability: np.ndarray, shape: Size) -> np.ndarray:
    """Mask of `shape`, uint8 0/1, of probabilities (h, w): resized, then cut at 0.5, lest the border be a staircase."""
    return (cv2.resize(probability, shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5).astype(np.uint8)


def mask_table(masks: Iterable[np.ndarray | None], rows: np.ndarray, truth: np.ndarray | None = None) -> pd.DataFrame:
    """One row a mask: `row`, `mask_area` (px), `pixels` (RLE), and `mask_dice` against `truth[row]` if given.

    None stands for a blank mask.
    """
    records = []
    for row, mask in zip(rows, masks, strict=True):
        mask = np.zeros(rle.FRAME_SHAPE, np.uint8) if mask is None else mask
        record = {"row": row, "mask_area": int(mask.sum()), "pixels": rle.encode(mask)}
        if truth is not None:
            record["mask_dice"] = metrics.dice(mask, truth[row])
        records.append(record)
    columns = ["row", "mask_area", "pixels"] + (["mask_dice"] if truth is not None else [])
    return pd.DataFrame(records, columns=columns)


def mask_evidence(masks: torch.Tensor) -> dict[str, torch.Tensor]:
    """What mask probabilities (..., h, w) say of themselves, each (...).

    peak: the highest; inside: the mean above 0.5, 0 if none is; entropy: the mean over pixels, in nats; soft_dice: the
    Dice that the mask, cut at 0.5, would have on average if each pixel's probability were right.
    """
    frame = (-2, -1)
    drawn, total = masks > 0.5, masks.sum(frame)
    count, inside = drawn.sum(frame), (masks * drawn).sum(frame)
    return {
        "peak": masks.amax(frame),
        "inside": inside / count.clamp_min(1),
        "entropy": (torch.special.entr(masks) + torch.special.entr(1 - masks)).mean(frame),
        "soft_dice": 2 * inside / (count + total).clamp_min(1e-6),
    }


MASK_EVIDENCE = ("peak", "inside", "entropy", "soft_dice")


def prediction_table(
    predictions: Iterable[Prediction], rows: np.ndarray, truth: np.ndarray | None = None
) -> pd.DataFrame:
    """As `mask_table`, with the columns `probability` and those of `mask_evidence`, NaN of frames kept blank."""
    extra = []

    def masks() -> Iterator[np.ndarray | None]:
        for prediction in predictions:
            extra.append({"probability": prediction.probability} | (prediction.evidence or {}))
            yield prediction.mask

    return mask_table(masks(), rows, truth).join(pd.DataFrame(extra, columns=["probability", *MASK_EVIDENCE]))


def _finish(clean: Callable, found: tuple) -> list[Prediction]:
    shape, probability, kept, masks = found
    drawn: Iterator[tuple[np.ndarray, dict[str, float]]] = iter(())
    if masks is not None:
        # of each network by itself: the mean of several maps is less sure than any, and a gate is fitted to single ones
        evidence = {name: values.mean(0).tolist() for name, values in mask_evidence(masks).items()}
        said = (dict(zip(evidence, values, strict=True)) for values in zip(*evidence.values(), strict=True))
        drawn = zip((clean(full_size(mask, shape)) for mask in masks.mean(0).numpy()), said, strict=True)
    return [
        Prediction(p, *(next(drawn) if keep else (None, None)))
        for p, keep in zip(probability.tolist(), kept.tolist(), strict=True)
    ]
