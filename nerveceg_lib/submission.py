"""Write submission.csv and check it against sample_submission.csv."""

import warnings
from pathlib import Path

import pandas as pd

from nerveceg_lib import rle
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import write_csv

COLUMNS = ["img", "pixels"]


def read_masks_csv(path: Path, columns: list[str] = COLUMNS) -> pd.DataFrame:
    """Read a table of RLE masks as text; an empty field stays "" instead of NaN.

    Raises InputError for what is no such table: other columns, ids that are no whole numbers or stand there twice. A
    byte order mark and Windows line ends are no fault.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # else fields too many are dropped
            table = pd.read_csv(path, keep_default_na=False, dtype=str, index_col=False, encoding="utf-8-sig")
    except (
        pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError, UnicodeDecodeError, OSError
    ) as error:  # fmt: skip
        raise InputError(f"{path}: expected a CSV with columns {columns}, found: {error}") from error
    if list(table.columns) != columns:
        raise InputError(f"{path}: expected columns {columns}, found {list(table.columns)}")
    ids = columns[:-1]
    for name in ids:
        odd = ~table[name].str.fullmatch("[0-9]{1,9}")
        if odd.any():
            raise InputError(
                _in_row(path, odd, f"expected a whole number as {name}, found {table[name][odd].iloc[0]!r}")
            )
        table[name] = table[name].astype(int)
    if (twice := table.duplicated(ids)).any():
        raise InputError(_in_row(path, twice, f"expected each {' and '.join(ids)} once, found one again"))
    return table


def _in_row(path: Path, fault: pd.Series, message: str) -> str:
    return f"{path}: row {int(fault.to_numpy().argmax()) + 2}: {message}"


def write_submission(path: Path, masks: pd.DataFrame, sample: Path) -> pd.DataFrame:
    """Write `masks` (columns `img`, `pixels`) in the order of `sample`, then validate what was written."""
    order = read_masks_csv(sample)["img"]
    if missing := sorted(set(order) - set(masks["img"])):
        raise InputError(f"masks: no prediction for {len(missing)} images of {sample.name}, first {missing[:3]}")
    write_csv(path, masks.set_index("img").loc[order, "pixels"].reset_index())
    return validate_submission(path, sample)


def validate_submission(path: Path, sample: Path) -> pd.DataFrame:
    """Check columns, number, ids and order of rows against `sample`, and every RLE's syntax, bounds and
    round trip. Returns the submission; raises InputError naming the first bad row."""
    table, wanted = read_masks_csv(path), read_masks_csv(sample)["img"]
    if len(table) != len(wanted):
        raise InputError(f"{path}: expected {len(wanted)} rows as in {sample.name}, found {len(table)}")
    differs = table["img"].astype(str).to_numpy() != wanted.astype(str).to_numpy()
    if differs.any():
        row = int(differs.argmax())
        raise InputError(f"{path}: row {row + 2}: expected img {wanted[row]}, found {table['img'][row]}")
    for row, text in enumerate(table["pixels"]):
        where = f"{path}: row {row + 2}"
        if rle.encode(rle.decode(text, where=where)) != text:
            raise InputError(f"{where}: expected sorted runs that do not touch, found another spelling of them")
    return table
