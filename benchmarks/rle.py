"""Masks to run lengths and back, against Python loops and against the C encoder of pycocotools.

    python -m benchmarks rle [--quick]

pycocotools numbers pixels as the competition does (column-major) but keeps runs in its own compressed text:
both encoders start from the same C-ordered array and end with the text they store.
"""

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from benchmarks import naive
from benchmarks.harness import REPOSITORY, Row, alternate, rate_row
from nerveceg_lib import rle
from nerveceg_tools.phantom import Patient, cohort

MASKS = 5508  # frames of the competition's test set
CHUNK = 256  # masks decoded at a time: 60 MiB


def rows(quick: bool) -> list[Row]:
    texts, origin = outlines(40 if quick else 200)
    texts = list(islice(cycle(texts), 512 if quick else MASKS))
    note = f"{len(texts):,} masks: {origin}"
    repeats = 3 if quick else 5
    seconds: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(repeats))
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        masks = [np.ascontiguousarray(rle.decode(text)) for text in chunk]
        if not start:
            _agree(masks)
        for name, durations in alternate(_jobs(chunk, masks), repeats).items():
            seconds[name] += durations

    def row(name: str, baseline: str, figure: str, target: float, note: str) -> Row:
        return rate_row(name, "masks/s", len(texts), seconds[baseline], seconds[figure], target, note)

    return [
        row("RLE encode, against a Python loop", "loop encode", "encode", 3, note),
        row("RLE decode, against a Python loop over pixels", "loop decode", "decode", 3, note),
        row(
            "RLE decode, against one slice per run",
            "slice decode",
            "decode",
            3.0,
            "the baseline checks nothing; splitting and parsing the numbers, which both do, is a third of it",
        ),
        row("RLE encode, against pycocotools (C)", "coco encode", "encode", 0.5, note),
    ]


def outlines(count: int) -> tuple[list[str], str]:
    """Return RLE of masks like the competition's, and their origin: the real ones, else `count` phantom masks."""
    shared = Path(os.environ.get("NERVECEG_SHARED", REPOSITORY.parent / "shared"))
    real = shared / "data" / "kaggle-facts" / "real_masks_rle.csv"
    if real.is_file():
        with real.open(newline="") as file:
            texts = [row["pixels"] for row in csv.DictReader(file)]
        return texts, f"{len(texts):,} real ones ({_empty(texts):.0%} empty), repeated"
    patient = Patient(cohort([count], np.random.SeedSequence(0))[0])
    texts = [rle.encode(patient.label(frame)) for frame in range(count)]
    return texts, f"{count} phantom outlines ({_empty(texts):.0%} empty), repeated"


def _empty(texts: list[str]) -> float:
    return texts.count("") / len(texts)


def _jobs(texts: list[str], masks: list[np.ndarray]) -> dict[str, Callable[[], object]]:
    return {
        "encode": lambda: _drain(map(rle.encode, masks)),
        "loop encode": lambda: _drain(map(naive.run_lengths, masks)),
        "coco encode": lambda: _drain(map(_coco, masks)),
        "decode": lambda: _drain(map(rle.decode, texts)),
        "loop decode": lambda: _drain(map(naive.from_run_lengths, texts)),
        "slice decode": lambda: _drain(map(_slices, texts)),
    }


def _drain(results: Iterable) -> None:
    """Keep no result, since fresh memory for hundreds of masks would cost more than most of the measured work."""
    for _ in results:
        pass


def _coco(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask))  # it takes no other order


def _slices(text: str) -> np.ndarray:
    """The quickest decoder in few lines: no checks, one slice per run."""
    numbers = [int(number) for number in text.split()]
    mask = np.zeros(rle.FRAME_SHAPE[0] * rle.FRAME_SHAPE[1], dtype=np.uint8)
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        mask[start - 1 : start - 1 + length] = 1
    return mask.reshape(rle.FRAME_SHAPE, order="F")


def _agree(masks: list[np.ndarray]) -> None:
    """Check that all ways do the same: each encoding decodes to the mask that it came from."""
    for mask in masks:
        text = rle.encode(mask)
        for decoded in (rle.decode(text), naive.from_run_lengths(naive.run_lengths(mask)), _slices(text)):
            np.testing.assert_array_equal(decoded, mask)
        np.testing.assert_array_equal(coco.decode(_coco(mask)), mask)
