"""Parameters, profiles, markers and failures of the notebook runner; it executes small stand-in notebooks."""

import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys

import nbformat
import pytest
import torch
import yaml

from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES, find_competition_data
from nerveceg_lib.runtime.parameters import check_parameters
from nerveceg_tools import run
from nerveceg_tools.cli import main
from nerveceg_tools.progress import RunBar
from tests.conftest import REPOSITORY

PARAMETERS = """\
run: str = "demo"
data_dir: str = "auto"
resume: bool = False
devices: int = 1
limit: int = 3
epochs: int = 3
share: float = 0.5
flip: bool = False
"""
CODE = """\
from nerveceg_lib.runtime.folders import notebook_folder
from nerveceg_lib.runtime.io import write_json
folder = notebook_folder(run, {notebook!r})
log = folder / "log.txt"
log.write_text((log.read_text() if log.exists() else "") + f"{{limit}};")
write_json(folder / "dataset.json", {{"dataset": "drawn here", "digest": "of the data"}})
write_json(folder / "metrics.json", {{"limit": limit, "resume": resume}})
"""


@pytest.fixture
def notebooks(tmp_path, monkeypatch, root):
    """Little notebooks, and a folder for profiles; both are the runner's for this test."""
    folder = tmp_path / "notebooks"
    for path in (folder, tmp_path / "params"):
        path.mkdir()
    for notebook in (*NOTEBOOKS, *STUDIES):
        book = nbformat.v4.new_notebook()
        cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        book.cells = [cell, nbformat.v4.new_code_cell(CODE.format(notebook=notebook), metadata={"tags": ["train"]})]
        book.metadata = {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}
        nbformat.write(book, folder / f"{notebook}.ipynb")
    monkeypatch.setattr(run, "NOTEBOOK_FOLDER", folder)
    monkeypatch.setattr(run, "PROFILES", tmp_path / "params")
    return folder


def spoil(notebooks, notebook, code):
    book = nbformat.read(notebooks / f"{notebook}.ipynb", 4)
    book.cells.append(nbformat.v4.new_code_cell(code))
    nbformat.write(book, notebooks / f"{notebook}.ipynb")


def log(root, notebook, run="demo"):
    path = root / run / notebook / "log.txt"
    return path.read_text() if path.exists() else ""


@pytest.mark.slow
def test_studies_run_only_when_asked_and_depend_on_notebook_1_alone(notebooks, root, capsys):
    assert run.choose_notebooks("") == list(NOTEBOOKS)
    run.run("demo", {}, "01,08", resume=True)
    assert log(root, STUDIES[1]) == "3;" and "[2/2] 08_architecture_comparison: done" in capsys.readouterr().out
    spoil(notebooks, NOTEBOOKS[1], "1 + 1")
    run.run("demo", {}, "08", resume=True)
    assert log(root, STUDIES[1]) == "3;", "it does not read notebook 2"
    spoil(notebooks, NOTEBOOKS[0], "1 + 1")
    run.run("demo", {}, "01,08", resume=True)
    assert log(root, STUDIES[1]) == "3;3;"


@pytest.mark.slow
def test_resume_skips_what_is_done_and_repeats_what_changed(notebooks, root, capsys):
    run.run("demo", {}, "01,02", resume=False)
    run.run("demo", {}, "01,02", resume=True)
    assert [log(root, notebook) for notebook in NOTEBOOKS[:2]] == ["3;", "3;"]
    assert capsys.readouterr().out.count("done before, skipped") == 2
    run.run("demo", {"classifier.limit": "4"}, "01,02", resume=True)
    assert [log(root, notebook) for notebook in NOTEBOOKS[:2]] == ["3;", "3;4;"]
    spoil(notebooks, NOTEBOOKS[0], "1 + 1")
    run.run("demo", {"classifier.limit": "4"}, "01,02", resume=True)
    assert [log(root, notebook) for notebook in NOTEBOOKS[:2]] == ["3;3;", "3;4;4;"], "02 reads what 01 writes"
    metrics = json.loads((root / "demo" / "metrics.json").read_text())
    assert metrics == {NOTEBOOKS[0]: {"limit": 3, "resume": False}, NOTEBOOKS[1]: {"limit": 4, "resume": False}}


