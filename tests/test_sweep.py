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

import pandas as pd
import psutil
import pytest
import yaml
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nerveceg_lib.data.cache import open_cache
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_lib.runtime.io import write_json
from nerveceg_tools.cli import main
from nerveceg_tools.cluster import uninterrupted
from nerveceg_tools.phantom import make_phantom
from nerveceg_tools.run import NotebookFailed
from nerveceg_tools.sweep import Sweep, read_sweep, run_sweep
from tests.cells import PROFILE
from tests.conftest import REPOSITORY


def grid_file(folder: Path, **content) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({"name": "try", "grid": {"seed": [0, 1]}} | content, sort_keys=False))
    return path


def test_every_combination_is_a_run_of_its_own(tmp_path):
    grid = {"seed": [0, 1], "segmenter": {"loss": ["dice", "bce"]}}
    sweep = read_sweep(grid_file(tmp_path, only="01,03", fixed={"segmenter": {"lr": 1}}, grid=grid))
    assert [list(point.values()) for point in sweep.points] == [[0, "dice"], [0, "bce"], [1, "dice"], [1, "bce"]]
    assert sweep.run_of(sweep.points[1]) == "try-seed=0-segmenter.loss=bce"
    assert sweep.only == "01,03" and sweep.profile == "demo"
    assert type(sweep.fixed["segmenter.lr"]) is float


def distinct(values, most):
    return st.lists(values, min_size=1, max_size=most, unique=True)


@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    distinct(st.integers(0, 99), 3),
    st.fixed_dictionaries({"lr": distinct(st.floats(1e-9, 1), 2)}),
    st.fixed_dictionaries({}, optional={"layer": distinct(st.text("aA-_=,./ \n:#é", max_size=150), 3)}),
)
def test_a_grid_has_the_product_of_its_lists_and_distinct_names(tmp_path, seeds, segmenter, explain):
    grid = {"seed": seeds, "segmenter": segmenter, "explain": explain}
    lists = [seeds, *segmenter.values(), *explain.values()]
    sweep = read_sweep(grid_file(tmp_path, grid=grid))
    assert len(sweep.points) == math.prod(map(len, lists))
    names = [sweep.run_of(point) for point in sweep.points]
    assert len(set(names)) == len(names)
    assert all(Path(name).name == name and len(name.encode()) < 255 for name in names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"grid": {}}, "grid: expected lists of different values, found {}"),
        ({"grid": {"seed": 1}}, "grid: Parameter grid for parameter 'seed' needs to be a list"),
        ({"grid": {"segmenter": {"lr": [1, 1.0]}}}, "grid: expected lists of different values, found {'segmenter.lr'"),
        ({"grid": {"sead": [1]}}, r"grid: sead: no notebook has this parameter; did you mean seed\?"),
        ({"grid": {"segmenter": {"loss": [["dice"]]}}}, r"grid: segmenter.loss: expected text, found \['dice'\]"),
        (
            {"grid": {"segmenter": {"loss": ["bce_dise"]}}},
            r"grid: segmenter.loss: expected one of \[.*'bce_dice', .*'module:name'\], found 'bce_dise'",
        ),
        ({"fixed": {"classifier": {"model": "unet"}}}, r"classifier.model: expected one of .*, found 'unet'"),
        ({"fixed": {"segmenter": {"model": "os:nothing"}}}, "segmenter.model: expected 'os:nothing' to be importable"),
        ({"grid": {"seed": [0]}, "fixed": {"seed": 3}}, "seed: expected in fixed or in grid, found in both"),
        ({"grid": {"run": ["a"]}}, "run: expected to be set by the sweep, found in fixed or grid"),
        ({"fixed": [1]}, r"expected name and grid, and perhaps .*; found \[\('fixed', \[1\]\)\]"),
        ({"only": "01,03", "fixed": {"classifier": {"epochs": 3}}}, "classifier.epochs: only 02_classifier_training"),
        ({"only": "01,77"}, "--only: expected one of .*, found '77'"),
    ],
)
def test_bad_grids_are_refused_before_anything_runs(content, message, tmp_path, root):
    with pytest.raises(InputError, match=f"grid.yaml: {message}"):
        read_sweep(grid_file(tmp_path, **content))
    assert not root.exists()


def test_bad_options_are_answered_before_anything_runs(tmp_path, root, monkeypatch, capsys):
    monkeypatch.setattr("nerveceg_tools.cluster.TIMEOUT", 1)
    grid = str(grid_file(tmp_path, only="01,03"))
    for arguments, message in (
        (["nowhere.yaml"], "nowhere.yaml: expected YAML, found"),
        ([grid, "--workers", "0"], "--workers: expected 1 or more, found 0"),
        ([grid, "--scheduler", "127.0.0.1:1"], "--scheduler: no Dask scheduler answers at '127.0.0.1:1'"),
    ):
        assert main(["sweep", *arguments]) == 2 and message in capsys.readouterr().err
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
def calls(root, monkeypatch):
    """Overrides of every call of a stand-in for `run.run`: seed 1 fails always, seed 2 the first time."""
    calls = []

    def run(profile, overrides, only, resume):
        calls.append(overrides)
        print("seed", overrides["seed"])
        time.sleep(0.2)  # on a worker with two threads the next point would start meanwhile
        seed, folder = overrides["seed"], root / overrides["run"]
        if seed == 3:
            raise InputError("seed: too odd")
        if seed == 1 or (seed == 2 and calls.count(overrides) == 1):
            raise NotebookFailed("03_segmenter_training, cell 5: MemoryError: no")
        write_json(folder / f"{NOTEBOOKS[2]}.ipynb", {"metadata": {"papermill": {"duration": 60.5}}})
        (folder / NOTEBOOKS[2]).mkdir()
        write_json(folder / NOTEBOOKS[2] / "metrics.json", {"dice_positive": seed / 10, "iou": 0.5})
        assert resume and only == "03"

    monkeypatch.setattr("nerveceg_tools.run.run", run)
    return calls


