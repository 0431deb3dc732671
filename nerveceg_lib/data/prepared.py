"""What notebook 1 prepared for a run: its frames with their split, and the tables that came with the data."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pandas as pd

from nerveceg_lib.data.cache import FrameCache, load_cache
from nerveceg_lib.data.io import read_masks_csv
from nerveceg_lib.data.splits import check_split
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, artefact_root, locate, notebook_folder, require, show
from nerveceg_lib.runtime.io import read_json


def cache_dir(data_dir: Path) -> Path:
    """Return the folder of the frame cache of `data_dir`; each data folder has one."""
    key = hashlib.blake2b(str(Path(data_dir).absolute()).encode(), digest_size=4).hexdigest()
    return artefact_root() / "cache" / f"{Path(data_dir).name}-{key}"


def load_frames(run: str) -> FrameCache:
    """Load the frames that notebook 1 prepared for `run`; their index has the columns `split` and `fold`.

    Raises InputError if notebook 1 has not run, if an older release ran it, or if a patient is on two sides.
    """
    table = require(notebook_folder(run, NOTEBOOKS[0]) / "frames.csv", NOTEBOOKS[0])
    cache = load_cache(locate(_dataset(run)["cache"]))
    index = pd.read_csv(table)
    if "has_nerve" not in index:
        raise InputError(f"{show(table)}: written by an older release; run {NOTEBOOKS[0]} again")
    check_split(index, show(table))
    return replace(cache, index=index)


def load_solution(run: str) -> dict[int, str] | None:
    """Return the RLE truth of the test frames by image number, or None if the data has no solution.csv."""
    path = data_folder(run) / "solution.csv"
    return dict(read_masks_csv(path).itertuples(index=False)) if path.exists() else None


def load_contradictory(run: str) -> pd.DataFrame:
    """Return `subject` and `image` of the frames that are known to be labelled wrong: only the phantom lists them."""
    path = data_folder(run) / "contradictory.csv"
    if not path.exists():
        return pd.DataFrame(columns=["subject", "image"], dtype=int)
    return pd.read_csv(path).rename(columns={"img": "image"})[["subject", "image"]]


def describe_dataset(run: str) -> dict[str, str]:
    """Return `dataset` ("phantom", or the name of the data's folder) and `difficulty` (of the phantom, else "")."""
    return {key: _dataset(run)[key] for key in ("dataset", "difficulty")}


def data_folder(run: str) -> Path:
    """Return the folder in competition layout that notebook 1 read for `run`."""
    return locate(_dataset(run)["data_dir"])


def _dataset(run: str) -> dict:
    path = require(notebook_folder(run, NOTEBOOKS[0]) / "dataset.json", NOTEBOOKS[0])
    if not {"dataset", "digest"} <= set(dataset := read_json(path)):
        raise InputError(f"{show(path)}: written by an older release; run {NOTEBOOKS[0]} again")
    return dataset