def test_fit_runs_the_cells_up_to_the_training_in_this_process(notebooks, root, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    spoil(notebooks, NOTEBOOKS[2], "raise ValueError('behind the training')")
    assert main(["run", "--only", "01", "-p", "run", "mine", "-q"]) == 0
    assert main(["fit", "segmenter", "-p", "segmenter.limit", "5", "-p", "run", "mine", "--resume"]) == 0
    assert log(root, NOTEBOOKS[2], "mine") == "5;" and log(root, NOTEBOOKS[1], "mine") == ""
    assert json.loads((root / "mine" / NOTEBOOKS[2] / "metrics.json").read_text())["resume"]
    monkeypatch.setattr(run, "library_hash", lambda: "of other code")
    assert main(["fit", "segmenter", "-p", "segmenter.limit", "5", "-p", "run", "mine", "--resume"]) == 2
    assert "--resume: the segmenter was begun with other code" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            "def loss(logits, target):\n    return logits.mean((1, 2, 3))",
            r"expected one number per batch.*shape \(2,\)",
        ),
        (
            "def loss(logits, target):\n    return logits @ target",
            "my_own:loss fails on two blank frames: RuntimeError",
        ),
        ("def los(logits, target):\n    return 0", "to be importable and callable, found AttributeError"),
        ("def loss(logits, target)\n    return 0", r"to be importable and callable, found SyntaxError"),
    ],
)
def test_a_loss_of_ones_own_is_tried_before_anything_runs(notebooks, code, message):
    (notebooks / "my_own.py").write_text("raise ValueError")
    with pytest.raises(InputError, match="segmenter.loss: .*found ValueError"):
        run.known_and_typed({"segmenter.loss": "my_own:loss"}, {"segmenter.loss": ""})
    (notebooks / "my_own.py").write_text(
        code + "\n# longer, so that Python's cache of byte code does not take it for the first"
    )
    with pytest.raises(InputError, match=f"segmenter.loss: .*{message}"):
        run.known_and_typed({"segmenter.loss": "my_own:loss"}, {"segmenter.loss": ""})


SPEAKING = "import sys, warnings\nprint('to read')\nprint('progress', file=sys.stderr)\nwarnings.warn('of a library')"


@pytest.mark.parametrize(
    ("flags", "printed"),
    [([], {"to read", "progress"}), (["-q"], set()), (["-v"], {"to read", "progress", "of a library"})],
)
def test_quiet_and_verbose(notebooks, monkeypatch, capfd, flags, printed):
    monkeypatch.setenv("PYTHONWARNINGS", "")  # which -v sets
    spoil(notebooks, NOTEBOOKS[0], SPEAKING)
    assert main(["run", "--only", "01", *flags]) == 0
    output = "".join(capfd.readouterr())
    assert "[1/1] 01_data_preparation: done in" in output
    assert {words for words in ("to read", "progress", "of a library") if words in output} == printed


def test_one_bar_counts_epochs_and_notebooks(monkeypatch, capsys):
    seconds, terminal = [0.0], io.StringIO()
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[-1])
    monkeypatch.setattr(sys, "stderr", terminal)
    bar = RunBar({"01": 1, "02": 4, "03": 4, "04": 1}, visible=True)
    bar.skip("01")
    seconds.append(30)
    bar.write("epoch 1/3  loss 1\n")  # one of nine steps
    assert "11% |" in terminal.getvalue() and "| 00:30 passed, about 04:00 left" in terminal.getvalue()
    seconds.append(40)
    assert [bar.finish(notebook) for notebook in ("02", "03", "04")] == [", about 50 s left", ", about 5 s left", ""]
    bar.close()
    study = RunBar({"08": 1}, visible=True)
    study.write("epoch 1/2\nepoch 2/2\nepoch 1/2\n")  # of networks that are no steps
    seconds.append(50)
    assert study.finish("08") == ""
    study.write("[1/1] 08: done\n")
    assert "run 100% |" in terminal.getvalue().rpartition("\r")[2]
    assert capsys.readouterr().out.startswith("epoch 1/3  loss 1\nepoch 1/2\n")


