"""Notebook 9: marks are found and removed, and its test tells a network that looks at marks from one that does not."""

import cv2
import numpy as np
import pandas as pd
import pytest

from nerveceg_tools.phantom import Patient, cohort
from nerveceg_tools.phantom.calipers import draw_calipers
from tests.cells import definitions

shortcut = definitions("09_right_for_the_wrong_reason", seed=0)


@pytest.mark.parametrize("scale", [1, 3])
def test_marks_are_found_and_removed(scale):
    found_share, false_share, remains = [], [], []
    for plan in cohort([4, 4], np.random.SeedSequence(0)):
        patient = Patient(plan, "easy")
        for index in range(4):
            image, _ = patient.render(index)
            outline = patient.frames.outlines[index].mask()
            marked, crosses = draw_calipers(image, outline, np.random.default_rng(index), scale)
            found = shortcut.find_marks(marked, scale)
            found_share.append(found[crosses == 1].mean())
            beside = cv2.dilate(crosses, np.ones((3 * scale, 3 * scale))) == 0
            false_share.append(found[beside].mean())
            restored = shortcut.inpaint(marked, found, scale)
            remains.append(np.abs(restored - image.astype(float)).sum() / np.abs(marked - image.astype(float)).sum())
    assert np.mean(found_share) > 0.85 and np.mean(false_share) < 0.001 and np.mean(remains) < 0.75


def test_the_area_under_the_roc_curve_by_hand():
    has_nerve = np.array([0, 1, 0, 1])
    assert shortcut.auroc(has_nerve, np.array([0.1, 0.9, 0.2, 0.8])) == 1
    assert shortcut.auroc(has_nerve, np.array([0.1, 0.1, 0.2, 0.2])) == 0.5, "one pair is wrong, one tied twice"
    assert shortcut.auroc(np.ones(3), np.arange(3)) == 0.5


def predictions(rng, effect, frames=240):
    """Held-out frames of 12 patients; a mark adds `effect` to the logit."""
    has_nerve = (rng.random(frames) < 0.4).astype(int)
    logit = rng.normal(3 * has_nerve - 1.5, 1.2)
    marks, swapped = (rng.random(frames) < np.where(has_nerve == label, 0.9, 0.02) for label in (1, 0))
    table = pd.DataFrame({"has_nerve": has_nerve, "subject": np.arange(frames) % 12})
    table = table.assign(marks=marks.astype(int), swapped=swapped.astype(int))
    return table.assign(without=1 / (1 + np.exp(-logit)), with_marks=1 / (1 + np.exp(-logit - effect)))


def test_only_a_network_that_looks_at_marks_is_flagged():
    rng = np.random.default_rng(0)
    blind, sees = (shortcut.measure(predictions(rng, effect)) for effect in (0.0, 2.0))
    assert not blind["flagged"] and blind["lost"] == 0 and blind["planted"] == blind["removed"] == 0
    assert blind["as they come"] == blind["no marks"] == blind["all marked"] == blind["swapped"]
    assert sees["flagged"] and sees["low"] > shortcut.LIMIT and sees["low"] < sees["lost"] < sees["high"]
    assert sees["as they come"] > sees["no marks"] > sees["swapped"] and sees["planted"] > 0.2 and sees["removed"] < 0
    assert sees["margin"] == pytest.approx(sees["low"] - shortcut.LIMIT)


def test_share_on_marks_by_hand():
    maps = np.array([[[3.0, 1.0], [-5.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]]])
    marks = np.array([[[True, False], [True, False]]] * 2)
    assert shortcut.share_on_marks(maps, marks).tolist() == [0.75, 0]
