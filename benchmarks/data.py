"""Data preparation: every TIFF decoded once into the frame cache, against the plain loop that people write.

    python -m benchmarks data [--quick]

A few hundred phantom pairs are drawn once and hard-linked to the competition's 5,635 names. The files are therefore
read from the page cache, and the arrays are written at full size (2.6 GiB). Every measurement runs in its own process,
because a process cannot lower its own peak memory; its start and imports are not timed.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.harness import Row, in_fresh_process, paired_row, peak_mib
from nerveceg_lib.data import io
from nerveceg_lib.data.cache import open_cache
from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_lib.runtime import folders
from nerveceg_tools.phantom.write import write_phantom

PAIRS = 5635
FRAMES_PER_PATIENT = 120


def rows(quick: bool) -> list[Row]:
    pairs, distinct, repeats = (200, 40, 2) if quick else (PAIRS, 200, 3)
    (root := folders.artefact_root()).mkdir(parents=True, exist_ok=True)
    # not in /tmp, which is often a small file system, or memory
    with tempfile.TemporaryDirectory(dir=root, prefix=".bench-") as folder:
        data = write_pairs(Path(folder), distinct, pairs)
        measured = _measure(data, Path(folder) / "out", repeats)
    note = f"{pairs:,} pairs, hard links to {distinct} phantom pairs"
    rates = {way: [pairs / one["seconds"] for one in measured[way]] for way in WAYS}
    peaks = {way: [one["peak_mib"] for one in measured[way]] for way in WAYS}
    speed = {"target": 400, "on_figure": True, "note": note}
    memory = {"target": 1024, "at_least": False, "on_figure": True, "note": "mapped files included"}
    return [
        paired_row("prepare data", "pairs/s", rates["loop"], rates["cache"], **speed),
        paired_row("prepare data, peak memory", "MiB", peaks["loop"], peaks["cache"], **memory),
    ]


def write_pairs(folder: Path, distinct: int, pairs: int) -> Path:
    """Return a folder in competition layout with `pairs` frames and masks; only `distinct` of them differ."""
    per_patient = 20
    drawn, data = folder / "keep", folder / "data"
    write_phantom(drawn, patients=distinct // per_patient, frames_per_patient=per_patient, test_frames=0)
    (data / "train").mkdir(parents=True)
    for number in range(pairs):
        source = [index + 1 for index in divmod(number % distinct, per_patient)]
        name = [index + 1 for index in divmod(number, FRAMES_PER_PATIENT)]
        for path in (io.image_path, io.mask_path):
            os.link(path(drawn, *source), path(data, *name))
    return data


def _measure(data: Path, out: Path, repeats: int) -> dict[str, list[dict]]:
    """Return seconds and peak memory of both ways, which take turns; a first round does not count."""
    measured: dict[str, list[dict]] = {way: [] for way in WAYS}
    for turn in range(1 + repeats):
        for way in list(WAYS)[:: -1 if turn % 2 else 1]:
            result = in_fresh_process("benchmarks.data", way, data, out)
            shutil.rmtree(out)
            if turn:
                measured[way].append(result)
    return measured


def _loop(data: Path, out: Path) -> None:
    """The baseline: decode one file after the other into two arrays and save them at the end."""
    masks = sorted((data / "train").glob("*_mask.tif"))
    frames = np.empty((len(masks), *FRAME_SHAPE), dtype=np.uint8)
    decoded_masks = np.empty_like(frames)
    for row, path in enumerate(masks):
        frames[row] = cv2.imread(str(path).replace("_mask", ""), cv2.IMREAD_GRAYSCALE)
        decoded_masks[row] = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    out.mkdir()
    np.save(out / "frames.npy", frames)
    np.save(out / "masks.npy", decoded_masks)


WAYS = {"loop": _loop, "cache": lambda data, out: open_cache(data, out)}


def main(way: str, data: str, out: str) -> None:
    start = time.perf_counter()
    WAYS[way](Path(data), Path(out))
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