def test_paths_become_absolute_because_kernels_work_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"data_dir": "a,b", "bias.other_masks": "x.csv,y.csv", "submission.masks_csv": ""}
    masks = f"{tmp_path}/x.csv,{tmp_path}/y.csv"
    assert run.resolve_paths(values) == values | {"data_dir": f"{tmp_path}/a,b", "bias.other_masks": masks}


@pytest.mark.parametrize(
    ("words", "code", "error", "message"),
    [
        ("a warning\nerror: classifier.lr: too odd\nand worse", 2, InputError, "^classifier.lr: too odd\nand worse$"),
        (
            "Traceback\nOutOfMemoryError: CUDA error: out of memory",
            1,
            run.NotebookFailed,
            "^OutOfMemoryError: CUDA error",
        ),
        ("", 137, run.NotebookFailed, "the training of the classifier was killed"),
        ("", 130, KeyboardInterrupt, ""),
    ],
)
def test_what_a_training_in_another_process_says_is_passed_on(tmp_path, monkeypatch, words, code, error, message):
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{words}\nEND\nexit {code}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(error, match=message):
        run._fit_on_devices("classifier", run.default_parameters() | {"resume": False}, -1)


def test_notebook_7_is_repeated_if_what_it_pools_or_compares_has_changed(root, tmp_path):
    masks, pooled = tmp_path / "sam.csv", root / "other" / STUDIES[0] / "predictions.csv"
    for path in (masks, pooled):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("row")
    values = run.resolve_parameters("demo", {"bias.other_masks": str(masks), "bias.pool": "oth*"})
    states = [run._state(STUDIES[0], values)]
    for path in (masks, pooled):
        path.write_text("another row")
        states.append(run._state(STUDIES[0], values))
    assert states[0] != states[1] != states[2]


def test_two_runs_into_one_folder_are_refused_by_a_lock_that_no_crash_leaves_behind(notebooks, root):
    (root / "demo").mkdir(parents=True)
    holder = "import sys, time; from filelock import FileLock\n"
    holder += "with FileLock(sys.argv[1]): print('held', flush=True), time.sleep(60)"
    command = [sys.executable, "-c", holder, root / "demo" / ".lock"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match="run: expected a run that no other process works on, found 'demo' in use"):
            run.run("demo", {}, "01", resume=False)
        other.kill()
    run.run("demo", {}, "01", resume=False)
    assert log(root, NOTEBOOKS[0]) == "3;"


def test_a_run_keeps_what_it_takes_to_repeat_it(notebooks, root, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["nerveceg", "run", "-p", "data.limit", "7"])
    run.run("demo", {"data.limit": "7"}, "01", resume=False)
    (path,) = (root / "demo" / "records").iterdir()
    record = json.loads(path.read_text())
    assert record["command"] == "python -m nerveceg_tools run -p data.limit 7" and record["data"] == "of the data"
    assert record["parameters"]["data.limit"] == 7 and record["parameters"]["classifier.limit"] == 3
    assert record["packages"]["torch"] == importlib.metadata.version("torch") and len(record["library"]) == 16
    assert record["processor"] and record["threads"] == torch.get_num_threads()
    assert record["instructions"] in record["torch"] and record["python"] == platform.python_version()
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=REPOSITORY)
    assert record["revision"].rstrip("+") == head.stdout.strip()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "exit_code", "message"),
    [
        ("raise ValueError('the sky fell')", 1, "failed: 02_classifier_training, cell 4: ValueError: the sky fell"),
        ("import mine\nmine.fall()", 1, "02_classifier_training, cell 4, mine.py, line 3: ValueError: no sky"),
        ("from nerveceg_lib.runtime.errors import InputError\nraise InputError('a.tif: broken')", 2, "a.tif: broken"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", 1, "02_classifier_training: the kernel died"),
    ],
)
def test_a_failure_is_named_and_stops_the_run(notebooks, root, capsys, code, exit_code, message):
    spoil(notebooks, NOTEBOOKS[1], code)
    (notebooks / "mine.py").write_text("import math\ndef fall():\n    raise ValueError('no sky')\n")
    assert main(["run", "--only", "01,02,03"]) == exit_code
    assert message in capsys.readouterr().err
    assert [(root / "demo" / notebook / "done.json").exists() for notebook in NOTEBOOKS[:2]] == [True, False]
    assert log(root, NOTEBOOKS[2]) == ""
    for changes, resume in [({}, True), ({"data.limit": 4}, False)][: 2 * ("sky" in code)]:
        with pytest.raises((run.NotebookFailed, InputError)):  # the same failure again
            run.run("demo", changes, "01,02", resume=True)
        assert json.loads((root / "demo" / NOTEBOOKS[1] / "metrics.json").read_text())["resume"] == resume


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"limit": "3"}, "limit: no notebook has this parameter; did you mean data.limit or "),
        ({"segmenter.run": "3"}, r"segmenter.run: .*; did you mean run\?$"),
        ({"resume": "true"}, "resume: no notebook has this parameter; expected a name such as"),
        ({"data.limit": "many"}, "data.limit: expected a whole number, found 'many'"),
        ({"data.share": "nan"}, "data.share: expected a number, found 'nan'"),
        ({"data.flip": "yes"}, "data.flip: expected true or false, found 'yes'"),
        ({"devices": 0}, "devices: expected 1 or more, found 0"),
        ({"datta.limit": 1, "data.share": "x"}, r"datta.limit: .*did you mean data.limit or .*\ndata.share: expected"),
    ],
)
def test_wrong_parameters_are_refused(notebooks, root, overrides, message):
    with pytest.raises(InputError, match=f"(?s)^{message}"):
        run.run("demo", overrides, "", resume=False)
    assert not root.exists()


