"""Every network by name through the notebooks that meet it."""

import json
import os
import re
import shutil
from itertools import cycle, islice

import pandas as pd
import pytest
import torch

from nerveceg_lib import paths, runner
from nerveceg_lib.__main__ import main
from nerveceg_lib.checkpoints import load_checkpoint
from nerveceg_lib.errors import InputError
from nerveceg_lib.models import CLASSIFIERS, SEGMENTERS
from nerveceg_lib.submission import validate_submission
from tests.cells import TINY, run_cells

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NERVECEG_RUNS", str(root))
        patch.chdir(runner.NOTEBOOKS)
        run_cells(paths.STAGES[0])
    return root


def pairs():
    """All names of both registries, the shorter one begins anew; and attention gates beside a small classifier."""
    count = max(len(CLASSIFIERS), len(SEGMENTERS))
    return [*islice(zip(cycle(CLASSIFIERS), cycle(SEGMENTERS), strict=False), count), ("resnet18", "attention-unet")]


@pytest.fixture
def own(prepared, tmp_path, monkeypatch):
    """An artefact root of this test's own, in which notebook 1 has run."""
    shutil.copytree(prepared, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path))
    monkeypatch.chdir(runner.NOTEBOOKS)
    return tmp_path


@pytest.mark.parametrize("version", ["unet", "efficient-unet-b0"])
def test_a_segmenter_goes_on_from_a_shared_trunk(version, own):
    run_cells(paths.STAGES[1], classifier_model=f"shared-{version}", classifier_channels=TINY["segmenter_channels"])
    start = {"segmenter_model": version, "segmenter_start": "classifier", "segmenter_rate": 0.0}
    run_cells(paths.STAGES[2], **start)
    folder = own / TINY["run"]
    trunk, _ = load_checkpoint(folder / paths.STAGES[1] / "classifier.pt")
    segmenter, _ = load_checkpoint(folder / paths.STAGES[2] / "segmenter.pt")
    weights = dict(trunk.segmenter.named_parameters())
    assert weights and all(torch.equal(value, weights[name]) for name, value in segmenter.named_parameters())
    run_cells(paths.STAGES[3], gate_kind="fused", cleanup="largest")
    assert json.loads((folder / paths.STAGES[3] / "gate.json").read_text())["cleanup"] == "largest"
    with pytest.raises(InputError, match="gate_from: the segmenter has no trained presence head"):
        run_cells(paths.STAGES[3], gate_from="segmenter")


def test_one_trunk_goes_through_the_notebooks(own):
    one_trunk = {"segmenter_model": "efficient-unet-b0", "one_trunk": True, "gate_from": "segmenter"}
    for stage in paths.STAGES[1:]:
        run_cells(stage, classifier_model="resnet18", gate_kind="fused", **one_trunk)
    folder, data = own / TINY["run"], next(own.glob("phantom-*"))
    validate_submission(folder / paths.STAGES[5] / "submission.csv", data / "sample_submission.csv")
    assert json.loads((folder / paths.STAGES[3] / "gate.json").read_text())["evidence"] == "fused"


def second_look(trunk, folder, stages=paths.STAGES[1:]):
    size = {"segmenter_height": 32, "segmenter_width": 32}
    for stage in stages:
        run_cells(stage, classifier_model=trunk, segmenter_start="second_look", gate_kind="fused", **size)
    assert json.loads((folder / paths.STAGES[2] / "segmenter.json").read_text())["task"] == "second look"


def test_a_second_look_goes_through_the_notebooks_and_predict(own):
    folder, data = own / TINY["run"], next(own.glob("phantom-*"))
    second_look("shared-unet", folder)
    validate_submission(folder / paths.STAGES[5] / "submission.csv", data / "sample_submission.csv")
    assert main(["predict", str(data / "test"), str(own / "out"), "--run", TINY["run"], "--precision", "fp32"]) == 0
    tables = own / "out" / "predictions.csv", folder / paths.STAGES[3] / "test.csv"
    found, expected = (pd.read_csv(path) for path in tables)
    found = found.assign(image=found["frame"].str.removesuffix(".tif").astype(int)).sort_values("image")
    assert found["probability"].to_numpy() == pytest.approx(expected.sort_values("image")["probability"], abs=1e-5)


