"""Disks that take no more: the message names place and space, and the same command goes on once there is room."""

import os
import re
import resource
import subprocess
import sys
from collections import namedtuple
from contextlib import contextmanager

import pytest

from nerveceg_lib import files, runner
from nerveceg_lib.__main__ import main
from nerveceg_lib.data import cache, resized
from nerveceg_lib.errors import StorageError
from nerveceg_lib.files import storing, write_json
from nerveceg_lib.paths import STAGES
from nerveceg_lib.submission import validate_submission
from tests.cells import TINY, run_cells
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
NEEDED = r"cannot be written: File too large; \d+\.\d MB or more needed, \d+\.\d MB free"


def command(*arguments, most=None, root):
    """Run the command line; no file may grow beyond `most` bytes, as on a disk that fills up."""
    return subprocess.run(
        [sys.executable, "-m", "nerveceg_lib", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"NERVECEG_RUNS": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))) if most else None,
    )


def test_a_phantom(tmp_path):
    options = ["phantom", str(tmp_path / "out"), "--subjects", "2", "--frames-per-subject", "2", "--test-frames", "1"]
    failed = command(*options, "--workers", "1", most=100_000, root=tmp_path)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr
    assert_names(failed.stderr, "out")
    assert command(*options, "--workers", "1", root=tmp_path).returncode == 0


def test_a_sweep_of_runs(tmp_path):
    grid, root = tmp_path / "grid.yaml", tmp_path / "runs"
    grid.write_text("name: grid\nprofile: tests/tiny.yaml\nonly: '01'\ngrid: {seed: [0]}\n")
    sweep = ["sweep", str(grid), "--workers", "1"]
    failed = command(*sweep, most=1_000_000, root=root)
    assert failed.returncode == 1 and "Traceback" not in failed.stderr, failed.stderr
    assert_names(failed.stdout, "cache")
    assert not list(root.rglob("manifest.json"))
    went_on = command(*sweep, root=root)
    assert went_on.returncode == 0 and list(root.rglob("done.json")), went_on.stderr


def assert_names(message, place):
    assert re.search(rf"{place}[^\n]*{NEEDED}", message), message


@contextmanager
def no_file_beyond(most):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_the_notebooks_and_predict(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path))
    monkeypatch.chdir(runner.NOTEBOOKS)
    run_cells(STAGES[0])
    # a figure or a checkpoint is too much, or a table
    for stage, limits in {1: (20_000, 100), 2: (20_000,), 3: (20_000, 100), 5: (20,)}.items():
        for most in limits:
            with no_file_beyond(most), pytest.raises(StorageError, match=rf"^{tmp_path}/.*{NEEDED}"):
                run_cells(STAGES[stage], resume=True)
        run_cells(STAGES[stage], resume=True)
    data = next(tmp_path.glob("phantom-*"))
    validate_submission(tmp_path / TINY["run"] / STAGES[5] / "submission.csv", data / "sample_submission.csv")
    predict = ["predict", str(data / "test"), str(tmp_path / "out"), "--run", TINY["run"]]
    with no_file_beyond(100):
        assert main(predict) == 1
    assert_names(capsys.readouterr().err, "out")
    assert main(predict) == 0


@pytest.mark.parametrize("mode", [0o555, 0])
def test_a_folder_that_may_not_be_written(mode, tmp_path):
    tmp_path.chmod(mode)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        with pytest.raises(StorageError, match="facts.json: cannot be written: Permission denied"):
            write_json(tmp_path / "facts.json", {})
    finally:
        if was_root:
            os.seteuid(0)
        tmp_path.chmod(0o755)


def test_too_little_room_is_said_before_anything_is_written(phantom, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    opened = cache.open_cache(phantom, tmp_path / "cache", progress=False)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage(0, 0, 1_000))
    with pytest.raises(
        StorageError, match=r"other: cannot be written: not enough space; 24.8 MB or more needed, 0.0 MB"
    ):
        cache.open_cache(phantom, tmp_path / "other", progress=False)
    assert not (tmp_path / "other").exists()
    with pytest.raises(StorageError, match="resized-48x64: cannot be written: not enough space"):
        resized.open_resized(opened, (48, 64))
    with storing(tmp_path / "small", needed=1_000):
        pass
