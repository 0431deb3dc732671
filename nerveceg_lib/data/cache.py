"""Decode every frame once into memory-mapped arrays.

images.npy   uint8 (frames, 420, 580)        training frames first, then test frames
masks.npy    uint8 (training frames, 420, 580), values 0 and 1
index.csv    one row per frame, in the same order: patient, source, clean; has_nerve and mask area (-1 for test frames)
skipped.csv  bad frames that were left out, with the reason
hashes.json  a hash of the content of each file
manifest.json  sizes and times of the files; the cache is rebuilt if they differ
resized-HxW/   labelled frames and masks at one input size
"""

import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock

from nerveceg_lib.data.io import describe_frames, list_frames, read_frame, read_mask, read_target
from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_lib.runtime.errors import InputError, one_of
from nerveceg_lib.runtime.folders import beside
from nerveceg_lib.runtime.io import matches, read_json, storing, whole_folder, write_csv, write_json
from nerveceg_lib.runtime.process import ahead, cores, reported

FORMAT = 3
ON_BAD_FRAME = ("stop", "skip")
MOST_NAMED = 10  # files in one message


@dataclass(frozen=True)
class FrameCache:
    """The decoded data set in `folder`: `index` (one row per frame), `images` and `masks` as described above."""

    folder: Path
    index: pd.DataFrame
    images: np.ndarray
    masks: np.ndarray
    skipped: pd.DataFrame
    target: str  # what the masks outline, such as "nerve"

    @property
    def digest(self) -> str:
        """A hash of the content of all source files: it tells whether two caches hold the same data."""
        hashes = json.dumps(read_json(self.folder / "hashes.json"), sort_keys=True)
        return hashlib.blake2b(hashes.encode(), digest_size=16).hexdigest()


def open_cache(data_dir: Path, folder: Path, on_bad_frame: str = "stop") -> FrameCache:
    """Open the cache of `data_dir` in `folder`, and build it first if it is missing, stale or half-written.

    A bad frame raises InputError (`on_bad_frame="stop"`) or is listed in `skipped` ("skip"). Raises StorageError if
    there is no room.
    """
    one_of("on_bad_frame", on_bad_frame, ON_BAD_FRAME)
    listing, odd = list_frames(data_dir)
    if odd and on_bad_frame == "stop":
        more = [f"and {len(odd) - MOST_NAMED} more"] if len(odd) > MOST_NAMED else []
        raise InputError("\n".join([row["reason"] for row in odd[:MOST_NAMED]] + more))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # runs side by side share one cache
        files = [*listing["path"], *listing["mask_path"], "names.csv"]
        sources = {name: _stamp(data_dir / name) for name in files if name}
        manifest = {"format": FORMAT, "on_bad_frame": on_bad_frame, "sources": sources, "target": read_target(data_dir)}
        if not matches(folder / "manifest.json", manifest):
            arrays = (len(listing) + int((listing["set"] == "train").sum())) * math.prod(FRAME_SHAPE)
            with storing(folder, needed=arrays), whole_folder(folder) as unfinished:
                _build(data_dir, unfinished, describe_frames(data_dir, listing), on_bad_frame, odd)
                write_json(unfinished / "manifest.json", manifest)
        return load_cache(folder)


def load_cache(folder: Path) -> FrameCache:
    """Load a complete cache without looking at the source files. Raises InputError if it is incomplete or outdated."""
    if not (folder / "manifest.json").exists():
        raise InputError(f"{folder}: no complete frame cache here; run 01_data_preparation first")
    manifest = read_json(folder / "manifest.json")
    if (version := manifest.get("format")) != FORMAT:
        raise InputError(
            f"{folder}: expected a frame cache of format {FORMAT}, found {version}, which an older release wrote; "
            "run 01_data_preparation again"
        )
    return FrameCache(
        folder=folder,
        index=read_index(folder / "index.csv"),
        images=np.load(folder / "images.npy", mmap_mode="r"),
        masks=np.load(folder / "masks.npy", mmap_mode="r"),
        skipped=pd.read_csv(folder / "skipped.csv", keep_default_na=False),
        target=manifest["target"],
    )


def read_index(path: Path) -> pd.DataFrame:
    """Read a table of frames; patients and paths are text, "" where there is none."""
    return pd.read_csv(path, dtype={"patient": str}).fillna({"mask_path": "", "patient": ""})