def test_a_second_look_of_an_efficient_unet(own):
    second_look("shared-efficient-unet-b0", own / TINY["run"], paths.STAGES[1:4])


def test_notebook_7_goes_on_where_it_stopped_and_feeds_the_table(own, tmp_path):
    grid = tmp_path / "grid.yaml"
    grid.write_text("name: bias\nonly: '07'\ngrid: {seed: [0, 1]}\n")
    for seed in (0, 1):
        shutil.copytree(own / TINY["run"], own / f"bias-seed={seed}")
        run_cells(paths.STUDIES[0], run=f"bias-seed={seed}", seed=seed)
    networks = {path: path.stat().st_mtime_ns for path in own.glob("bias-*/07*/**/*.pt")}
    run_cells(paths.STUDIES[0], run="bias-seed=1", seed=1, resume=True)
    assert len(networks) == 2 * 4 and all(path.stat().st_mtime_ns == time for path, time in networks.items())
    assert main(["bias-table", str(grid), str(own / "table")]) == 0
    table = pd.read_csv(own / "table.csv")
    assert set(table["data"]) == {"phantom, easy"} and len(table) == 2 * (1 + 1 + 5 + 5)  # all empty, dice, two gates
    assert set(table["patients"]) == {2 * 2}
    assert len(pd.read_csv(own / "table-reliability.csv"))


def test_notebook_8_keeps_finished_networks(own):
    study, few = own / TINY["run"] / paths.STUDIES[1], {"study_models": "unet,r2unet"}
    run_cells(paths.STUDIES[1], **few)
    assert pd.read_csv(study / "networks.csv")["name"].tolist() == ["unet", "r2unet"]
    shutil.rmtree(study / "r2unet")
    unet = (study / "unet" / "network.pt").stat().st_mtime_ns
    run_cells(paths.STUDIES[1], resume=True, **few)
    assert (study / "unet" / "network.pt").stat().st_mtime_ns == unet
    assert (study / "r2unet" / "network.pt").exists()


def test_what_a_segmenter_cannot_go_on_from_is_named(own):
    start = {"segmenter_start": "classifier"}
    with pytest.raises(InputError, match="classifier.pt.*not found.*02_classifier_training"):
        run_cells(paths.STAGES[2], **start)
    run_cells(paths.STAGES[1])
    with pytest.raises(InputError, match="expected shared-unet or .*found efficientnet-b0"):
        run_cells(paths.STAGES[2], **start)
    run_cells(paths.STAGES[1], classifier_model="shared-unet", classifier_channels=2)
    with pytest.raises(InputError, match="unet.*'base_channels': 4.*cannot go on from shared-unet.*'base_channels': 2"):
        run_cells(paths.STAGES[2], **start)
    with pytest.raises(InputError, match="segmenter_start: expected one of.*found 'head'"):
        run_cells(paths.STAGES[2], segmenter_start="head")


@pytest.mark.parametrize(("classifier", "segmenter"), pairs())
def test_network_goes_through_the_notebooks(classifier, segmenter, own):
    # larger versions of a network have the layers of the smallest
    large = re.search("b[1-7]|resnet(34|50|101|152)", f"{classifier} {segmenter}")
    for stage in paths.STAGES[1:3] if large else paths.STAGES[1:]:
        run_cells(stage, classifier_model=classifier, segmenter_model=segmenter)
    folder = own / TINY["run"]
    trained = [json.loads(path.read_text())["model"] for path in sorted(folder.glob("0[23]*/*er.json"))]
    assert trained == [classifier, segmenter]
    if not large:
        data = next(own.glob("phantom-*"))
        validate_submission(folder / paths.STAGES[5] / "submission.csv", data / "sample_submission.csv")
        assert len(list((folder / paths.STAGES[4]).glob("*.png"))) >= 7
