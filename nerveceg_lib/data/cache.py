"""Decode every TIFF once into memory-mapped arrays, with a manifest of hashes that notices change.

frames.npy   uint8 (frames, 420, 580)        train frames first, then test frames
masks.npy    uint8 (train frames, 420, 580)  values 0 and 1
index.csv    one row a frame, in the same order: presence and mask area (-1 for test frames), centroid
skipped.csv  bad frames left out, with the reason
manifest.json  hashes of the files; where they differ, the cache is rebuilt
"""

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm import tqdm

from nerveceg_lib.data.frames import read_frame, read_mask
from nerveceg_lib.data.index import list_frames
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import read_json, storing, whole_folder, write_csv, write_json
from nerveceg_lib.rle import FRAME_SHAPE

FORMAT = 1
ON_BAD_FRAME = ("stop", "skip")


@dataclass(frozen=True)
class FrameCache:
    """The decoded data set: `index` (one row a frame), `frames` and `masks` as described above, in `folder`."""

    folder: Path
    index: pd.DataFrame
    frames: np.ndarray
    masks: np.ndarray
    skipped: pd.DataFrame


def open_cache(data_dir: Path, folder: Path, on_bad_frame: str = "stop", progress: bool = True) -> FrameCache:
    """Open the cache of `data_dir` in `folder`; build it first if it is missing, stale or half-written.

    Raises InputError for a bad frame (`on_bad_frame="stop"`), or lists it in `skipped` ("skip"), and StorageError where
    there is no room.
    """
    if on_bad_frame not in ON_BAD_FRAME:
        raise InputError(f"on_bad_frame: expected one of {ON_BAD_FRAME}, found {on_bad_frame!r}")
    listing = list_frames(data_dir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # runs side by side share one cache
        if not _is_fresh(data_dir, folder, listing, on_bad_frame):
            arrays = (len(listing) + int((listing["set"] == "train").sum())) * math.prod(FRAME_SHAPE)
            with storing(folder, needed=arrays), whole_folder(folder) as unfinished:
                _build(data_dir, unfinished, listing, on_bad_frame, progress)
        return load_cache(folder)


def load_cache(folder: Path) -> FrameCache:
    """Load a complete cache without looking at the source files. Raises InputError if it is incomplete."""
    if not (folder / "manifest.json").exists():
        raise InputError(f"{folder}: no complete frame cache here; run 01_data_preparation first")
    return FrameCache(
        folder=folder,
        index=pd.read_csv(folder / "index.csv").fillna({"mask_path": ""}),
        frames=np.load(folder / "frames.npy", mmap_mode="r"),
        masks=np.load(folder / "masks.npy", mmap_mode="r"),
        skipped=pd.read_csv(folder / "skipped.csv", keep_default_na=False),
    )


def _is_fresh(data_dir: Path, folder: Path, listing: pd.DataFrame, on_bad_frame: str) -> bool:
    """True if every source file has the recorded size and time, or at least the recorded content."""
    if not (folder / "manifest.json").exists():
        return False
    manifest = read_json(folder / "manifest.json")
    if manifest["format"] != FORMAT or manifest["on_bad_frame"] != on_bad_frame:
        return False
    files = manifest["files"]
    wanted = {name for name in [*listing["path"], *listing["mask_path"]] if name}
    if wanted != set(files):
        return False
    return all(_unchanged(data_dir / name, record) for name, record in files.items())


def _unchanged(path: Path, record: dict) -> bool:
    if _stamp(path) == (record["size"], record["mtime_ns"]):
        return True
    return path.exists() == (record["blake2b"] != "") and _digest(path) == record["blake2b"]


def _stamp(path: Path) -> tuple[int, int]:
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.exists() else (-1, -1)


def _digest(path: Path) -> str:
    try:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    except OSError:  # missing or not readable, which reading the frame will say
        return ""


def _build(data_dir: Path, folder: Path, listing: pd.DataFrame, on_bad_frame: str, progress: bool) -> None:
    kept, skipped = [], []
    files: dict[str, dict] = {}
    decoded = _decode_all(data_dir, listing)
    train_count = int((listing["set"] == "train").sum())
    with _array(folder / "frames.npy", len(listing)) as frames, _array(folder / "masks.npy", train_count) as masks:
        for row, frame, mask, records, error in tqdm(
            decoded, "decode", len(listing), disable=not progress, delay=5, mininterval=5
        ):
            files |= records
            if error and on_bad_frame == "stop":
                raise error
            if error:
                skipped.append({"path": row["path"], "reason": str(error)})
                continue
            frames.write(frame)
            if mask is not None:
                masks.write(mask)
            kept.append(row | _describe(mask))
    if not any(row["set"] == "train" for row in kept):
        raise InputError(f"{data_dir}: no usable training frame; {len(skipped)} were skipped")
    _finish(folder, pd.DataFrame(kept), pd.DataFrame(skipped, columns=["path", "reason"]))
    manifest = {"format": FORMAT, "on_bad_frame": on_bad_frame, "files": files}
    write_json(folder / "manifest.json", manifest)


@contextmanager
def _array(path: Path, count: int) -> Iterator[BinaryIO]:
    """An .npy file to write `count` frames to, one after the other; those that do not come are zero.

    Not a memory map, whose written pages would count as this process's memory.
    """
    shape = (count, *FRAME_SHAPE)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        size = file.tell() + math.prod(shape)
        yield file
        file.truncate(size)


def _decode_all(data_dir: Path, listing: pd.DataFrame) -> Iterator[tuple]:
    """Decode in a few threads, a bounded number of frames ahead, in the listing's order."""
    rows = listing.to_dict("records")
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(rows), 64):
            yield from pool.map(lambda row: _decode_row(data_dir, row), rows[start : start + 64])


def _decode_row(data_dir: Path, row: dict) -> tuple:
    paths = [name for name in (row["path"], row["mask_path"]) if name]
    records = {}
    for name in paths:
        size, mtime_ns = _stamp(data_dir / name)
        records[name] = {"size": size, "mtime_ns": mtime_ns, "blake2b": _digest(data_dir / name)}
    try:
        frame = read_frame(data_dir / row["path"])
        mask = read_mask(data_dir / row["mask_path"]) if row["mask_path"] else None
    except InputError as error:
        return row, None, None, records, error
    return row, frame, mask, records, None


def _describe(mask: np.ndarray | None) -> dict:
    if mask is None:
        return {"presence": -1, "area": -1}
    area = int(mask.sum())
    moments = cv2.moments(mask, binaryImage=True)
    centre = (moments["m10"] / area, moments["m01"] / area) if area else (math.nan, math.nan)
    return {"presence": int(area > 0), "area": area, "centroid_x": centre[0], "centroid_y": centre[1]}


def _finish(folder: Path, index: pd.DataFrame, skipped: pd.DataFrame) -> None:
    index["row"] = np.arange(len(index))
    write_csv(folder / "index.csv", index)
    write_csv(folder / "skipped.csv", skipped)
