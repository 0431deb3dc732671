"""Run-length encoding: by hand on small masks, round trips, every malformed input, the real masks."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nerveceg_lib import rle
from nerveceg_lib.runtime.errors import InputError
from tests.conftest import SHARED

REAL_MASKS = SHARED / "data" / "kaggle-facts" / "real_masks_rle.csv"

# rows of a 3x4 mask; its pixels are numbered 1 4 7 10 / 2 5 8 11 / 3 6 9 12
BY_HAND = {
    "empty": (".... .... ....", ""),
    "first pixel": ("#... .... ....", "1 1"),
    "last pixel": (".... .... ...#", "12 1"),
    "a row is four runs": (".... #### ....", "2 1 5 1 8 1 11 1"),
    "a column is one run": (".#.. .#.. .#..", "4 3"),
    "the end of a column joins the next one's start": (".#.. .#.. #...", "3 3"),
    "two columns with a gap between them": ("#.#. #.#. #...", "1 3 7 2"),
}


def drawn(text: str) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in text.split()], dtype=np.uint8)


@pytest.mark.parametrize(("rows", "text"), BY_HAND.values(), ids=BY_HAND.keys())
def test_by_hand(rows, text):
    assert rle.encode(drawn(rows)) == text
    decoded = rle.decode(text, shape=(3, 4))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, drawn(rows))


def test_any_dtype_and_memory_order():
    mask = drawn(".#.. ##.. ...#")
    for same in (mask * 255, mask.astype(bool), mask * -0.5, np.asfortranarray(mask), mask.tolist()):
        assert rle.encode(same) == rle.encode(mask) == "2 1 4 2 12 1"


def test_shapes():
    assert rle.decode("").shape == rle.FRAME_SHAPE == (420, 580)
    assert rle.decode("421 1")[0, 1] == 1
    assert rle.encode(np.zeros((0, 4))) == rle.encode(np.zeros((3, 0))) == ""
    for shape in ((6,), (1, 2, 3), ()):
        with pytest.raises(InputError, match=r"\(H, W\)"):
            rle.encode(np.zeros(shape))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 1)))
def test_decode_inverts_encode(mask):
    np.testing.assert_array_equal(rle.decode(rle.encode(mask), mask.shape), mask)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=8), st.integers(0, 9))
def test_encode_inverts_decode(gaps_and_lengths, rest):
    """Any canonical string: runs at least one pixel apart, the last one anywhere up to the frame's end."""
    numbers, end = [], -1  # -1: the first run may start at pixel 1, which is a gap of 1 from pixel -1
    for gap, length in gaps_and_lengths:
        numbers += [end + gap + 1, length]
        end += gap + length
    text = " ".join(map(str, numbers))
    assert rle.encode(rle.decode(text, shape=(max(end, 0) + rest, 1))) == text


MALFORMED = {
    "odd count": ("1 2 3", "3 numbers, expected an even count"),
    "start zero": ("0 2", "number 1: start is 0"),
    "length zero": ("1 1 4 0", "number 4: length is 0"),
    "overlap": ("1 3 3 2", "number 3: run starts at 3, inside or before the run that ends at 3"),
    "leaves the frame": ("1 2 11 3", "number 3: run 11 3 ends at 13, outside the 12-pixel frame"),
    "a float": ("1 2.0", "number 2: expected a whole number, found '2.0'"),
    "digits of another script": ("٣ 2", "number 1: expected a whole number"),
    "nan as text": ("nan", "number 1: expected a whole number, found 'nan'"),
    "18 digits": ("999999999999999999 1", "number 1: run 999999999999999999 1 ends at"),
    "an enormous number": ("9" * 10_000 + " 1", "number 1: expected a whole number, found '9{40}'$"),
    "NaN": (float("nan"), "expected a string .* found nan"),
    "bytes": (b"1 2", "expected a string .* found b'1 2'"),
}


@pytest.mark.parametrize(("text", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_input_is_rejected_with_its_position(text, message):
    with pytest.raises(InputError, match=f"^train_masks.csv, row 7: {message}"):
        rle.decode(text, shape=(3, 4), where="train_masks.csv, row 7")


@pytest.mark.parametrize("text", ["   ", " 1  2 ", "1\t2", "1 2\r\n", "01 002", "1 1 2 1"])
def test_blanks_leading_zeros_and_touching_runs_are_accepted(text):
    assert rle.encode(rle.decode(text, shape=(3, 4))) in ("", "1 2")


@pytest.mark.skipif(not REAL_MASKS.is_file(), reason="needs NERVECEG_SHARED/data/kaggle-facts/real_masks_rle.csv")
def test_real_masks_round_trip_byte_for_byte():
    with REAL_MASKS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3716
    for number, row in enumerate(rows, start=2):
        assert rle.encode(rle.decode(row["pixels"], where=f"row {number}")) == row["pixels"]