def test_notebooks_give_their_parameters_the_types_that_they_declare():
    names = {"__annotations__": {"flip": bool, "lr": float}, "flip": "False", "lr": "1e-3"}
    check_parameters(names)
    assert names["flip"] is False and names["lr"] == 0.001
    with pytest.raises(InputError, match="(?s)flip: expected true or false, found 'no'.*lr: expected a numb"):
        check_parameters(names | {"flip": "no", "lr": "x"})


def test_profiles_are_nested_and_overrides_replace_them(notebooks, tmp_path):
    text = "run: 'x'\ndata: {limit: 7, share: 1e-3}\nclassifier:\nsegmenter: {share: 2, flip: true}\n"
    (tmp_path / "params" / "mine.yaml").write_text(text)
    values = run.resolve_parameters("mine", {"segmenter.flip": "false", "data_dir": "~/x", "run": "2026"})
    assert (values["run"], values["data.limit"], values["data.share"]) == ("2026", 7, 0.001)
    assert values["segmenter.share"] == 2.0 and type(values["segmenter.share"]) is float
    assert values["segmenter.flip"] is False and values["data_dir"] == os.path.expanduser("~/x")
    assert run.notebook_values(NOTEBOOKS[2], values)["share"] == 2.0
    assert run.resolve_parameters("demo", {})["data.limit"] == 3
    (tmp_path / "params" / "mine.yaml").write_text("data.limit: 7")  # as on the command line
    assert run.resolve_parameters("mine", {})["data.limit"] == 7


def test_unknown_profile_notebook_and_data_folder_are_refused(notebooks, tmp_path):
    with pytest.raises(InputError, match="--profile: expected one of .*'demo'.*, found 'fast'"):
        run.run("fast", {}, "", resume=False)
    with pytest.raises(InputError, match="--only: expected one of .*, found '10'"):
        run.run("demo", {}, "10", resume=False)
    with pytest.raises(InputError, match="data_dir: expected .* to hold train/ .*: there is none in it"):
        find_competition_data(str(tmp_path))


def test_the_command_line_answers_bad_input_with_code_2_and_no_traceback(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "nerveceg_tools", "phantom", "out", "--difficulty", "cruel"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 2 and "cruel" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("path", sorted((REPOSITORY / "params").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_profiles_fit_the_notebooks(path):
    assert run.resolve_parameters(str(path), {})["run"] == yaml.safe_load(path.read_text())["run"] == path.stem


def test_all_notebooks_agree_on_the_shared_parameters():
    defaults = [run.notebook_parameters(notebook) for notebook in (*NOTEBOOKS, *STUDIES)]
    for name in (*run.SHARED, "resume"):
        assert len({repr(parameters[name]) for parameters in defaults if name in parameters}) == 1, name
