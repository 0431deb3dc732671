"""Grids of runs: what they expand to, what is refused before anything runs, failures, reruns, results."""

import math
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nerveceg_lib.data.source import resolve_data
from nerveceg_lib.errors import InputError
from nerveceg_lib.runner import StageFailed
from nerveceg_lib.sweep import Sweep, read_sweep, run_sweep
from tests.conftest import REPOSITORY


def grid_file(folder: Path, **content) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"name": "try", "grid": {"seed": [0, 1]}} | content))
    return path


def test_every_combination_is_a_run_of_its_own(tmp_path):
    sweep = read_sweep(grid_file(tmp_path, only="01,03", grid={"seed": [0, 1], "segmenter_loss": ["dice", "bce"]}))
    assert sweep.points == [
        {"seed": "0", "segmenter_loss": "dice"},
        {"seed": "0", "segmenter_loss": "bce"},
        {"seed": "1", "segmenter_loss": "dice"},
        {"seed": "1", "segmenter_loss": "bce"},
    ]
    assert sweep.run_of(sweep.points[1]) == "try-seed=0-segmenter_loss=bce"
    assert sweep.only == ["01", "03"] and sweep.profile == "demo"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True), min_size=1, max_size=3))
def test_a_grid_has_the_product_of_its_lists_and_run_names_differ(lists):
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"nerveceg-grid-{os.getpid()}.yaml"
    names = ["seed", "fold", "segmenter_epochs"]
    path.write_text(yaml.safe_dump({"name": "try", "grid": dict(zip(names, lists, strict=False))}))
    sweep = read_sweep(path)
    path.unlink()
    assert len(sweep.points) == math.prod(map(len, lists)) == len({sweep.run_of(point) for point in sweep.points})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grid": {}}, "at least one parameter"),
        ({"grid": {"seed": 1}}, "grid: seed: expected a list of values, found 1"),
        ({"grid": {"seed": [1, 1]}}, "grid: seed: expected different values"),
        ({"grid": {"sead": [1]}}, "sead: no notebook has this parameter"),
        ({"grid": {"seed": ["many"]}}, "seed: expected int, found 'many'"),
        ({"grid": {"seed": [0]}, "fixed": {"seed": 3}}, "seed: expected in one place at most"),
        ({"grid": {"run": ["a"]}}, "run: expected in one place at most"),
        ({"only": "01,77"}, "--only: no notebook"),
        ({"profile": "fast"}, "--profile: expected one of"),
        ({"name": "../up"}, "run: expected a plain folder name"),
        ({"epochs": 3}, "expected name and grid, and perhaps profile, only, fixed; found"),
        ({"only": 1}, "only: expected str, found 1"),
    ],
)
def test_bad_grids_are_refused_before_anything_runs(content, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_sweep(grid_file(tmp_path, **content))


def test_a_grid_file_must_be_there(tmp_path):
    with pytest.raises(InputError, match="nothing.yaml: expected a YAML file that can be read"):
        read_sweep(tmp_path / "nothing.yaml")


def test_shipped_grids_are_valid():
    grids = sorted((REPOSITORY / "params" / "sweeps").glob("*.yaml"))
    assert grids and all(read_sweep(path).points for path in grids)


class Future:
    """Runs at once, and once more if it fails, as a worker does with `retries=1`."""

    def __init__(self, work, arguments, retries):
        for _ in range(1 + retries):
            try:
                self.value, self.status = work(*arguments), "finished"
                return
            except StageFailed as error:
                self.value, self.status = error, "error"

    def result(self):
        return self.value

    def exception(self):
        return self.value


class Client:
    def submit(self, work, *arguments, retries, pure):
        return Future(work, arguments, retries)


def test_a_failed_point_is_tried_once_more_and_does_not_stop_the_others(root, monkeypatch, capsys):
    tried = []

    def run(profile, overrides, only, resume):
        tried.append(overrides["seed"])
        assert resume
        if overrides["seed"] == "1":
            raise StageFailed("03, cell 5: OutOfMemory")
        folder = root / overrides["run"]
        (folder / "metrics.json").write_text(
            f'{{"03_segmenter_training": {{"dice_positives": 0.{overrides["seed"]}}}}}'
        )

    monkeypatch.setattr("nerveceg_lib.runner.run", run)
    monkeypatch.setattr("distributed.as_completed", lambda futures: futures)
    sweep = Sweep("try", "demo", ["03"], {}, [{"seed": s, "fold": "0"} for s in ("1", "5", "7")])
    table = run_sweep(sweep, Client())
    assert tried == ["1", "1", "5", "7"]
    assert table["status"].tolist() == ["failed", "done", "done"]
    assert table["error"].tolist() == ["03, cell 5: OutOfMemory", "", ""]
    assert table["03.dice_positives"].tolist()[1:] == [0.5, 0.7]
    assert "3/3  try-fold=0-seed=7  done" in capsys.readouterr().out
    stored = pd.read_csv(root / "try" / "results.csv", dtype={"seed": str, "fold": str}, keep_default_na=False)
    parquet = pd.read_parquet(root / "try" / "results.parquet")
    assert stored["run"].tolist() == parquet["run"].tolist() == table["run"].tolist()
    assert parquet["03.dice_positives"].tolist()[1:] == [0.5, 0.7]
    assert (root / "try" / "results.png").stat().st_size > 5000


@pytest.mark.slow
def test_two_workers_run_a_grid_and_a_rerun_skips_it(tmp_path):
    path = grid_file(tmp_path, profile=str(REPOSITORY / "tests" / "tiny.yaml"), only="01")
    environment = os.environ | {"NERVECEG_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "nerveceg_lib", "sweep", str(path), "--workers", "2"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "runs" / "try"
    table = pd.read_csv(folder / "results.csv")
    assert table["status"].tolist() == ["done", "done"] and table["01.frames"].tolist() == [58, 58]
    assert "[1/1] 01_data_preparation: done in" in (tmp_path / "runs" / "try-seed=0" / "log.txt").read_text()
    written = [path.stat().st_mtime_ns for path in sorted((tmp_path / "runs").glob("try-*/01_data_preparation.ipynb"))]
    assert subprocess.run(command, cwd=REPOSITORY, env=environment).returncode == 0
    again = [path.stat().st_mtime_ns for path in sorted((tmp_path / "runs").glob("try-*/01_data_preparation.ipynb"))]
    assert len(written) == 2 and again == written
    assert "done before, skipped" in (tmp_path / "runs" / "try-seed=0" / "log.txt").read_text()


def test_runs_side_by_side_make_one_phantom(root):
    options = {"subjects": 4, "frames_per_subject": 4, "test_frames": 2, "workers": 1, "progress": False}
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        folders = {future.result() for future in [pool.submit(resolve_data, "auto", **options) for _ in range(2)]}
    assert len(folders) == 1
    assert len(list(folders.pop().glob("train/*.tif"))) == 2 * 16
    assert not list(root.glob("*.part"))
