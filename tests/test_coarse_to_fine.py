"""Coarse-to-fine: where the coarse network looks, what the fine one sees, and that masks return to their places."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nerveceg_lib.data import crops
from nerveceg_lib.inference.ensemble import Ensemble
from nerveceg_lib.inference.two_stage import CoarseToFine, prediction_table, propose_locations, segment

SHAPE = (420, 580)


def test_the_centre_of_the_likeliest_region_is_proposed_and_not_a_single_pixel():
    maps = np.zeros((3, 42, 58), np.float32)
    maps[0, 10:15, 20:27] = 0.9  # rows 100 to 149, columns 200 to 269 of the frame
    maps[0, 35, 50] = 1.0
    maps[1, 30:35, 5:10] = 0.1  # below one half, and still the best guess
    assert crops.propose(maps, SHAPE) == pytest.approx(np.array([[125, 235], [325, 75], [210, 290]]), abs=1)


@given(st.floats(-100, 600), st.floats(-100, 800), st.sampled_from([crops.SIDE, crops.SIDE + 2 * crops.MARGIN]))
def test_crops_lie_inside_the_frame_and_hold_their_centre(row, column, side):
    ((top, left),) = crops.corners(np.array([[row, column]]), SHAPE, side)
    assert 0 <= top <= 420 - side and 0 <= left <= 580 - side
    if 0 <= row < 420 and 0 <= column < 580:
        assert top - 1 <= row <= top + side and left - 1 <= column <= left + side


def test_the_middle_of_a_crop_with_margin_is_the_plain_crop(frames):
    centres = np.array([[200.0, 300.0], [210.0, 250.0]])
    plain, wide = (crops.CropSet(frames, np.array([3, 0]), centres, (96, 96), margin) for margin in (False, True))
    assert wide.images.shape == (2, 120, 120) and np.array_equal(wide.images[:, 12:108, 12:108], plain.images)
    batch = crops.trim(wide.__getitems__([0, 1]), (96, 96))
    assert torch.equal(batch["mask"], plain.__getitems__([0, 1])["mask"])
    assert crops.CropAugmentation((96, 96))(wide.__getitems__([0, 1]))["image"].shape == (2, 1, 96, 96)


def test_a_crop_that_misses_the_nerve_counts_as_one_without(frames):
    row = frames.index.loc[frames.index["has_nerve"] == 1, "row"].iloc[0]
    centres = [np.argwhere(frames.masks[row]).mean(axis=0), (400.0, 20.0)]
    batch = crops.CropSet(frames, np.array([row, row]), np.array(centres), (48, 48), False).__getitems__([0, 1])
    assert batch["has_nerve"].tolist() == [1, 0] == (batch["mask"].amax((1, 2, 3)) > 0.5).tolist()


class Bright(nn.Module):
    """A trunk that takes what is bright for a nerve; its presence logit is `sign` times the brightest pixel's."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.sign = sign

    def forward(self, image, coverage=False):
        logit = self.sign * 4 * (image.amax((1, 2, 3)) - 2)
        return (logit, [8 * (image - 1)]) if coverage else logit


IMAGES = np.full((2, *SHAPE), 20, np.uint8)
IMAGES[0, 100:160, 300:400] = 220
IMAGES[1, 380:420, 0:60] = 220  # in a corner: no crop can have it in its middle
TRUTH = (IMAGES > 100).astype(np.uint8)


@pytest.mark.parametrize("signs", [[1.0], [-1.0], [1.0, -1.0]])
def test_masks_return_at_full_size_and_the_fine_networks_decide(signs):
    """Two networks of opposite opinion, which also see mirrored frames, are averaged to one half."""
    flip = len(signs) > 1
    fine = Ensemble([Bright(sign) for sign in signs], (96, 96), flip=flip)
    system = CoarseToFine(Ensemble([Bright()], (84, 116), flip=flip), fine)
    table = prediction_table(segment(system, [IMAGES[:1], IMAGES[1:]]), np.array([0, 1]), TRUTH)
    assert (table["mask_dice"] > 0.97).all()
    assert np.sign((table["probability"] - 0.5).round(3)).tolist() == [np.sign(sum(signs))] * 2
    kept = segment(system, [IMAGES], threshold=0.6)
    assert [prediction.mask is not None for prediction in kept] == [sum(signs) > 0] * 2


def test_proposals_do_not_depend_on_the_batch_size():
    one, all_at_once = (propose_locations(Bright(), IMAGES, np.array([1, 0, 1]), (84, 116), n) for n in (1, 8))
    assert np.allclose(one, all_at_once) and np.allclose(one[1], (129.5, 349.5), atol=3)
