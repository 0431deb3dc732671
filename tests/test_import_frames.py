"""Import of a reader's own frames and masks, from folders of another layout."""

import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from nerveceg_lib.data import io
from nerveceg_tools.cli import main


def write_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def folder(tmp_path):
    """Two patients with two colour PNG frames each, half as high as the competition's; a fifth frame has no mask."""
    grey = np.full((210, 580), 100, np.uint8)
    mask = np.zeros((210, 580), np.uint8)
    mask[100:150, 200:300] = 1
    for patient in (3, 12):
        for name in "ab":
            write_image(tmp_path / "scans" / f"case{patient:02d}" / f"{name}.png", np.dstack([grey] * 3))
            write_image(tmp_path / "labels" / f"case{patient:02d}" / f"{name}_mask.png", mask * (name == "a"))
    write_image(tmp_path / "scans" / "new.jpg", grey)
    return tmp_path


def import_frames(folder, *options, masks="labels"):
    return main(["import-frames", *(str(folder / name) for name in ("scans", masks, "out")), *options])


def test_frames_are_numbered_and_scaled_and_their_source_is_listed(folder, capsys):
    assert import_frames(folder) == 0
    assert capsys.readouterr().out == "4 labelled frames of 2 patients, 1 test frames\n"
    names = pd.read_csv(folder / "out" / "names.csv")
    assert names[["set", "subject", "image"]].values.tolist() == [
        ["train", 3, 1], ["train", 3, 2], ["train", 12, 1], ["train", 12, 2], ["test", 0, 1],
    ]  # fmt: skip
    assert names[["set", "subject", "image"]].equals(io.list_frames(folder / "out")[["set", "subject", "image"]])
    assert names["source"].iloc[3].endswith("case12/b.png")
    frame = io.read_frame(io.image_path(folder / "out", 3, 1))
    assert (frame[:210] == 100).all() and not frame[210:].any()
    mask = io.read_mask(io.mask_path(folder / "out", 3, 1))
    assert mask.sum() == 50 * 100 and mask[100:150, 200:300].all()
    assert not io.read_mask(io.mask_path(folder / "out", 12, 2)).any()


def test_masks_may_lie_beside_their_frames(folder, capsys):
    for path in (folder / "labels").rglob("*.png"):
        path.rename(folder / "scans" / path.relative_to(folder / "labels"))
    assert import_frames(folder, masks="scans") == 0
    assert capsys.readouterr().out.startswith("4 labelled frames of 2 patients")


FRAME, MASK = "scans/case03/a.png", "labels/case03/a_mask.png"


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (lambda folder: write_image(folder / FRAME, np.zeros((210, 580), np.uint16)), [],
         "a.png: expected 8 bits per channel, found Pillow's mode I;16"),
        (lambda folder: write_image(folder / FRAME, np.zeros((4000, 4001), np.uint8)), [], "a.png: expected a"),
        (lambda folder: (folder / FRAME).write_bytes(b"no image"), [], "found 8 bytes that do not decode"),
        (lambda folder: write_image(folder / MASK, np.zeros((210, 500), np.uint8)), [],
         "a_mask.png: expected a mask of its frame's shape (210, 580), found (210, 500)"),
        (lambda folder: shutil.rmtree(folder / "labels" / "case03") or shutil.rmtree(folder / "labels" / "case12"), [],
         "labels: expected masks named like the frames in"),
        (lambda folder: None, ["--subject", r"patient(\d+)"], "--subject: expected a regular expression"),
        (lambda folder: None, ["--subject", "("], "--subject: expected a regular expression whose group is"),
    ],
    ids=["16 bits", "too large", "broken", "a mask of another size", "no masks", "no match", "no regular expression"],
)  # fmt: skip
def test_what_does_not_fit_is_named_and_leaves_nothing(damage, options, message, folder, capsys):
    damage(folder)
    assert import_frames(folder, *options) == 2
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()
