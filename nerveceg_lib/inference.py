"""Run trained networks over frames, in batches and constant memory. Models are passed in."""

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from nerveceg_lib import metrics, rle
from nerveceg_lib.data.dataset import resize_frames, to_input


def predict_presence(
    model: nn.Module, frames: np.ndarray, rows: np.ndarray, size: tuple[int, int], batch_size: int = 32
) -> np.ndarray:
    """P(nerve) of frames `rows` of `frames` (N, 420, 580) uint8, resized to `size`: float32 (len(rows),).

    `model` is a classifier, or a segmenter with a presence head of its own.
    """
    stage = getattr(_ready(model), "presence_logit", model)
    probability = [logits.sigmoid() for logits in _logits(stage, frames, rows, size, batch_size, "presence")]
    return torch.cat(probability).numpy() if probability else np.empty(0, np.float32)


def predict_masks(
    model: nn.Module, frames: np.ndarray, rows: np.ndarray, size: tuple[int, int], batch_size: int = 8
) -> Iterator[np.ndarray]:
    """Yield the mask of each of `rows` in turn: uint8 0/1 of the frames' full shape (420, 580).

    Probabilities are resized back, then cut at 0.5, so that the border is not a staircase.
    """
    height, width = frames.shape[1:]
    for logits in _logits(_ready(model), frames, rows, size, batch_size, "masks"):
        for probability in logits.sigmoid().squeeze(1).numpy():  # (h, w)
            full = cv2.resize(probability, (width, height), interpolation=cv2.INTER_LINEAR)
            yield (full > 0.5).astype(np.uint8)


def mask_table(masks: Iterator[np.ndarray], rows: np.ndarray, truth: np.ndarray | None = None) -> pd.DataFrame:
    """One row a mask: `row`, `mask_area` (px), `pixels` (RLE), and `mask_dice` against `truth[row]` if given."""
    records = []
    for row, mask in zip(rows, masks, strict=True):
        record = {"row": row, "mask_area": int(mask.sum()), "pixels": rle.encode(mask)}
        if truth is not None:
            record["mask_dice"] = metrics.dice(mask, truth[row])
        records.append(record)
    columns = ["row", "mask_area", "pixels"] + (["mask_dice"] if truth is not None else [])
    return pd.DataFrame(records, columns=columns)


def _ready(model: nn.Module) -> nn.Module:
    return model.eval().to(memory_format=torch.channels_last)


def _logits(
    stage: Callable[[torch.Tensor], torch.Tensor],
    frames: np.ndarray,
    rows: np.ndarray,
    size: tuple[int, int],
    batch_size: int,
    what: str,
) -> Iterator[torch.Tensor]:
    for start in tqdm(range(0, len(rows), batch_size), what, mininterval=5, delay=5):
        batch = to_input(resize_frames(frames, rows[start : start + batch_size], size))
        with torch.inference_mode():
            yield stage(batch.contiguous(memory_format=torch.channels_last))
