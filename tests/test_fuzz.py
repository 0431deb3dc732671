"""Random text and bytes are understood or refused with one message. `make torture` tries many more."""

import os
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nerveceg_lib import rle
from nerveceg_lib.data.io import list_frames, read_frame, read_masks_csv
from nerveceg_lib.runtime.errors import InputError
from nerveceg_tools import run

SHAPE = (6, 7)
fuzz = settings(
    max_examples=int(os.environ.get("NERVECEG_FUZZ", "100")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
numbers = st.integers(-3, 60).map(str) | st.sampled_from(["9" * 30, "1.5", "x", "\u0663", "+1", "1e3", ""])


@fuzz
@given(st.text() | st.lists(numbers, max_size=9).map(" ".join))
def test_run_length_encoding_is_understood_or_refused(text):
    try:
        mask = rle.decode(text, SHAPE)
    except InputError:
        return
    assert mask.shape == SHAPE and mask.dtype == np.uint8 and mask.max(initial=0) <= 1
    assert int(mask.sum()) == sum(int(length) for length in text.split()[1::2])
    assert np.array_equal(rle.decode(rle.encode(mask), SHAPE), mask)


fields = st.text(max_size=6) | st.sampled_from(["1", "2", "img", "pixels", "1 1", '"', '"1', "\ufeff", "-1", "NaN"])
rows = st.lists(st.lists(fields, max_size=3).map(",".join), max_size=5).map("\n".join)
header = st.sampled_from(["img,pixels\n", "img,pixels\r\n", "\ufeffimg,pixels\n", "pixels,img\n", ""])
tables = st.binary(max_size=80) | st.tuples(header, rows).map(lambda parts: "".join(parts).encode("utf-8", "replace"))


@fuzz
@given(tables)
def test_tables_are_understood_or_refused(tmp_path, content):
    path = tmp_path / "masks.csv"
    path.write_bytes(content)
    try:
        table = read_masks_csv(path)
    except InputError as error:
        assert str(error).startswith(str(path))
        return
    assert list(table) == ["img", "pixels"] and table["img"].is_unique
    assert pd.api.types.is_integer_dtype(table["img"]) or table.empty
    assert all(isinstance(text, str) for text in table["pixels"])


@fuzz
@given(st.sets(st.from_regex(r"[0-9a_]{1,12}", fullmatch=True) | st.sampled_from(["1_1", "01_1", "1_01"]), max_size=4))
def test_file_names_are_understood_or_refused(tmp_path_factory, names):
    folder = tmp_path_factory.mktemp("data")
    (folder / "train").mkdir()
    for name in names:
        (folder / "train" / f"{name}.tif").touch()
    try:
        table, odd = list_frames(folder)
    except InputError:
        return
    assert table["path"].is_unique and all((folder / path).exists() for path in table["path"])
    assert len(table) + len(odd) == sum(not name.endswith("_mask") for name in names)


@fuzz
@given(
    st.sampled_from(["seed", "bias.lr", "classifier.pretrained", "run", "classifier.model", "no_such"]),
    st.text(max_size=12)
    | st.sampled_from(["1", "1.0", "true", "null", "[1]", "{a: 1}", "!!python/name:os.system", "&a *a"]),
)
def test_parameters_are_understood_or_refused(name, text):
    try:
        values = run.resolve_parameters("demo", {name: text})
    except InputError as error:
        assert name in str(error)
        return
    assert type(values[name]) is {"seed": int, "bias.lr": float, "classifier.pretrained": bool}.get(name, str)


@pytest.fixture(scope="module")
def tiff():
    stream = BytesIO()
    Image.fromarray(np.arange(420 * 580, dtype=np.uint32).astype(np.uint8).reshape(420, 580)).save(stream, "TIFF")
    return stream.getvalue()


@fuzz
@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), st.integers(0, 300_000), st.data())
def test_spoiled_images_are_read_or_refused(tiff, tmp_path, changes, length, data):
    content = bytearray(tiff[:length])
    for position, value in changes:
        if data.draw(st.booleans()):  # count from the end, where a TIFF may have its directory
            position = len(content) - 1 - position
        if 0 <= position < len(content):
            content[position] = value
    path = tmp_path / "1_1.tif"
    path.write_bytes(content)
    try:
        assert read_frame(path).shape == (420, 580)
    except InputError as error:
        assert str(error).startswith(str(path))
