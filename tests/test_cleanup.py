"""Mask clean-up: by hand on small masks, and what must hold for any mask."""

import warnings
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from nerveceg_lib import cleanup, metrics
from nerveceg_lib.cleanup import ShapeModel
from nerveceg_lib.errors import InputError

SHAPES = array_shapes(min_dims=2, max_dims=2, max_side=14)
MASKS = arrays(np.uint8, SHAPES, elements=st.integers(0, 1))
FUNCTIONS = {
    **cleanup.CLEANUPS,
    "small, 3 px": partial(cleanup.remove_small, min_area=3),
    "smooth, 1 px": partial(cleanup.smooth, sigma=1),
    "shape": ShapeModel(np.full(12, 0.6, np.float32), np.eye(12, dtype=np.float32)[::2], (3, 4)).reconstruct,
}
every_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def drawn(text):
    return np.array([[pixel == "#" for pixel in row] for row in text.split()], np.uint8)


def ellipse(x=290, y=200, long=60, short=35, angle=0):
    return cv2.ellipse(np.zeros((420, 580), np.uint8), (x, y), (long, short), angle, 0, 360, 1, -1)


PIECES = "##..... ##..#.. ...#... ......#"  # 4 px, 2 px that touch at a corner, 1 px


@pytest.mark.parametrize(
    ("min_area", "expected"),
    [
        (0, PIECES),
        (1, PIECES),
        (2, "##..... ##..#.. ...#... ......."),
        (3, "##..... ##..... ....... ......."),
        (4, "##..... ##..... ....... ......."),
        (5, "....... ....... ....... ......."),
    ],
)
def test_small_components_go(min_area, expected):
    assert np.array_equal(cleanup.remove_small(drawn(PIECES), min_area), drawn(expected))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (PIECES, "##..... ##..... ....... ......."),
        ("#.... ...## ...##", "..... ...## ...##"),  # neither the first nor the background
        ("#.#.# .#.#. .....", "#.#.# .#.#. ....."),  # corners join
        ("#### ####", "#### ####"),
        (".... ....", ".... ...."),
    ],
)
def test_largest_component_stays(mask, expected):
    assert np.array_equal(cleanup.largest_component(drawn(mask)), drawn(expected))


def test_of_equally_large_components_one_stays():
    assert cleanup.largest_component(drawn("##.## ..... ##.##")).sum() == 2


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ("..... .###. .#.#. .###. .....", "..... .###. .###. .###. ....."),
        ("### #.# ###", "### ### ###"),  # a hole, though the mask lies on the frame's border
        ("### #.. ###", "### #.. ###"),  # the frame's border encloses nothing
        ("#.# #.# #.#", "#.# #.# #.#"),  # nor does a mask that cuts the background in two
        (".#. #.# .#.", ".#. ### .#."),  # corners enclose
        ("##### #...# #.#.# #...# #####", "##### ##### ##### ##### #####"),  # a piece within the hole
        ("###### #....# #.##.# #.##.. ######", "###### #....# #.##.# #.##.. ######"),
        ("### ### ###", "### ### ###"),
        ("... ... ...", "... ... ..."),
    ],
)
def test_holes_are_filled(mask, expected):
    assert np.array_equal(cleanup.fill_holes(drawn(mask)), drawn(expected))


@pytest.mark.parametrize(
    ("mask", "expected"),  # weights of a Gaussian of 1 px: 0.40, 0.24, 0.05
    [
        ("..... ..... ..#.. ..... .....", "..... ..... ..... ..... ....."),  # 0.40 * 0.40
        ("##### ##### ##.## ##### #####", "##### ##### ##### ##### #####"),
        ("..#.. ..#.. ..#..", "..... ..... ....."),  # 0.40
        ("..##.. ..##.. ..##..", "..##.. ..##.. ..##.."),  # 0.40 + 0.24
        ("###... ###... ###...", "###... ###... ###..."),  # 0.7 on this side of the edge, 0.3 on the other
        ("#.... #.... #....", "#.... #.... #...."),  # the same at the frame's border
        (
            "........ .######. .######. .######. .######. .######. .######. ........",
            "........ ..####.. .######. .######. .######. .######. ..####.. ........",  # corners: 0.7 * 0.7
        ),
    ],
)
def test_smoothing_by_hand(mask, expected):
    assert np.array_equal(cleanup.smooth(drawn(mask), 1), drawn(expected))


@pytest.mark.parametrize("sigma", [0, -1])
def test_smoothing_needs_a_width(sigma):
    with pytest.raises(InputError, match="sigma: expected more than 0 px"):
        cleanup.smooth(drawn("#"), sigma)


def test_what_the_registry_means():
    assert set(cleanup.CLEANUPS) == {"none", "small", "largest", "holes", "smooth"}
    frame = np.zeros((420, 580), np.uint8)
    frame[100:130, 100:150] = 1  # 1500 px
    frame[200:250, 200:230] = 1
    frame[220, 210] = 0  # 1499 px
    frame[300:400, 10:14] = 1
    frame[300:400, 50:55] = 1
    cleaned = {name: clean(frame) for name, clean in cleanup.CLEANUPS.items()}
    assert np.array_equal(cleaned["none"], frame)
    assert cleaned["small"].sum() == cleaned["small"][100:130, 100:150].sum() == 1500
    assert np.array_equal(cleaned["largest"], cleaned["small"])
    assert cleaned["holes"].sum() == frame.sum() + 1 and cleaned["holes"][220, 210] == 1
    assert not cleaned["smooth"][350, :30].any()  # at 3 px, a strip of 4 px sums up to 0.49
    assert cleaned["smooth"][350, 52] == 1  # and one of 5 px to 0.60


