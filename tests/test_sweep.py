"""Grids of runs: what they expand to, what is refused before anything runs, failures, reruns, results."""

import math
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import yaml
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nerveceg_lib import plots
from nerveceg_lib.__main__ import main
from nerveceg_lib.data.cache import open_cache
from nerveceg_lib.data.source import resolve_data
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import write_json
from nerveceg_lib.paths import STAGES
from nerveceg_lib.runner import StageFailed
from nerveceg_lib.sweep import Sweep, read_sweep, run_sweep
from tests.conftest import REPOSITORY

TINY = str(REPOSITORY / "tests" / "tiny.yaml")


def grid_file(folder: Path, **content) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"name": "try", "grid": {"seed": [0, 1]}} | content, sort_keys=False))
    return path


def test_every_combination_is_a_run_of_its_own(tmp_path):
    grid = {"seed": [0, 1], "segmenter_loss": ["dice", "bce"]}
    sweep = read_sweep(grid_file(tmp_path, only="01,03", fixed={"segmenter_rate": 1}, grid=grid))
    assert sweep.points == [
        {"seed": 0, "segmenter_loss": "dice"},
        {"seed": 0, "segmenter_loss": "bce"},
        {"seed": 1, "segmenter_loss": "dice"},
        {"seed": 1, "segmenter_loss": "bce"},
    ]
    assert sweep.run_of(sweep.points[1]) == "try-seed=0-segmenter_loss=bce"
    assert sweep.only == ["01", "03"] and sweep.profile == "demo"
    assert type(sweep.fixed["segmenter_rate"]) is float


def distinct(values, most):
    return st.lists(values, min_size=1, max_size=most, unique=True)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.fixed_dictionaries(
        {"seed": distinct(st.integers(0, 99), 3)},
        optional={
            "segmenter_rate": distinct(st.floats(1e-9, 1), 2),
            "study_models": distinct(st.text("aA-_=,./ \n:#é", max_size=150), 3),
            "flip": distinct(st.booleans(), 2),
        },
    )
)
def test_a_grid_has_the_product_of_its_lists_and_stable_distinct_names(tmp_path, grid):
    sweep = read_sweep(grid_file(tmp_path, grid=grid))
    assert len(sweep.points) == math.prod(map(len, grid.values()))
    assert all(point[name] in grid[name] for point in sweep.points for name in grid)
    names = [sweep.run_of(point) for point in sweep.points]
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name and len(name.encode()) < 255 for name in names)
    turned = {name: values[::-1] for name, values in reversed(grid.items())}
    again = read_sweep(grid_file(tmp_path, only="01", grid=turned))
    assert {again.run_of(point) for point in again.points} == set(names)


def test_names_of_values_that_no_folder_can_hold_differ():
    sweep = Sweep("try", "demo", [], {}, [])
    names = [sweep.run_of({"study_models": text}) for text in ("unet,r2unet", "unet_r2unet", "unet/r2unet", "x" * 300)]
    assert len(set(names)) == 4
    assert names[1] == "try-study_models=unet_r2unet"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grid": {}}, "grid: expected at least one parameter with a list of values, found none"),
        ({"grid": {"seed": 1}}, "grid: seed: expected a list of values, found 1"),
        ({"grid": {"seed": []}}, r"grid: seed: expected a list of values, found \[\]"),
        ({"grid": {"seed": [1, 1]}}, r"grid: seed: expected different values, found \[1, 1\]"),
        ({"grid": {"segmenter_rate": [1, 1.0]}}, "grid: segmenter_rate: expected different values"),
        ({"grid": {"sead": [1]}}, "sead: no notebook has this parameter, expected one of"),
        ({"grid": {1: [1], "seed": [1]}}, "1: no notebook has this parameter"),
        ({"grid": {"seed": ["many"]}}, "seed: expected int, found 'many'"),
        ({"grid": {"segmenter_loss": [None]}}, "segmenter_loss: expected a number, text, true or false, found None"),
        ({"grid": {"segmenter_loss": [["dice"]]}}, r"segmenter_loss: expected a number, text.*, found \['dice'\]"),
        ({"grid": {"seed": [0]}, "fixed": {"seed": 3}}, "seed: expected in fixed or in grid, found in both"),
        ({"grid": {"run": ["a"]}}, "run: expected to be left to the sweep, found in fixed or grid"),
        ({"fixed": {"segmenter_epochs": "few"}}, "segmenter_epochs: expected int, found 'few'"),
        ({"fixed": [1]}, r"fixed: expected dict, found \[1\]"),
        ({"only": "01,77"}, r"--only: no notebook \['77'\]"),
        ({"only": 1}, "only: expected str, found 1"),
        ({"profile": "fast"}, "--profile: expected one of .* found 'fast'"),
        ({"name": "../up"}, "name: expected a plain folder name, found '../up'"),
        ({"name": "cache"}, "name: expected a plain folder name, found 'cache'"),
        ({"epochs": 3, "4": 5}, "expected name and grid, and perhaps profile, only, fixed; found .*'epochs', '4'"),
    ],
)
def test_bad_grids_are_refused_before_anything_runs(content, message, tmp_path, root):
    with pytest.raises(InputError, match=f"grid.yaml: {message}"):
        read_sweep(grid_file(tmp_path, **content))
    assert not root.exists()


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfd", b"name: [", b"- 1"])
def test_a_grid_file_must_be_there_and_be_yaml(content, tmp_path):
    if content is not None:
        (tmp_path / "other.yaml").write_bytes(content)
    with pytest.raises(InputError, match="other.yaml: expected .*found"):
        read_sweep(tmp_path / "other.yaml")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers: expected 1 or more, found 0"),
        (
            ["--metric", "04.score"],
            "--metric: expected a figure of one of the notebooks ['01', '03'], found '04.score'",
        ),
        (["--metric", "score"], "--metric: expected a figure"),
        (["--scheduler", "127.0.0.1:1"], "--scheduler: no Dask scheduler answers at '127.0.0.1:1'"),
    ],
)
def test_bad_options_are_answered_with_code_2_before_anything_runs(
    options, message, tmp_path, root, monkeypatch, capsys
):
    monkeypatch.setattr("nerveceg_lib.cluster.TIMEOUT", 1)
    assert main(["sweep", str(grid_file(tmp_path, only="01,03")), *options]) == 2
    assert message in capsys.readouterr().err
    assert not root.exists()


