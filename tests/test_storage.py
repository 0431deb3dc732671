"""Full disks: the message names the file and the space it needs, and the same command continues once there is room."""

import os
import re
import resource
from collections import namedtuple
from contextlib import contextmanager

import pytest

from nerveceg_lib.data import cache
from nerveceg_lib.inference.submission import validate_submission
from nerveceg_lib.runtime import io
from nerveceg_lib.runtime.errors import StorageError
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_tools import run
from nerveceg_tools.cli import main
from tests.cells import TINY, run_cells

pytestmark = pytest.mark.slow
NEEDED = r"cannot be written: File too large; \d+\.\d MB or more needed, \d+\.\d MB free"


@contextmanager
def no_file_beyond(most):
    """Let no file grow beyond `most` bytes, as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_phantom(tmp_path, capsys):
    command = ["phantom", str(tmp_path / "out"), "--patients", "2", "--frames-per-patient", "2", "--test-frames", "1"]
    with no_file_beyond(100_000):
        assert main(command) == 1
    assert re.search(rf"out[^\n]*{NEEDED}", capsys.readouterr().err)
    assert main(command) == 0


def test_the_notebooks_and_predict(root, monkeypatch, capsys):
    monkeypatch.chdir(run.NOTEBOOK_FOLDER)
    run_cells(NOTEBOOKS[0])
    # a figure or a checkpoint is too large, or a table
    for number, limits in {1: (20_000, 100), 2: (20_000,), 3: (20_000, 100), 5: (20,)}.items():
        for most in limits:
            with no_file_beyond(most), pytest.raises(StorageError, match=rf"^{root}/.*{NEEDED}"):
                run.run_cells(NOTEBOOKS[number], TINY | {"resume": True})
        run_cells(NOTEBOOKS[number], resume=True)
    data = next(root.glob("phantom-*"))
    validate_submission(root / TINY["run"] / NOTEBOOKS[5] / "submission.csv", data / "sample_submission.csv")
    predict = ["predict", str(data / "test"), str(root / "out"), "--run", TINY["run"]]
    with no_file_beyond(100):
        assert main(predict) == 1
    assert re.search(rf"out[^\n]*{NEEDED}", capsys.readouterr().err)
    assert main(predict) == 0


@pytest.mark.parametrize("mode", [0o555, 0])
def test_a_folder_that_may_not_be_written(mode, tmp_path):
    tmp_path.chmod(mode)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)  # root may write everywhere
        with pytest.raises(StorageError, match="facts.json: cannot be written: Permission denied"):
            io.write_json(tmp_path / "facts.json", {})
    finally:
        os.seteuid(user)
        tmp_path.chmod(0o755)


def test_too_little_room_is_noticed_before_anything_is_written(phantom, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    opened = cache.open_cache(phantom, tmp_path / "cache")
    monkeypatch.setattr(io.shutil, "disk_usage", lambda path: usage(0, 0, 1_000))
    with pytest.raises(
        StorageError, match=r"other: cannot be written: not enough space; 24.8 MB or more needed, 0.0 MB"
    ):
        cache.open_cache(phantom, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(StorageError, match="resized-48x64: cannot be written: not enough space"):
        cache.open_resized(opened, (48, 64))
    with io.storing(tmp_path / "small", needed=1_000):
        pass
