"""Where a run's frames and given masks come from: a folder, Kaggle's mounted input, or the built-in phantom."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
from filelock import FileLock

from nerveceg_lib import rle
from nerveceg_lib.data.cache import FrameCache, load_cache
from nerveceg_lib.data.index import check_split
from nerveceg_lib.data.phantom_set import write_phantom
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import read_json, storing, write_csv
from nerveceg_lib.paths import STAGES, artefact_root, find_competition_data, locate, require, show, stage_dir
from nerveceg_lib.submission import read_masks_csv


def resolve_data(data_dir: str, **phantom_options) -> Path:
    """The folder in competition layout that `data_dir` means; "auto" falls back to the phantom.

    The phantom is made once for a set of `phantom_options` (see `write_phantom`) and kept under the
    artefact root.
    """
    if found := find_competition_data(data_dir):
        return found
    key = hashlib.blake2b(json.dumps(phantom_options, sort_keys=True).encode(), digest_size=4).hexdigest()
    folder = artefact_root() / f"phantom-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):  # runs side by side share one phantom
        if not folder.exists():
            with storing(folder):
                write_phantom(folder, **phantom_options)
    return folder


def cache_dir(data_dir: Path) -> Path:
    """The folder of the frame cache of `data_dir`, one for each data folder."""
    key = hashlib.blake2b(str(Path(data_dir).absolute()).encode(), digest_size=4).hexdigest()
    return artefact_root() / "cache" / f"{Path(data_dir).name}-{key}"


def load_prepared(run: str) -> FrameCache:
    """The frames that notebook 1 prepared for `run`; `index` carries `split` and `fold`."""
    stage = stage_dir(run, STAGES[0])
    cache = load_cache(locate(_dataset(run)["cache"]))
    index = pd.read_csv(require(stage / "frames.csv", STAGES[0]))
    check_split(index, show(stage / "frames.csv"))
    return replace(cache, index=index)


def load_solution(run: str) -> dict[int, str] | None:
    """RLE truth of the test frames by image number, or None where the data has no solution.csv."""
    path = _data_dir(run) / "solution.csv"
    return dict(read_masks_csv(path).itertuples(index=False)) if path.exists() else None


def load_contradictory(run: str) -> pd.DataFrame:
    """`subject` and `image` of the frames that are known to be labelled wrong: the phantom's, of other data none."""
    path = _data_dir(run) / "contradictory.csv"
    if not path.exists():
        return pd.DataFrame(columns=["subject", "image"], dtype=int)
    return pd.read_csv(path).rename(columns={"img": "image"})[["subject", "image"]]


def data_name(run: str) -> str:
    """What the run's data are called in tables: the phantom by its difficulty, other data by their folder."""
    return _dataset(run)["name"]


def compare_train_masks(run: str, frames: FrameCache) -> int | None:
    """How many mask files were found equal to their strings in train_masks.csv; None where the data has no such file.

    Raises InputError for the first one that is not equal, as a shifted one would be, or not in the table.
    """
    path = _data_dir(run) / "train_masks.csv"
    if not path.exists():
        return None
    table = read_masks_csv(path, ["subject", "img", "pixels"])
    given = {(row.subject, row.img): row.pixels for row in table.itertuples()}
    labelled = frames.index[frames.index["set"] == "train"]
    for row, subject, image, name in labelled[["row", "subject", "image", "mask_path"]].itertuples(index=False):
        if (subject, image) not in given:
            raise InputError(f"{path}: expected a row for subject {subject}, img {image}, found none")
        if rle.encode(frames.masks[row]) != given[subject, image]:
            raise InputError(f"{name}: expected the mask that {path.name} has for it, found another one")
    return len(labelled)


def sample_submission(run: str, stage: Path) -> Path:
    """The data's sample_submission.csv; without one, a list of its test frames written to `stage`."""
    given = _data_dir(run) / "sample_submission.csv"
    if given.exists():
        return given
    index = load_prepared(run).index
    images = index.loc[index["set"] == "test", "image"]
    write_csv(stage / given.name, pd.DataFrame({"img": images, "pixels": ""}))
    return stage / given.name


def load_submission_masks(run: str, masks_csv: str) -> pd.DataFrame:
    """Columns `img` and `pixels`: the file `masks_csv`, or ("") the masks that notebook 4 drew, else blank."""
    if masks_csv:
        return read_masks_csv(require(Path(masks_csv), "what writes it"))
    predicted = pd.read_csv(require(stage_dir(run, STAGES[3]) / "test.csv", STAGES[3]), keep_default_na=False)
    return pd.DataFrame({"img": predicted["image"], "pixels": predicted["pixels"].where(predicted["drawn"], "")})


def _data_dir(run: str) -> Path:
    return locate(_dataset(run)["data_dir"])


def _dataset(run: str) -> dict:
    return read_json(require(stage_dir(run, STAGES[0]) / "dataset.json", STAGES[0]))
