"""The folders for Kaggle's command line, and notebooks on machines like Kaggle's: inputs mounted, one machine each."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest

from nerveceg_lib.runtime import folders
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES
from nerveceg_tools import kaggle
from nerveceg_tools.cli import main
from tests.cells import PROFILE, TINY, run_cells
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    out = tmp_path_factory.mktemp("kaggle") / "kernels"
    commands = kaggle.write_kernels("jane-doe", out, "kaggle", {"seed": "3"})
    return out, commands


@pytest.mark.slow
def test_every_notebook_becomes_a_kernel_that_reads_the_earlier_ones(kernels):
    out, _ = kernels
    package = json.loads((out / "package" / "dataset-metadata.json").read_text())["id"]
    ids = {}
    for notebook in (*NOTEBOOKS, *STUDIES):
        metadata = json.loads((out / notebook / "kernel-metadata.json").read_text())
        ids[notebook] = metadata["id"]
        assert metadata["id"] == "jane-doe/" + metadata["title"].lower().replace(" ", "-")  # Kaggle's own rule
        assert metadata["competition_sources"] == ["ultrasound-nerve-segmentation"]
        assert metadata["dataset_sources"] == [package]
        earlier = NOTEBOOKS[: NOTEBOOKS.index(notebook)] if notebook in NOTEBOOKS[3:] else NOTEBOOKS[:1]
        assert metadata["kernel_sources"] == [ids[before] for before in earlier if before != notebook]
        cells = nbformat.read(out / notebook / metadata["code_file"], 4).cells
        injected = next(c.source for c in cells if "injected-parameters" in c.metadata.get("tags", []))
        assert 'run = "kaggle"' in injected and "seed = 3" in injected


def test_the_package_is_a_wheel_with_all_that_the_notebooks_import(kernels):
    out, commands = kernels
    (wheel,) = (out / "package").glob("nerveceg-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    files = [path for package in ("nerveceg_lib", "nerveceg_tools") for path in (REPOSITORY / package).rglob("*.*")]
    wanted = {path.relative_to(REPOSITORY).as_posix() for path in files if "__pycache__" not in path.parts}
    assert wanted <= set(names)
    shipped = [
        path for name in ("notebooks", "params") for path in (REPOSITORY / name).rglob("*.[iyc]*") if path.is_file()
    ]
    shipped = [path for path in shipped if path.suffix in {".ipynb", ".yaml", ".csv", ".gz"}]
    assert {f"nerveceg_tools/{path.relative_to(REPOSITORY).as_posix()}" for path in shipped} <= set(names)
    tables = {path.name for path in (out / "package" / "results").iterdir()}
    assert tables == {path.name for path in (REPOSITORY / "notebooks" / "results").iterdir()}
    create = f"kaggle datasets create -p {out / 'package'} --dir-mode zip"
    assert commands == [create, *(f"kaggle kernels push -p {out / notebook}" for notebook in NOTEBOOKS)]
    page = (REPOSITORY / "docs" / "recipes.md").read_text()
    assert all(command.replace(str(out), "kernels") in page for command in commands[:2])


@pytest.mark.slow
def test_the_wheel_runs_in_an_empty_folder_without_a_clone(kernels, tmp_path):
    (wheel,) = (kernels[0] / "package").glob("nerveceg-*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed"), "NERVECEG_RUNS": ""}

    def nerveceg(*words):
        command = [sys.executable, "-m", "nerveceg_tools", *words]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)

    done = nerveceg("run", "--only", "01", "--profile", PROFILE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (empty / "runs" / "tiny" / f"{NOTEBOOKS[0]}.ipynb").exists() and [*empty.iterdir()] == [empty / "runs"]
    assert "kaggle: expected a clone" in nerveceg("kaggle", "jane", "out").stderr


def test_mistakes(tmp_path, capsys):
    assert main(["kaggle", "Jane Doe", str(tmp_path / "out")]) == 2
    assert "user: expected the name in your Kaggle profile's address" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main(["kaggle", "jane-doe", str(tmp_path)]) == 2


def digest(folder):
    """Of names and contents of all files below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.blake2b(b"".join(f"{path}".encode() + path.read_bytes() for path in files)).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("competition", [True, False], ids=["mounted data", "phantom"])
def test_notebooks_on_a_machine_each_hand_on_what_they_wrote(tmp_path, monkeypatch, phantom, competition):
    """As on Kaggle: outputs of earlier notebooks and the competition below one folder that nobody writes to."""
    mount, working = tmp_path / "input", tmp_path / "working"
    monkeypatch.setattr(folders, "KAGGLE_INPUT", mount)
    monkeypatch.delenv("NERVECEG_RUNS", raising=False)
    shutil.copytree(REPOSITORY / "notebooks" / "results", mount / "datasets" / "nerveceg-package" / "results")
    if competition:
        shutil.copytree(phantom, mount / "competitions" / "nerve")
    for notebook in (*NOTEBOOKS[:4], NOTEBOOKS[5]):
        working.mkdir()
        monkeypatch.chdir(working)
        before = digest(mount)
        run_cells(notebook, data_dir="auto", run="mine")
        assert digest(mount) == before
        attached = mount / "notebooks" / "jane" / notebook
        attached.parent.mkdir(parents=True, exist_ok=True)
        working.rename(attached)  # the next machine sees it as an input, and at another place
    submission = attached / "runs" / "mine" / notebook / "submission.csv"
    assert submission.read_text().count("\n") == 1 + (6 if competition else TINY["data.phantom_test_frames"])


def test_the_first_cell_installs_the_attached_package(tmp_path, monkeypatch):
    """Where the package is missing: by pip, from below Kaggle's mount; `pip` itself is not called here."""
    source = nbformat.read(REPOSITORY / "notebooks" / "06_submission_rle.ipynb", 4).cells[2].source
    cell = source[: source.index("{package}\n") + len("{package}\n")]
    wheel = tmp_path / "datasets" / "jane" / "nerveceg-package" / "nerveceg-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    code = """
import importlib.util, sys
from IPython.testing.globalipapp import start_ipython
shell = start_ipython()
importlib.util.find_spec = lambda name: None
shell.magics_manager.register_function(print, 'line', 'pip')
shell.run_cell(sys.argv[1])"""
    source = cell.replace("/kaggle/input", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == f"install --quiet {wheel}", done.stderr
