"""The competition's score, its parts, and the gate."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nerveceg_lib import gate, metrics
from nerveceg_lib.contours import contour_scores

EMPTY = np.zeros((4, 4), np.uint8)
SQUARE = np.pad(np.ones((2, 2), np.uint8), 1)
SHIFTED = np.roll(SQUARE, 1, axis=1)


@pytest.mark.parametrize(
    ("prediction", "truth", "expected"),
    [
        (EMPTY, EMPTY, 1.0),
        (SQUARE, EMPTY, 0.0),
        (EMPTY, SQUARE, 0.0),
        (SQUARE, SQUARE, 1.0),
        (SHIFTED, SQUARE, 0.5),  # 2 * 2 / (4 + 4)
        (SQUARE * 255, SQUARE, 1.0),
    ],
)
def test_dice_by_hand(prediction, truth, expected):
    assert metrics.dice(prediction, truth) == expected


def test_dice_refuses_masks_of_different_shapes():
    with pytest.raises(ValueError, match="differ in shape"):
        metrics.dice(EMPTY, EMPTY[:3])


def test_iou_by_hand():
    assert metrics.iou(SHIFTED, SQUARE) == pytest.approx(2 / 6)
    assert metrics.iou(EMPTY, EMPTY) == 1.0 and metrics.iou(SQUARE, EMPTY) == 0.0


@given(arrays(np.bool_, (4, 5)), arrays(np.bool_, (4, 5)))
def test_iou_and_dice_say_the_same(prediction, truth):
    dice, iou = metrics.dice(prediction, truth), metrics.iou(prediction, truth)
    assert dice == pytest.approx(2 * iou / (1 + iou))


def test_interval_counts_patients_not_frames():
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(20), 50)
    values = np.repeat(rng.normal(0.5, 0.1, 20), 50)  # frames of one patient all alike
    low, high = metrics.patient_interval(values, patients)
    spread = 1.96 * values.reshape(20, 50)[:, 0].std() / np.sqrt(20)
    assert low == pytest.approx(values.mean() - spread, abs=0.01)
    assert high == pytest.approx(values.mean() + spread, abs=0.01)
    assert metrics.patient_interval(values, patients) == (low, high)
    frame_low, frame_high = metrics.patient_interval(values, np.arange(1000))
    assert frame_high - frame_low < 0.3 * (high - low)


def test_interval_of_another_statistic_resamples_the_same_patients():
    rng = np.random.default_rng(2)
    patients, values = np.repeat(np.arange(12), 5), rng.normal(size=60)
    seen = []
    low, high = metrics.resampled_interval(lambda rows: seen.append(rows) or values[rows].mean(), patients)
    assert (low, high) == pytest.approx(metrics.patient_interval(values, patients, draws=1000))
    assert len(seen) == 1000 and all(
        set(np.bincount(patients[rows])) <= {0, 5, 10, 15, 20, 25, 30, 35} for rows in seen
    )


def test_interval_covers_the_truth_as_often_as_it_says():
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        patients = np.repeat(np.arange(30), 4)
        values = np.repeat(rng.normal(0, 1, 30), 4) + rng.normal(0, 1, 120)
        low, high = metrics.patient_interval(values, patients, draws=400)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99


def block(top, left, height=10, width=10):
    mask = np.zeros((60, 60), np.uint8)
    mask[top : top + height, left : left + width] = 1
    return mask


def test_contours_that_agree_are_no_distance_apart():
    assert contour_scores(block(20, 20), block(20, 20)) == {"hausdorff95": 0.0, "surface_dice": 1.0}


def test_contours_shifted_aside():
    shifted = contour_scores(block(20, 20), block(20, 27), tolerance=5)
    assert shifted["hausdorff95"] == 7.0  # the far sides are 7 px from the other outline
    assert 0.4 < shifted["surface_dice"] < 1
    assert contour_scores(block(20, 20), block(20, 27), tolerance=7)["surface_dice"] == 1.0
    assert contour_scores(block(5, 5), block(40, 40))["surface_dice"] == 0.0


def test_hausdorff_takes_the_worse_direction_and_forgives_a_twentieth():
    spot, both = block(20, 20), block(20, 20) | block(50, 50, 1, 1)
    assert contour_scores(both, spot) == contour_scores(spot, both)
    assert contour_scores(spot, both)["hausdorff95"] == 0.0  # one pixel of 37: not in the 95th percentile
    wide = block(20, 20) | block(50, 50, 8, 8)
    assert contour_scores(spot, wide)["hausdorff95"] > 25


@pytest.mark.parametrize(("one", "other"), [(block(5, 5), 0 * block(0, 0)), (0 * block(0, 0), 0 * block(0, 0))])
def test_no_contour_no_distance(one, other):
    assert all(np.isnan(value) for value in contour_scores(one, other).values())
    with pytest.raises(ValueError, match="differ in shape"):
        contour_scores(one, other[:5])


def test_score_parts_by_hand():
    #            found, missed, false alarm, blank
    parts = metrics.score_parts([1, 1, 0, 0], np.array([0.8, 0.6, 0.0, 0.0]), [True, False, True, False])
    assert parts == pytest.approx(
        {
            "score": (0.8 + 0 + 0 + 1) / 4,
            "all_empty": 0.5,
            "oracle_gate": (0.8 + 0.6 + 1 + 1) / 4,
            "tpr": 0.5,
            "tnr": 0.5,
            "dice_true_positives": 0.8,
            "dice_positives": 0.7,
        }
    )


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0, 1)), min_size=1, max_size=30))
def test_score_is_the_sum_of_its_parts(frames):
    presence, drawn, mask_dice = map(np.array, zip(*frames, strict=True))
    mask_dice = mask_dice * presence  # any mask on an empty frame scores 0
    parts = {name: np.nan_to_num(v) for name, v in metrics.score_parts(presence, mask_dice, drawn).items()}
    p = presence.mean()
    whole = (1 - p) * parts["tnr"] + p * parts["tpr"] * parts["dice_true_positives"]
    assert parts["score"] == pytest.approx(whole)
    assert parts["all_empty"] == pytest.approx(1 - p)


def test_gate_draws_by_threshold_and_area_and_never_an_empty_mask():
    table = pd.DataFrame({"probability": [0.9, 0.9, 0.9, 0.5], "mask_area": [0, 500, 2000, 2000]})
    assert gate.Gate(0.5, 0).draws(table).tolist() == [False, True, True, False]
    assert gate.Gate(0.5, 1000).draws(table).tolist() == [False, False, True, False]


def test_chosen_gate_separates_what_can_be_separated():
    rng = np.random.default_rng(0)
    presence = np.repeat([0, 1], 200)
    table = pd.DataFrame(
        {
            "presence": presence,
            "probability": np.where(presence, rng.uniform(0.65, 1, 400), rng.uniform(0, 0.6, 400)),
            "mask_area": np.where(rng.random(400) < 0.1, 200, 5000),
            "mask_dice": np.where(presence, 0.9, 0.0),
        }
    )
    chosen, grid = gate.choose_gate(table)
    assert 0.55 <= chosen.threshold <= 0.7
    assert len(grid) == len(gate.THRESHOLDS) * len(gate.MIN_AREAS)
    at = grid[(grid["threshold"] == chosen.threshold) & (grid["min_area"] == chosen.min_area)]["score"].item()
    assert at == pytest.approx(metrics.gated_scores(presence, table["mask_dice"], chosen.draws(table)).mean())
    assert at > 0.9


def test_useless_masks_are_best_kept_back():
    table = pd.DataFrame({"presence": [0, 0, 1], "probability": [0.5, 0.6, 0.4], "mask_area": 5000, "mask_dice": 0.0})
    chosen, _ = gate.choose_gate(table)
    assert not chosen.draws(table).any()
