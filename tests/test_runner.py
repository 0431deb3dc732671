"""Parameters, profiles, markers and failures of the notebook runner; it executes small stand-in notebooks."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys

import nbformat
import pytest
import yaml

from nerveceg_lib import record, runner
from nerveceg_lib.__main__ import main
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import write_json
from nerveceg_lib.paths import STAGES, STUDIES, find_competition_data, show, stage_dir
from tests.conftest import REPOSITORY

CODE = """\
from nerveceg_lib.files import write_json
from nerveceg_lib.paths import stage_dir
folder = stage_dir(run, {stage!r})
log = folder / "log.txt"
log.write_text((log.read_text() if log.exists() else "") + f"{{limit}};")
write_json(folder / "metrics.json", {{"limit": limit}})
"""


@pytest.fixture
def notebooks(tmp_path, monkeypatch, root):
    """Little notebooks with the parameters run, data_dir, limit and share."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for stage in (*STAGES, *STUDIES):
        book = nbformat.v4.new_notebook()
        text = 'run: str = "demo"\ndata_dir: str = "auto"\nlimit: int = 3\nshare: float = 0.5'
        cell = nbformat.v4.new_code_cell(text, metadata={"tags": ["parameters"]})
        book.cells = [cell, nbformat.v4.new_code_cell(CODE.format(stage=stage))]
        book.metadata = {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
        nbformat.write(book, folder / f"{stage}.ipynb")
    monkeypatch.setattr(runner, "NOTEBOOKS", folder)
    return folder


def spoil(notebooks, stage, code):
    book = nbformat.read(notebooks / f"{stage}.ipynb", 4)
    book.cells.append(nbformat.v4.new_code_cell(code))
    nbformat.write(book, notebooks / f"{stage}.ipynb")


def log(root, stage, run="demo"):
    path = root / run / stage / "log.txt"
    return path.read_text() if path.exists() else ""


def test_studies_run_only_when_asked_and_depend_on_notebook_1_alone(notebooks, root, capsys):
    runner.run("demo", {}, [], resume=False)
    assert [log(root, study) for study in STUDIES] == [""] * len(STUDIES)
    runner.run("demo", {}, ["01", "08"], resume=True)
    assert log(root, "08_architecture_comparison") == "3;"
    assert "[2/2] 08_architecture_comparison: done" in capsys.readouterr().out
    spoil(notebooks, STAGES[1], "1 + 1")
    runner.run("demo", {}, ["08"], resume=True)
    assert log(root, "08_architecture_comparison") == "3;", "02 is not its business"
    spoil(notebooks, STAGES[0], "1 + 1")
    runner.run("demo", {}, ["08"], resume=True)
    assert log(root, "08_architecture_comparison") == "3;3;"


SPEAKING = "import sys, warnings\nprint('to read')\nprint('progress', file=sys.stderr)\nwarnings.warn('of a library')"


@pytest.mark.parametrize(
    ("flags", "heard", "not_heard"),
    [
        ([], {"to read", "progress"}, {"of a library"}),
        (["-q"], set(), {"to read", "progress", "of a library"}),
        (["-v"], {"to read", "progress", "of a library"}, set()),
    ],
)
def test_quiet_and_verbose(notebooks, monkeypatch, capfd, flags, heard, not_heard):
    monkeypatch.setenv("PYTHONWARNINGS", "")  # which -v sets
    spoil(notebooks, STAGES[0], SPEAKING)
    assert main(["run", "--only", "01", *flags]) == 0
    said = "".join(capfd.readouterr())
    assert "[1/1] 01_data_preparation: done in" in said
    assert {words for words in heard | not_heard if words in said} == heard


def test_two_runs_into_one_folder_are_refused_by_a_lock_that_no_crash_leaves_behind(notebooks, root):
    (root / "demo").mkdir(parents=True)
    holder = "import sys, time\nfrom nerveceg_lib import runner\nfrom pathlib import Path\n"
    holder += "with runner._alone_in(Path(sys.argv[1])): print('held', flush=True), time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder, root / "demo"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="run: expected a run that nobody else works on, found 'demo' in use"):
            runner.run("demo", {}, ["01"], resume=False)
        runner.run("demo", {"run": "other"}, ["01"], resume=False)
        other.kill()
    runner.run("demo", {}, ["01"], resume=False)
    assert log(root, STAGES[0]) == log(root, STAGES[0], "other") == "3;"


def test_a_run_keeps_what_it_takes_to_repeat_it(notebooks, root, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nerveceg_lib", "run", "-p", "limit", "7"])
    runner.run("demo", {"limit": "7"}, ["01"], resume=False)
    runner.run("demo", {"limit": "8"}, ["02"], resume=False)
    records = [json.loads(path.read_text()) for path in sorted((root / "demo" / "records").iterdir())]
    first, second = sorted(records, key=lambda record: record["parameters"]["limit"])
    assert first["command"] == "python -m nerveceg_lib run -p limit 7"
    assert first["parameters"] == {"run": "demo", "data_dir": "auto", "limit": 7, "share": 0.5}
    assert second["parameters"]["limit"] == 8
    assert first["packages"]["torch"] == importlib.metadata.version("torch") and len(first["library"]) == 16
    assert first["processor"] and first["cores"] == os.cpu_count() and first["python"] == platform.python_version()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=REPOSITORY)
    assert (first["revision"] or "").rstrip("+") == head.stdout.strip()


def test_the_record_holds_a_hash_of_the_data(root, tmp_path):
    """It does not depend on where the files lie or when they were written, only on names and content."""
    hashes = []
    for number, content in enumerate(("a", "a", "b")):
        run, kept = root / str(number), tmp_path / str(number)
        (run / STAGES[0]).mkdir(parents=True)
        kept.mkdir()
        write_json(kept / "manifest.json", {"files": {"1_1.tif": {"blake2b": content, "size": number}}})
        write_json(run / STAGES[0] / "dataset.json", {"cache": str(kept)})
        path = record.write_record(run, {}, "")
        record.add_data(path)
        hashes.append(json.loads(path.read_text())["data"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_only_and_overrides_reach_the_notebooks(notebooks, root):
    folder = runner.run("demo", {"limit": "7", "run": "mine"}, ["02"], resume=False)
    assert folder == root / "mine"
    assert [log(root, stage, "mine") for stage in STAGES] == ["", "7;", "", "", "", ""]
    assert json.loads((folder / "metrics.json").read_text()) == {STAGES[1]: {"limit": 7}}


@pytest.fixture(autouse=True)
def plain_profile(tmp_path, monkeypatch):
    folder = tmp_path / "params"
    folder.mkdir()
    (folder / "demo.yaml").write_text("limit: 3\n")
    monkeypatch.setattr(runner, "PROFILES", folder)


def test_resume_skips_what_is_done_and_repeats_what_changed(notebooks, root):
    stages = ["01", "02"]
    runner.run("demo", {}, stages, resume=False)
    runner.run("demo", {}, stages, resume=True)
    assert [log(root, stage) for stage in STAGES[:2]] == ["3;", "3;"]
    runner.run("demo", {"limit": "4"}, stages, resume=True)
    assert [log(root, stage) for stage in STAGES[:2]] == ["3;4;", "3;4;"]
    spoil(notebooks, STAGES[0], "1 + 1")
    runner.run("demo", {"limit": "4"}, stages, resume=True)
    assert [log(root, stage) for stage in STAGES[:2]] == ["3;4;4;", "3;4;4;"], "02 reads what 01 writes"


def test_failure_names_notebook_cell_and_error_and_stops(notebooks, root, capsys):
    spoil(notebooks, STAGES[1], "raise ValueError('the sky fell')")
    assert main(["run", "--only", "01,02,03"]) == 1
    assert "02_classifier_training, cell 4: ValueError: the sky fell" in capsys.readouterr().err
    assert (root / "demo" / STAGES[0] / "done.json").exists()
    assert not (root / "demo" / STAGES[1] / "done.json").exists()
    assert log(root, STAGES[2]) == ""


def test_bad_input_in_a_notebook_exits_with_2(notebooks, root, capsys):
    spoil(notebooks, STAGES[0], "from nerveceg_lib.errors import InputError\nraise InputError('a.tif: broken')")
    assert main(["run", "--only", "01"]) == 2
    assert "a.tif: broken" in capsys.readouterr().err


def test_dead_kernel_is_reported(notebooks, root, capsys):
    spoil(notebooks, STAGES[0], "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert main(["run", "--only", "01"]) == 1
    assert "01_data_preparation: the kernel died" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"epoch": "3"}, "epoch: no notebook has this parameter"),
        ({"limit": "many"}, "limit: expected int, found 'many'"),
        ({"limit": "1.5"}, "limit: expected int, found 1.5"),
        ({"limit": "[1"}, r"limit: expected a number, true or false, found '\[1'"),
        ({"share": "1e-3"}, "share: expected float, found '1e-3'"),
        ({"run": "../x"}, "run: expected a plain folder name"),
    ],
)
def test_wrong_parameters_are_refused(notebooks, root, overrides, message):
    with pytest.raises(InputError, match=message):
        runner.run("demo", overrides, [], resume=False)


