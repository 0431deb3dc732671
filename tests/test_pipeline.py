"""The notebooks as a user runs them, at a tiny size: to the end, one of them alone, on given masks, on an old run."""

import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import nbformat
import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import expect

from nerveceg_lib import rle
from nerveceg_lib.data import io
from nerveceg_lib.inference.submission import validate_submission
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES
from nerveceg_lib.runtime.io import read_json
from nerveceg_tools.cli import main
from nerveceg_tools.phantom import write_phantom
from nerveceg_tools.run import NOTEBOOK_FOLDER, parameterised
from tests.browser import jupyterlab, run_notebook
from tests.cells import PROFILE, TINY, run_cells
from tests.conftest import REPOSITORY, SHARED

pytestmark = pytest.mark.slow
REAL_MASKS = SHARED / "data" / "kaggle-facts" / "real_masks_rle.csv"
RUN = ("run", "--profile", PROFILE)
ODD = "Ärzte & Söhne's 神経 [1] %d"


def nerveceg(root, *arguments):
    """Run a command of the kit in this process; return its exit code and all that it printed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as text, redirect_stderr(text):
        for name, value in {"NERVECEG_RUNS": str(root), "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}.items():
            patch.setenv(name, value)
        patch.chdir(REPOSITORY)
        patch.setattr(sys, "path", sys.path[:])
        return main(list(arguments)), text.getvalue()


def left_in_the_repository():
    files = [path for name in ("runs", "notebooks") for path in (REPOSITORY / name).rglob("*") if path.is_file()]
    return {path: path.stat().st_mtime_ns for path in files if "notebooks" not in path.parts or path.suffix != ".ipynb"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Artefact root of a run of all six notebooks, and what the command printed."""
    root, before = tmp_path_factory.mktemp("pipeline") / ODD / ("x" * 200) / ("y" * 200), left_in_the_repository()
    code, printed = nerveceg(root, *RUN, "-p", "segmenter.epochs", "2")
    assert code == 0, printed
    assert left_in_the_repository() == before
    return root, printed


@pytest.fixture
def runs(finished, tmp_path, monkeypatch):
    """A copy of the finished run's artefact root that a test may change file by file."""
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(NOTEBOOK_FOLDER)
    return shutil.copytree(finished[0], tmp_path / "runs", copy_function=os.link)


def test_all_six_notebooks_end_in_a_valid_submission(finished):
    root, printed = finished
    folder, data = root / "tiny", next(root.glob("phantom-*"))
    table = validate_submission(folder / NOTEBOOKS[5] / "submission.csv", data / "sample_submission.csv")
    assert len(table) == 10 and all((folder / f"{notebook}.ipynb").exists() for notebook in NOTEBOOKS)
    metrics = read_json(folder / "metrics.json")
    assert set(metrics) == set(NOTEBOOKS) and 0 <= metrics[NOTEBOOKS[3]]["score"] <= 1
    assert "[6/6] 06_submission_rle: done" in printed and "submission.csv" in printed
    assert len(pd.read_csv(folder / NOTEBOOKS[2] / "curves.csv")) == 2
    assert not list(folder.rglob("*.ckpt")), "the progress of a training is removed once its network is saved"
    code, printed = nerveceg(root, *RUN, "-p", "segmenter.epochs", "2", "--resume")
    assert code == 0 and printed.count("done before, skipped") == 6
    code, printed = nerveceg(root, *RUN, "-p", "run", "r" * 300)
    assert code == 2 and "run: expected a plain folder name of at most 200 bytes, found 'rrr" in printed


