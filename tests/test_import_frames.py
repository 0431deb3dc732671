"""Import of a reader's own frames and masks, from folders of another layout and files of any kind."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nerveceg_lib.data import io
from nerveceg_tools.cli import main

MASK = "labels/case03/a_mask.png"
BLOB = np.zeros((210, 580), np.uint8)
BLOB[100:150, 200:300] = 1


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two patients with two colour PNG frames each, half as high as the competition's; a fifth frame has no mask."""
    for name, mask in {"case03/a": BLOB, "case03/b": 0 * BLOB, "case12/9": BLOB, "case12/10": 0 * BLOB}.items():
        write(tmp_path / "scans" / f"{name}.png", np.full((210, 580, 3), 100, np.uint8))
        write(tmp_path / "labels" / f"{name}_mask.png", mask)
    write(tmp_path / "scans" / "new.jpg", 0 * BLOB)
    return tmp_path


def import_frames(folder, *options, masks="labels"):
    return main(["import-frames", *(str(folder / name) for name in ("scans", masks, "out")), *options])


def test_frames_are_numbered_and_scaled_and_their_source_is_listed(folder, capsys):
    for name in (".ipynb_checkpoints/a.png", "__MACOSX/a.png", "case03/._a.png", "c.dcm", "d.webp", "e.webp"):
        (folder / "scans" / name).parent.mkdir(exist_ok=True)
        (folder / "scans" / name).touch()
    assert import_frames(folder) == 0
    printed = "4 labelled frames of 2 patients, 1 test frames\nwith a nerve: 2 (50%); median area 5,000 px of 243,600\n"
    assert capsys.readouterr().out == printed + "left out: 3 hidden, 2 .webp, 1 .dcm\n"
    names = pd.read_csv(folder / "out" / "names.csv")
    assert names[["subject", "image"]].values.tolist() == [[3, 1], [3, 2], [12, 1], [12, 2], [0, 1]]
    assert names[["set", "subject", "image"]].equals(io.list_frames(folder / "out")[0][["set", "subject", "image"]])
    assert names["source"].iloc[3].endswith("case12/10.png"), "9 comes before 10"
    frame = io.read_frame(io.image_path(folder / "out", 3, 1))
    assert (frame[:210] == 100).all() and not frame[210:].any()
    assert np.array_equal(io.read_mask(io.mask_path(folder / "out", 3, 1))[:210], BLOB)


def test_a_failed_import_leaves_nothing_behind(folder, capsys):
    write(folder / MASK, BLOB[:, 9:])
    message = "a_mask.png: expected a mask of its frame's shape (210, 580), found (210, 571)"
    assert import_frames(folder) == 2 and message in capsys.readouterr().err
    assert not (folder / "out").exists() and not list(folder.glob(".unfinished*"))


def test_values_of_the_nerve_and_the_place_of_the_patient_can_be_said(folder, capsys):
    write(folder / MASK, 1 - 2 * BLOB)
    for part in ("scans", "labels"):
        write(folder / part / "anna2/img5.png", BLOB)
    assert import_frames(folder, "--subject", r"(?:case|anna)(\d+)", "--nerve-values", "1", "255") == 0
    assert capsys.readouterr().out.startswith("5 labelled frames of 3 patients")
    assert io.read_mask(io.mask_path(folder / "out", 3, 1)).sum() == 210 * 580


def test_masks_beside_their_frames_and_odd_frames(folder, capsys):
    for path in (folder / "labels").rglob("*.png"):
        path.rename(folder / "scans" / path.relative_to(folder / "labels"))
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    write(folder / "scans" / "p7_1.jpg", BLOB[::-1, ::-1] * 255, exif=exif, quality=95)
    write(folder / "scans" / "p7_2.png", np.dstack([BLOB * 200, BLOB * 0 + 255]))
    for name, mask in {"p7_1": BLOB, "p7_2": BLOB, "p8_1": np.zeros((1, 2000), np.uint8)}.items():
        write(folder / "scans" / f"{name}_mask.png", mask)
    write(folder / "scans" / "p8_1.png", np.full((1, 2000), 90, np.uint8))
    assert import_frames(folder, masks="scans") == 0
    assert capsys.readouterr().out.startswith("7 labelled frames of 4 patients")
    for image in (1, 2):
        frame = io.read_frame(io.image_path(folder / "out", 7, image))
        assert np.array_equal(frame > 100, io.read_mask(io.mask_path(folder / "out", 7, image)))
