"""The second look: where it looks, what it sees, and that masks come back to their places."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nerveceg_lib import tasks
from nerveceg_lib.data import crops
from nerveceg_lib.data.cache import open_cache
from nerveceg_lib.inference import Stage, prediction_table, segment
from nerveceg_lib.looks import TwoLooks, propose_places

SHAPE = (420, 580)


def test_a_place_is_the_centre_of_the_likeliest_region_not_of_a_lonely_pixel():
    maps = np.zeros((3, 42, 58), np.float32)
    maps[0, 10:15, 20:27] = 0.9  # rows 100 to 149, columns 200 to 269 of the frame
    maps[0, 35, 50] = 1.0
    maps[1, 30:35, 5:10] = 0.1  # below one half: a guess all the same
    assert crops.propose(maps, SHAPE) == pytest.approx(np.array([[125, 235], [325, 75], [210, 290]]), abs=1)


@given(st.floats(-100, 600), st.floats(-100, 800), st.sampled_from([crops.SIDE, crops.SIDE + 2 * crops.MARGIN]))
def test_crops_lie_inside_the_frame_and_hold_their_place(row, column, side):
    ((top, left),) = crops.corners(np.array([[row, column]]), SHAPE, side)
    assert 0 <= top <= 420 - side and 0 <= left <= 580 - side
    if 0 <= row < 420 and 0 <= column < 580:
        assert top - 1 <= row <= top + side and left - 1 <= column <= left + side


def test_what_is_cut_and_pasted_is_back_in_its_place():
    frames = np.random.default_rng(0).integers(1, 256, (2, *SHAPE)).astype(np.uint8)
    at = np.array([[0, 388], [100, 7]])
    back = crops.paste(crops.cut(frames, at).astype(np.float32), at, SHAPE)
    for frame, full, (y, x) in zip(frames, back, at, strict=True):
        inside = np.zeros(SHAPE, bool)
        inside[y : y + crops.SIDE, x : x + crops.SIDE] = True
        assert np.array_equal(full[inside], frame[inside]) and not full[~inside].any()


@pytest.fixture(scope="module")
def frames(phantom, tmp_path_factory):
    return open_cache(phantom, tmp_path_factory.mktemp("looks") / "cache", progress=False)


def test_the_middle_of_a_wide_crop_is_the_plain_one(frames):
    rows, places = np.array([3, 0]), np.array([[200.0, 300.0], [210.0, 250.0]])
    plain, wide = (crops.CropSet(frames, rows, places, (96, 96), margin) for margin in (False, True))
    assert wide.frames.shape == (2, 120, 120) and len(plain) == 2
    assert np.array_equal(wide.frames[:, 12:108, 12:108], plain.frames)
    batch = crops.trim(wide.__getitems__([0, 1]), (96, 96))
    assert torch.equal(batch["mask"], plain.__getitems__([0, 1])["mask"])
    assert batch["image"].shape == batch["mask"].shape == (2, 1, 96, 96)


def test_a_crop_that_misses_the_nerve_is_one_without(frames):
    row = frames.index.loc[frames.index["presence"] == 1, "row"].iloc[0]
    y, x = np.argwhere(frames.masks[row]).mean(axis=0)
    for place, presence in (((y, x), 1), ((400.0, 20.0), 0)):
        set_ = crops.CropSet(frames, np.array([row]), np.array([place]), (48, 48), False)
        batch = set_.__getitems__([0])
        assert batch["presence"].tolist() == [presence] == [float(batch["mask"].max() > 0.5)]


class Bright(nn.Module):
    """A trunk that takes what is bright for a nerve; its presence logit is `sign` times the brightest pixel's."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.sign = sign

    def forward(self, image, coverage=False):
        logit = self.sign * 4 * (image.amax((1, 2, 3)) - 2)
        return (logit, [8 * (image - 1)]) if coverage else logit


def two_frames():
    frames = np.full((2, *SHAPE), 20, np.uint8)
    frames[0, 100:160, 300:400] = 220
    frames[1, 380:420, 0:60] = 220  # in a corner: the crop cannot have it in its middle
    return frames


def test_two_looks_draw_at_full_size_and_let_the_second_decide():
    frames, rows = two_frames(), np.array([0, 1])
    truth = (frames > 100).astype(np.uint8)
    for sign in (1.0, -1.0):
        system = TwoLooks(Stage([Bright()], (84, 116)), Stage([Bright(sign)], (96, 96)))
        table = prediction_table(segment(system, [frames]), rows, truth)
        assert (table["mask_dice"] > 0.97).all()
        assert (table["probability"] > 0.5).all() == (sign > 0)
        one_by_one = prediction_table(segment(system, [frames[:1], frames[1:]]), rows, truth)
        assert np.allclose(one_by_one["probability"], table["probability"], atol=1e-5)
        kept = list(segment(system, [frames], threshold=0.5))
        assert [prediction.mask is not None for prediction in kept] == [sign > 0] * 2


def test_networks_are_averaged_and_mirrored_in_their_places():
    system = TwoLooks(Stage([Bright()], (84, 116), flip=True), Stage([Bright(), Bright(-1.0)], (96, 96), flip=True))
    table = prediction_table(segment(system, [two_frames()]), np.array([0, 1]), (two_frames() > 100).astype(np.uint8))
    assert table["probability"].tolist() == pytest.approx([0.5, 0.5]) and (table["mask_dice"] > 0.97).all()


def test_places_do_not_depend_on_the_batch_size():
    frames, rows = two_frames(), np.array([1, 0, 1])
    one, all_at_once = (propose_places(Bright(), frames, rows, (84, 116), size) for size in (1, 8))
    assert np.allclose(one, all_at_once) and np.allclose(one[1], (129.5, 349.5), atol=3)


def test_a_shared_trunk_is_validated_by_the_best_score_of_any_threshold():
    """By hand: four frames, their P falling, their Dice .8, .5, .9 and .7."""
    metric = tasks.shared_task(5.0).metric
    predictions = torch.tensor([[3.0, 0.8], [2.0, 0.5], [1.0, 0.9], [0.0, 0.7]])
    # past the blank one: a point is lost, .9 and .7 are won
    assert metric(predictions, torch.tensor([1.0, 0, 1, 1])).item() == pytest.approx((0.8 + 0.9 + 0.7) / 4)
    assert metric(predictions, torch.tensor([1.0, 0, 1, 0])).item() == pytest.approx(
        (0.8 + 1 + 1) / 4
    )  # not for .9 alone
    assert metric(predictions, torch.tensor([0.0, 0, 0, 1])).item() == pytest.approx(3 / 4)  # drawing nothing is best
    assert metric(predictions, torch.tensor([1.0, 0, 0, 0])).item() == pytest.approx((0.8 + 3) / 4)
