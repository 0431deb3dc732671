"""Data preparation: every TIFF decoded once into the frame cache, against the plain loop people write.

    python -m benchmarks data [--quick]

A few hundred phantom pairs are drawn once and hard-linked to the competition's 5,635 names, so what is read lies
in the page cache, and what is written is of full size (2.6 GiB). Every measurement is a process of its own,
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
from nerveceg_lib import paths
from nerveceg_lib.data import layout
from nerveceg_lib.data.cache import open_cache
from nerveceg_lib.data.phantom_set import write_phantom
from nerveceg_lib.rle import FRAME_SHAPE

PAIRS = 5635
FRAMES_PER_SUBJECT = 120


def rows(quick: bool) -> list[Row]:
    pairs, distinct, repeats = (400, 40, 3) if quick else (PAIRS, 200, 3)
    (root := paths.artefact_root()).mkdir(parents=True, exist_ok=True)
    # not in /tmp, which is often a small file system, or memory
    with tempfile.TemporaryDirectory(dir=root, prefix=".bench-") as folder:
        data = write_pairs(Path(folder), distinct, pairs)
        found = _measure(data, Path(folder) / "out", repeats)
    note = f"{pairs:,} pairs, hard links to {distinct} phantom ones"
    rates = {way: [pairs / one["seconds"] for one in found[way]] for way in WAYS}
    peaks = {way: [one["peak_mib"] for one in found[way]] for way in WAYS}
    speed = {"target": 400, "on_figure": True, "note": note}
    memory = {"target": 1024, "at_least": False, "on_figure": True, "note": "mapped files included"}
    return [
        paired_row("prepare data", "pairs/s", rates["loop"], rates["cache"], **speed),
        paired_row("prepare data, peak memory", "MiB", peaks["loop"], peaks["cache"], **memory),
    ]


def write_pairs(folder: Path, distinct: int, pairs: int) -> Path:
    """A folder in competition layout of `pairs` frames with masks, of which `distinct` differ."""
    per_subject = 20
    drawn, data = folder / "drawn", folder / "data"
    sizes = {"subjects": distinct // per_subject, "frames_per_subject": per_subject, "test_frames": 0}
    write_phantom(drawn, **sizes, progress=False)
    (data / "train").mkdir(parents=True)
    for number in range(pairs):
        subject, image = (part + 1 for part in divmod(number % distinct, per_subject))
        name = [part + 1 for part in divmod(number, FRAMES_PER_SUBJECT)]
        for path in (layout.image_path, layout.mask_path):
            os.link(path(drawn, subject, image), path(data, *name))
    return data


def _measure(data: Path, out: Path, repeats: int) -> dict[str, list[dict]]:
    """Seconds and peak memory of both ways in turn, after a round that does not count."""
    found: dict[str, list[dict]] = {way: [] for way in WAYS}
    for turn in range(1 + repeats):
        for way in list(WAYS)[:: -1 if turn % 2 else 1]:
            one = in_fresh_process("benchmarks.data", way, data, out)
            shutil.rmtree(out)
            if turn:
                found[way].append(one)
    return found


def _loop(data: Path, out: Path) -> None:
    """The baseline: decode one file after the other into two arrays, save them at the end."""
    masks = sorted((data / "train").glob("*_mask.tif"))
    frames = np.empty((len(masks), *FRAME_SHAPE), dtype=np.uint8)
    drawn = np.empty_like(frames)
    for row, path in enumerate(masks):
        frames[row] = cv2.imread(str(path).replace("_mask", ""), cv2.IMREAD_GRAYSCALE)
        drawn[row] = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    out.mkdir()
    np.save(out / "frames.npy", frames)
    np.save(out / "masks.npy", drawn)


WAYS = {"loop": _loop, "cache": lambda data, out: open_cache(data, out, progress=False)}


def main(way: str, data: str, out: str) -> None:
    start = time.perf_counter()
    WAYS[way](Path(data), Path(out))
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