@every_function
@settings(max_examples=40)
@given(mask=MASKS)
def test_result_is_a_new_mask_of_zeros_and_ones(function, mask):
    before = mask.copy()
    result = function(mask)
    assert result.dtype == np.uint8 and result.shape == mask.shape and result.max() <= 1
    assert np.array_equal(mask, before) and not np.shares_memory(result, mask)
    for same in (mask * 255, mask.astype(bool), np.asfortranarray(mask)):
        assert np.array_equal(function(same), result)


@every_function
@settings(max_examples=40)
@given(shape=SHAPES)
def test_blank_stays_blank(function, shape):
    assert not function(np.zeros(shape, np.uint8)).any()


@given(MASKS, st.integers(1, 8))
def test_small_components_are_told_by_their_area(mask, min_area):
    kept = cleanup.remove_small(mask, min_area)
    assert (kept <= mask).all()
    assert np.array_equal(cleanup.remove_small(kept, min_area), kept)
    assert not cleanup.remove_small(mask - kept, min_area).any()
    _, count = ndimage.label(kept, np.ones((3, 3)))
    assert kept.sum() >= count * min_area


@given(MASKS)
def test_one_component_stays_and_none_is_larger(mask):
    kept = cleanup.largest_component(mask)
    assert (kept <= mask).all()
    assert np.array_equal(cleanup.largest_component(kept), kept)
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    assert kept.sum() == max(np.bincount(labels.ravel())[1:], default=0)
    assert ndimage.label(kept, np.ones((3, 3)))[1] == min(count, 1)


@given(MASKS)
def test_holes_are_those_that_scipy_finds(mask):
    filled = cleanup.fill_holes(mask)
    assert (filled >= mask).all()
    assert np.array_equal(cleanup.fill_holes(filled), filled)
    assert np.array_equal(filled, ndimage.binary_fill_holes(mask))


@pytest.fixture(scope="module")
def family():
    draw = np.random.default_rng(0).integers
    return [
        ellipse(draw(270, 311), draw(180, 221), draw(50, 71), draw(30, 41), angle=int(draw(-90, -45)))
        for _ in range(60)
    ]


def test_shape_model_by_hand():
    left, right = drawn("##.. ...."), drawn("..## ....")
    model = ShapeModel.fit([left, right], size=(2, 4))  # mean 1/2; one component, +-(1 1 -1 -1) / 2
    assert model.mean == pytest.approx([0.5] * 4 + [0] * 4)
    assert np.abs(model.axes) == pytest.approx(np.array([[0.5] * 4 + [0] * 4]), abs=1e-6)
    assert np.array_equal(model.reconstruct(drawn("#... ....")), left)  # 1/2 + 1/4 on the left, 1/2 - 1/4 on the right
    assert np.array_equal(model.reconstruct(drawn("#.## #...")), right)


def test_what_resembles_no_training_mask_may_vanish():
    model = ShapeModel.fit([drawn("#... ...."), drawn(".#.. ...."), drawn("..#. ....")], size=(2, 4))
    assert not model.reconstruct(drawn(".... ..##")).any()  # the mean is left, 1/3


def test_training_masks_come_back_the_better_the_more_components(family):
    def mean_dice(components):
        model = ShapeModel.fit(family, components)
        assert model.axes.shape == (components, 52 * 72)
        return np.mean([metrics.dice(model.reconstruct(mask), mask) for mask in family])

    few, more, most = map(mean_dice, (1, 10, 59))
    assert few < more - 0.02 < most - 0.04
    assert most > 0.95


def test_shape_model_removes_a_distant_speck_and_rounds_a_bite(family):
    model = ShapeModel.fit(iter(family[1:]))
    truth = family[0]
    flawed = truth.copy()
    flawed[20:40, 20:40] = 1
    assert not model.reconstruct(flawed)[:100, :100].any()
    assert metrics.dice(model.reconstruct(flawed), truth) > 0.9
    flawed[195:206, 285:296] = 0
    assert model.reconstruct(flawed)[195:206, 285:296].all()


def test_fewer_masks_than_components(family):
    model = ShapeModel.fit(family[:3], components=30)
    assert model.axes.shape == (2, 52 * 72)
    assert min(metrics.dice(model.reconstruct(mask), mask) for mask in family[:3]) > 0.95
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        single = ShapeModel.fit(family[:1])
    assert metrics.dice(single.reconstruct(family[1]), family[0]) > 0.95


def test_shape_model_is_not_fitted_on_blanks(family):
    blank = np.zeros_like(family[0])
    model, other = ShapeModel.fit(family[:5]), ShapeModel.fit([blank, *family[:5], blank])
    assert np.array_equal(model.mean, other.mean) and np.array_equal(model.axes, other.axes)
    for masks in ([], [blank, blank]):
        with pytest.raises(InputError, match="at least one that is not blank"):
            ShapeModel.fit(masks)
    with pytest.raises(InputError, match="components: expected 1 or more"):
        ShapeModel.fit(family[:5], components=0)