def test_a_notebook_is_the_same_training_by_papermill_by_fit_and_in_two_processes(runs, tmp_path):
    few = ["-p", "run", "tiny", "-p", "segmenter.epochs", "2", "-p", "segmenter.loss", "dice"]
    papermill = "papermill notebooks/03_segmenter_training.ipynb out.ipynb -p run tiny -p epochs 2 -p loss dice"
    two = [*few, "-p", "devices", "2", "-p", "segmenter.batch_size", "2"]

    def by_papermill():
        words = papermill.replace("out.ipynb", str(tmp_path / "out.ipynb")).split()
        done = subprocess.run([sys.executable, "-m", *words], cwd=REPOSITORY, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    curves = []
    for train in (
        by_papermill,
        lambda: nerveceg(runs, "fit", "segmenter", *few),
        lambda: nerveceg(runs, "run", "--only", "03", *two),  # a kernel cannot start the second process
    ):
        (runs / "tiny" / NOTEBOOKS[2] / "segmenter.pt").unlink()
        code, printed = train()
        assert code == 0 and printed.count("epoch 2/2") <= 1 and "unknown parameter" not in printed, printed
        assert (runs / "tiny" / NOTEBOOKS[2] / "segmenter.pt").exists()
        curves.append(pd.read_csv(runs / "tiny" / NOTEBOOKS[2] / "curves.csv"))
    pd.testing.assert_frame_equal(curves[0], curves[1])
    # the batches are the same, but each process's batch norm sees only its half of them
    np.testing.assert_allclose(curves[2]["loss"], curves[0]["loss"], rtol=0.1)


EXPLORERS = {  # notebook: what is chosen, one after the other, by its place in a menu or by a key on a slider
    NOTEBOOKS[4]: {"layer": 2, "frame": 1, "method": 6},  # before notebook 4, which would end without a gate
    NOTEBOOKS[3]: {"threshold": "Home", "changed frame": 1, "rule": 1},
    STUDIES[1]: {"frame": 1},
    NOTEBOOKS[0]: {"patient": 1, "show": 1},
}


def test_explorers_draw_another_figure_in_jupyterlab(runs, tmp_path):
    """Run each notebook up to its explorer, move every control, and wait for another figure."""
    served = shutil.copytree(NOTEBOOK_FOLDER, tmp_path / "notebooks")
    with jupyterlab(served) as page:
        for notebook, choices in EXPLORERS.items():
            short = parameterised(notebook, TINY)
            end = next(number for number, cell in enumerate(short.cells) if "\nexplore(" in cell.source)
            short.cells = short.cells[: end + 1]
            nbformat.write(short, served / f"{notebook}.ipynb")
            run_notebook(page, f"{notebook}.ipynb")
            panel = page.locator(".jp-NotebookPanel:visible .jupyter-widgets", has=page.locator("img")).first
            figure = panel.locator("img")
            figure.wait_for(timeout=90_000)
            for control, choice in choices.items():
                before = figure.get_attribute("src")
                if isinstance(choice, str):
                    panel.locator(".widget-slider", has_text=control).locator(".noUi-handle").press(choice)
                else:
                    panel.get_by_label(control, exact=True).select_option(index=choice)
                expect(figure).not_to_have_attribute("src", before, timeout=120_000)
            page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        page.wait_for_timeout(1000)
    stored = nbformat.read(served / f"{NOTEBOOKS[0]}.ipynb", 4).cells[-1].outputs[-1].data
    assert stored["image/png"] and "application/vnd.jupyter.widget-view+json" in stored, "GitHub shows the figure"


def test_what_was_made_of_other_data_is_refused(runs, tmp_path):
    test_frames = str(next(runs.glob("phantom-*")) / "test")
    run_cells(NOTEBOOKS[0], seed=1, split_seed=1)  # another phantom, and other patients held out
    trained = "was trained on patients that are left out now .*train it again"
    gate = "gate.json: made before data, frames.csv changed"
    for notebook, message in {NOTEBOOKS[3]: trained, NOTEBOOKS[4]: gate, NOTEBOOKS[5]: gate}.items():
        with pytest.raises(InputError, match=message):
            run_cells(notebook)
    code, printed = nerveceg(runs, "predict", test_frames, str(tmp_path / "out"), "--run", "tiny")
    assert code == 2 and gate in printed


def test_given_masks_are_submitted_as_they_are(phantom, root, tmp_path, monkeypatch):
    monkeypatch.chdir(NOTEBOOK_FOLDER)
    data = shutil.copytree(phantom, tmp_path / "data set", copy_function=os.link)
    run_cells(NOTEBOOKS[0], run=ODD, data_dir=str(data))
    run_cells(NOTEBOOKS[5], run=ODD, **{"submission.masks_csv": str(data / "solution.csv")})
    submission = (root / ODD / NOTEBOOKS[5] / "submission.csv").read_text()
    assert submission == (data / "solution.csv").read_text()


@pytest.mark.skipif(not REAL_MASKS.exists(), reason="needs NERVECEG_SHARED/data/kaggle-facts/real_masks_rle.csv")
def test_real_masks_come_back_from_their_files(root, tmp_path, monkeypatch, capsys):
    """Every eighth mask of all 47 patients as a TIFF, through notebook 1, against its string in notebook 6."""
    masks = pd.read_csv(REAL_MASKS, keep_default_na=False)[::8]
    data = tmp_path / "data"
    write_phantom(data, patients=1, frames_per_patient=2, test_frames=4)
    frame = (data / "train" / "1_1.tif").rename(tmp_path / "frame.tif")
    for path in (data / "train").iterdir():
        path.unlink()
    for subject, image, pixels in masks.itertuples(index=False):
        os.link(frame, io.image_path(data, subject, image))
        io.write_mask(io.mask_path(data, subject, image), rle.decode(pixels))
    masks.to_csv(data / "train_masks.csv", index=False, lineterminator="\r\n")
    monkeypatch.chdir(NOTEBOOK_FOLDER)
    run_cells(NOTEBOOKS[0], data_dir=str(data))
    run_cells(NOTEBOOKS[5], **{"submission.masks_csv": str(data / "solution.csv")})
    assert f"masks: {len(masks)}  equal to train_masks.csv: {len(masks)}" in capsys.readouterr().out
