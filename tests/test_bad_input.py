"""Each row of docs/bad_input.md: the error is the message that the page shows, and nothing is written."""

import os
import pickle
import re
import resource
import shutil
import struct
from functools import partial

import cv2
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from PIL import Image

from nerveceg_lib import rle
from nerveceg_lib.data import io, prepared
from nerveceg_lib.data.cache import open_cache
from nerveceg_lib.data.splits import split_fold
from nerveceg_lib.inference.submission import write_submission
from nerveceg_lib.models import build_model
from nerveceg_lib.models.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, find_competition_data, notebook_folder, run_folder
from nerveceg_lib.runtime.io import write_csv, write_json
from nerveceg_lib.training import TrainingConfig
from nerveceg_tools import run
from nerveceg_tools.importers import folder, masks
from tests.cells import run_cells
from tests.conftest import REPOSITORY
from tests.test_rle import MALFORMED

PAGE = (REPOSITORY / "docs" / "bad_input.md").read_text()
ROWS = re.findall(r"^\| ([\w ]+: [^|]+?) \| (.+) \|$", PAGE, flags=re.MULTILINE)
CASES = {}  # row of the page -> function that gets a data set of its own, and ends in the row's message
GREY = np.full((420, 580), 90, np.uint8)
PNG = cv2.imencode(".png", GREY)[1].tobytes()


def content(data):
    return lambda path: path.write_bytes(data)


def pixels(pixels):
    return content(cv2.imencode(".tif", pixels)[1].tobytes())


def cut_off(path):
    path.write_bytes(path.read_bytes()[:1000])


def link(path):
    path.symlink_to(path.with_name("nowhere"))


def edit(path, pattern, new):
    """Replace the first match of the regular expression `pattern` in a file, which may be linked."""
    text = path.read_text()
    assert re.search(pattern, text)
    path.unlink()
    path.write_text(re.sub(pattern, new, text, count=1))


