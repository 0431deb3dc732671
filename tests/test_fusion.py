"""The score-optimal gate: its rule, its calibration, what it is fitted on, and that nothing leaks."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from nerveceg_lib import fusion
from nerveceg_lib.checkpoints import save_checkpoint
from nerveceg_lib.errors import InputError
from nerveceg_lib.gate import Gate
from nerveceg_lib.inference import mask_evidence
from nerveceg_lib.metrics import gated_scores
from nerveceg_lib.models import build_model
from nerveceg_lib.paths import STAGES, stage_dir
from nerveceg_lib.systems import load_system


def frames(count, seed, sharpness=2.0, patients=40):
    """Predictions of an over-confident classifier and a segmenter whose peaks know something else."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-0.4, 1.5, count)  # logit of P(nerve)
    presence = (rng.random(count) < 1 / (1 + np.exp(-truth))).astype(int)
    soft = rng.uniform(0.5, 1, count)
    return pd.DataFrame(
        {
            "subject": rng.integers(patients, size=count) + 1000 * seed,
            "presence": presence,
            "probability": 1 / (1 + np.exp(-sharpness * truth)),
            "mask_area": rng.integers(3000, 9000, count),
            "mask_dice": np.where(presence, np.clip(0.9 * soft, 0, 1), 0.0),
            "peak": 1 / (1 + np.exp(-(presence - 0.5) * 2 - rng.normal(0, 1, count))),
            "inside": rng.uniform(0.6, 1, count),
            "entropy": rng.uniform(0, 0.1, count),
            "soft_dice": soft,
        }
    )


def test_mask_evidence_by_hand():
    masks = torch.zeros(2, 2, 2)
    masks[0] = torch.tensor([[1.0, 0.8], [0.2, 0.0]])
    found = {name: values.tolist() for name, values in mask_evidence(masks).items()}
    assert found["peak"] == [1.0, 0.0]
    assert found["inside"] == pytest.approx([0.9, 0.0])
    uncertain = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2))
    assert found["entropy"] == pytest.approx([2 * uncertain / 4, 0.0])
    assert found["soft_dice"] == pytest.approx([2 * 1.8 / (2 + 2.0), 0.0])


def test_a_mask_is_drawn_where_it_wins_more_than_a_blank_one():
    """P = probability itself; with E[Dice] = 0.6 and 1 the break-even lies at 0.625 and 0.5."""
    gate = fusion.ScoreOptimalGate("classifier", [1.0], 0.0, dice_slope=1.0, dice_intercept=0.0, threshold=-1.0)
    table = pd.DataFrame({"probability": [0.62, 0.63, 0.49, 0.51, 0.99], "soft_dice": [0.6, 0.6, 1.0, 1.0, 0.9]})
    table["mask_area"] = [5000, 5000, 5000, 5000, 0]
    assert gate.presence(table) == pytest.approx(table["probability"])
    assert gate.draws(table).tolist() == [False, True, False, True, False]
    table.loc[1, "soft_dice"] = np.nan  # kept from the second stage
    assert gate.draws(table).tolist() == [False, False, False, True, False]


def test_fitted_gate_scores_as_well_as_the_best_threshold_on_other_patients():
    fitted, judged = fusion.fit_gate(frames(4000, seed=1), "classifier"), frames(4000, seed=2)
    score = lambda drawn: gated_scores(judged["presence"], judged["mask_dice"], drawn).mean()  # noqa: E731
    best = max(score(judged["probability"] > t) for t in np.linspace(0, 1, 101))
    assert score(fitted.draws(judged)) > best - 0.003
    assert score(fusion.fit_gate(frames(4000, seed=1), "fused").draws(judged)) > best + 0.02


@pytest.mark.parametrize("evidence", fusion.EVIDENCE)
def test_presence_is_calibrated_on_other_patients(evidence):
    fitted, judged = fusion.fit_gate(frames(4000, seed=1), evidence), frames(4000, seed=2)
    error = lambda p: binary_calibration_error(torch.tensor(p), torch.tensor(judged["presence"]), 10)  # noqa: E731
    assert error(fitted.presence(judged)) < 0.05 < error(judged["probability"].to_numpy())


