"""The competition's score, its parts, and the gate."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nerveceg_lib import gate, metrics

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
