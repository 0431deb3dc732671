"""Every network by name through the notebooks that train it, and every way of joining two networks to the end."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from nerveceg_lib.data.prepared import load_frames
from nerveceg_lib.inference.submission import validate_submission
from nerveceg_lib.models import SEGMENTERS
from nerveceg_lib.models.checkpoints import load_checkpoint
from nerveceg_lib.models.efficientnet import EfficientNetEncoder
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES
from nerveceg_lib.runtime.io import read_json
from nerveceg_tools.phantom import write_phantom
from nerveceg_tools.run import NOTEBOOK_FOLDER
from tests.cells import TINY, run_cells

slow = pytest.mark.slow  # `make check` runs the others, and with them every notebook once


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NERVECEG_RUNS", str(root))
        patch.chdir(NOTEBOOK_FOLDER)
        run_cells(NOTEBOOKS[0])
    return root


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """The folder of a run in which notebook 1 has run, in an artefact root of the test's own."""
    shutil.copytree(prepared, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path))
    monkeypatch.chdir(NOTEBOOK_FOLDER)
    return tmp_path / TINY["run"]


def check_submission(folder):
    data = next(folder.parent.glob("phantom-*"))
    validate_submission(folder / NOTEBOOKS[5] / "submission.csv", data / "sample_submission.csv")


@slow
@pytest.mark.parametrize("name", ["efficientnet-b0", "resnet18"])
def test_classifier_is_trained_by_notebook_2(name, folder):
    run_cells(NOTEBOOKS[1], until="train", **{"classifier.model": name})
    _, metadata = load_checkpoint(folder / NOTEBOOKS[1] / "classifier.pt")
    assert metadata["model"] == name and metadata["size"] == [32, 48]
    assert pd.read_csv(folder / NOTEBOOKS[1] / "curves.csv").notna().all(axis=None)


@slow
@pytest.mark.parametrize("name", [*(name for name in SEGMENTERS if "efficient" not in name), "efficient-unet-b0"])
def test_segmenter_is_trained_by_notebook_3(name, folder):
    deep = not name.startswith("efficient")
    run_cells(NOTEBOOKS[2], until="train", **{"segmenter.model": name, "segmenter.deep_supervision": deep})
    _, metadata = load_checkpoint(folder / NOTEBOOKS[2] / "segmenter.pt")
    assert metadata["model"] == name and metadata["options"].get("deep_supervision", False) == deep


def test_two_plain_networks_go_through_all_notebooks(folder):
    for notebook in NOTEBOOKS[1:]:
        run_cells(notebook, **{"classifier.model": "resnet18", "segmenter.model": "attention-unet"})
    check_submission(folder)
    assert len(list((folder / NOTEBOOKS[4]).glob("*.png"))) >= 8  # with the attention gates


@slow
def test_options_of_the_papers_are_reached_from_the_notebooks(folder):
    run_cells(NOTEBOOKS[1], **{"classifier.model_options": "dropout: 0.4, drop_connect: 0.2"})
    coarse = {"segmenter.model": "attention-unet", "segmenter.model_options": "attention_grid: coarse"}
    run_cells(NOTEBOOKS[2], **coarse)
    assert read_json(folder / NOTEBOOKS[1] / "classifier.json")["options"]["drop_connect"] == 0.2
    assert read_json(folder / NOTEBOOKS[2] / "segmenter.json")["options"]["attention_grid"] == "coarse"
    with pytest.raises(InputError, match="unet: unknown options.*'shortcut'.*expected some of.*'base_channels'"):
        run_cells(NOTEBOOKS[2], **{"segmenter.model_options": "shortcut: projection"})


@slow
def test_one_network_for_both_stages_goes_through_the_notebooks(folder):
    one = {"segmenter.model": "efficient-unet-lite0", "segmenter.pretrained": True, "segmenter.presence_head": True}
    one |= {"segmenter.encoder_lr_factor": 0.1, "inference.gate_from": "segmenter"}
    one |= {"inference.flip": True, "inference.cleanup": "largest"}
    with pytest.raises(InputError, match="deep_supervision: expected false together with presence_head"):
        run_cells(NOTEBOOKS[2], **{"segmenter.presence_head": True, "segmenter.deep_supervision": True})
    for notebook in NOTEBOOKS[2:]:  # the classifier of notebook 2 is not needed
        run_cells(notebook, **one)
    check_submission(folder)
    trained, _ = load_checkpoint(folder / NOTEBOOKS[2] / "segmenter.pt")
    change = (
        trained.encoder.net._conv_stem.weight - EfficientNetEncoder("efficientnet-lite0", True).net._conv_stem.weight
    )
    assert 0 < change.abs().max() < 0.05, "it started from ImageNet weights"
    gate = read_json(folder / NOTEBOOKS[3] / "gate.json")
    assert (gate["evidence"], gate["cleanup"]) == ("bayesian", "largest")


