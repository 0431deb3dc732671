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

from benchmarks import gates as bench
from nerveceg_lib import metrics
from nerveceg_lib.inference.gate import GATES, PRIOR, ScoreOptimalGate, fit_bayesian_gate, frame_weights, posterior
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


FITTED = [("classifier", -0.003), ("segmenter", -0.1), ("fused", 0.02), ("bayesian", 0.02)]


@pytest.mark.parametrize(("name", "gain"), FITTED)
def test_a_fitted_gate_scores_well_and_is_calibrated_on_other_patients(name, gain):
    gate = GATES[name](predictions(4000, seed=1).assign(subject=np.arange(4000)))
    test = predictions(4000, seed=2)
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


def test_without_patients_the_bayesian_gate_is_its_prior():
    gate = fit_bayesian_gate(predictions(0, seed=0))
    assert (gate.informative, gate.base_rate, gate.threshold) == (pytest.approx(0.5), 0.4, -1.0)
    assert (gate.dice_slope, gate.dice_intercept) == pytest.approx((1, 0))
    average = pd.DataFrame({"probability": [0.5, expit(3)], "peak": expit([4, 7])})
    line = expit([PRIOR[2], sum(PRIOR)])  # the features are 0, and then 1
    assert gate.probability(average) == pytest.approx(0.5 * line + 0.5 * 0.4)


def test_frames_of_one_patient_count_less_than_those_of_many():
    """Twenty frames of one patient count as 20 / (1 + 0.1 * 19), single frames as one each."""
    table = pd.DataFrame({"subject": [7] * 20 + [1, 2]})
    assert frame_weights(table) == pytest.approx([1 / 2.9] * 20 + [1, 1])


def test_weights_and_evidence_agree_with_the_integral_over_all_weights():
    table = predictions(60, seed=4)
    mode, evidence = posterior(table, PRIOR, spread=0.7)
    offsets = np.stack(np.meshgrid(*[np.linspace(-5, 5, 61)] * 3, indexing="ij")).reshape(3, -1)
    weights = np.array(PRIOR)[:, None] + 0.7 * offsets
    probability, peak = (np.log(table[name] / (1 - table[name])) for name in ("probability", "peak"))
    likely = expit(np.column_stack([probability / 3, (peak - 4) / 3, np.ones(60)]) @ weights)
    right = np.where(table["has_nerve"].to_numpy()[:, None] == 1, likely, 1 - likely)
    joint = np.exp(frame_weights(table) @ np.log(right) - (offsets**2).sum(0) / 2) / (2 * np.pi) ** 1.5
    assert evidence == pytest.approx(np.log(joint.sum() * (10 / 60) ** 3), abs=0.05)
    assert mode == pytest.approx(weights[:, joint.argmax()], abs=0.1)


@pytest.mark.parametrize("seed", range(3))
def test_evidence_that_says_nothing_leaves_every_frame_blank(seed):
    table, others = predictions(240, seed), predictions(500, seed=9)
    assert fit_bayesian_gate(table).informative > 0.99 and fit_bayesian_gate(table).keep(others).mean() > 0.2
    truth = ["has_nerve", "mask_dice"]
    table[truth] = table[truth].sample(frac=1, random_state=seed).to_numpy()
    gate = fit_bayesian_gate(table)
    assert gate.informative < 0.05 and not gate.keep(others).any()


def test_the_first_stage_leaves_out_what_would_not_be_kept_anyway():
    gate, segmenter = fit_bayesian_gate(predictions(500, seed=7)), GATES["segmenter"](predictions(500, seed=7))
    others = predictions(500, seed=8)
    without_masks = fit_bayesian_gate(predictions(30, seed=7).assign(peak=0.1))
    for fitted in (gate, without_masks):
        assert np.array_equal(fitted.keep(others), replace(fitted, threshold=-1.0).keep(others))
    assert 0.5 < (others["probability"] <= without_masks.threshold).mean() < 1
    assert 0 < segmenter.keep(others).sum() < len(others)
    assert np.array_equal(segmenter.keep(others.assign(probability=0.0)), segmenter.keep(others))


def test_the_prior_is_about_that_of_the_bank_and_the_default_gate_wins_its_table():
    assert bench.prior_of(bench.read_bank()) == pytest.approx(PRIOR, abs=0.5)
    stored = pd.read_csv(bench.RESULTS).set_index("gate").sort_index(kind="stable")
    bayesian, others = stored.loc["bayesian"].set_index("patients"), stored.drop(index="bayesian")
    best = others.groupby("patients")[["regret_system", "regret_run", "regret_draw", "worst_tenth"]].min()
    assert (bayesian[best.columns] < best).all(axis=None)
    assert bayesian["over_blank"].min() > 0 and bayesian["over_blank_shuffled"].min() > -0.005


def test_regret_by_hand():
    where = {"dataset": "d", "system": "s", "split": "0", "run": 0, "patients": 3, "blank": 0.5}
    table = pd.DataFrame({"draw": [0, 1], "a": [0.9, 0.5], "b": [0.7, 0.6]}).assign(**where)
    a, b = bench.compare(table, ["a", "b"]).itertuples(index=False)
    assert (a.score, a.regret_system, a.regret_run, a.regret_draw) == pytest.approx((0.7, 0, 0, 0.05))
    assert (b.score, b.regret_system, b.regret_run, b.regret_draw) == pytest.approx((0.65, 0.05, 0.05, 0.1))
    assert (a.worst_tenth, b.worst_tenth, a.over_blank) == pytest.approx((0.2, 0.1, 0.2))


def test_the_bank_tunes_no_gate_on_a_patient_that_judges_it():
    bank = bench.read_bank()
    bank = bank[(bank["dataset"] == "bus-uclm") & (bank["system"] == "two networks")]
    numbers = []
    for where, tuning, heldout in bench.draws(bank, 2, np.random.default_rng(0)):
        assert not set(tuning["subject"]) & set(heldout["subject"])
        numbers.append((where["patients"], tuning["subject"].nunique()))
    assert {(3, 3), (18, 18)} < set(numbers) and all(least <= count or least == 1000 for least, count in numbers)


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