def test_expected_dice_is_that_of_the_nerves():
    fitted, judged = fusion.fit_gate(frames(2000, seed=1), "fused"), frames(2000, seed=2)
    nerves = judged["presence"] == 1
    assert fitted.expected_dice(judged)[nerves] == pytest.approx(judged["mask_dice"][nerves], abs=0.01)


@pytest.mark.parametrize("kind", fusion.GATES)
def test_no_gate_sees_the_patients_it_is_judged_on(kind, monkeypatch):
    table, seen = frames(400, seed=3, patients=12), []
    fit = fusion.GATES[kind]
    monkeypatch.setitem(fusion.GATES, kind, lambda part: seen.append(set(part["subject"])) or fit(part))
    found = fusion.cross_fitted(table, kind)
    assert found["score"].notna().all() and len(seen) == 5
    left_out = [set(table["subject"]) - subjects for subjects in seen]
    assert sorted(subject for part in left_out for subject in part) == sorted(set(table["subject"]))
    assert found["presence"].notna().all() == (kind != "hard")


def test_cross_fitting_is_the_gate_of_the_other_patients():
    table = frames(300, seed=4, patients=5)
    found = fusion.cross_fitted(table, "fused")
    for subject, own in table.groupby("subject"):
        other = fusion.fit_gate(table[table["subject"] != subject], "fused")
        np.testing.assert_allclose(found.loc[own.index, "presence"], other.presence(own))


def test_labels_handed_to_other_frames_leave_nothing_to_win():
    table = frames(4000, seed=5)
    shuffled = table.sample(frac=1, random_state=0)[["presence", "mask_dice"]].to_numpy()
    table[["presence", "mask_dice"]] = shuffled
    score = fusion.cross_fitted(table, "fused")["score"].mean()
    assert score == pytest.approx(1 - table["presence"].mean(), abs=0.02)


def test_few_frames_make_a_gate_all_the_same():
    table = frames(40, seed=6, patients=1)
    assert fusion.cross_fitted(table, "fused")["score"].isna().all()
    positive = table[table["presence"] == 1]
    gate = fusion.fit_gate(positive, "fused")
    assert gate.presence(table) == pytest.approx((len(positive) + 1) / (len(positive) + 2))
    assert fusion.fit_gate(table[table["presence"] == 0], "fused").draws(table).sum() == 0


def test_frames_below_the_threshold_would_not_be_drawn_anyway():
    table = frames(500, seed=7)
    gate = fusion.fit_gate(table, "fused")
    below = table["probability"] <= gate.threshold
    without = replace(gate, threshold=-1.0)
    assert below.sum() > 0 and not without.draws(table)[below].any()
    assert gate.draws(table).sum() == without.draws(table).sum()


def test_the_segmenter_alone_does_not_ask_the_classifier():
    table = frames(500, seed=9)
    gate = fusion.fit_gate(table, "segmenter")
    expected = gate.draws(table)
    assert 0 < expected.sum() < len(table)
    assert np.array_equal(gate.draws(table.assign(probability=0.0)), expected)


@pytest.mark.parametrize("gate", [Gate(0.3, 2000), fusion.fit_gate(frames(200, seed=8), "fused")])
def test_gates_come_back_from_json(gate, tmp_path):
    (tmp_path / "gate.json").write_text(json.dumps(vars(gate) | {"cleanup": "holes"}))
    assert fusion.load_gate(tmp_path / "gate.json") == (gate, "holes")


def test_networks_of_different_folds_are_refused(root):
    """One of them has seen the patients on which the gate would be chosen."""
    folder = stage_dir("mixed", STAGES[1])
    save_checkpoint(folder / "classifier.pt", build_model("resnet18"), "resnet18", {}, size=[32, 48], fold=0)
    config = {"base_channels": 2, "depth": 3}
    for fold in (0, 1):
        save_checkpoint(
            stage_dir("mixed", STAGES[2]) / "segmenter.pt", build_model("unet", **config), "unet", config,
            size=[48, 64], one_trunk=False, fold=fold,
        )  # fmt: skip
        if fold == 0:
            load_system(["mixed"])
    with pytest.raises(InputError, match="fold of run mixed: expected both networks to leave out the same one"):
        load_system(["mixed"])
