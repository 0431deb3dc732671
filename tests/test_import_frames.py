"""Import of a reader's own frames and masks, from folders of another layout and files of any kind."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nerveceg_lib.data import io
from nerveceg_tools.cli import main

FRAME, MASK = "scans/case03/a.png", "labels/case03/a_mask.png"
BLOB = np.zeros((210, 580), np.uint8)
BLOB[100:150, 200:300] = 1
AREA = 50 * 100
CLASSES, NOISE = BLOB + np.roll(2 * BLOB, 150, axis=1), np.random.default_rng(0).integers(0, 255, BLOB.shape, np.uint8)


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


def palette(path):
    image = Image.fromarray(BLOB, "P")
    image.putpalette([200, 200, 200, 255, 0, 0])  # the background is bright
    image.save(path)


def pages(path):
    Image.fromarray(BLOB).save(path, "TIFF", save_all=True, append_images=[Image.fromarray(BLOB)])


def saved(pixels, **options):
    return lambda path: write(path, pixels, **options)


def jpeg(pixels):
    return lambda path: write(path.with_suffix(".jpg"), pixels, quality=75)


@pytest.mark.parametrize(
    ("save", "options", "outcome"),
    [
        (palette, [], AREA), (saved(np.dstack([BLOB * 0 + 255] * 3 + [BLOB * 255])), [], AREA),
        (saved(np.dstack([BLOB * 0] * 3 + [BLOB * 255])), [], AREA), (jpeg(BLOB * 255), [], AREA),
        (saved(BLOB * 77), [], AREA), (saved(BLOB > 0), [], AREA),
        (saved(np.dstack([BLOB * 255, BLOB * 0, BLOB * 0])), [], AREA),
        (saved(1 - BLOB), [], "96% of the frame is nerve; `--nerve-values 0` takes the rest"),
        (saved(1 - BLOB), ["--nerve-values", "0"], AREA), (saved(CLASSES), ["--nerve-values", "2"], AREA),
        (saved(CLASSES), [], "expected the value 0 and one for the nerve, found [0, 1, 2]; see --nerve-values"),
        (saved(NOISE), [], "found [0, 1, 2, 3, 4, 5] and more; see --nerve-values"), (saved(BLOB * 0 + 9), [], "[9]"),
        (jpeg(NOISE), [], "expected a mask in black and white, found"), (jpeg(BLOB), [], "values from 0 to 1; PNG"),
        (pages, [], "expected one picture in a file, found 2; save each"),
        (saved(BLOB[:, 9:]), [], "expected a mask of its frame's shape (210, 580), found (210, 571)"),
        (saved(BLOB * np.uint16(1)), [], "expected 8 bits per channel, found Pillow's mode I;16"),
        (lambda path: path.write_bytes(b"no image"), [], "a_mask.png: expected a readable image, found 8 bytes that"),
        (saved(np.zeros((4000, 4001), np.uint8)), [], "a_mask.png: expected a readable image"),
    ],
)  # fmt: skip
def test_masks_of_every_kind_are_read_rightly_or_refused(save, options, outcome, folder, capsys):
    (folder / MASK).unlink()
    save(folder / MASK)
    assert import_frames(folder, *options) == (2 if isinstance(outcome, str) else 0)
    if isinstance(outcome, str):
        assert outcome in capsys.readouterr().err
        assert not (folder / "out").exists() and not list(folder.glob(".unfinished*"))
    else:
        assert io.read_mask(io.mask_path(folder / "out", 3, 1)).sum() == outcome


@pytest.mark.parametrize(
    ("added", "options", "message"),
    [
        ("case03/a.png", [], "a.png: expected one mask, found "),
        ("case03/a_mask.tif", [], "a_mask.tif: expected one file of this name, found a_mask.png beside it"),
        ("anna/img1.png", [], "anna/img1.png: expected one number in its folders' names, found 0; --subject can say"),
        ("1.2.840/a.png", [], "1.2.840/a.png: expected one number in its folders' names, found 3"),
        ("img1.png", [], "img1.png: expected two numbers, the patient's and the image's, found 1"),
        ("1234567890_1.png", [], "patient's number of at most 9 digits in '1234567890_1.png', found 1234567890"),
        ("1_1.png", ["--subject", r"patient(\d+)"], "--subject: expected a patient's number of at most 9"),
        ("1_1.png", ["--subject", "("], "--subject: expected a regular expression with a group, found '('"),
    ],
)
def test_names_that_can_be_read_in_two_ways_are_refused(added, options, message, folder, capsys):
    for part in ("scans", "labels"):
        write(folder / part / added, BLOB)
    assert import_frames(folder, *options) == 2 and message in capsys.readouterr().err


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
