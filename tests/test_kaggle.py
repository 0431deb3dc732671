"""The folders for Kaggle's command line, and notebooks on machines like Kaggle's: inputs mounted, one machine each."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest

from nerveceg_lib import kaggle, paths
from nerveceg_lib.__main__ import main
from nerveceg_lib.paths import STAGES, STUDIES
from tests.cells import TINY, run_cells
from tests.conftest import REPOSITORY


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    out = tmp_path_factory.mktemp("kaggle") / "kernels"
    said = kaggle.write_kernels("jane-doe", out, "kaggle", {"seed": "3"})
    return out, said


def test_every_notebook_becomes_a_kernel_that_reads_the_earlier_ones(kernels):
    out, _ = kernels
    ids = {}
    for stage in (*STAGES, *STUDIES):
        facts = json.loads((out / stage / "kernel-metadata.json").read_text())
        ids[stage] = facts["id"]
        assert facts["id"] == "jane-doe/" + facts["title"].lower().replace(" ", "-")  # Kaggle's own rule
        assert facts["competition_sources"] == ["ultrasound-nerve-segmentation"]
        assert facts["dataset_sources"] == [json.loads((out / "package" / "dataset-metadata.json").read_text())["id"]]
        earlier = STAGES[: STAGES.index(stage)] if stage in STAGES else STAGES[:1]
        assert facts["kernel_sources"] == [ids[before] for before in earlier]
        notebook = nbformat.read(out / stage / facts["code_file"], 4)
        injected = next(c.source for c in notebook.cells if "injected-parameters" in c.metadata.get("tags", []))
        assert 'run = "kaggle"' in injected and "seed = 3" in injected


def test_the_package_is_a_wheel_with_all_that_the_notebooks_import(kernels):
    out, said = kernels
    (wheel,) = (out / "package").glob("nerveceg-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    wanted = [p.relative_to(REPOSITORY).as_posix() for p in (REPOSITORY / "nerveceg_lib").rglob("*.*")]
    assert {name for name in wanted if "__pycache__" not in name} <= set(names)
    assert said[0] == f"kaggle datasets create -p {out / 'package'}" and len(said) == 1 + len(STAGES)


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
    monkeypatch.setattr(paths, "KAGGLE_INPUT", mount)
    monkeypatch.delenv("NERVECEG_RUNS", raising=False)
    mount.mkdir()
    if competition:
        shutil.copytree(phantom, mount / "competitions" / "nerve")
    for stage in ("01_data_preparation", "02_classifier_training", "03_segmenter_training",
                  "04_two_stage_inference", "06_submission_rle"):  # fmt: skip
        working.mkdir()
        monkeypatch.chdir(working)
        before = digest(mount)
        run_cells(stage, data_dir="auto", run="mine")
        assert digest(mount) == before
        attached = mount / "notebooks" / "jane" / stage
        attached.parent.mkdir(parents=True, exist_ok=True)
        working.rename(attached)  # the next machine sees it as an input, and at another place
    submission = attached / "runs" / "mine" / stage / "submission.csv"
    assert submission.read_text().count("\n") == 1 + (6 if competition else TINY["phantom_test_frames"])


def test_the_first_cell_installs_the_attached_package(tmp_path, monkeypatch):
    """Where the package is missing: by pip, from below Kaggle's mount; `pip` itself is not called here."""
    cell = nbformat.read(REPOSITORY / "notebooks" / "06_submission_rle.ipynb", 4).cells[1].source
    wheel = tmp_path / "datasets" / "jane" / "nerveceg-package" / "nerveceg-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir(parents=True)
    wheel.touch()
    code = "\n".join(
        [
            "from IPython.testing.globalipapp import start_ipython",
            "shell = start_ipython()",
            "import importlib.util, sys",
            "importlib.util.find_spec = lambda name: None",
            "shell.magics_manager.register_function(print, 'line', 'pip')",
            "shell.run_cell(sys.argv[1])",
        ]
    )
    source = cell.replace("/kaggle/input", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code, source], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == f"install --quiet {wheel}", done.stderr
