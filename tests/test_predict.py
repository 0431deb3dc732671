"""Folders of frames through a trained run: in shards, on Dask workers, resumed, and never mixed with others."""

import os
import re
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from nerveceg_lib import rle
from nerveceg_lib.models import build_model
from nerveceg_lib.models.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.runtime.folders import NOTEBOOKS, notebook_folder, run_folder
from nerveceg_lib.runtime.io import write_json
from nerveceg_tools.cli import main

SYSTEM = {"runs": ["toy"], "gate_from": "classifier", "flip": False}
NOTHING_BEFORE = {"cleanup": "none", "system": SYSTEM, "basis": {}}  # this gate rests on no data, and fits any


@pytest.fixture
def folder(root, phantom, tmp_path):
    """Six test frames, beside a run `toy` whose networks draw something on some of them."""
    torch.manual_seed(0)
    classifier, segmenter = build_model("resnet18"), build_model("unet", base_channels=2)
    torch.nn.init.normal_(classifier.head[-1].weight, std=2.0)
    torch.nn.init.constant_([*segmenter.parameters()][-1], 0.2)  # the bias of the logits
    metadata = {"model": "resnet18", "options": {}, "size": [32, 48], "fold": 0}
    save_checkpoint(notebook_folder("toy", NOTEBOOKS[1]) / "classifier.pt", classifier, metadata)
    metadata = {"model": "unet", "options": {"base_channels": 2}, "size": [48, 64], "fold": 0}
    save_checkpoint(notebook_folder("toy", NOTEBOOKS[2]) / "segmenter.pt", segmenter, metadata)
    write_json(notebook_folder("toy", NOTEBOOKS[3]) / "gate.json", {"threshold": 0.0, "min_area": 1} | NOTHING_BEFORE)
    return shutil.copytree(phantom / "test", tmp_path / "Söhne's [1] %d")


def predict(folder, out, *options):
    return main(["predict", str(folder), str(out), "--run", "toy", "--precision", "fp32", *options])