def tiff(height, width, offset_type=4):
    """A TIFF of a few bytes that claims to have so many pixels; type 4 of a number is an integer, 2 is text."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 100}
    entries = [struct.pack("<HHII", tag, offset_type if tag == 273 else 4, 1, tags[tag]) for tag in tags]
    return content(struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(entries) + bytes(104))


def without_permission(path, read):
    """Read `path` while it is unreadable, even if tests run as root."""
    path.chmod(0)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)
        read(path)
    finally:
        os.seteuid(user)
        path.chmod(0o755)


def with_file(path_of, spoil, data):
    path = path_of(data, 1, 1)
    whole = path.read_bytes()
    path.unlink()  # it is a link to another data set
    if spoil is cut_off:
        path.write_bytes(whole)
    spoil(path)
    assert len(open_cache(data, data / "out").index) == len(io.list_frames(data)[0])


def a_chunk_that_promises_gigabytes(data):
    path = data / "1_1.png"
    path.write_bytes(PNG[:33] + b"\xff\xff\x01\x03IDAT" + PNG[41:300])  # behind signature and header
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + 2**29, limits[1]))
    try:
        io.read_frame(path)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


FRAMES = {
    "cut off": cut_off,
    "zero bytes": content(b""),
    "text under an image's name": content(b"no image"),
    "a folder under a frame's name": lambda path: path.mkdir(),
    "dangling link": link,
    "wrong size": pixels(GREY[:, :400]),
    "colour": pixels(np.dstack([GREY] * 3)),
    "16 bits": pixels(GREY.astype(np.uint16)),
    "floats with NaN": pixels(np.full((420, 580), np.nan, np.float32)),
    "a header that promises gigabytes": tiff(65000, 65000),
    "text for a number in the header": tiff(420, 580, offset_type=2),
    "all black": pixels(0 * GREY),
    "PNG under a TIFF's name": content(PNG),
    "odd name": lambda path: path.with_name("left_1.tif").touch(),
    "leading zeros in the name": lambda path: path.with_name("01_1.tif").touch(),
    "thirty digits in the name": lambda path: path.with_name("1" * 30 + "_1.tif").touch(),
}
MASKS = {
    "missing": lambda path: None,
    "wrong size": pixels(GREY[:400]),
    "other values than 0 and 255": pixels(GREY),
}
CASES |= {f"frame: {row}": partial(with_file, io.image_path, spoil) for row, spoil in FRAMES.items()}
CASES |= {f"mask: {row}": partial(with_file, io.mask_path, spoil) for row, spoil in MASKS.items()}
CASES |= {
    "frame: no permission": lambda data: without_permission(io.image_path(data, 1, 1), io.read_frame),
    "frame: a PNG whose chunk promises gigabytes": a_chunk_that_promises_gigabytes,
}


def write_palette(path):
    image = Image.fromarray(BLOB, "P")
    image.putpalette([200, 200, 200, 255, 0, 0])  # the background is bright
    image.save(path)


def saved(pixels, ending=".png", **options):
    return lambda path: Image.fromarray(pixels).save(path.with_suffix(ending), **options)


def with_imported_mask(save, values, data):
    masks.check_values(values)
    save(data / "a.png")
    (path,) = data.glob("a.*")
    assert masks.read_mask(path, values)[0].sum() == BLOB.sum()


BLOB = np.zeros((210, 580), np.uint8)
BLOB[100:150, 200:300] = 1
CLASSES, NOISE = BLOB + np.roll(2 * BLOB, 150, axis=1), np.random.default_rng(0).integers(0, 255, BLOB.shape, np.uint8)
COLOURS = (CLASSES[..., None] == [[[1, 2, 9]]]) * np.uint8(255)  # red, green
IMPORTED_MASKS = {
    "a palette with a bright background": (write_palette, ()),
    "the shape in the transparency of white": (saved(np.dstack([BLOB * 0 + 255] * 3 + [BLOB * 255])), ()),
    "red on black": (saved(np.dstack([BLOB * 255, BLOB * 0, BLOB * 0])), ()),
    "one bit": (saved(BLOB > 0), ()),
    "0 and 77": (saved(BLOB * 77), ()),
    "JPEG of black and white": (saved(BLOB * 255, ".jpg", quality=75), ()),
    "JPEG of grey": (saved(NOISE, ".jpg", quality=75), ()),
    "JPEG of 0 and 1": (saved(BLOB, ".jpg", quality=75), ()),
    "inverted": (saved(1 - BLOB), ()),
    "inverted and said so": (saved(1 - BLOB), ("0",)),
    "two classes": (saved(CLASSES), ()),
    "two colours": (saved(COLOURS), ()),
    "one of two colours chosen": (saved(COLOURS), ("#ff0000",)),
    "numbers for colours": (saved(COLOURS), ("2",)),
    "all values but 0 chosen": (saved(BLOB * 3), ("any",)),
    "a value that is none": (saved(BLOB), ("red",)),
    "one of two classes chosen": (saved(CLASSES), ("2",)),
    "a frame in place of the mask": (saved(NOISE), ()),
    "one value everywhere": (saved(BLOB * 0 + 9), ()),
    "several pages": (saved(BLOB, ".tif", save_all=True, append_images=[Image.fromarray(BLOB)]), ()),
    "16 bits": (saved(BLOB * np.uint16(1)), ()),
    "text": (content(b"no image"), ()),
    "too many pixels": (saved(np.zeros((4000, 4001), np.uint8)), ()),
}
CASES |= {f"imported mask: {row}": partial(with_imported_mask, *case) for row, case in IMPORTED_MASKS.items()}


def with_imported_frames(names, subject, data):
    for name in ("scans/3_1.png", "labels/3_1.png", *names):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        saved(BLOB, name[-4:])(data / name)
    folder.import_frames(data / "scans", data / "labels", data / "out", folder.Layout(subject))


IMPORTED_NAMES = {  # of a frame and its mask; what they are
    "two masks": (["labels/3_1_mask.png"], ""),
    "one name with two endings": (["scans/3_1.bmp"], ""),
    "a folder without a number": (["scans/anna/img1.png", "labels/anna/img1.png"], ""),
    "a folder with three numbers": (["scans/1.2.840/a.png", "labels/1.2.840/a.png"], ""),
    "one number": (["scans/img1.png", "labels/img1.png"], ""),
    "ten digits": (["scans/1234567890_1.png", "labels/1234567890_1.png"], ""),
    "a pattern that fits no name": ([], r"patient(\d+)"),
    "a pattern that is none": ([], "("),
}
CASES |= {f"imported frame: {row}": partial(with_imported_frames, *case) for row, case in IMPORTED_NAMES.items()}


def with_table(text, data):
    (data / "masks.csv").write_bytes(text)
    assert io.read_masks_csv(data / "masks.csv").to_dict("list") == {"img": [1, 2], "pixels": ["", "5 3"]}


GOOD = b"img,pixels\n1,\n2,5 3\n"
TABLES = {
    "empty": b"",
    "binary": bytes(range(256)),
    "other column names": b"image,mask\n1,\n",
    "spaces in column names": b"img, pixels\n1,\n",
    "too many fields": GOOD + b"3,1 2,4\n",
    "too many fields in every row": b"img,pixels\n1,1 2,\n2,3 4,\n",
    "an id that is no number": GOOD + b"three,\n",
    "an id that is negative": GOOD + b"-3,\n",
    "a row twice": GOOD + b"2,\n",
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "Windows line ends": GOOD.replace(b"\n", b"\r\n"),
}
FEW = pd.DataFrame({"img": [1], "pixels": [""]})
CASES |= {f"table: {row}": partial(with_table, text) for row, text in TABLES.items()}
CASES |= {f"rle: {row}": lambda data, text=text: rle.decode(text, (3, 4)) for row, (text, _) in MALFORMED.items()}
CASES |= {
    "table: missing": lambda data: io.read_masks_csv(data / "masks.csv"),
    "table: a test frame without a prediction": lambda data: write_submission(
        data / "out", FEW, data / "sample_submission.csv"
    ),
}


def with_run(file, pattern, new, read, data):
    """Spoil a file of a run in which notebook 1 has run, or of its data or cache, and call `read`."""
    notebook, names = notebook_folder("tiny", NOTEBOOKS[0]), {"data_dir": str(data), "cache": str(data / "cache")}
    cache = open_cache(data, data / "cache")
    table = cache.index.assign(split="train", fold=0)
    table.loc[table["set"] == "test", ["split", "fold"]] = "test", -1
    write_csv(notebook / "frames.csv", table)
    write_json(notebook / "dataset.json", {**names, "digest": cache.digest, "dataset": "data", "difficulty": ""})
    inference = notebook_folder("tiny", NOTEBOOKS[3])
    write_csv(inference / "test.csv", table[table["set"] == "test"].assign(pixels="", keep=False))
    gate = {"threshold": 0.5, "min_area": 0, "cleanup": "none", "system": {}, "basis": {"tiny": {}}}
    write_json(inference / "gate.json", gate)
    places = {"frames.csv": notebook, "dataset.json": notebook, "gate.json": inference}
    edit(places.get(file, data) / file, pattern, new)
    read()


load, check_masks = partial(prepared.load_frames, "tiny"), partial(run_cells, NOTEBOOKS[5])
describe = partial(prepared.describe_dataset, "tiny")
CASES |= {
    "mask: shifted against train_masks.csv": partial(with_run, "train_masks.csv", r"(?<=,)\d+(?= )", "1", check_masks),
    "table: a training frame without a row": partial(with_run, "train_masks.csv", r"\n6,8,.*", "", check_masks),
    "split: a patient on both sides": partial(with_run, "frames.csv", "train,0\n", "heldout,0\n", load),
    "older release: frame cache": partial(with_run, "cache/manifest.json", '"format": 3', '"format": 1', load),
    "older release: description of the data": partial(with_run, "dataset.json", '"dataset"', '"name"', describe),
    "older release: gate": partial(with_run, "gate.json", "system", "of", check_masks),
}


def with_folder(spoil, data):
    spoil(data)
    open_cache(find_competition_data(str(data)), data / "out")


def make_profile(data):
    (data / "mine.yaml").write_text("run: [demo")
    run.load_profile(str(data / "mine.yaml"))


def frames_of(data):
    return list((data / "train").iterdir())


TWO_FOLDS = pd.DataFrame({"split": ["train"] * 2, "fold": [0, 1], "has_nerve": [1, 1]})
CASES |= {
    "folder: missing": partial(with_folder, shutil.rmtree),
    "folder: a file": partial(with_folder, lambda data: shutil.rmtree(data) or data.touch()),
    "folder: dangling link": partial(with_folder, lambda data: shutil.rmtree(data) or link(data)),
    "folder: no permission": lambda data: without_permission(data, lambda data: find_competition_data(str(data))),
    "folder: without train/": partial(with_folder, lambda data: shutil.rmtree(data / "train")),
    "folder: train/ empty": partial(with_folder, lambda data: [path.unlink() for path in frames_of(data)]),
    "folder: train/ without frames": partial(
        with_folder, lambda data: [p.rename(p.with_suffix(".txt")) for p in frames_of(data)]
    ),
    "parameter: unknown name": lambda data: run.resolve_parameters("demo", {"epochs": "3"}),
    "parameter: name of an older release": lambda data: run.resolve_parameters("demo", {"segmenter_epochs": "3"}),
    "parameter: wrong type": lambda data: run.resolve_parameters("demo", {"seed": "many"}),
    "parameter: out of range": lambda data: TrainingConfig(epochs=0, batch_size=1, lr=0.1),
    "parameter: several out of range": lambda data: run.resolve_parameters("demo", {"seed": 2**33, "bias.height": "1"}),
    "parameter: strategy that does not exist": lambda data: TrainingConfig(1, 1, 0.1, strategy="dpp"),
    "parameter: a classifier for the segmenter": lambda data: run.resolve_parameters(
        "demo", {"segmenter.model": "resnet18"}
    ),
    "parameter: of a notebook that does not run": lambda data: run.run("demo", {"segmenter.epochs": 50}, "04", False),
    "parameter: fold that does not exist": lambda data: split_fold(TWO_FOLDS, fold=9),
    "parameter: run name with a path in it": lambda data: run_folder("../out"),
    "parameter: profile that is no YAML": make_profile,
}


class Payload:
    """What a hostile pickle could hold: unpickling it writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def with_checkpoint(spoil, data):
    path, options = data / "network.pt", {"base_channels": 2}
    save_checkpoint(path, build_model("unet", **options), {"model": "unet", "options": options, "size": [8, 8]})
    load_checkpoint(path)
    spoil(path)
    load_checkpoint(path)