def test_whole_numbers_pass_as_float_and_digits_as_text(notebooks, root):
    folder = runner.run("demo", {"share": "1", "run": "2026"}, ["01"], resume=False)
    assert folder.name == "2026"


def test_unknown_profile_stage_and_data_folder_are_refused(notebooks, root, tmp_path):
    with pytest.raises(InputError, match=r"expected one of \['demo'\].*found 'fast'"):
        runner.run("fast", {}, [], resume=False)
    with pytest.raises(InputError, match=r"--only: no notebook \['09'\]"):
        runner.run("demo", {}, ["09"], resume=False)
    with pytest.raises(InputError, match="data_dir: expected a folder that holds train/"):
        find_competition_data(str(tmp_path))


def test_kaggle_s_mounted_input_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("nerveceg_lib.paths.KAGGLE_INPUT", tmp_path)
    assert find_competition_data("auto") is None
    mounted = tmp_path / "competitions" / "ultrasound-nerve-segmentation"
    mounted.mkdir(parents=True)
    (mounted / "train_masks.csv").touch()
    assert find_competition_data("auto") == mounted


def test_paths_are_shown_without_the_machine(root):
    assert show(stage_dir("demo", STAGES[0]) / "a.csv") == "demo/01_data_preparation/a.csv"
    assert show(REPOSITORY / "elsewhere.csv") == "elsewhere.csv"


def test_command_line_answers_bad_input_with_code_2_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "nerveceg_lib", "phantom", str(tmp_path / "p"), "--difficulty", "cruel"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=os.environ)
    assert done.returncode == 2
    assert "cruel" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("path", sorted((REPOSITORY / "params").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_profiles_fit_the_notebooks(path):
    cells = [runner.notebook_parameters(stage) for stage in (*STAGES, *STUDIES)]
    defaults = {name: value for parameters in cells for name, value in parameters.items()}
    profile = yaml.safe_load(path.read_text())
    assert {name: type(value) for name, value in profile.items()} == {n: type(defaults[n]) for n in profile}
    if path.stem == "demo":
        assert profile == defaults, "the demo profile is the notebooks' defaults"
