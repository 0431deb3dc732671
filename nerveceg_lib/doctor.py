"""What this machine, installation and data folder are like, and what is missing: `python -m nerveceg_lib doctor`."""

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path

from packaging.requirements import Requirement

from nerveceg_lib import __version__, compute, paths, runtime
from nerveceg_lib.errors import InputError
from nerveceg_lib.record import processor

FIRST_PYTHON = (3, 11)
NEEDED_GB = 3  # the demo's phantom, cache and checkpoints


def examine(data_dir: str) -> tuple[list[str], list[str]]:
    """Lines to print about this machine and `data_dir`, and the faults found, each with what mends it."""
    import torch

    faults = [*_packages(), *_room()]
    if sys.version_info < FIRST_PYTHON:
        faults.append(f"Python {platform.python_version()}: expected 3.11 or later")
    lines = [
        f"nerveceg    {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"processor   {processor()}, {runtime.cores()} cores to use",
        f"arithmetic  torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, "
        f"precision auto: {compute.resolve_precision('auto')}",
        f"GPU         {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none that torch can use'}",
        f"memory      {_memory()}",
        f"runs        {paths.artefact_root()}, {_free() / 1e9:.0f} GB free",
    ]
    try:
        lines.append(f"data        {_data(data_dir)}")
    except InputError as error:
        faults.append(str(error))
    return lines, faults


def _packages() -> list[str]:
    """A fault for each package of the main installation that is missing or of a version that does not fit."""
    faults = []
    for line in importlib.metadata.requires("nerveceg") or []:
        needed = Requirement(line)
        if needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            version = "none"
        if version == "none" or not needed.specifier.contains(version, prereleases=True):
            faults.append(f"{needed.name}: expected {needed.specifier}, found {version}; `make setup` installs it")
    return faults


def _room() -> list[str]:
    if _free() > NEEDED_GB * 1e9 and os.access(_nearest(), os.W_OK):
        return []
    return [
        f"{paths.artefact_root()}: expected a folder to write to with {NEEDED_GB} GB free for the demo, found "
        f"{_free() / 1e9:.1f} GB; NERVECEG_RUNS names another one"
    ]


def _free() -> int:
    return shutil.disk_usage(_nearest()).free


def _nearest() -> Path:
    """The folder of artefacts, or what is there of its path."""
    return next(path for path in (paths.artefact_root(), *paths.artefact_root().parents) if path.exists())


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "unknown here"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB"


def _data(data_dir: str) -> str:
    """What the folder in competition layout holds. Raises InputError where it is none."""
    from nerveceg_lib.data.index import list_frames

    folder = paths.find_competition_data(data_dir)
    if folder is None:
        return "no competition data mounted: `run` makes the built-in phantom; `-p data_dir FOLDER` names your own"
    frames = list_frames(folder)
    train = frames[frames["set"] == "train"]
    missing = [name for name in train["mask_path"] if not (folder / name).exists()]
    if missing:
        found = f"{len(missing)} missing, first {missing[0]}"
        raise InputError(f"{folder}: expected a mask for each training frame, found {found}")
    tables = [name for name in ("train_masks.csv", "sample_submission.csv") if (folder / name).exists()]
    return (
        f"{folder}: {len(train)} training frames of {train['subject'].nunique()} patients, "
        f"{len(frames) - len(train)} test frames, {' and '.join(tables) or 'no tables (none are needed)'}"
    )
