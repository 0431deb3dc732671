"""Networks of one kind, made ready for inference and averaged."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from nerveceg_lib.data.cache import resize_frames
from nerveceg_lib.data.datasets import to_input
from nerveceg_lib.inference.fuse import for_inference
from nerveceg_lib.runtime import device
from nerveceg_lib.runtime.process import reported

Size = tuple[int, int]


class Ensemble:
    """Segmenters rewritten for inference and put on the device.

    Args:
        networks: one or more networks with the same interface.
        size: height and width of their input.
        precision: "fp32", "bf16" or "auto".
        flip: also predict the mirrored frame and average (test-time augmentation).

    Called with a batch of `read`, it returns the mean mask probabilities, float32 (B, h, w).
    """

    def __init__(self, networks: Sequence[nn.Module], size: Size, precision: str = "fp32", flip: bool = False):
        example = torch.zeros(1, 1, *size)
        ready = [for_inference(network, example.to(next(network.parameters(), example).device)) for network in networks]
        self.networks = [device.channels_last(network.to(device.device())) for network in ready]
        self.size, self.precision, self.flip = size, device.resolve_precision(precision), flip

    def read(self, images: np.ndarray) -> torch.Tensor:
        """Turn uint8 images (B, H, W) into standardised input (B, 1, h, w)."""
        return to_input(resize_frames(images, np.arange(len(images)), self.size))

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.each(inputs).mean(0)

    def each(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the mask probabilities of each network and view, float32 (views, B, h, w)."""
        with self.computing():
            return torch.stack(
                [mask_probability(network(image), mirrored) for network, image, mirrored in self.views(inputs)]
            )

    def views(self, inputs: torch.Tensor) -> Iterator[tuple[Any, torch.Tensor, bool]]:
        """Yield each network with the batch that it predicts, and whether that batch is mirrored."""
        inputs = inputs.to(device.device()).contiguous(memory_format=torch.channels_last)
        for network in self.networks:
            yield network, inputs, False
            if self.flip:
                yield network, inputs.flip(-1), True

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute without gradients, in the ensemble's precision."""
        with torch.inference_mode(), device.autocast(self.precision):
            yield


class PresenceEnsemble(Ensemble):
    """Classifiers, or presence heads of segmenters. A call returns the mean P(nerve), float32 (B,)."""

    def each(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the P(nerve) of each network and view, float32 (views, B)."""
        with self.computing():
            logits = [getattr(network, "presence_logit", network)(image) for network, image, _ in self.views(inputs)]
            return torch.stack(logits).float().sigmoid()


def mask_probability(logits: torch.Tensor, mirrored: bool) -> torch.Tensor:
    """Turn mask logits (B, 1, h, w) into probabilities, float32 (B, h, w), and mirror them back if needed."""
    probability = logits.float().sigmoid().squeeze(1)
    return probability.flip(-1) if mirrored else probability


def predict_probabilities(
    network: nn.Module, images: np.ndarray, rows: np.ndarray, size: Size, precision: str = "fp32", batch_size: int = 32
) -> np.ndarray:
    """Return P(nerve) of `rows` of `images` (N, 420, 580) uint8, float32 (len(rows),).

    `network` is a classifier, or a segmenter with a presence head; `size` is its input's height and width.
    """
    ensemble = PresenceEnsemble([network], size, precision)
    batches = batches_of(images, rows, batch_size, "presence")
    probabilities = [ensemble(ensemble.read(batch)).cpu() for batch in batches]
    return torch.cat(probabilities).numpy() if probabilities else np.empty(0, np.float32)


def predict_masks(
    ensemble: Ensemble, images: np.ndarray, rows: np.ndarray, batch_size: int = 8
) -> Iterator[np.ndarray]:
    """Yield the mask of each of `rows` of `images` (N, H, W) in turn: uint8 0 and 1, (H, W)."""
    for batch in batches_of(images, rows, batch_size, "masks"):
        yield from (full_size(probability, images.shape[1:]) for probability in ensemble(ensemble.read(batch)).cpu())


def batches_of(images: np.ndarray, rows: np.ndarray, batch_size: int, description: str) -> Iterator[np.ndarray]:
    """Yield `rows` of `images` in batches; `description` names them in a line of progress twice a minute."""
    starts = range(0, len(rows), batch_size)
    for start in reported(starts, description, len(starts)):
        yield images[rows[start : start + batch_size]]


def full_size(probability: torch.Tensor | np.ndarray, shape: Size) -> np.ndarray:
    """Return the mask, uint8 0 and 1, of probabilities (h, w): resized to `shape`, then cut at 0.5.

    Cutting first would turn the outline into a staircase.
    """
    resized = cv2.resize(np.asarray(probability), shape[::-1], interpolation=cv2.INTER_LINEAR)
    return (resized > 0.5).astype(np.uint8)
