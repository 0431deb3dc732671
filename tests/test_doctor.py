"""What `doctor` says of a machine and a data folder, and that it notices what is missing."""

from collections import namedtuple

import pytest

from nerveceg_lib import doctor
from nerveceg_lib.__main__ import main
from nerveceg_lib.data import layout


def test_a_sound_installation_and_data_folder(root, phantom, capsys):
    assert main(["doctor", str(phantom)]) == 0
    said = capsys.readouterr().out
    assert f"{phantom}: 48 training frames of 6 patients, 6 test frames, train_masks.csv and sample_submission" in said
    assert "nothing is missing" in said and all(word in said for word in ("processor", "torch", "GPU", "GB free"))


def test_faults_are_named(root, phantom, tmp_path, monkeypatch, capsys):
    (tmp_path / "data" / "train").mkdir(parents=True)
    layout.image_path(tmp_path / "data", 1, 1).write_bytes(layout.image_path(phantom, 1, 1).read_bytes())
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(0, 0, 1_000_000_000))
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["numpy>=999", "nowhere-to-be-found>=1"])
    assert main(["doctor", str(tmp_path / "data")]) == 2
    said = capsys.readouterr().out
    assert "missing: numpy: expected >=999, found" in said and "nowhere-to-be-found: expected >=1, found none" in said
    assert "3 GB free for the demo, found 1.0 GB" in said
    assert "a mask for each training frame, found 1 missing, first train/1_1_mask.tif" in said


@pytest.mark.parametrize("command", ["run", "fit", "report", "sweep", "bias-table", "predict", "phantom",
                                     "import-frames", "import-usgra", "kaggle", "doctor"])  # fmt: skip
def test_every_command_explains_itself_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0 and f"examples:\n  python -m nerveceg_lib {command}" in capsys.readouterr().out
