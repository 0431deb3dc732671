"""Every block of docs/recipes.md, at a tiny size."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import pandas as pd
import pytest
import torch

from nerveceg_lib import losses
from nerveceg_lib.inference.submission import validate_submission
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_lib.runtime.io import read_json, write_csv
from nerveceg_tools import run
from nerveceg_tools.cli import main
from nerveceg_tools.phantom import write_phantom
from nerveceg_tools.sweep import read_sweep
from tests.cells import PROFILE, TINY, run_cells
from tests.conftest import REPOSITORY

RECIPES = (REPOSITORY / "docs" / "recipes.md").read_text()


def blocks(title):
    """Return the code blocks of a recipe."""
    recipe = RECIPES.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert recipe, title
    return re.findall(r"```\w*\n(.*?)```", recipe, re.DOTALL)


def commands(title):
    """Return the words of every command of the kit in a recipe, without `nerveceg`."""
    lines = [line for block in blocks(title) for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("nerveceg ")]


@pytest.fixture
def in_process(monkeypatch):
    """`nerveceg run` executes the cells in this process, which saves a kernel per notebook, at a tiny size."""
    monkeypatch.chdir(run.NOTEBOOK_FOLDER)

    def execute(notebook, values, output, verbosity, bar):
        tiny = {name: value for name, value in TINY.items() if name not in {"run", "data_dir"}}
        tiny |= {"explain.num_frames": 1, "explain.num_steps": 2}
        run_cells(
            notebook,
            **tiny | {name: values[name] for name in ("run", "data_dir", "segmenter.model", "segmenter.model_options")},
        )
        output.write_text((run.NOTEBOOK_FOLDER / f"{notebook}.ipynb").read_text())

    monkeypatch.setattr(run, "_execute", execute)


@pytest.mark.slow
def test_your_own_data_and_a_look_at_it(root, tmp_path, monkeypatch, capsys, in_process):
    write_phantom(tmp_path / "phantom", patients=6, frames_per_patient=4, test_frames=0, difficulty="easy")
    for path in (tmp_path / "phantom" / "train").glob("*.tif"):
        kind, patient = "masks" if "_mask" in path.stem else "scans", path.stem.split("_")[0]
        picture = tmp_path / kind / f"case{int(patient):02}" / f"{path.stem.split('_')[1]}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(picture), cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
    places = {name: str(tmp_path / name) for name in ("scans", "masks", "data/mine")}
    *first, (_, grid), pooled = commands("Your own data in 15 minutes")
    for words in first:
        assert main([places.get(word, word) for word in words]) == 0
    assert "Score" in (root / "mine" / "report" / "index.html").read_text()
    assert set(read_json(root / "mine" / "metrics.json")) == set(NOTEBOOKS)

    (tmp_path / grid).write_text(blocks("Your own data in 15 minutes")[1])
    sweep = read_sweep(tmp_path / grid)
    assert len(sweep.points) == 5 and sweep.fixed["data_dir"] == str(Path("data/mine").absolute())
    runs = pd.DataFrame(sweep.points).assign(run=[sweep.run_of(point) for point in sweep.points], status="waiting")
    for name in runs["run"]:
        shutil.copytree(root / "mine", root / name)
    (root / "mine-all").mkdir()
    write_csv(root / "mine-all" / "results.csv", runs)
    assert main(pooled) == 2 and "found 5 of 5 runs, mine-all-data.heldout_part=0 is waiting" in capsys.readouterr().err
    write_csv(root / "mine-all" / "results.csv", runs.assign(status="done"))
    assert main(pooled) == 0
    score = read_json(root / "mine" / "metrics.json")[NOTEBOOKS[3]]["score"]
    page = (root / "mine-all" / "report" / "index.html").read_text()
    assert "5 runs of a sweep, pooled" in page and f"<b>{score:.3f}</b>" in page

    monkeypatch.chdir(root.parent)
    (look,), code = commands("Look at a run in Jupyter"), blocks("Look at a run in Jupyter")[1]
    started = mock.Mock(return_value=SimpleNamespace(returncode=0))
    monkeypatch.setattr(subprocess, "run", started)
    assert main(look) == 0
    assert started.call_args.args[0][-2:] == ["jupyterlab", str(root / "mine")]
    environment = started.call_args.kwargs["env"]
    assert environment["NERVECEG_RUNS"] == str(root) and (Path(environment["NERVECEG_RESULTS"]) / "gates.csv").exists()
    exec(code, {})
    out = capsys.readouterr().out.splitlines()[-2:]
    assert [line.split()[0] for line in out] == ["out_of_fold", "heldout"] and 0 <= float(out[1].split()[1]) <= 1


@pytest.mark.slow
def test_your_own_network(root, tmp_path, monkeypatch, in_process):
    (tmp_path / "my_networks.py").write_text(blocks("Your own network")[0])
    monkeypatch.syspath_prepend(tmp_path)
    (words,) = commands("Your own network")
    assert main(words) == 0
    trained = read_json(root / "tiny" / NOTEBOOKS[2] / "segmenter.json")
    assert (trained["model"], trained["options"]) == ("my_networks:Tiny", {"width": 16})
    own = {"segmenter.model": "my_networks:Tiny", "segmenter.model_options": "width: 16"}
    for notebook in (NOTEBOOKS[1], NOTEBOOKS[3], NOTEBOOKS[5]):
        run_cells(notebook, **own)
    data = next(root.glob("phantom-*"))
    validate_submission(root / "tiny" / NOTEBOOKS[5] / "submission.csv", data / "sample_submission.csv")


def test_your_own_loss(root, tmp_path, monkeypatch, capsys):
    code, grid, _, compare = blocks("Your own loss")
    (tmp_path / "my_losses.py").write_text(code)
    (tmp_path / "my_loss.yaml").write_text(grid)
    monkeypatch.syspath_prepend(tmp_path)
    points = read_sweep(tmp_path / "my_loss.yaml").points
    assert sorted(point["segmenter.loss"] for point in points) == ["bce_dice"] * 3 + ["my_losses:log_cosh_dice"] * 3
    figures = [0.1, 0.2, 0.3, 0.5, 0.5, 0.8]  # losses within seeds
    (root / "my-loss").mkdir(parents=True)
    write_csv(root / "my-loss" / "results.csv", pd.DataFrame(points).assign(**{"segmenter.dice_positive": figures}))
    with monkeypatch.context() as patch:
        patch.chdir(root.parent)
        exec(compare, {})
    assert capsys.readouterr().out.splitlines()[-1].startswith("+0.200 (")
    logits, target = torch.randn(2, 1, 8, 8), torch.randint(0, 2, (2, 1, 8, 8)).float()
    own = losses.segmentation_loss("my_losses:log_cosh_dice")(logits, target)
    by_frame = [losses.dice(logits[[n]], target[[n]]).cosh().log() for n in range(2)]
    torch.testing.assert_close(own, torch.stack(by_frame).mean(), rtol=0.01, atol=0)  # its constant differs a little
    monkeypatch.chdir(run.NOTEBOOK_FOLDER)
    run_cells(NOTEBOOKS[0])
    run_cells(NOTEBOOKS[2], until="train", **{"segmenter.loss": "my_losses:log_cosh_dice"})
    assert len(pd.read_csv(root / TINY["run"] / NOTEBOOKS[2] / "curves.csv")) == 1
    with pytest.raises(losses.InputError, match="loss: expected 'my_losses:focus' to be importable and callable"):
        losses.segmentation_loss("my_losses:focus")


@pytest.mark.slow
def test_from_a_notebook_to_a_cluster(root, tmp_path, capfd):
    """The scheduler and a worker are processes that the recipe's own lines start; the grid has one tiny run."""
    lines = [line.partition("#")[0] for block in blocks("From a notebook to a cluster") for line in block.splitlines()]
    scheduler, worker = (shlex.split(line) for line in lines if line.startswith("dask "))
    (tmp_path / "my_grid.yaml").write_text(f"name: try\nprofile: {PROFILE}\nonly: '01'\ngrid: {{seed: [0]}}")
    note = tmp_path / "scheduler.json"  # which port is free only the scheduler knows
    scheduler = [str(Path(sys.executable).parent / scheduler[0]), *scheduler[1:-1], "0", "--scheduler-file", str(note)]
    worker = [str(Path(sys.executable).parent / worker[0]), worker[1], "--scheduler-file", str(note), *worker[3:]]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": tmp_path}
    (sweep,) = (words for words in commands("From a notebook to a cluster") if "--scheduler" in words)
    with subprocess.Popen([*scheduler, "--no-dashboard"], **quiet) as first, subprocess.Popen(worker, **quiet) as other:
        try:
            while not (note.exists() and note.read_text().endswith("\n}")):  # it exists before it is written
                assert first.poll() is None
            address = read_json(note)["address"]
            words = {"my_grid.yaml": str(tmp_path / "my_grid.yaml"), "tcp://HOST:8786": address}
            assert main([words.get(word, word) for word in sweep]) == 0
            book = root / "try-seed=0" / f"{NOTEBOOKS[0]}.ipynb"
            written = book.stat().st_mtime_ns
            assert main([words.get(word, word) for word in sweep]) == 0 and book.stat().st_mtime_ns == written
        finally:
            other.terminate()
            first.terminate()
    assert len(pd.read_csv(root / "try" / "results.csv")) == 1
