"""End a command at any moment as people, schedulers and memory limits do, and look at what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import takewhile
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import psutil
import torch
from filelock import FileLock
from PIL import Image

from nerveceg_lib.files import UNFINISHED
from nerveceg_lib.paths import STAGES
from tests.conftest import REPOSITORY

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
ONLY = "01,02,03,04,06"  # nothing comes after notebook 5's pictures
PROFILE = "tests/tiny.yaml"
DRAWS = {  # at this size the gate opens, so that the submission holds masks
    "classifier_model": "resnet18",
    "classifier_epochs": 4,
    "segmenter_epochs": 30,
    "segmenter_loss": "dice",
    "segmenter_rate": 0.01,
}
OPTIONS = [text for name, value in DRAWS.items() for text in ("-p", name, str(value))]
RUN = ["run", "--profile", PROFILE, "--resume", "--only", ONLY, *OPTIONS]
RESULTS = (
    *(f"{stage}/metrics.json" for stage in STAGES if stage[:2] in ONLY),
    f"{STAGES[5]}/submission.csv",
    f"{STAGES[3]}/test.csv",
    f"{STAGES[3]}/heldout.csv",
    f"{STAGES[2]}/segmenter.pt",
    f"{STAGES[1]}/classifier.pt",
)
READERS = {
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
    ".png": lambda path: Image.open(path).load(),
    ".tif": lambda path: Image.open(path).load(),
    ".npy": partial(np.load, mmap_mode="r"),
    ".pt": partial(torch.load, weights_only=True),
    ".ckpt": partial(torch.load, weights_only=True),
    ".ipynb": lambda path: nbformat.validate(nbformat.read(path, 4)),
}


def start(arguments: list[str], root: Path) -> subprocess.Popen:
    """The command line on one core in a process group of its own, heeding Ctrl-C even behind "&"."""
    return subprocess.Popen(
        [sys.executable, "-m", "nerveceg_lib", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"NERVECEG_RUNS": str(root), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


def complete(arguments: list[str], root: Path) -> str:
    """Run the command to its end; what it printed."""
    process = start(arguments, root)
    try:
        text, _ = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, text
    return text


def interrupt(arguments: list[str], root: Path, after: str, seconds: float, kill: signal.Signals) -> int:
    """Run the command, send the signal `seconds` after it printed a line that holds `after`, and check what is left.

    Ctrl-C goes to the whole group as from a terminal, the others to the command alone. Returns its exit code.
    """
    process = start(arguments, root)
    said = list(takewhile(lambda line: after not in line, iter(process.stdout.readline, ""))) if after else []
    time.sleep(seconds)
    if process.poll() is None:
        (os.killpg if kill == signal.SIGINT else os.kill)(process.pid, kill)
    try:
        rest, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    if after and kill != signal.SIGKILL and process.returncode != 0:
        assert process.returncode == 130 and "interrupted; the same command goes on" in rest, "".join([*said, rest])
    assert_nothing_runs(root)
    assert_whole(root)
    return process.returncode


def assert_nothing_runs(root: Path) -> None:
    """No process of the command is left after the seconds that kernels and workers take to miss it."""
    for _ in range(150):
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
    """Every lock is free and every file under a final name can be read."""
    for path in root.rglob("*"):
        if path.name.endswith(".lock"):
            with FileLock(path, timeout=0):
                pass
        elif path.is_file() and not any(part.startswith(UNFINISHED) for part in path.relative_to(root).parts):
            READERS.get(path.suffix, Path.read_bytes)(path)


def assert_same(root: Path, wanted: Path, run: str = "tiny") -> None:
    """The run's results are those of the undisturbed run, to the byte, and nothing half-written is left."""
    for name in RESULTS:
        assert (root / run / name).read_bytes() == (wanted / "tiny" / name).read_bytes(), name
    assert not list(root.rglob(f"{UNFINISHED}*"))
