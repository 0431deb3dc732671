"""Find exact duplicates and near-duplicates with contradictory presence labels."""

import hashlib

import cv2
import numpy as np
import pandas as pd

from nerveceg_lib.data.cache import FrameCache

THUMBNAIL = (40, 28)  # columns, rows: fine enough to tell neighbours apart, coarse enough to ignore speckle


def exact_duplicates(cache: FrameCache) -> pd.DataFrame:
    """Frames with identical pixels: columns `row`, `other`, `same_mask`; train frames only."""
    first: dict[bytes, int] = {}
    pairs = []
    for row in cache.index.loc[cache.index["set"] == "train", "row"]:
        digest = hashlib.blake2b(cache.frames[row].tobytes(), digest_size=16).digest()
        other = first.setdefault(digest, row)
        if other != row:
            pairs.append((other, row, bool(np.array_equal(cache.masks[other], cache.masks[row]))))
    return pd.DataFrame(pairs, columns=["row", "other", "same_mask"])


def contradictory_pairs(cache: FrameCache, similarity: float) -> pd.DataFrame:
    """Frames of one patient that look alike while one is labelled with a nerve and the other without.

    `similarity` is the least correlation (0 to 1) between thumbnails. Columns: `row` (with nerve),
    `other` (without), `correlation`; each empty frame is listed once, with its nearest positive frame.
    """
    pairs: list[tuple[int, int, float]] = []
    labelled = cache.index[cache.index["set"] == "train"]
    for _, patient in labelled.groupby("subject"):
        positive = patient.loc[patient["presence"] == 1, "row"].to_numpy()
        negative = patient.loc[patient["presence"] == 0, "row"].to_numpy()
        if not len(positive) or not len(negative):
            continue
        correlation = _thumbnails(cache, negative) @ _thumbnails(cache, positive).T
        nearest = correlation.argmax(axis=1)
        best = correlation.max(axis=1)
        alike = best >= similarity
        pairs += zip(positive[nearest[alike]], negative[alike], best[alike], strict=True)
    table = pd.DataFrame(pairs, columns=["row", "other", "correlation"])
    return table.sort_values("correlation", ascending=False, ignore_index=True)


def _thumbnails(cache: FrameCache, rows: np.ndarray) -> np.ndarray:
    """Unit-length, zero-mean thumbnails, (len(rows), pixels) float32."""
    small = [cv2.resize(cache.frames[row], THUMBNAIL, interpolation=cv2.INTER_AREA).ravel() for row in rows]
    flat = np.stack(small).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