@slow
def test_held_out_labels_change_nothing_that_an_ensemble_decides(folder, monkeypatch):
    shutil.copytree(folder, folder.parent / "second")
    for fold, run in enumerate(("tiny", "second")):
        run_cells(NOTEBOOKS[2], run=run, fold=fold, **{"segmenter.presence_head": True})
    frames = load_frames("tiny")
    index, masks = frames.index.copy(), np.array(frames.masks)
    heldout = index["split"] == "heldout"
    index.loc[heldout, "has_nerve"] = 1 - index.loc[heldout, "has_nerve"]
    masks[index.loc[heldout, "row"]] = index.loc[heldout, "has_nerve"].to_numpy()[:, None, None]
    decided = []
    for known in (frames, replace(frames, index=index, masks=masks)):
        monkeypatch.setattr("nerveceg_lib.data.prepared.load_frames", lambda run, known=known: known)
        run_cells(NOTEBOOKS[3], **{"inference.gate_from": "segmenter", "inference.ensemble_runs": "second"})
        notebook = folder / NOTEBOOKS[3]
        decided.append((read_json(notebook / "gate.json"), pd.read_csv(notebook / "heldout.csv")))
    (gate, table), (other_gate, other) = decided
    assert gate == other_gate and gate["system"]["runs"] == ["tiny", "second"]
    same = ["row", "probability", "peak", "soft_dice", "mask_area", "keep"]
    pd.testing.assert_frame_equal(table[same], other[same])
    assert (table["has_nerve"] != other["has_nerve"]).all() and not np.allclose(table["score"], other["score"])


@pytest.fixture(scope="module")
def studied(prepared):
    """A run in which notebooks 1 and 7 have run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NERVECEG_RUNS", str(prepared))
        patch.chdir(NOTEBOOK_FOLDER)
        shutil.copytree(prepared / TINY["run"], prepared / "bias-seed=0")
        run_cells(STUDIES[0], run="bias-seed=0")
    return prepared / "bias-seed=0" / STUDIES[0]


def test_notebook_7_scores_every_arm(studied):
    assert set(pd.read_csv(studied / "arms.csv")["method"]) == {"blank", "one-stage", "two-networks", "presence-head"}


@slow
def test_notebook_7_keeps_finished_networks_and_pools_runs(studied, folder):
    shutil.copytree(folder, folder.parent / "bias-seed=1")
    run_cells(STUDIES[0], run="bias-seed=1", seed=1)
    networks = {path: path.stat().st_mtime_ns for path in folder.parent.glob("bias-*/07*/**/*.pt")}
    run_cells(STUDIES[0], until="train", run="bias-seed=1", seed=1, resume=True)
    assert networks and all(path.stat().st_mtime_ns == time for path, time in networks.items())
    run_cells(STUDIES[0], run="pooled", **{"bias.pool": "bias-*"})
    study = folder.parent / "pooled" / STUDIES[0]
    table = pd.read_csv(study / "arms.csv")
    assert set(table["method"]) == {"blank", "one-stage", "two-networks", "presence-head"}
    assert set(table["runs"]) == {2} and len(pd.read_csv(study / "reliability.csv"))


def test_notebook_8_keeps_finished_networks(folder):
    study, few = folder / STUDIES[1], {"architectures.models": "unet,r2unet"}
    run_cells(STUDIES[1], **few)
    assert pd.read_csv(study / "networks.csv")["name"].tolist() == ["unet", "r2unet"]
    shutil.rmtree(study / "r2unet")
    unet = (study / "unet" / "network.pt").stat().st_mtime_ns
    run_cells(STUDIES[1], resume=True, **few)
    assert (study / "unet" / "network.pt").stat().st_mtime_ns == unet
    assert (study / "r2unet" / "network.pt").exists()


CURES = "inpainted,left out,random marks"


def test_notebook_9_takes_frames_that_bear_calipers(folder, tmp_path):
    data = tmp_path / "marked"
    write_phantom(data, patients=8, frames_per_patient=6, test_frames=0, difficulty="easy", caliper_share=(0.6, 0.3))
    run_cells(NOTEBOOKS[0], data_dir=str(data))
    marked = {"shortcut.marks_column": "calipers", "shortcut.caliper_scale": 1, "shortcut.cures": CURES}
    run_cells(STUDIES[2], **marked)
    study = folder / STUDIES[2]
    table = pd.read_csv(study / "heldout.csv")
    assert set(table["arm"]) == {"shortcut", *CURES.split(",")}
    calipers = pd.read_csv(data / "names.csv").set_index(["subject", "image"])["calipers"]
    frames = load_frames("tiny").index.set_index("row").loc[table["row"]]
    assert (table["marks"].to_numpy() == calipers[[*zip(frames["subject"], frames["image"], strict=True)]]).all()
    assert 0 < table["marks"].mean() < 1
    network = (study / "shortcut" / "network.pt").stat().st_mtime_ns
    run_cells(STUDIES[2], until="train", resume=True, **marked)
    assert (study / "shortcut" / "network.pt").stat().st_mtime_ns == network
