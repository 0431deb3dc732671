"""Post-processing of masks: by hand on small masks, and what must hold for any mask."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from nerveceg_lib.inference import postprocessing

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.integers(0, 1))
FUNCTIONS = {
    **postprocessing.CLEANUPS,
    "small, 3 px": partial(postprocessing.remove_small, min_area=3),
    "smooth, 1 px": partial(postprocessing.smooth, sigma=1),
}
PIECES = "##..... ##..#.. ...#... ......#"  # 4 px, 2 px that touch at a corner, 1 px


def drawn(text):
    return np.array([[pixel == "#" for pixel in row] for row in text.split()], np.uint8)


small, smooth = (lambda area: partial(postprocessing.remove_small, min_area=area)), FUNCTIONS["smooth, 1 px"]
largest, holes = postprocessing.largest_component, postprocessing.fill_holes


@pytest.mark.parametrize(
    ("clean", "mask", "expected"),
    [
        (small(2), PIECES, "##..... ##..#.. ...#... ......."),
        (small(4), PIECES, "##..... ##..... ....... ......."),
        (small(5), PIECES, "....... ....... ....... ......."),
        (largest, PIECES, "##..... ##..... ....... ......."),
        (largest, "#.... ...## ...##", "..... ...## ...##"),  # neither the first nor the background
        (largest, "#.#.# .#.#. .....", "#.#.# .#.#. ....."),  # corners join
        (holes, "..... .###. .#.#. .###. .....", "..... .###. .###. .###. ....."),
        (holes, "### #.# ###", "### ### ###"),  # a hole, though the mask lies on the frame's border
        (holes, "### #.. ###", "### #.. ###"),  # the frame's border encloses nothing
        (holes, ".#. #.# .#.", ".#. ### .#."),  # corners enclose
        (holes, "##### #...# #.#.# #...# #####", "##### ##### ##### ##### #####"),  # a piece within the hole
        # weights of a Gaussian of 1 px: 0.40, 0.24, 0.05
        (smooth, "..... ..... ..#.. ..... .....", "..... ..... ..... ..... ....."),  # 0.40 * 0.40
        (smooth, "..#.. ..#.. ..#..", "..... ..... ....."),  # 0.40
        (smooth, "..##.. ..##.. ..##..", "..##.. ..##.. ..##.."),  # 0.40 + 0.24
        (smooth, "#.... #.... #....", "#.... #.... #...."),  # 0.7 on this side of the edge, 0.3 on the other
        (smooth, "...... .####. .####. .####. .####. ......", "...... ..##.. .####. .####. ..##.. ......"),  # 0.7 * 0.7
    ],
)
def test_by_hand(clean, mask, expected):
    assert np.array_equal(clean(drawn(mask)), drawn(expected))


def test_what_the_names_mean():
    assert set(postprocessing.CLEANUPS) == {"none", "small", "largest", "holes", "smooth"}
    frame = np.zeros((420, 580), np.uint8)
    frame[100:130, 100:150] = 1  # 1500 px
    frame[200:250, 200:230] = 1
    frame[220, 210] = 0  # 1499 px
    frame[300:400, 10:14] = 1
    frame[300:400, 50:55] = 1
    cleaned = {name: clean(frame) for name, clean in postprocessing.CLEANUPS.items()}
    assert np.array_equal(cleaned["none"], frame)
    assert cleaned["small"].sum() == cleaned["small"][100:130, 100:150].sum() == 1500
    assert np.array_equal(cleaned["largest"], cleaned["small"])
    assert cleaned["holes"].sum() == frame.sum() + 1 and cleaned["holes"][220, 210] == 1
    assert not cleaned["smooth"][350, :30].any()  # at 3 px, a strip of 4 px sums up to 0.49
    assert cleaned["smooth"][350, 52] == 1  # and one of 5 px to 0.60


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
@settings(max_examples=40)
@given(mask=MASKS)
def test_result_is_a_new_mask_and_a_blank_one_stays_blank(function, mask):
    before = mask.copy()
    result = function(mask)
    assert result.dtype == np.uint8 and result.shape == mask.shape and result.max() <= 1
    assert np.array_equal(mask, before) and not np.shares_memory(result, mask)
    for same in (mask * 255, mask.astype(bool), np.asfortranarray(mask)):
        assert np.array_equal(function(same), result)
    assert not function(0 * mask).any()


@given(MASKS, st.integers(1, 8))
def test_components_are_those_of_scipy(mask, min_area):
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    assert np.array_equal(postprocessing.remove_small(mask, min_area), areas[labels] >= min_area)
    largest = postprocessing.largest_component(mask)
    assert largest.sum() == areas.max() and (largest <= mask).all()
    assert ndimage.label(largest, np.ones((3, 3)))[1] == min(len(areas) - 1, 1)
