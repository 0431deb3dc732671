"""Describe this machine, installation and data folder, and say what is missing: `nerveceg doctor`."""

import platform
import shutil
import subprocess
import sys

from nerveceg_lib import __version__

NEEDED_GB = 3  # for the demo's phantom, cache and checkpoints


def examine(data_dir: str) -> tuple[list[str], list[str]]:
    """Return lines to print about this machine and `data_dir`, and the faults that were found."""
    lines = [f"nerveceg    {__version__}, Python {platform.python_version()}, {platform.platform()}"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "check"]
    check = subprocess.run(pip, capture_output=True, text=True).stdout.splitlines()
    if faults := [f"{line} `make setup` installs it." for line in check if line.startswith("nerveceg ")]:
        return lines, faults
    try:
        import psutil
        import torch

        from nerveceg_lib.runtime import device, folders, process
        from nerveceg_lib.runtime.errors import InputError
        from nerveceg_tools.provenance import arithmetic, processor
    except ModuleNotFoundError as error:
        return lines, [f"{error.name} is not installed for {sys.executable}; `make setup` installs it into .venv"]

    root, numbers = folders.artefact_root(), arithmetic()
    free = shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists())).free / 1e9
    if free < NEEDED_GB:
        faults.append(f"{root}: expected {NEEDED_GB} GB free for the demo, found {free:.1f} GB; set NERVECEG_RUNS")
    lines += [
        f"processor   {processor()}, {process.cores()} cores to use",
        f"memory      {psutil.virtual_memory().total / 1e9:.0f} GB",
        f"arithmetic  torch {torch.__version__}, {numbers['instructions']}, {numbers['threads']} threads, "
        f"precision auto: {device.resolve_precision('auto')}",
        f"GPU         {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none that torch can use'}",
        f"runs        {root}, {free:.0f} GB free",
    ]
    try:
        lines.append(f"data        {_data(data_dir)}")
    except InputError as error:
        faults.append(str(error))
    return lines, faults


def _data(data_dir: str) -> str:
    """Return what the folder in competition layout holds. Raises InputError if it is no such folder."""
    from nerveceg_lib.data.io import list_frames
    from nerveceg_lib.runtime.errors import InputError
    from nerveceg_lib.runtime.folders import find_competition_data

    folder = find_competition_data(data_dir)
    if folder is None:
        return "no competition data mounted: `run` makes the built-in phantom; `-p data_dir FOLDER` names your own"
    frames, odd = list_frames(folder)
    if odd:
        raise InputError("\n".join(row["reason"] for row in odd))
    train = frames[frames["set"] == "train"]
    missing = [name for name in train["mask_path"] if not (folder / name).exists()]
    if missing:
        wanted = "expected a mask for each training frame"
        raise InputError(f"{folder}: {wanted}, found {len(missing)} missing, first {missing[0]}")
    patients, test = train["subject"].nunique(), len(frames) - len(train)
    return f"{folder}: {len(train)} training frames of {patients} patients, {test} test frames"
