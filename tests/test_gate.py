"""The gates between the stages: their rule, their calibration, what they are fitted on, and that nothing leaks."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit
from sklearn.model_selection import GroupKFold

from nerveceg_lib import metrics
from nerveceg_lib.inference.gate import GATES, ScoreOptimalGate, fit_gate
from nerveceg_lib.inference.two_stage import load_system, mask_evidence
from nerveceg_lib.models import build_model
from nerveceg_lib.models.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, notebook_folder
from tests.conftest import REPOSITORY


def predictions(count, seed):
    """Return predictions of an over-confident classifier and of a segmenter whose peaks know something else."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-0.4, 1.5, count)  # logit of P(nerve)
    has_nerve = (rng.random(count) < expit(truth)).astype(int)
    soft = rng.uniform(0.5, 1, count)
    return pd.DataFrame(
        {
            "subject": rng.integers(12, size=count),
            "has_nerve": has_nerve,
            "probability": expit(2 * truth),
            "mask_area": rng.integers(3000, 9000, count),
            "mask_dice": np.where(has_nerve, 0.9 * soft, 0.0),
            "peak": expit((has_nerve - 0.5) * 2 + rng.normal(0, 1, count)),
            "inside": rng.uniform(0.6, 1, count),
            "entropy": rng.uniform(0, 0.1, count),
            "soft_dice": soft,
        }
    )


def score(table, keep):
    return metrics.gated_scores(table["has_nerve"], table["mask_dice"], keep).mean()


def test_mask_evidence_by_hand():
    masks = torch.tensor([[[1.0, 0.8], [0.2, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    evidence = {name: values.tolist() for name, values in mask_evidence(masks).items()}
    uncertain = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
    expected = {"peak": 1.0, "inside": 0.9, "entropy": 2 * uncertain / 4, "soft_dice": 2 * 1.8 / (2 + 2.0)}
    assert evidence == {name: pytest.approx([value, 0.0]) for name, value in expected.items()}


def test_a_mask_is_kept_where_it_gains_more_than_a_blank_one():
    """P is the probability itself; with E[Dice] = 0.6 and 1 the break-even lies at 0.625 and 0.5."""
    gate = ScoreOptimalGate("classifier", [1.0], 0.0, dice_slope=1.0, dice_intercept=0.0, threshold=-1.0)
    table = pd.DataFrame({"probability": [0.62, 0.63, 0.49, 0.51, 0.99], "soft_dice": [0.6, 0.6, 1.0, 1.0, 0.9]})
    table["mask_area"] = [5000, 5000, 5000, 5000, 0]
    assert gate.probability(table) == pytest.approx(table["probability"])
    assert gate.keep(table).tolist() == [False, True, False, True, False]
    table.loc[1, "soft_dice"] = np.nan  # the second stage did not see this frame
    assert gate.keep(table).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize(("evidence", "gain"), [("classifier", -0.003), ("segmenter", -0.1), ("fused", 0.02)])
def test_a_fitted_gate_scores_well_and_is_calibrated_on_other_patients(evidence, gain):
    gate, test = fit_gate(predictions(4000, seed=1), evidence), predictions(4000, seed=2)
    best = max(score(test, test["probability"] > threshold) for threshold in np.linspace(0, 1, 101))
    assert score(test, gate.keep(test)) > best + gain
    error = partial(metrics.calibration_error, test["has_nerve"])
    assert error(gate.probability(test)) < 0.05 < error(test["probability"])
    nerves = test["has_nerve"] == 1
    assert gate.expected_dice(test)[nerves] == pytest.approx(test["mask_dice"][nerves], abs=0.01)


@pytest.mark.parametrize("name", GATES)
def test_no_gate_sees_the_patients_that_it_is_judged_on(name, monkeypatch):
    cells = nbformat.read(REPOSITORY / "notebooks" / "04_two_stage_inference.ipynb", 4).cells
    names = {"GATES": GATES, "GroupKFold": GroupKFold, "metrics": metrics, "np": np}
    exec(next(cell.source for cell in cells if cell.source.startswith("def cross_fitted_score")), names)
    table, fitted_on, fit = predictions(400, seed=3), [], GATES[name]
    monkeypatch.setitem(GATES, name, lambda rows: fitted_on.append(set(rows["subject"])) or fit(rows))
    total = names["cross_fitted_score"](table, name) * len(table)
    left_out = [set(table["subject"]) - subjects for subjects in fitted_on]
    assert len(left_out) == 5 and sorted(sum(map(list, left_out), [])) == sorted(set(table["subject"]))
    for subjects in left_out:
        judged = table["subject"].isin(subjects)
        total -= score(table[judged], fit(table[~judged]).keep(table[judged])) * judged.sum()
    assert total == pytest.approx(0, abs=1e-9)


def test_the_first_stage_leaves_out_what_would_not_be_kept_anyway():
    table = predictions(500, seed=7)
    fused, segmenter = fit_gate(table, "fused"), fit_gate(table, "segmenter")
    assert (table["probability"] <= fused.threshold).sum() > 0
    assert np.array_equal(fused.keep(table), replace(fused, threshold=-1.0).keep(table))
    assert 0 < segmenter.keep(table).sum() < len(table)
    assert np.array_equal(segmenter.keep(table.assign(probability=0.0)), segmenter.keep(table))


def test_networks_of_different_folds_are_refused(root):
    """One of them has seen the patients on which the gate would be tuned."""
    networks = (("classifier", "resnet18", {}), ("segmenter", "unet", {"base_channels": 2}))
    for fold, (name, model, options) in enumerate(networks):
        path = notebook_folder("mixed", NOTEBOOKS[1 + fold]) / f"{name}.pt"
        metadata = {"model": model, "options": options, "size": [32, 48], "fold": fold}
        save_checkpoint(path, build_model(model, **options), metadata)
    with pytest.raises(InputError, match="fold of run mixed: expected both networks to leave out the same one"):
        load_system(["mixed"])
    with pytest.raises(InputError, match="gate_from: the segmenter has no trained presence head"):
        load_system(["mixed"], "segmenter")


def test_a_network_is_refused_where_another_split_leaves_out_its_patients(root):
    """Two runs may differ in their split: a patient of this run's fold may have trained the other run's network."""
    path, side = notebook_folder("other", NOTEBOOKS[2]) / "segmenter.pt", "train"
    metadata = {"model": "unet", "options": {"base_channels": 2}, "size": [32, 48], "fold": 1}
    metadata |= {"patients": {"train": [1, 2], "validation": [3]}, "training": {"data": "digest"}}
    save_checkpoint(path, build_model("unet", base_channels=2), metadata)
    ours = pd.DataFrame({"subject": [1, 2, 3, 4], "split": [side, side, side, "heldout"], "fold": [0, 0, 1, -1]})
    load_checkpoint(path, SimpleNamespace(index=ours, digest="digest"))
    for seen, changed in ((2, {"fold": [0, 1, 0, -1]}), (3, {"split": [side, side, "heldout", side]})):
        with pytest.raises(InputError, match=rf"trained on patients that are left out now \(\[{seen}\]\)"):
            load_checkpoint(path, SimpleNamespace(index=ours.assign(**changed), digest="digest"))