def _stamp(path: Path) -> tuple[int, int]:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else (-1, -1)


def _digest(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:  # missing or not readable; reading the frame will report it
        return ""


def _build(data_dir: Path, folder: Path, listing: pd.DataFrame, on_bad_frame: str, skipped: list[dict]) -> None:
    kept = []
    hashes: dict[str, str] = {}
    decoded = ahead(partial(_decode_row, data_dir), listing.to_dict("records"), threads=4, depth=64)
    train_count = int((listing["set"] == "train").sum())
    with _array(folder / "images.npy", len(listing)) as images, _array(folder / "masks.npy", train_count) as masks:
        for row, frame, mask, digests, error in reported(decoded, "frames decoded", len(listing)):
            hashes |= digests
            if error and on_bad_frame == "stop":
                raise error
            if error:
                skipped.append({"path": row["path"], "reason": str(error)})
                continue
            images.write(frame)
            if mask is not None:
                masks.write(mask)
            kept.append(row | _describe(mask))
    if not any(row["set"] == "train" for row in kept):
        raise InputError(f"{data_dir}: no usable training frame; {len(skipped)} were skipped")
    write_csv(folder / "index.csv", pd.DataFrame(kept).assign(row=np.arange(len(kept))))
    write_csv(folder / "skipped.csv", pd.DataFrame(skipped, columns=["path", "reason"]))
    write_json(folder / "hashes.json", hashes)


@contextmanager
def _array(path: Path, count: int) -> Iterator[BinaryIO]:
    """Open an .npy file to which `count` frames can be written one after the other; missing ones stay zero.

    A memory map is not used, because its written pages would count as this process's memory.
    """
    shape = (count, *FRAME_SHAPE)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        size = file.tell() + math.prod(shape)
        yield file
        file.truncate(size)


def _decode_row(data_dir: Path, row: dict) -> tuple:
    digests = {name: _digest(data_dir / name) for name in (row["path"], row["mask_path"]) if name}
    try:
        frame = read_frame(data_dir / row["path"])
        mask = read_mask(data_dir / row["mask_path"]) if row["mask_path"] else None
    except InputError as error:
        return row, None, None, digests, error
    return row, frame, mask, digests, None


def _describe(mask: np.ndarray | None) -> dict:
    if mask is None:
        return {"has_nerve": -1, "area": -1}
    area = int(mask.sum())
    moments = cv2.moments(mask, binaryImage=True)
    centre = (moments["m10"] / area, moments["m01"] / area) if area else (math.nan, math.nan)
    return {"has_nerve": int(area > 0), "area": area, "centroid_x": centre[0], "centroid_y": centre[1]}


def resize_frames(images: np.ndarray, rows: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize `rows` of `images` (N, H, W) to `size` (height, width): uint8 (len(rows), height, width)."""
    out = np.empty((len(rows), *size), np.uint8)
    for position, row in enumerate(rows):
        out[position] = cv2.resize(images[row], size[::-1], interpolation=cv2.INTER_AREA)
    return out


def open_resized(cache: FrameCache, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return memory-mapped images and soft masks of all labelled frames at `size`, both uint8 (N, height, width).

    A soft mask holds the share of nerve pixels below each input pixel, times 255, so that thin borders survive. The
    files are made once, in the cache's folder, and disappear with it when it is rebuilt.
    """
    folder = beside(cache.folder) / f"resized-{size[0]}x{size[1]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if not folder.exists():
            # a disk that fills up under a memory map kills the process, so check for room first
            with storing(folder, needed=2 * len(cache.masks) * size[0] * size[1]), whole_folder(folder) as unfinished:
                for name, source, scale in (("images", cache.images, 1), ("masks", cache.masks, 255)):
                    _write(unfinished / f"{name}.npy", source, len(cache.masks), size, scale)
    images, masks = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("images", "masks"))
    return images, masks


def _write(path, source: np.ndarray, count: int, size: tuple[int, int], scale: int) -> None:
    out = np.lib.format.open_memmap(path, "w+", np.uint8, (count, *size))

    def fill(start: int) -> None:
        rows = slice(start, min(start + 64, count))
        scaled = source[rows] * np.uint8(scale)
        out[rows] = resize_frames(scaled, np.arange(len(scaled)), size)

    list(ahead(fill, range(0, count, 64), threads=cores(), depth=64))
    out.flush()
