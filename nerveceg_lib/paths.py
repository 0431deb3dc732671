"""The one place that knows where data and artefacts lie.

<root>/cache/<data set>/       decoded frames, shared by all runs
<root>/phantom-<options>/      built-in phantom data
<root>/<run>/<stage>/          what one notebook of one run wrote

On Kaggle each notebook has a machine of its own: what earlier ones wrote is mounted below `KAGGLE_INPUT`, read-only.
"""

import os
import shutil
from pathlib import Path

from nerveceg_lib.errors import InputError
from nerveceg_lib.files import whole_folder

KAGGLE_INPUT = Path("/kaggle/input")
STAGES = (
    "01_data_preparation",
    "02_classifier_training",
    "03_segmenter_training",
    "04_two_stage_inference",
    "05_cnn_visualizations",
    "06_submission_rle",
)
STUDIES = ("07_blank_mask_bias", "08_architecture_comparison")  # beside the main job: they need notebook 1 alone


def artefact_root() -> Path:
    """Root of everything a run writes: $NERVECEG_RUNS, else `runs/` beside `notebooks/`."""
    if root := os.environ.get("NERVECEG_RUNS"):
        return Path(root).absolute()
    here = Path.cwd()
    return (here.parent if here.name == "notebooks" else here) / "runs"


def run_dir(run: str) -> Path:
    """Folder of a run. Raises InputError for a name that is a path or taken."""
    if not run or Path(run).name != run or run in {".", "..", "cache"}:
        raise InputError(f"run: expected a plain folder name, found {run!r}")
    return artefact_root() / run


def stage_dir(run: str, stage: str) -> Path:
    """Folder of one stage of one run, made if missing; on Kaggle it begins as a copy of what an earlier notebook left.

    Raises InputError for a run name that is a path.
    """
    folder = run_dir(run) / stage
    if not folder.exists() and (earlier := _mounted(f"{run}/{stage}")):
        with whole_folder(folder) as unfinished:
            shutil.copytree(earlier, unfinished, dirs_exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def portable(path: Path) -> str:
    """`path` as files name it: relative to the artefact root where it lies below, so that another machine finds it."""
    path, root = Path(path).absolute(), artefact_root()
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def locate(name: str) -> Path:
    """The path that `portable` named: below the artefact root, or in what an earlier Kaggle notebook left."""
    path = artefact_root() / name
    return path if path.exists() else _mounted(name) or path


def beside(cache: Path) -> Path:
    """Where to keep what is made from a frame cache: its own folder, or on Kaggle, where that is mounted, one here."""
    return artefact_root() / "cache" / f"{cache.name}-resized" if cache.is_relative_to(KAGGLE_INPUT) else cache


def _mounted(name: str) -> Path | None:
    """`name` below the `runs` folder of an earlier notebook's output; how deep Kaggle mounts that has changed."""
    found = (path for depth in (1, 2, 3) for path in KAGGLE_INPUT.glob(f"{'*/' * depth}runs/{name}"))
    return next(found, None)


def require(path: Path, made_by: str) -> Path:
    """Return `path` if it exists; else raise InputError that says which notebook makes it."""
    if not path.exists():
        raise InputError(f"{show(path)}: not found; run {made_by} first, with the same `run`")
    return path


def show(path: Path) -> str:
    """`path` as printed in notebooks: relative to the artefact root, so that no machine path is stored."""
    name = portable(path)
    return Path(name).name if Path(name).is_absolute() else name


def find_competition_data(data_dir: str) -> Path | None:
    """Resolve the `data_dir` parameter to a folder in competition layout.

    "auto" looks below Kaggle's input mount and gives None where there is none (use the phantom then).
    Raises InputError if the folder lacks `train/`.
    """
    if data_dir == "auto":
        mounted = sorted(KAGGLE_INPUT.glob("**/train_masks.csv")) if KAGGLE_INPUT.is_dir() else []
        return mounted[0].parent if mounted else None
    folder = Path(data_dir).expanduser().absolute()
    try:
        found = [path.name for path in (folder / "train").iterdir()]
    except OSError as error:
        raise InputError(
            f"data_dir: expected a folder that holds train/ (and test/), found {data_dir!r}: {error.strerror}"
        ) from error
    if not found:
        raise InputError(f"data_dir: expected frames in train/, found none in {data_dir!r}")
    return folder
