"""Own frames and masks, in a layout of their own, on their way into a run."""

import cv2
import numpy as np
import pandas as pd
import pytest

from nerveceg_lib.__main__ import main
from nerveceg_lib.data import frames, layout
from nerveceg_lib.data.index import list_frames


def picture(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def own(tmp_path):
    """Two patients in folders, PNG frames in colour of twice the width, masks beside; one frame has none."""
    grey = np.full((210, 580), 100, np.uint8)
    mask = np.zeros((210, 580), np.uint8)
    mask[100:150, 200:300] = 1
    for patient in (3, 12):
        for shot in "ab":
            picture(tmp_path / "scans" / f"case{patient:02d}" / f"{shot}.png", np.dstack([grey] * 3))
            picture(tmp_path / "labels" / f"case{patient:02d}" / f"{shot}_mask.png", mask if shot == "a" else 0 * mask)
    picture(tmp_path / "scans" / "new.jpg", grey)
    return tmp_path


def imported(folder, *options):
    return main(["import-frames", *(str(folder / name) for name in ("scans", "labels", "out")), *options])


def test_frames_are_numbered_fitted_and_known_by_their_source(own, capsys):
    assert imported(own) == 0
    assert capsys.readouterr().out == "4 labelled frames of 2 patients, 1 test frames\n"
    listed = list_frames(own / "out")
    assert listed[["set", "subject", "image"]].values.tolist() == [
        ["train", 3, 1], ["train", 3, 2], ["train", 12, 1], ["train", 12, 2], ["test", 0, 1],
    ]  # fmt: skip
    frame = frames.read_frame(layout.image_path(own / "out", 3, 1))
    assert (frame[:210] == 100).all() and not frame[210:].any()
    mask = frames.read_mask(layout.mask_path(own / "out", 3, 1))
    assert mask.sum() == 50 * 100 and mask[100:150, 200:300].all()
    assert not frames.read_mask(layout.mask_path(own / "out", 12, 2)).any()
    names = pd.read_csv(own / "out" / "names.csv")
    assert names["source"].str.endswith("case12/b.png").sum() == 1 and len(names) == 5


def test_masks_may_lie_beside_their_frames(own, capsys):
    for path in (own / "labels").rglob("*.png"):
        path.rename(own / "scans" / path.relative_to(own / "labels"))
    assert main(["import-frames", str(own / "scans"), str(own / "scans"), str(own / "out")]) == 0
    assert capsys.readouterr().out.startswith("4 labelled frames of 2 patients")


def sixteen_bits(own):
    picture(own / "scans" / "case03" / "a.png", np.zeros((210, 580), np.uint16))


def other_size(own):
    picture(own / "labels" / "case03" / "a_mask.png", np.zeros((210, 500), np.uint8))


def no_masks(own):
    for path in (own / "labels").rglob("*.png"):
        path.unlink()


def broken(own):
    (own / "scans" / "case03" / "a.png").write_bytes(b"no picture")


@pytest.mark.parametrize(
    "spoil, options, message",
    [
        (sixteen_bits, [], "a.png: expected 8 bits a channel, found Pillow's mode I;16"),
        (other_size, [], "a_mask.png: expected a mask of its frame's shape (210, 580), found (210, 500)"),
        (no_masks, [], "labels: expected masks called as the frames in"),
        (broken, [], "a.png: expected a readable image, found"),
        (lambda own: None, ["--subject", r"patient(\d+)"], "--subject: expected a regular expression whose group is"),
        (lambda own: None, ["--subject", "("], "--subject: expected a regular expression whose group is"),
    ],
    ids=["16 bits", "a mask of another size", "no masks", "broken", "a pattern that fits nothing", "no pattern"],
)
def test_what_does_not_fit_is_named_and_leaves_nothing(spoil, options, message, own, capsys):
    spoil(own)
    assert imported(own, *options) == 2
    assert message in capsys.readouterr().err
    assert not (own / "out").exists()
