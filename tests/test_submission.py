"""A submission is written in the sample's order and refused, with its row, when anything is wrong."""

import pandas as pd
import pytest

from nerveceg_lib.inference.submission import validate_submission, write_submission
from nerveceg_lib.runtime.errors import InputError


@pytest.fixture
def sample(tmp_path):
    path = tmp_path / "sample_submission.csv"
    path.write_text("img,pixels\n1,1 1\n2,1 1\n3,1 1\n")
    return path


def test_written_in_the_order_of_the_sample_with_empty_masks_empty(tmp_path, sample):
    masks = pd.DataFrame({"img": [3, 1, 2], "pixels": ["5 2", "", "7 3 20 1"]})
    table = write_submission(tmp_path / "submission.csv", masks, sample)
    assert (tmp_path / "submission.csv").read_text() == "img,pixels\n1,\n2,7 3 20 1\n3,5 2\n"
    assert table["pixels"].tolist() == ["", "7 3 20 1", "5 2"]
    with pytest.raises(InputError, match=r"no prediction for 2 images.*\[2, 3\]"):
        write_submission(tmp_path / "submission.csv", masks[masks["img"] == 1], sample)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1,\n2,\n", "expected 3 rows as in sample_submission.csv, found 2"),
        ("1,\n3,\n2,\n", "row 3: expected img 2, found 3"),
        ("1,\n2,5\n3,\n", "row 3.*even count"),
        ("1,243600 2\n2,\n3,\n", "row 2.*outside"),
        ("1,5 2 7 2\n2,\n3,\n", "row 2: expected sorted runs that do not touch"),
        ("1,05 2\n2,\n3,\n", "row 2: expected sorted runs"),
    ],
)
def test_bad_submissions_are_refused_by_row(tmp_path, sample, rows, message):
    (tmp_path / "submission.csv").write_text("img,pixels\n" + rows)
    with pytest.raises(InputError, match=message):
        validate_submission(tmp_path / "submission.csv", sample)


def test_a_mask_that_is_not_valid_leaves_no_submission(tmp_path, sample):
    masks = pd.DataFrame({"img": [1, 2, 3], "pixels": ["", "5 2 7 2", ""]})
    with pytest.raises(InputError, match="row 3: expected sorted runs that do not touch"):
        write_submission(tmp_path / "submission.csv", masks, sample)
    assert not (tmp_path / "submission.csv").exists()
