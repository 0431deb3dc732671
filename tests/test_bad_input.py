"""Each row of docs/bad_input.md: one message that names what is wrong, exit code 2, no traceback, nothing run."""

import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
from contextlib import contextmanager

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from nerveceg_lib import jobs, runner, submission, training
from nerveceg_lib.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.data import cache, frames, layout, source
from nerveceg_lib.data.index import list_frames
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import read_json, write_csv, write_json
from nerveceg_lib.models import build_model
from nerveceg_lib.paths import STAGES, find_competition_data, run_dir, stage_dir
from tests.conftest import REPOSITORY
from tests.test_rle import MALFORMED

GREY = np.full((420, 580), 90, np.uint8)
TAKEN = None


def image(pixels):
    def write(path):
        assert cv2.imwrite(str(path), pixels)

    return write


def content(data):
    return lambda path: path.write_bytes(data)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:5000])


def link(path):
    path.unlink()
    path.symlink_to(path.with_name("nowhere.tif"))


def folder(path):
    path.unlink()
    path.mkdir()


def tiff(height, width, offset_type=4):
    """A TIFF of some bytes that says it has so many pixels; type 4 of a number is an integer, 2 is text."""

    def write(path):
        tags = [
            (256, width),
            (257, height),
            (258, 8),
            (259, 1),
            (262, 1),
            (273, 8),
            (277, 1),
            (278, height),
            (279, 100),
        ]
        kinds = {273: offset_type}
        entries = b"".join(struct.pack("<HHII", tag, kinds.get(tag, 4), 1, value) for tag, value in tags)
        path.write_bytes(struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + entries + bytes(104))

    return write


def renamed(name):
    return lambda path: path.rename(path.with_name(name))


@contextmanager
def without_permission(path):
    """`path` cannot be read, not even where tests run as root."""
    path.chmod(0)
    was_root = os.geteuid() == 0
    if was_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if was_root:
            os.seteuid(0)
        path.chmod(0o755)


UNREADABLE = "1_1.tif: expected a readable image, found"
NAMES = "expected a frame named {subject}_{image}.tif"
NAN = np.full((420, 580), np.nan, np.float32)
FRAMES = {
    "frame: cut off": (cut_off, UNREADABLE),
    "frame: zero bytes": (content(b""), UNREADABLE + " 0 bytes"),
    "frame: text under an image's name": (content(b"no image"), UNREADABLE),
    "frame: a folder under a frame's name": (folder, UNREADABLE + ": Is a directory"),
    "frame: dangling link": (link, "1_1.tif: frame is missing"),
    "frame: wrong size": (image(GREY[:, :400]), r"1_1.tif: .*found uint8 of shape \(420, 400\)"),
    "frame: colour": (image(np.dstack([GREY] * 3)), r"1_1.tif: .*found uint8 of shape \(420, 580, 3\)"),
    "frame: 16 bits": (image(GREY.astype(np.uint16)), "1_1.tif: .*found uint16"),
    "frame: floats with NaN": (image(NAN), "1_1.tif: .*found float32"),
    "frame: a header that promises gigabytes": (tiff(65000, 65000), UNREADABLE),
    "frame: text for a number in the header": (tiff(420, 580, offset_type=2), UNREADABLE),
    "frame: all black": (image(0 * GREY), TAKEN),
    "frame: PNG under a TIFF's name": (content(cv2.imencode(".png", GREY)[1].tobytes()), TAKEN),
    "frame: odd name": (renamed("left_1.tif"), "left_1.tif: " + NAMES),
    "frame: leading zeros in the name": (renamed("01_1.tif"), "01_1.tif: " + NAMES),
    "frame: thirty digits in the name": (renamed("1" * 30 + "_1.tif"), "1_1.tif: " + NAMES),
}
MASKS = {
    "mask: missing": (lambda path: path.unlink(), "1_1_mask.tif: mask is missing"),
    "mask: wrong size": (image(GREY[:400]), "1_1_mask.tif: expected an 8-bit grey mask of shape"),
    "mask: other values than 0 and 255": (image(GREY), r"1_1_mask.tif: expected mask values 0 and 255, found \[90\]"),
}


