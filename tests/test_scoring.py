"""The competition's score, its parts, their intervals, and the hard gate."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerveceg_lib import metrics
from nerveceg_lib.inference import gate

EMPTY = np.zeros((4, 4), np.uint8)
SQUARE = np.pad(np.ones((2, 2), np.uint8), 1)
SHIFTED = np.roll(SQUARE, 1, axis=1)


@pytest.mark.parametrize(
    ("prediction", "truth", "dice"),
    [
        (EMPTY, EMPTY, 1.0),
        (SQUARE, EMPTY, 0.0),
        (EMPTY, SQUARE, 0.0),
        (SQUARE * 255, SQUARE, 1.0),
        (SHIFTED, SQUARE, 0.5),  # 2 * 2 / (4 + 4)
    ],
)
def test_dice_by_hand(prediction, truth, dice):
    assert metrics.dice(prediction, truth) == dice
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.dice(prediction, truth[:3])


def test_interval_counts_patients_not_frames():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 50)
    values = np.repeat(rng.normal(0.5, 0.1, 20), 50)  # all frames of a patient are alike
    low, high = metrics.patient_interval(values, patients)
    spread = 2.093 * values.reshape(20, 50)[:, 0].std(ddof=1) / np.sqrt(20)  # Student's t with 19 degrees of freedom
    assert (low, high) == pytest.approx((values.mean() - spread, values.mean() + spread), abs=0.01)
    assert metrics.patient_interval(values, patients) == (low, high)
    frame_low, frame_high = metrics.patient_interval(values, np.arange(1000))
    assert frame_high - frame_low < 0.3 * (high - low)


def test_interval_of_three_patients_is_students():
    low, high = metrics.patient_interval(np.array([0.938, 0.947, 0.961]), np.arange(3), draws=20_000)
    assert (low, high) == pytest.approx((0.9199, 0.9774), abs=0.001)  # 0.9487 -+ 4.303 * 0.01159 / sqrt(3)
    assert metrics.patient_interval(np.array([0.3, 0.8]), np.arange(2)) == (0, 1), "two patients say nothing"
    assert metrics.patient_interval(np.array([0.1, 0.6]) - 0.3, np.arange(2)) == (-1, 1)


def test_interval_of_another_statistic_resamples_the_same_patients():
    patients, values = np.repeat(np.arange(12), 5), np.random.default_rng(2).normal(size=60)
    interval = metrics.resampled_interval(lambda rows: values[rows].mean(), patients)
    assert interval == pytest.approx(metrics.patient_interval(values, patients), abs=0.05)


@pytest.mark.parametrize(("count", "seeds"), [(3, 1), (8, 1), (18, 1), (18, 12)])
def test_interval_covers_the_truth_as_often_as_it_says(count, seeds):
    rng, hits = np.random.default_rng(1), 0
    patients, trainings = np.tile(np.repeat(np.arange(count), 4), seeds), np.repeat(np.arange(seeds), 4 * count)
    for _ in range(400):
        effects = rng.normal(0, 1, count)[patients] + rng.normal(0, 1, seeds)[trainings] * (seeds > 1)
        low, high = metrics.patient_interval(effects + rng.normal(0, 1, len(patients)), patients, trainings, draws=400)
        hits += low <= 0 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_score_parts_by_hand():
    #        true positive, false negative, false positive, true negative
    parts = metrics.score_parts([1, 1, 0, 0], np.array([0.8, 0.6, 0.0, 0.0]), [True, False, True, False])
    rates = {"tpr": 0.5, "tnr": 0.5, "fpr": 0.5, "fnr": 0.5, "dice_true_positive": 0.8, "dice_positive": 0.7}
    scores = {"score": (0.8 + 0 + 0 + 1) / 4, "all_empty": 0.5, "oracle_gate": (0.8 + 0.6 + 1 + 1) / 4}
    assert parts == pytest.approx(scores | rates)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_score_is_the_sum_of_its_parts(frames):
    has_nerve, keep, mask_dice = map(np.array, zip(*frames, strict=True))
    mask_dice = mask_dice * has_nerve  # any mask on an empty frame scores 0
    parts = {name: np.nan_to_num(v) for name, v in metrics.score_parts(has_nerve, mask_dice, keep).items()}
    p = has_nerve.mean()
    whole = (1 - p) * parts["tnr"] + p * parts["tpr"] * parts["dice_true_positive"]
    assert parts["score"] == pytest.approx(whole)
    assert parts["all_empty"] == pytest.approx(1 - p)


def test_gate_keeps_by_threshold_and_area_and_never_an_empty_mask():
    table = pd.DataFrame({"probability": [0.9, 0.9, 0.9, 0.5], "mask_area": [0, 500, 2000, 2000]})
    assert gate.HardGate(0.5, 0).keep(table).tolist() == [False, True, True, False]
    assert gate.HardGate(0.5, 1000).keep(table).tolist() == [False, False, True, False]


def test_searched_gate_separates_what_can_be_separated_and_keeps_no_useless_mask():
    rng = np.random.default_rng(0)
    has_nerve = np.repeat([0, 1], 200)
    probability = np.where(has_nerve, rng.uniform(0.65, 1, 400), rng.uniform(0, 0.6, 400))
    table = pd.DataFrame({"has_nerve": has_nerve, "probability": probability, "mask_dice": 0.9 * has_nerve})
    best, grid = gate.search_gate(table.assign(mask_area=5000))
    assert 0.55 <= best.threshold <= 0.7
    assert grid.shape == (len(gate.MIN_AREAS), len(gate.THRESHOLDS))
    assert grid.loc[best.min_area, best.threshold] == pytest.approx(0.95)
    useless = pd.DataFrame(
        {"has_nerve": [0, 0, 1], "probability": [0.5, 0.6, 0.4], "mask_area": 5000, "mask_dice": 0.0}
    )
    assert not gate.search_gate(useless)[0].keep(useless).any()
