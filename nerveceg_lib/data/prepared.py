"""What notebook 1 prepared for a run: its frames with their split, and the tables that came with the data."""

import hashlib
from dataclasses import replace
from pathlib import Path

from nerveceg_lib.data.cache import FrameCache, load_cache, read_index
from nerveceg_lib.data.splits import check_split
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, artefact_root, locate, notebook_folder, require, show
from nerveceg_lib.runtime.io import read_json

BASIS = ("frames.csv", "classifier.pt", "segmenter.pt")  # of notebooks 1 to 3


def cache_dir(data_dir: Path) -> Path:
    """Return the folder of the frame cache of `data_dir`; each data folder has one."""
    key = hashlib.blake2b(str(Path(data_dir).absolute()).encode(), digest_size=4).hexdigest()
    return artefact_root() / "cache" / f"{Path(data_dir).name}-{key}"


def load_frames(run: str) -> FrameCache:
    """Load the frames that notebook 1 prepared for `run`; their index has the columns `split` and `fold`.

    Raises InputError if notebook 1 has not run to its end, if an older release ran it, if another run has read changed
    frames since, or if a patient is on two sides.
    """
    table, dataset = require(run, NOTEBOOKS[0], "frames.csv"), _dataset(run)
    cache = load_cache(locate(dataset["cache"]))
    if cache.digest != dataset["digest"]:
        raise InputError(f"{show(table)}: the frames have changed since; run {NOTEBOOKS[0]} again")
    index = read_index(table)
    check_split(index, show(table))
    return replace(cache, index=index)


def basis(run: str) -> dict[str, str]:
    """Return hashes of what the results of `run` rest on: its data, its split and its trained networks."""
    files = [notebook_folder(run, name) / file for name, file in zip(NOTEBOOKS, BASIS, strict=False)]
    contents = {path.name: path.read_bytes() for path in files if path.exists()}
    hashes = {name: hashlib.blake2b(content, digest_size=8).hexdigest() for name, content in contents.items()}
    return {"data": _dataset(run)["digest"], **hashes}


def describe_dataset(run: str) -> dict[str, str]:
    """Return `dataset` ("phantom", or the name of the data's folder) and `difficulty` (of the phantom, else "")."""
    return {key: _dataset(run)[key] for key in ("dataset", "difficulty")}


def data_folder(run: str) -> Path:
    """Return the folder in competition layout that notebook 1 read for `run`."""
    return locate(_dataset(run)["data_dir"])


def _dataset(run: str) -> dict:
    path = require(run, NOTEBOOKS[0], "dataset.json")
    if not {"dataset", "digest"} <= set(dataset := read_json(path)):
        raise InputError(f"{show(path)}: written by an older release; run {NOTEBOOKS[0]} again")
    return dataset