def test_every_frame_has_a_row_and_a_mask_if_the_gate_keeps_it(folder, tmp_path):
    out = tmp_path / "out"
    assert predict(folder, out) == 0
    table = pd.read_csv(out / "predictions.csv", keep_default_na=False)
    assert table["frame"].tolist() == sorted(path.name for path in folder.iterdir())
    drawn = table[table["mask_area"] > 0]
    assert len(drawn) and {path.stem for path in (out / "masks").iterdir()} == {name[:-4] for name in drawn["frame"]}
    for row in drawn.itertuples():
        mask = cv2.imread(str(out / "masks" / row.frame.replace(".tif", ".png")), cv2.IMREAD_UNCHANGED)
        assert set(np.unique(mask)) <= {0, 255}
        assert np.array_equal(rle.decode(row.pixels), mask // 255) and row.mask_area == (mask > 0).sum()


def test_frames_of_any_size_and_colour_get_masks_of_their_own_size(folder, tmp_path):
    gate = {"evidence": "classifier", "weights": [0.0], "intercept": 1.0, "dice_slope": 0.0, "dice_intercept": 1.0}
    write_json(notebook_folder("toy", NOTEBOOKS[3]) / "gate.json", gate | {"threshold": -1.0} | NOTHING_BEFORE)
    frame = cv2.imread(str(next(folder.iterdir())))
    shutil.rmtree(folder)
    folder.mkdir()
    for name, size in {"large.png": (1160, 840), "wide.jpg": (900, 300), "upper.TIF": (580, 420)}.items():
        cv2.imwrite(str(folder / name), cv2.resize(frame, size))
    (folder / "._wide.jpg").touch()
    assert predict(folder, tmp_path / "out") == 0
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("frame")["pixels"]
    for name, shape in {"large.png": (840, 1160), "wide.jpg": (300, 900), "upper.TIF": (420, 580)}.items():
        mask = cv2.imread(str((tmp_path / "out" / "masks" / name).with_suffix(".png")), cv2.IMREAD_UNCHANGED)
        assert mask.shape == shape and np.array_equal(rle.decode(table[name], shape), mask // 255)


def test_a_score_optimal_gate_decides_too(folder, tmp_path):
    """P is the same for all, 0.73 or 0.27, and E[Dice] = 1: all masks win or none does."""
    for intercept, expected in ((1.0, 6), (-1.0, 0)):
        gate = {"evidence": "classifier", "weights": [0.0], "intercept": intercept}
        gate |= {"dice_slope": 0.0, "dice_intercept": 1.0, "threshold": -1.0} | NOTHING_BEFORE
        write_json(notebook_folder("toy", NOTEBOOKS[3]) / "gate.json", gate)
        out = tmp_path / str(intercept)
        assert predict(folder, out) == 0
        table = pd.read_csv(out / "predictions.csv", keep_default_na=False)
        assert (table["mask_area"] > 0).sum() == (table["pixels"] != "").sum() == expected
        assert len(list((out / "masks").iterdir())) == expected


@pytest.mark.slow
def test_networks_are_used_as_the_gate_was_fitted(folder, tmp_path):
    """A gate of an ensemble gets the ensemble's probabilities, and one of mirrored frames those."""
    gate_json = notebook_folder("toy", NOTEBOOKS[3]) / "gate.json"
    shutil.copytree(run_folder("toy"), run_folder("other"))
    network, metadata = load_checkpoint(run_folder("other") / NOTEBOOKS[1] / "classifier.pt")
    torch.nn.init.normal_(network.head[-1].weight, std=2.0)
    save_checkpoint(run_folder("other") / NOTEBOOKS[1] / "classifier.pt", network, metadata)
    means = {}
    for runs, flip in ((["toy"], False), (["other"], False), (["toy", "other"], False), (["toy"], True)):
        system = SYSTEM | {"runs": runs, "flip": flip}
        write_json(gate_json, {"threshold": 0.0, "min_area": 1} | NOTHING_BEFORE | {"system": system})
        out = tmp_path / f"{len(means)}"
        assert predict(folder, out) == 0
        means[*runs, flip] = pd.read_csv(out / "predictions.csv")["probability"]
    single = (means["toy", False] + means["other", False]) / 2
    np.testing.assert_allclose(means["toy", "other", False], single, rtol=1e-4)
    assert (means["toy", True] != means["toy", False]).any()


@pytest.mark.slow
def test_workers_make_the_same_file_and_finished_shards_stay(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("nerveceg_tools.predict.SHARD", 2)
    assert predict(folder, tmp_path / "one") == 0
    assert predict(folder, tmp_path / "two", "--workers", "2") == 0
    merged = (tmp_path / "one" / "predictions.csv").read_bytes()
    assert (tmp_path / "two" / "predictions.csv").read_bytes() == merged
    shards = sorted((tmp_path / "two" / "shards").iterdir())
    assert len(shards) == 3
    before = shards[0].stat().st_mtime_ns
    shards[1].unlink()
    (tmp_path / "two" / "predictions.csv").unlink()
    assert predict(folder, tmp_path / "two") == 0
    assert (tmp_path / "two" / "predictions.csv").read_bytes() == merged
    assert shards[0].stat().st_mtime_ns == before and shards[1].exists()


def test_bad_input_is_named(folder, tmp_path, capsys):
    out = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    assert predict(tmp_path / "empty", out) == 2
    assert "expected frames (.bmp, .jpeg, .jpg, .png, .tif, .tiff), found none" in capsys.readouterr().err
    assert predict(folder, out) == 0
    first = sorted(folder.iterdir())[0]
    os.link(first, folder / "zzz.tif")
    assert predict(folder, out) == 2
    assert "holds predictions with other frames; choose an empty folder" in capsys.readouterr().err
    (folder / "zzz.png").write_bytes(b"")
    assert predict(folder, tmp_path / "new") == 2
    assert "one file per frame, found zzz with several endings" in capsys.readouterr().err
    (folder / "zzz.png").unlink()
    (folder / "zzz.tif").unlink()
    (folder / "zzz.tif").write_bytes(b"II*\0")
    assert predict(folder, tmp_path / "new") == 2
    assert "zzz.tif: expected a readable image" in capsys.readouterr().err


def test_a_frame_is_explained_in_one_picture(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = next(folder.iterdir())
    scan = cv2.resize(cv2.imread(str(frame)), (700, 500))
    cv2.imwrite("scan.png", scan)
    assert main(["explain", "scan.png", "--run", "toy", "--method", "grad-cam,seg-grad-cam,lrp"]) == 0
    statement = capsys.readouterr().out
    assert statement.startswith("first stage ") and "mask" in statement and "wrote scan-explained.png" in statement
    assert cv2.imread("scan-explained.png").shape[1] == 700, "a frame and three maps of 1.75 inches each"
    predict(folder, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv").set_index("frame")
    assert main(["explain", str(frame), "--run", "toy", "--method", "gradient", "--out", "other.png"]) == 0
    assert f"first stage {table.loc[frame.name, 'probability']:.2f}, gate " in capsys.readouterr().out
    assert (tmp_path / "other.png").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--method", "grad-cam,score"], "--method: expected one of .*'score-cam'.*found 'score'"),
        (["--method", "attention-gate"], "attention-gate: expected one of the attention-unets, found EncoderDecoder"),
        (["--run", "nothing"], "nothing/04_two_stage_inference/gate.json: not found"),
    ],
)
def test_what_cannot_be_explained_is_named(folder, capsys, arguments, message):
    assert main(["explain", str(next(folder.iterdir())), "--run", "toy", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
