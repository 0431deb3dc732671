"""End a command as people, schedulers and memory limits do, and look at what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import torch
from filelock import FileLock
from PIL import Image

from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_lib.runtime.io import UNFINISHED
from nerveceg_tools.run import flatten
from tests.cells import PROFILE
from tests.conftest import REPOSITORY

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
ONLY = "01,02,03,04,06"  # no notebook reads what notebook 5 writes
PARAMETERS = {  # with these the gate keeps masks even at this size, so that the submission holds some
    "classifier": {"model": "resnet18", "epochs": 4},
    "segmenter": {"epochs": 30, "loss": "dice", "lr": 0.01},
}
OPTIONS = [word for name, value in flatten(PARAMETERS).items() for word in ("-p", name, str(value))]
RUN = ["run", "--profile", PROFILE, "--resume", "--only", ONLY, *OPTIONS]
RESULTS = (
    *(f"{notebook}/metrics.json" for notebook in NOTEBOOKS if notebook[:2] in ONLY),
    f"{NOTEBOOKS[1]}/classifier.pt",
    f"{NOTEBOOKS[2]}/segmenter.pt",
    f"{NOTEBOOKS[3]}/heldout.csv",
    f"{NOTEBOOKS[3]}/test.csv",
    f"{NOTEBOOKS[5]}/submission.csv",
)
READERS = {
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": pd.read_csv,
    ".png": lambda path: Image.open(path).load(),
    ".tif": lambda path: Image.open(path).load(),
    ".npy": partial(np.load, mmap_mode="r"),
    ".pt": partial(torch.load, weights_only=True),
    ".ckpt": partial(torch.load, weights_only=True),
    ".ipynb": lambda path: nbformat.validate(nbformat.read(path, 4)),
}


def start(arguments: list[str], root: Path) -> tuple[subprocess.Popen, Path]:
    """Start the command line on one core in its own process group; return it with the file that it prints to."""
    log = root.with_name(f"{root.name}.log")
    with open(log, "w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "nerveceg_tools", *arguments],
            cwd=REPOSITORY,
            env=os.environ | {"NERVECEG_RUNS": str(root), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),  # heed Ctrl-C even behind "&"
        )
    return process, log


def complete(arguments: list[str], root: Path) -> None:
    """Run the command to its end."""
    process, log = start(arguments, root)
    try:
        process.wait(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, log.read_text()


def interrupt(arguments: list[str], root: Path, moment: Callable[[str], bool], kill: signal.Signals) -> int:
    """Run the command, end it as soon as `moment` is true of what it printed, and check what is left.

    Ctrl-C goes to the whole group as from a terminal, other signals go to the command alone. Returns its exit code.
    """
    process, log = start(arguments, root)
    try:
        while process.poll() is None and not moment(log.read_text()):
            time.sleep(0.02)
        if process.poll() is None:
            (os.killpg if kill == signal.SIGINT else os.kill)(process.pid, kill)
        process.wait(timeout=120)
    finally:
        process.kill()
    if kill != signal.SIGKILL and process.returncode != 0:
        text = log.read_text()
        assert process.returncode == 130 and "interrupted; run the same command again to continue" in text, text
    assert_nothing_runs(root)
    assert_whole(root)
    return process.returncode


def assert_nothing_runs(root: Path) -> None:
    """Check that all processes of the command end; kernels and workers take a few seconds to notice its death."""
    for _ in range(300):
        if not (left := [process for process in psutil.process_iter() if _works_in(process, root)]):
            return
        time.sleep(0.1)
    raise AssertionError([process.cmdline() for process in left])


def _works_in(process: psutil.Process, root: Path) -> bool:
    try:
        return process.environ().get("NERVECEG_RUNS") == str(root) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def assert_whole(root: Path) -> None:
    """Check that every lock is free, and that every file under a final name can be read."""
    for path in root.rglob("*"):
        if path.name.endswith(".lock"):
            with FileLock(path, timeout=0):
                pass
        elif path.is_file() and not any(name.startswith(UNFINISHED) for name in path.relative_to(root).parts):
            READERS.get(path.suffix, Path.read_bytes)(path)


def assert_same(root: Path, undisturbed: Path, run: str = "tiny") -> None:
    """Check that the results are those of the undisturbed run, to the byte, and that nothing half-written is left."""
    for name in RESULTS:
        assert (root / run / name).read_bytes() == (undisturbed / "tiny" / name).read_bytes(), name
    assert not list(root.rglob(f"{UNFINISHED}*"))