CHECKPOINTS = {
    "cut off": cut_off,
    "text": content(b"no weights"),
    "of another network": lambda path: torch.save(build_model("r2unet", base_channels=2).state_dict(), path),
    "of an older release": lambda path: edit(path.with_suffix(".json"), '"format": 5', '"format": 1'),
    "without its metadata": lambda path: path.with_suffix(".json").unlink(),
    "metadata that is no JSON": lambda path: path.with_suffix(".json").write_text("{"),
    "pickle with code in it": lambda path: path.write_bytes(pickle.dumps(Payload(path.with_name("out")))),
}
CASES |= {f"checkpoint: {row}": partial(with_checkpoint, spoil) for row, spoil in CHECKPOINTS.items()}


@pytest.mark.parametrize(("row", "answer"), ROWS, ids=[row for row, _ in ROWS])
def test_bad_input_is_answered_as_the_page_says(row, answer, phantom, tmp_path, root, monkeypatch):
    monkeypatch.chdir(run.NOTEBOOK_FOLDER)
    data = shutil.copytree(phantom, tmp_path / "data", copy_function=os.link)
    if answer.startswith("accepted"):
        CASES[row](data)
        return
    with pytest.raises(InputError) as error:
        CASES[row](data)
    shown = re.match(r"(`+)(.+?)\1(?:;|$)", answer)[2]
    message = ".*".join(map(re.escape, re.split(r"\s*…\s*", shown)))
    assert re.search(message, str(error.value), re.DOTALL), f"{error.value}"
    assert not (data / "out").exists()


def test_the_page_has_every_case_once():
    assert sorted(row for row, _ in ROWS) == sorted(CASES)


def test_the_payload_would_run_where_pickles_are_trusted(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "out"))).close()
    assert (tmp_path / "out").exists()
