"""The one place that knows where data and artefacts are.

<root>/cache/<data set>/       decoded frames, shared by all runs
<root>/phantom-<options>/      the built-in phantom data
<root>/<run>/<notebook>/       what one notebook of one run wrote

On Kaggle each notebook has a machine of its own: the output of earlier notebooks is mounted read-only below
`KAGGLE_INPUT`.
"""

import os
import shutil
from pathlib import Path

from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import whole_folder

KAGGLE_INPUT = Path("/kaggle/input")
NOTEBOOKS = (
    "01_data_preparation",
    "02_classifier_training",
    "03_segmenter_training",
    "04_two_stage_inference",
    "05_cnn_visualizations",
    "06_submission_rle",
)
STUDIES = ("07_blank_mask_bias", "08_architecture_comparison", "09_right_for_the_wrong_reason")  # need notebook 1 only


def artefact_root() -> Path:
    """Return the root of everything a run writes: $NERVECEG_RUNS, else `runs/` beside `notebooks/`."""
    if root := os.environ.get("NERVECEG_RUNS"):
        return Path(root).absolute()
    here = Path.cwd()
    return (here.parent if here.name == "notebooks" else here) / "runs"


def run_folder(run: str) -> Path:
    """Return the folder of a run. Raises InputError for a name that is a path, reserved or too long."""
    if not run or Path(run).name != run or run in {".", "..", "cache"} or len(run.encode()) > 200:
        raise InputError(f"run: expected a plain folder name of at most 200 bytes, found {run!r}")
    return artefact_root() / run


def notebook_folder(run: str, notebook: str) -> Path:
    """Return the folder that one notebook of one run writes to, and make it if it is missing.

    On Kaggle it starts as a copy of what an earlier notebook left. Raises InputError for a run name that is a path.
    """
    folder = run_folder(run) / notebook
    if not folder.exists() and (mounted := _mounted(f"{run}/{notebook}")):
        with whole_folder(folder) as unfinished:
            shutil.copytree(mounted, unfinished, dirs_exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def portable(path: Path) -> str:
    """Return `path` as files record it: relative to the artefact root if it is below, so that it can be moved."""
    path, root = Path(path).absolute(), artefact_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def locate(name: str) -> Path:
    """Return the path that `portable` recorded, below the artefact root or in an earlier Kaggle notebook's output."""
    path = artefact_root() / name
    return path if path.exists() else _mounted(name) or path


def beside(cache: Path) -> Path:
    """Return where to keep files made from a frame cache: in it, or in a folder here if the cache is read-only."""
    return artefact_root() / "cache" / f"{cache.name}-resized" if cache.is_relative_to(KAGGLE_INPUT) else cache


def _mounted(name: str) -> Path | None:
    """Return `name` below the `runs` folder of an earlier notebook's output; Kaggle has changed how deep that is."""
    candidates = (path for depth in (1, 2, 3) for path in KAGGLE_INPUT.glob(f"{'*/' * depth}runs/{name}"))
    return next(candidates, None)


def require(run: str, notebook: str, name: str) -> Path:
    """Return the path of a file that a notebook of `run` has written. Raises InputError if it has not."""
    path = run_folder(run) / notebook / name
    if path.parent.exists() or _mounted(f"{run}/{notebook}"):
        path = notebook_folder(run, notebook) / name
    if not path.exists():
        raise InputError(f"{show(path)}: not found; run {notebook} first, with the same `run`")
    return path


def show(path: Path) -> str:
    """Return `path` as notebooks print it: relative to the artefact root, so that no machine path is stored."""
    name = portable(path)
    return Path(name).name if Path(name).is_absolute() else name


def find_competition_data(data_dir: str) -> Path | None:
    """Return the folder in competition layout that the parameter `data_dir` names.

    "auto" looks below Kaggle's input mount and gives None if nothing is mounted. Raises InputError if the folder has
    no `train/` with frames.
    """
    if data_dir == "auto":
        mounted = sorted(KAGGLE_INPUT.glob("**/train_masks.csv")) if KAGGLE_INPUT.is_dir() else []
        return mounted[0].parent if mounted else None
    folder = Path(data_dir).expanduser().absolute()
    try:
        names = [path.name for path in (folder / "train").iterdir()]
    except OSError as error:
        reason = error.strerror
        if isinstance(error, FileNotFoundError):
            reason = "there is none in it" if folder.is_dir() else "no such folder"
        raise InputError(f"data_dir: expected {data_dir!r} to hold train/ (and test/): {reason}") from error
    if not names:
        raise InputError(f"data_dir: expected frames in train/, found none in {data_dir!r}")
    return folder


def stored_results(name: str) -> Path:
    """Return a table in `notebooks/results/`, which on Kaggle is in the attached data set. For use in notebooks.

    The environment variable NERVECEG_RESULTS names that folder for notebooks that are elsewhere.
    """
    return next(KAGGLE_INPUT.glob(f"**/results/{name}"), Path(os.environ.get("NERVECEG_RESULTS", "results")) / name)
