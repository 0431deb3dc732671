"""What `doctor` says of a machine and a data folder, what it finds to be missing, and the help of all commands."""

import subprocess
import sys
from collections import namedtuple

import pytest

from nerveceg_lib.data import io
from nerveceg_tools import doctor
from nerveceg_tools.cli import main
from tests.conftest import REPOSITORY

COMMANDS = ["run", "fit", "report", "jupyter", "sweep", "predict", "explain", "phantom", "kaggle", "doctor"]
COMMANDS += ["import-frames", "import-masks", "import-bus-uclm", "import-usgra"]


def has_free(monkeypatch, gigabytes):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(0, 0, gigabytes * 10**9))


def test_a_sound_installation_and_data_folder(root, phantom, monkeypatch, capsys):
    has_free(monkeypatch, 4)
    assert main(["doctor", str(phantom)]) == 0
    output = capsys.readouterr().out
    assert f"{phantom}: 48 training frames of 6 patients, 6 test frames" in output and "nothing is missing" in output
    assert all(word in output for word in ("processor", "memory", "torch", "GPU", "4 GB free"))


def test_faults_are_named(root, phantom, tmp_path, monkeypatch, capsys):
    has_free(monkeypatch, 1)
    (tmp_path / "data" / "train").mkdir(parents=True)
    io.image_path(tmp_path / "data", 1, 1).write_bytes(io.image_path(phantom, 1, 1).read_bytes())
    assert main(["doctor", str(tmp_path / "data")]) == 2
    output = capsys.readouterr().out
    assert "missing: " in output and "expected 3 GB free for the demo, found 1.0 GB" in output
    assert "a mask for each training frame, found 1 missing, first train/1_1_mask.tif" in output


def test_missing_packages_are_named_where_nothing_else_can_be_imported(monkeypatch, capsys):
    bare = [sys.executable, "-S", "-m", "nerveceg_tools", "doctor"]  # without site-packages
    done = subprocess.run(bare, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2 and "missing: psutil is not installed for" in done.stdout, done.stderr
    done = subprocess.CompletedProcess([], 1, stdout="nerveceg 0.1.0 requires torch, which is not installed.\n")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *arguments, **options: done)
    assert main(["doctor"]) == 2
    output = capsys.readouterr().out
    assert "missing: nerveceg 0.1.0 requires torch, which is not installed. `make setup` installs it." in output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0 and f"examples:\n  nerveceg {command}" in capsys.readouterr().out