def test_bad_input_is_not_tried_again_and_an_old_chart_goes(root, calls, client):
    (root / "try").mkdir(parents=True)
    (root / "try" / "results.png").write_bytes(b"of an earlier sweep")
    table = run_sweep(Sweep("try", "demo", "03", {}, [{"seed": 3}]), client)
    assert len(calls) == 1 and table[["status", "error"]].values.tolist() == [["failed", "seed: too odd"]]
    assert (root / "try-seed=3" / "log.txt").read_text() == "seed 3\nerror: seed: too odd\n"
    assert [path.name for path in (root / "try").iterdir()] == ["results.csv"]


def test_a_failed_point_is_tried_once_more_and_does_not_stop_the_others(root, calls, client, capsys):
    points = [{"seed": seed, "segmenter.loss": "dice"} for seed in (2, 7, 1)]
    sweep = Sweep("try", "demo", "03", {"inference.flip": True}, points)
    table = run_sweep(sweep, client)
    assert sorted(call["seed"] for call in calls) == [1, 1, 2, 2, 7] and all(call["inference.flip"] for call in calls)
    assert table["seed"].tolist() == [2, 7, 1] and table["status"].tolist() == ["done", "done", "failed"]
    assert table["error"].tolist() == ["", "", "03_segmenter_training, cell 5: MemoryError: no"]
    assert table["segmenter.dice_positive"].tolist()[:2] == [0.2, 0.7] and table["seconds"].tolist() == [60.5, 60.5, 0]
    output = capsys.readouterr().out
    assert "3/3  try-seed=" in output and "about 0 s left" in output
    assert output.count("MemoryError") == 1
    logs = [(root / sweep.run_of(point) / "log.txt").read_text() for point in points]
    assert logs == ["seed 2\nseed 2\n", "seed 7\n", "seed 1\nseed 1\n"]

    csv = pd.read_csv(root / "try" / "results.csv").fillna({"error": ""})
    pd.testing.assert_frame_equal(csv, table, check_dtype=False)
    assert {path.name for path in (root / "try").iterdir()} == {"results.csv", "results.png"}


def start(path, root, **options):
    command = [sys.executable, "-m", "nerveceg_tools", "sweep", str(path), "--workers", "2"]
    environment = os.environ | {"NERVECEG_RUNS": str(root)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, **pipes, **options)


@pytest.mark.slow
def test_two_workers_run_a_grid_report_a_failure_and_skip_what_is_done(tmp_path, root, client):
    path = grid_file(tmp_path, profile=PROFILE, only="01", grid={"data": {"heldout_share": [0.25, 0.01]}})
    process = start(path, root)
    out, err = process.communicate()
    assert process.returncode == 1, out + err
    assert "2/2  try-data.heldout_share=" in out and out.count("heldout_share: expected 2 or more groups") == 1
    assert "Traceback" not in err, err
    table = pd.read_csv(root / "try" / "results.csv")
    assert table["status"].tolist() == ["done", "failed"]
    assert table["data.frames"][0] == 58 and table["seconds"][0] > 0.5
    assert len(list(root.glob("phantom-*"))) == 1 and not list(root.rglob("*.part"))

    book = root / "try-data.heldout_share=0.25" / f"{NOTEBOOKS[0]}.ipynb"
    written = book.stat().st_mtime_ns
    path = grid_file(tmp_path, profile=PROFILE, only="01", grid={"data": {"heldout_share": [0.25]}})
    run_sweep(read_sweep(path), client)
    assert book.stat().st_mtime_ns == written
    again = pd.read_csv(root / "try" / "results.csv")
    pd.testing.assert_frame_equal(again, table[:1], check_dtype=False)


def is_kernel(process):
    try:
        return "ipykernel_launcher" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
def test_ctrl_c_leaves_no_worker_and_no_kernel(tmp_path):
    endless = {"segmenter": {"epochs": 1000}}  # or a point may be over before the other one has a kernel
    grid = grid_file(tmp_path, profile=PROFILE, only="01,03", fixed=endless)
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # what a shell starts behind "&" does not
    process = start(grid, tmp_path / "runs", start_new_session=True, preexec_fn=heeding)
    family = []
    while process.poll() is None and sum(map(is_kernel, family)) < 2:
        time.sleep(0.05)
        family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; run the same command again to continue" in err
    assert "Traceback" not in err, err
    _, alive = psutil.wait_procs(family, timeout=15)
    assert len(family) >= 4 and not alive


def test_ctrl_c_waits_until_processes_have_started_and_does_not_reach_them():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "alive\n"


def prepare(cache: Path) -> tuple:
    """What a process finds that makes a phantom and its cache, or waits for another one that does."""
    folder = make_phantom(patients=4, frames_per_patient=4, test_frames=2)
    frames = open_cache(folder, cache)
    return folder, (cache / "manifest.json").stat().st_mtime_ns, frames.images.shape, int(frames.images.sum())


@pytest.mark.slow
def test_runs_side_by_side_make_one_phantom_and_one_cache(root):
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        one, two = pool.map(prepare, [root / "cache" / "frames"] * 2)
    assert one == two and len(list(one[0].glob("train/*.tif"))) == 2 * 16
    assert {path.name for path in root.iterdir()} == {one[0].name, f".{one[0].name}.lock", "cache"}
    assert {path.name for path in (root / "cache").iterdir()} == {"frames", ".frames.lock"}
