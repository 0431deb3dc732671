"""Import of a reader's own frames and masks, from folders of another layout and files of any kind."""

import hashlib

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from nerveceg_lib.data import io
from nerveceg_lib.data.cache import open_cache
from nerveceg_tools.cli import main
from nerveceg_tools.importers import bus_uclm

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
    assert capsys.readouterr().out == (
        "4 labelled frames of 2 patients, 1 test frames\npatients: 03 (case03/a.png), 12 (case12/9.png)\n"
        "with a nerve: 2 (50%); median area 5,000 px of 243,600\nleft out: 3 hidden, 2 .webp, 1 .dcm\n"
    )
    listing = io.list_frames(folder / "out")[0]
    assert listing[["subject", "image"]].values.tolist() == [[3, 1], [3, 2], [12, 1], [12, 2], [0, 1]]
    frames = io.describe_frames(folder / "out", listing)
    assert frames["patient"].tolist() == ["03", "03", "12", "12", ""]
    assert frames["source"].tolist()[2:] == ["case12/9.png", "case12/10.png", "new.jpg"], "9 comes before 10"
    frame = io.read_frame(io.image_path(folder / "out", 3, 1))
    assert (frame[:210] == 100).all() and not frame[210:].any()
    assert np.array_equal(io.read_mask(io.mask_path(folder / "out", 3, 1))[:210], BLOB)


def test_all_faults_are_named_and_nothing_is_left_behind_or_they_are_skipped(folder, capsys):
    write(folder / MASK, BLOB[:, 9:])
    write(folder / "labels/case12/9_mask.png", np.arange(210 * 580, dtype=np.uint8).reshape(BLOB.shape))
    (folder / "scans/case12/10.png").write_text("no image")
    assert import_frames(folder) == 2
    messages = capsys.readouterr().err.splitlines()
    assert "a_mask.png: expected a mask of its frame's shape (210, 580) or proportions, found (210, 571)" in messages[0]
    assert "9_mask.png: expected the value 0 and one for what is sought" in messages[1]
    assert "10.png: expected a readable image" in messages[2] and len(messages) == 3
    assert not (folder / "out").exists() and not list(folder.glob(".unfinished*"))
    write(folder / "labels/case03/b_mask.png", BLOB)
    assert import_frames(folder, "--on-bad", "skip") == 0
    assert "1 labelled frames of 1 patients" in (printed := capsys.readouterr().out)
    assert "left out: 3 with a fault (see skipped.csv)" in printed
    assert pd.read_csv(folder / "out/skipped.csv")["source"].tolist() == [
        "case03/a.png",
        "case12/9.png",
        "case12/10.png",
    ]


def test_patients_with_letters_masks_in_colour_and_of_another_size_and_a_table_of_frames(tmp_path, capsys):
    red, green, black = ([255, 0, 0], [0, 255, 0], [0, 0, 0])
    colours = {"ANNA_001": red, "ANNA_002": black, "BERT_001": green, "BERT_002": red, "CARL_001": green}
    for name, colour in colours.items():
        write(tmp_path / f"scans/{name}.png", np.full((420, 580), 90, np.uint8))
        write(tmp_path / f"labels/{name}.png", BLOB[:, :290, None] * np.uint8(colour))  # half as large
    (tmp_path / "t.csv").write_text("image,keep,clean\n" + "\n".join(f"{n}.png,{n != 'CARL_001'},1" for n in colours))
    assert import_frames(tmp_path) == 2
    assert "5 frames (ANNA_001.png, ANNA_002.png, BERT_001.png): expected two numbers" in capsys.readouterr().err
    options = ["--subject", "^([A-Z]+)_", "--frames", str(tmp_path / "t.csv"), "--keep", "keep", "--target", "lesion"]
    assert import_frames(tmp_path, *options) == 2
    assert "masks have different values, ['#00ff00', '#ff0000']; --mask-values says which" in capsys.readouterr().err
    assert import_frames(tmp_path, *options, "--mask-values", "#ff0000") == 0
    assert capsys.readouterr().out == (
        "4 labelled frames of 2 patients, 0 test frames\npatients: ANNA (ANNA_001.png), BERT (BERT_001.png)\n"
        "with a lesion: 2 (50%); median area 18,000 px of 243,600\nmasks scaled to their frame: 4\n"
        "left out: 1 by the table\nvalues in masks that are not sought: #00ff00 in 1\n"
    )
    frames = open_cache(tmp_path / "out", tmp_path / "cache")
    assert frames.target == "lesion" and frames.index["patient"].tolist() == ["ANNA", "ANNA", "BERT", "BERT"]
    assert frames.index["has_nerve"].tolist() == [1, 0, 0, 1] and frames.index["clean"].all()
    assert np.array_equal(frames.masks[0], np.kron(BLOB[:, :290], np.ones((2, 2), np.uint8)))


def test_bus_uclm_as_it_is_published(tmp_path, capsys, monkeypatch):
    info = "Image;Resolution;Label;Doppler;Marks;Combined\n"
    for name, marks in {
        "ALWI_000": "Yes",
        "ALWI_001": "No",
        "CHVI_000": "No",
        "CHCO_000": "No",
        "HESN_000": "No",
    }.items():
        write(tmp_path / f"B/images/{name}.png", np.full((606, 856), 90, np.uint8))
        write(
            tmp_path / f"B/masks/{name}.png",
            np.ones((606 - (name == "HESN_000"), 856, 1), np.uint8) * np.uint8([0, 255, 0]),
        )
        info += f"{name}.png;856x606;Benign;No;{marks};No\n"
    (tmp_path / "B/INFO.csv").write_text("\ufeff" + info)
    command = ["import-bus-uclm", str(tmp_path), str(tmp_path / "out")]
    assert main(command) == 2 and "INFO.csv: expected the published version of 2025" in capsys.readouterr().err
    monkeypatch.setattr(bus_uclm, "INFO_SHA256", hashlib.sha256((tmp_path / "B/INFO.csv").read_bytes()).hexdigest())
    assert main(command) == 0 and "3 labelled frames of 2 patients" in capsys.readouterr().out
    names = pd.read_csv(tmp_path / "out/names.csv")
    assert names[["patient", "clean", "calipers"]].values.tolist() == [["ALWI", 0, 1], ["ALWI", 1, 0], ["CHVI", 1, 0]]
    assert "10.1038/s41597-025-04562-3" in (tmp_path / "out/ATTRIBUTION.txt").read_text()


def test_values_of_the_nerve_and_the_place_of_the_patient_can_be_said(folder, capsys):
    write(folder / MASK, 1 - 2 * BLOB)
    for part in ("scans", "labels"):
        write(folder / part / "anna2/img5.png", BLOB)
    assert import_frames(folder, "--subject", r"(?:case|anna)(\d+)", "--mask-values", "1", "255") == 0
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