@pytest.mark.parametrize("path", sorted((REPOSITORY / "params" / "sweeps").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_grids_are_valid(path):
    assert read_sweep(path).points


@pytest.fixture
def client():
    """A Dask worker in this process, so that what a test replaces is replaced there too."""
    cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None)
    with cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def tried(root, monkeypatch):
    """Overrides of every call of a stand-in for `runner.run`: seed 1 fails always, seed 2 the first time."""
    calls = []

    def run(profile, overrides, only, resume):
        calls.append(overrides)
        print("seed", overrides["seed"])
        time.sleep(0.2)  # on a worker with two threads the next point would start meanwhile
        first = sum(call == overrides for call in calls) == 1
        if overrides["seed"] == "1" or (overrides["seed"] == "2" and first):
            raise StageFailed("03_segmenter_training, cell 5: MemoryError: no")
        write_json(root / overrides["run"] / STAGES[2] / "done.json", {"seconds": 60.5})
        dice = int(overrides["seed"]) / 10
        write_json(root / overrides["run"] / STAGES[2] / "metrics.json", {"dice_positives": dice, "iou": 0.5})
        assert resume and only == ["03"]

    monkeypatch.setattr("nerveceg_lib.runner.run", run)
    for seed in (1, 2, 7):
        (root / f"try-seed={seed}-segmenter_loss=dice" / STAGES[2]).mkdir(parents=True)
    return calls


def test_a_failed_point_is_tried_once_more_and_does_not_stop_the_others(root, tried, client, capsys):
    points = [{"seed": seed, "segmenter_loss": "dice"} for seed in (1, 2, 7)]
    sweep = Sweep("try", "demo", ["03"], {"flip": True, "segmenter_rate": 1e-5}, points, metric="03.nothing")
    table = run_sweep(sweep, client)
    assert sorted(call["seed"] for call in tried) == ["1", "1", "2", "2", "7"]
    assert {(call["flip"], call["segmenter_rate"]) for call in tried} == {("true", "1.0e-05")}
    assert table["seed"].tolist() == [1, 2, 7]
    assert table["status"].tolist() == ["failed", "done", "done"]
    assert table["error"].tolist() == ["03_segmenter_training, cell 5: MemoryError: no", "", ""]
    assert table["03.dice_positives"].tolist()[1:] == [0.2, 0.7]
    assert 0.3 < table["seconds"][0] < 5 and table["seconds"].tolist()[1:] == [60.5, 60.5]
    printed = capsys.readouterr().out
    assert "3/3  try-seed=" in printed and "about 0 s left" in printed
    assert printed.count("MemoryError") == 1 and "--metric: no finished run has '03.nothing'" in printed
    failed = "failed: 03_segmenter_training, cell 5: MemoryError: no\n"
    logs = [(root / sweep.run_of(point) / "log.txt").read_text() for point in points]
    assert logs == [f"seed 1\n{failed}seed 1\n{failed}", f"seed 2\n{failed}seed 2\n", "seed 7\n"]


def test_the_two_tables_agree_and_stand_after_each_point(root, tried, client, monkeypatch):
    rows = []
    draw = plots.sweep_results

    def drawn(names, values, label, by):
        rows.append(len(pd.read_csv(root / "try" / "results.csv")))
        assert (label, by) == ("03.dice_positives", "segmenter_loss")
        return draw(names, values, label, by)

    monkeypatch.setattr(plots, "sweep_results", drawn)
    points = [{"seed": seed, "segmenter_loss": "dice"} for seed in (2, 7, 1)]
    table = run_sweep(Sweep("try", "demo", ["03"], {}, points), client)
    csv = pd.read_csv(root / "try" / "results.csv").fillna({"error": ""})
    parquet = pd.read_parquet(root / "try" / "results.parquet")
    pd.testing.assert_frame_equal(csv, parquet, check_dtype=False)
    pd.testing.assert_frame_equal(parquet, table, check_dtype=False)
    assert parquet["seed"].dtype == np.int64
    assert rows[-1] == 3 and rows == sorted(rows) and len(rows) >= 2
    assert (root / "try" / "results.png").stat().st_size > 5000
    assert {path.name for path in (root / "try").iterdir()} == {"results.csv", "results.parquet", "results.png"}


def test_chart_sorts_combinations_by_their_mean_and_marks_it():
    names = pd.Series(["dice", "bce", "dice", "bce", "focal"])
    figure = plots.sweep_results(names, pd.Series([0.5, 0.9, 0.7, 0.7, 0.1]), "03.iou", "segmenter_loss")
    (axis,) = figure.axes
    runs, means = axis.lines
    assert [label.get_text() for label in axis.get_yticklabels()] == ["focal", "dice", "bce"]
    assert runs.get_ydata().tolist() == [1, 2, 1, 2, 0]
    np.testing.assert_allclose(means.get_xdata(), [0.1, 0.6, 0.8])
    assert axis.get_xlabel() == "03.iou" and axis.get_title() == "03.iou of 5 runs\nby segmenter_loss"
    plots.plt.close(figure)


def start(path, root, **options):
    command = [sys.executable, "-m", "nerveceg_lib", "sweep", str(path), "--workers", "2"]
    environment = os.environ | {"NERVECEG_RUNS": str(root)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes, **options)


@pytest.mark.slow
def test_two_workers_run_a_grid_report_a_failure_and_skip_what_is_done(tmp_path):
    path = grid_file(tmp_path, profile=TINY, only="01", grid={"heldout_share": [0.25, 0.3, 7.5]})
    root = tmp_path / "runs"
    process = start(path, root)
    out, err = process.communicate()
    assert process.returncode == 1, out + err
    assert "3/3  try-heldout_share=" in out and out.count("heldout_share: expected a number above 0") == 1
    assert "Traceback" not in err, err
    table = pd.read_csv(root / "try" / "results.csv")
    assert table["status"].tolist() == ["done", "done", "failed"]
    assert table["01.frames"].tolist()[:2] == [58, 58] and (table["seconds"][:2] > 0.5).all()
    assert (root / "try-heldout_share=7.5" / "log.txt").read_text().count("failed: 01_data_preparation, cell") == 2
    assert len(list(root.glob("phantom-*"))) == 1 and not list(root.rglob("*.part"))

    books = [root / f"try-heldout_share={share}" / "01_data_preparation.ipynb" for share in (0.25, 0.3)]
    written = [book.stat().st_mtime_ns for book in books]
    process = start(grid_file(tmp_path, profile=TINY, only="01", grid={"heldout_share": [0.25, 0.3]}), root)
    out, err = process.communicate()
    assert process.returncode == 0, out + err
    assert [book.stat().st_mtime_ns for book in books] == written
    again = pd.read_csv(root / "try" / "results.csv")
    pd.testing.assert_frame_equal(again, table[:2], check_dtype=False)


def is_kernel(process):
    try:
        return "ipykernel_launcher" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker_and_no_kernel(tmp_path):
    endless = {"segmenter_epochs": 1000}  # or a point may be over before the other one has a kernel
    grid = grid_file(tmp_path, profile=TINY, only="01,03", fixed=endless)
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts behind "&" does not
    process = start(grid, tmp_path / "runs", start_new_session=True, preexec_fn=heeding)
    family = []
    while process.poll() is None and sum(map(is_kernel, family)) < 2:
        time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; the same command goes on from here" in err
    assert "Traceback" not in err, err
    _, alive = psutil.wait_procs(family, timeout=15)
    assert len(family) >= 4 and not alive


def both_at_once(work, *arguments, **options):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        return [future.result() for future in [pool.submit(work, *arguments, **options) for _ in range(2)]]


def test_runs_side_by_side_make_one_phantom(root):
    options = {"subjects": 4, "frames_per_subject": 4, "test_frames": 2, "workers": 1, "progress": False}
    folders = both_at_once(resolve_data, "auto", **options)
    assert folders[0] == folders[1]
    assert len(list(folders[0].glob("train/*.tif"))) == 2 * 16
    assert {path.name for path in root.iterdir()} == {folders[0].name, f".{folders[0].name}.lock"}


def test_runs_side_by_side_make_one_cache(phantom, tmp_path):
    one, two = both_at_once(cache_digest, phantom, tmp_path / "cache" / "phantom")
    assert one == two
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"phantom", ".phantom.lock"}


def cache_digest(data: Path, folder: Path) -> tuple:
    """When the cache was made and what it holds, as one process sees them."""
    cache = open_cache(data, folder, progress=False)
    return (folder / "manifest.json").stat().st_mtime_ns, cache.frames.shape, int(cache.frames.sum()), len(cache.index)
