"""Write submission.csv and check it against sample_submission.csv."""

from pathlib import Path

import pandas as pd

from nerveceg_lib import rle
from nerveceg_lib.data.io import read_masks_csv
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import write_csv


def write_submission(path: Path, masks: pd.DataFrame, sample: Path) -> pd.DataFrame:
    """Write `masks` (columns `img`, `pixels`) in the order of `sample`, validate the file and return its table."""
    order = read_masks_csv(sample)["img"]
    if missing := sorted(set(order) - set(masks["img"])):
        raise InputError(f"masks: no prediction for {len(missing)} images of {sample.name}, first {missing[:3]}")
    table = masks.set_index("img").loc[order, "pixels"].reset_index()
    _check(table, order, path, sample)  # before a file has this name
    write_csv(path, table)
    return validate_submission(path, sample)


def validate_submission(path: Path, sample: Path) -> pd.DataFrame:
    """Check a submission against `sample` and return its table.

    Columns, number, ids and order of the rows must agree, and every RLE must be valid, stay within the frame and encode
    back to itself. Raises InputError that names the first bad row.
    """
    table = read_masks_csv(path)
    _check(table, read_masks_csv(sample)["img"], path, sample)
    return table


def _check(table: pd.DataFrame, expected: pd.Series, path: Path, sample: Path) -> None:
    if len(table) != len(expected):
        raise InputError(f"{path}: expected {len(expected)} rows as in {sample.name}, found {len(table)}")
    differs = table["img"].astype(str).to_numpy() != expected.astype(str).to_numpy()
    if differs.any():
        row = int(differs.argmax())
        raise InputError(f"{path}: row {row + 2}: expected img {expected[row]}, found {table['img'][row]}")
    for row, text in enumerate(table["pixels"]):
        where = f"{path}: row {row + 2}"
        if rle.encode(rle.decode(text, where=where)) != text:
            raise InputError(f"{where}: expected sorted runs that do not touch, found a different encoding of them")