@pytest.fixture
def data(phantom, tmp_path):
    return shutil.copytree(phantom, tmp_path / "data")


@pytest.mark.parametrize("row", [*FRAMES, *MASKS])
def test_frames_and_masks(row, data, tmp_path):
    spoil, message = (FRAMES | MASKS)[row]
    spoil((layout.image_path if row in FRAMES else layout.mask_path)(data, 1, 1))
    if message is TAKEN:
        opened = cache.open_cache(data, tmp_path / "cache", progress=False)
        assert len(opened.index) == len(list_frames(data))
        return
    with pytest.raises(InputError, match=message):
        cache.open_cache(data, tmp_path / "cache", progress=False)
    assert not (tmp_path / "cache" / "manifest.json").exists()


def test_a_chunk_that_promises_gigabytes(tmp_path):
    """frame: a PNG whose chunk promises gigabytes"""
    path, png = tmp_path / "1_1.png", cv2.imencode(".png", GREY)[1].tobytes()
    path.write_bytes(png[:33] + b"\xff\xff\x01\x03IDAT" + png[41:300])  # behind signature and header
    code = (
        "import resource, sys; from nerveceg_lib.data.frames import InputError, read_frame\n"
        "try: read_frame(sys.argv[1])\n"
        "except InputError: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=REPOSITORY, capture_output=True, text=True)
    assert int(done.stdout) * 1024 < 2e9, done.stdout + done.stderr  # counts this process too, as it was when forked


def test_no_permission(data):
    """frame: no permission; folder: no permission"""
    path = layout.image_path(data, 1, 1)
    with without_permission(path), pytest.raises(InputError, match=UNREADABLE + ": Permission denied"):
        frames.read_frame(path)
    with without_permission(data), pytest.raises(InputError, match="data_dir: expected a folder .*: Permission denied"):
        find_competition_data(str(data))


@pytest.fixture
def prepared(data, root):
    """A run of which notebook 1 has run, on data with train_masks.csv."""
    opened = cache.open_cache(data, root / "cache" / "data", progress=False)
    table = opened.index.assign(split="train", fold=0)
    table.loc[table["set"] == "test", ["split", "fold"]] = "test", -1
    stage = stage_dir("demo", STAGES[0])
    write_csv(stage / "frames.csv", table)
    write_json(stage / "dataset.json", {"data_dir": str(data), "cache": str(root / "cache" / "data"), "name": "data"})
    return data


def test_a_shifted_mask(prepared):
    """mask: shifted against train_masks.csv"""
    opened = source.load_prepared("demo")
    assert source.compare_train_masks("demo", opened) == (opened.index["set"] == "train").sum()
    positive = opened.index[opened.index["presence"] == 1].iloc[0]
    path = prepared / positive["mask_path"]
    layout.write_mask(path, np.roll(frames.read_mask(path), 7, axis=1))
    shifted = cache.open_cache(prepared, opened.folder, progress=False)
    with pytest.raises(InputError, match=f"{positive['mask_path']}: expected the mask that train_masks.csv has for it"):
        source.compare_train_masks("demo", shifted)


def edited(change):
    return lambda path: path.write_bytes(change(path.read_bytes()))


GOOD = b"img,pixels\n1,\n2,5 3\n"
TABLES = {
    "table: missing": (lambda path: path.unlink(), "masks.csv: expected a CSV .*No such file"),
    "table: empty": (content(b""), "masks.csv: expected a CSV .*No columns"),
    "table: binary": (content(bytes(range(256))), "masks.csv: expected"),
    "table: other column names": (
        content(b"image,mask\n1,\n"),
        r"masks.csv: expected columns \['img', 'pixels'\], found",
    ),
    "table: spaces in column names": (content(b"img, pixels\n1,\n"), r"masks.csv: expected columns .*' pixels'"),
    "table: too many fields": (content(GOOD + b"3,1 2,4\n"), "masks.csv: expected a CSV .*line 4"),
    "table: too many fields in every row": (
        content(b"img,pixels\n1,1 2,\n2,3 4,\n"),
        "masks.csv: expected a CSV .*header",
    ),
    "table: an id that is no number": (content(GOOD + b"three,\n"), "masks.csv: row 4: .*as img, found 'three'"),
    "table: an id that is negative": (content(GOOD + b"-3,\n"), "masks.csv: row 4: .*as img, found '-3'"),
    "table: a row twice": (content(GOOD + b"2,\n"), "masks.csv: row 4: expected each img once"),
    "table: byte order mark": (content(b"\xef\xbb\xbf" + GOOD), TAKEN),
    "table: Windows line ends": (content(GOOD.replace(b"\n", b"\r\n")), TAKEN),
}


@pytest.mark.parametrize("row", TABLES)
def test_tables(row, tmp_path):
    spoil, message = TABLES[row]
    path = tmp_path / "masks.csv"
    path.write_bytes(GOOD)
    spoil(path)
    if message is TAKEN:
        assert submission.read_masks_csv(path).to_dict("list") == {"img": [1, 2], "pixels": ["", "5 3"]}
        return
    with pytest.raises(InputError, match=message):
        submission.read_masks_csv(path)


def test_rows_that_are_missing(prepared, tmp_path):
    """table: a training frame without a row; table: a test frame without a prediction"""
    edited(lambda text: text[: text.rindex(b"\n", 0, -1) + 1])(prepared / "train_masks.csv")
    with pytest.raises(InputError, match="train_masks.csv: expected a row for subject 6, img 8, found none"):
        source.compare_train_masks("demo", source.load_prepared("demo"))
    few = pd.DataFrame({"img": [1], "pixels": [""]})
    with pytest.raises(
        InputError, match=r"masks: no prediction for 5 images of sample_submission.csv, first \[2, 3, 4\]"
    ):
        submission.write_submission(tmp_path / "submission.csv", few, prepared / "sample_submission.csv")
    assert not (tmp_path / "submission.csv").exists()


def no_train(path):
    shutil.rmtree(path / "train")


def empty_train(path):
    no_train(path)
    (path / "train").mkdir()


def only_text_in_train(path):
    empty_train(path)
    (path / "train" / "notes.txt").write_text("nothing")


def a_file(path):
    shutil.rmtree(path)
    path.write_text("")


def dangling(path):
    shutil.rmtree(path)
    path.symlink_to(path.with_name("nowhere"))


FOLDERS = {
    "folder: missing": (shutil.rmtree, "data_dir: expected a folder .*No such file"),
    "folder: a file": (a_file, "data_dir: expected a folder .*Not a directory"),
    "folder: dangling link": (dangling, "data_dir: expected a folder .*No such file"),
    "folder: without train/": (no_train, "data_dir: expected a folder .*No such file"),
    "folder: train/ empty": (empty_train, "data_dir: expected frames in train/, found none"),
    "folder: train/ without frames": (only_text_in_train, r"train: no frame found, expected files named {subject}"),
}


@pytest.mark.parametrize("row", FOLDERS)
def test_data_folder(row, data):
    spoil, message = FOLDERS[row]
    spoil(data)
    with pytest.raises(InputError, match=message):
        list_frames(find_competition_data(str(data)))


def test_a_patient_on_both_sides(prepared):
    """split: a patient on both sides"""
    path = stage_dir("demo", STAGES[0]) / "frames.csv"
    table = pd.read_csv(path)
    table.loc[0, "split"] = "heldout"
    write_csv(path, table)
    with pytest.raises(InputError, match=r"demo/.*frames.csv: expected each patient in one split.*found \[1\] on both"):
        source.load_prepared("demo")


def merged(**overrides):
    return lambda tmp_path: runner.resolve_parameters("demo", overrides)


def bad_yaml(tmp_path):
    (tmp_path / "mine.yaml").write_text("run: [demo")
    runner.resolve_parameters(str(tmp_path / "mine.yaml"), {})


def no_such_fold(tmp_path):
    frame = pd.DataFrame({"split": ["train"] * 2, "fold": [0, 1], "presence": [1, 1], "row": [0, 1]})
    jobs.fold_data(None, frame, 9, (8, 8), 1)


PARAMETERS = {
    "parameter: unknown name": (merged(epochs="3"), "epochs: no notebook has this parameter, expected one of"),
    "parameter: wrong type": (merged(seed="many"), r"seed: expected int, found 'many' \(str\)"),
    "parameter: out of range": (lambda tmp_path: training.Schedule(0, 0.1), "epochs: expected 1 or more, found 0"),
    "parameter: fold that there is not": (no_such_fold, r"fold: expected one .*found 9: 0 frames.*\[0, 1\]"),
    "parameter: run name with a path in it": (lambda tmp_path: run_dir("../out"), "run: expected a plain folder name"),
    "parameter: profile that is no YAML": (bad_yaml, "mine.yaml: expected YAML, found"),
}


@pytest.mark.parametrize("row", PARAMETERS)
def test_parameters(row, tmp_path):
    call, message = PARAMETERS[row]
    with pytest.raises(InputError, match=message):
        call(tmp_path)


class Payload:
    """What a hostile pickle would hold: unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def of_another_network(path):
    torch.save(build_model("r2unet", base_channels=2, depth=2).state_dict(), path)


def of_another_format(path):
    description = path.with_suffix(".json")
    write_json(description, read_json(description) | {"format": 99})


WEIGHTS = "network.pt: not the weights of unet"
CHECKPOINTS = {
    "checkpoint: cut off": (edited(lambda data: data[: len(data) // 2]), WEIGHTS),
    "checkpoint: text": (content(b"no weights"), WEIGHTS),
    "checkpoint: of another network": (of_another_network, WEIGHTS),
    "checkpoint: of another format": (of_another_format, "network.json: expected format 1, found 99"),
    "checkpoint: without its description": (
        lambda path: path.with_suffix(".json").unlink(),
        "network.pt: expected this",
    ),
    "checkpoint: description that is no JSON": (
        lambda path: path.with_suffix(".json").write_text("{"),
        "network.json: expected JSON, found",
    ),
    "checkpoint: pickle with code in it": (
        lambda path: path.write_bytes(pickle.dumps(Payload(path.with_name("it-ran")))),
        WEIGHTS,
    ),
}


@pytest.mark.parametrize("row", CHECKPOINTS)
def test_checkpoints(row, tmp_path):
    spoil, message = CHECKPOINTS[row]
    path, config = tmp_path / "network.pt", {"base_channels": 2, "depth": 2}
    save_checkpoint(path, build_model("unet", **config), "unet", config)
    load_checkpoint(path)
    spoil(path)
    with pytest.raises(InputError, match=message):
        load_checkpoint(path)
    assert not (tmp_path / "it-ran").exists()


def test_the_payload_would_run_where_pickles_are_trusted(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "it-ran"))).close()
    assert (tmp_path / "it-ran").exists()


def test_every_row_of_the_table_has_its_test():
    table = (REPOSITORY / "docs" / "bad_input.md").read_text()
    rows = re.findall(r"^\| (\w+: [^|]+?) \|", table, flags=re.MULTILINE)
    alone = [
        test_a_chunk_that_promises_gigabytes,
        test_no_permission,
        test_a_shifted_mask,
        test_rows_that_are_missing,
        test_a_patient_on_both_sides,
    ]
    tested = [*FRAMES, *MASKS, *TABLES, *(f"rle: {row}" for row in MALFORMED), *FOLDERS, *PARAMETERS, *CHECKPOINTS]
    tested += [row for test in alone for row in test.__doc__.split("; ")]
    assert sorted(rows) == sorted(tested) and len(set(rows)) == len(rows)
