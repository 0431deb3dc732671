"""The USGRA-seg import, on small sources that are drawn here and on the real set where it is at hand."""

import io
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from nerveceg_lib import rle
from nerveceg_lib.data import windows
from nerveceg_lib.data.usgra import import_usgra
from nerveceg_lib.errors import InputError
from tests.conftest import SHARED

REAL = SHARED / "data" / "usgra-seg"
FIELD = (40, 30, 500, 470)  # x0, y0, x1, y1 of the drawn scans in frames of 512 x 534 pixels
RED, GREEN, YELLOW, WHITE = (0, 0, 128), (0, 128, 0), (0, 255, 255), (255, 255, 255)
DOUBLE = 6  # this frame is frame 2 again, in another size


def draw_frame(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A scan of smooth noise in a black frame with text, and its mask: a nerve left or right, a vessel."""
    rng = np.random.default_rng(number)
    noise = cv2.resize(rng.integers(30, 200, (44, 46), dtype=np.uint8), (460, 440), interpolation=cv2.INTER_CUBIC)
    image, mask = np.zeros((512, 534, 3), np.uint8), np.zeros((512, 534, 3), np.uint8)
    x0, y0, x1, y1 = FIELD
    image[y0:y1, x0:x1] = noise[..., None]
    cv2.putText(image, "L12 40mm", (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.4, WHITE, 1)
    cv2.rectangle(image, (8, 40), (28, 60), YELLOW, -1)
    centre = (110 + 320 * (number % 2), 140 + 10 * number)
    cv2.ellipse(mask, centre, (34, 20), 20, 0, 360, RED, -1)
    cv2.circle(mask, (270, 420), 15, GREEN, -1)
    return image, mask


def write_source(root: Path, numbers: range = range(8)) -> Path:
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "LICENSE").write_text("Attribution 4.0 International")
    for number in numbers:
        image, mask = draw_frame(2 if number == DOUBLE else number)
        if number == DOUBLE:
            image = cv2.resize(image, (640, 614), interpolation=cv2.INTER_AREA)
            mask = cv2.resize(mask, (640, 614), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(root / "images" / f"{number:04}.png"), image)
        cv2.imwrite(str(root / "masks" / f"{number:04}.png"), mask)
    return root


quiet = partial(import_usgra, progress=False, windows_per_frame=8)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory):
    root = tmp_path_factory.mktemp("imported")
    counts = quiet(source, root, test_share=0.3)
    return root, counts, pd.read_csv(root / "windows.csv")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_row(root: Path, row) -> tuple[np.ndarray, str]:
    """Image and RLE of a row of windows.csv."""
    if row.split == "test":
        table = pd.read_csv(root / "solution.csv", keep_default_na=False).set_index("img")["pixels"]
        return cv2.imread(str(root / "test" / f"{row.img}.tif"), cv2.IMREAD_UNCHANGED), table[row.img]
    table = pd.read_csv(root / "train_masks.csv", keep_default_na=False).set_index(["subject", "img"])["pixels"]
    path = root / "train" / f"{row.subject}_{row.img}.tif"
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED), table[row.subject, row.img]


def test_files_agree_with_tables(imported):
    root, counts, table = imported
    train, test = table[table["split"] == "train"], table[table["split"] == "test"]
    names = [f"train/{s}_{i}{end}" for s, i in zip(train["subject"], train["img"], strict=True)
             for end in (".tif", "_mask.tif")]  # fmt: skip
    names += [f"test/{i}.tif" for i in range(1, len(test) + 1)]
    names += [
        "ATTRIBUTION.txt",
        "LICENSE",
        "sample_submission.csv",
        "solution.csv",
        "train_masks.csv",
        "windows.csv",
    ]
    assert sorted(files(root)) == sorted(names)
    assert (counts.train, counts.test) == (len(train), len(test))
    assert counts.nerve == table["nerve"].sum()
    assert (counts.frames, counts.subjects) == (table["source"].nunique(), table["subject"].nunique())
    sample = pd.read_csv(root / "sample_submission.csv")
    assert sample["img"].tolist() == list(range(1, len(test) + 1))
    assert set(sample["pixels"]) == {"1 1"}


def test_pixels_labels_and_rle_agree(imported):
    root, _, table = imported
    for row in table.itertuples():
        image, text = read_row(root, row)
        assert image.shape == rle.FRAME_SHAPE
        assert image.dtype == np.uint8
        mask = rle.decode(text)
        assert mask.any() == row.nerve
        if row.split == "train":
            stored = cv2.imread(str(root / "train" / f"{row.subject}_{row.img}_mask.tif"), cv2.IMREAD_UNCHANGED)
            np.testing.assert_array_equal(stored, mask * 255)
        if row.nerve:
            assert windows.AREA_LIMITS[0] * 0.97 <= mask.sum() <= windows.AREA_LIMITS[1] * 1.03
            assert cv2.connectedComponents(mask)[0] == 2
            edge = np.concatenate([mask[[0, -1]].ravel(), mask[:, [0, -1]].ravel()])
            assert not edge.any(), "a nerve that the window cuts is no clear nerve"


def test_windows_show_what_their_box_says(source, imported):
    """The window is the box, rescaled; its mask is the red in the box; none holds border, text or slivers."""
    root, _, table = imported
    for row in table.itertuples():
        frame = cv2.imread(str(source / "images" / row.source), cv2.IMREAD_GRAYSCALE)
        red = cv2.imread(str(source / "masks" / row.source))[..., 2] > 64
        box = np.s_[row.y : row.y + row.h, row.x : row.x + row.w]
        scale = frame.shape[1] / 534
        x0, y0, x1, y1 = (scale * edge for edge in FIELD)
        assert x0 <= row.x <= row.x + row.w <= x1 + 1
        assert y0 <= row.y <= row.y + row.h <= y1 + 1
        assert red[box].sum() in (0, red.sum())
        assert red[box].any() == row.nerve
        assert 1 <= row.upscaling <= windows.MAX_UPSCALING
        image, text = read_row(root, row)
        assert abs(image.mean() - frame[box].mean()) < 2
        back = cv2.resize(rle.decode(text), (row.w, row.h), interpolation=cv2.INTER_AREA)
        assert np.sum((back > 0) != red[box]) <= 0.2 * red[box].sum()


def test_presence_as_asked(source, tmp_path, imported):
    assert 0.36 <= imported[2]["nerve"].mean() <= 0.46
    quiet(source, tmp_path, presence=0.6)
    assert 0.54 <= pd.read_csv(tmp_path / "windows.csv")["nerve"].mean() <= 0.66


def test_split_by_subject_and_twins_share_one(imported):
    _, _, table = imported
    assert table.groupby("subject")["split"].nunique().max() == 1
    assert table.groupby("source")["split"].nunique().max() == 1
    assert table["split"].nunique() == 2
    subjects = table.groupby("source")["subject"].first()
    assert all(
        subject == (3 if name == f"{DOUBLE:04}.png" else int(name[:4]) + 1) for name, subject in subjects.items()
    )
    assert {"0002.png", f"{DOUBLE:04}.png"} <= set(subjects.index)


def test_no_test_share_leaves_test_empty(source, tmp_path):
    assert quiet(source, tmp_path, test_share=0).test == 0
    assert pd.read_csv(tmp_path / "solution.csv").empty


def test_same_seed_same_files(source, imported, tmp_path):
    quiet(source, tmp_path / "again", test_share=0.3)
    quiet(source, tmp_path / "other", test_share=0.3, seed=1)
    assert files(tmp_path / "again") == files(imported[0])
    assert files(tmp_path / "other") != files(imported[0])


def test_attribution(imported):
    root = imported[0]
    text = (root / "ATTRIBUTION.txt").read_text()
    for part in ("tmkand/usgra-seg", "CC BY 4.0", "https://creativecommons.org/licenses/by/4.0/", "rescaled"):
        assert part in text
    assert (root / "LICENSE").read_text() == "Attribution 4.0 International"


def frame_with(pieces: np.ndarray, coloured: np.ndarray | None = None) -> windows.Frame:
    grey = np.full(pieces.shape, 90, np.uint8)
    nothing = np.zeros(pieces.shape, bool)
    return windows.Frame("0000.png", grey, pieces, nothing if coloured is None else coloured, (4, 8, 530, 470))


def test_two_nerves_never_share_a_window_and_colour_none():
    pieces, coloured = np.zeros((512, 534), np.int32), np.zeros((512, 534), bool)
    cv2.ellipse(pieces, (90, 100), (30, 20), 0, 0, 360, 1, -1)
    cv2.ellipse(pieces, (400, 160), (30, 20), 0, 0, 360, 2, -1)
    coloured[300, 250] = True
    chosen = windows.choose(frame_with(pieces, coloured), 20, np.random.default_rng(0))
    assert set(chosen["piece"]) == {0, 1, 2}
    for row in chosen.itertuples():
        box = np.s_[row.y : row.y + row.h, row.x : row.x + row.w]
        assert set(np.unique(pieces[box])) - {0} == {row.piece} - {0}
        assert not coloured[box].any()


def test_nerve_too_large_or_dark_frame_gives_nothing():
    large = np.zeros((512, 534), np.int32)
    cv2.ellipse(large, (267, 200), (160, 120), 0, 0, 360, 1, -1)
    frame = frame_with(large)
    assert not windows.choose(frame, 20, np.random.default_rng(0))["piece"].any()
    dark = windows.Frame("0.png", frame.grey * 0, large * 0, frame.coloured, frame.field)
    assert windows.choose(dark, 20, np.random.default_rng(0)).empty
    assert windows.find_field(dark.grey) == (0, 0, 0, 0)
    tiny = windows.Frame("0.png", frame.grey, large, frame.coloured, (0, 0, 100, 100))
    assert windows.choose(tiny, 20, np.random.default_rng(0)).empty


def test_thin_evens_out_presence_at_every_scale():
    small, wide = {"w": 240, "depth": 0.1}, {"w": 480, "depth": 0.1}
    rows = (
        [small | {"piece": 0}] * 60
        + [small | {"piece": 1}] * 10
        + [wide | {"piece": 1}] * 50
        + [wide | {"piece": 0}] * 20
    )
    kept = windows.thin(pd.DataFrame(rows), 0.4, np.random.default_rng(0))
    counts = kept.assign(nerve=kept["piece"] > 0).groupby(["w", "nerve"]).size().to_dict()
    assert counts == {(240, False): 15, (240, True): 10, (480, False): 20, (480, True): 13}


def remove_masks(root: Path) -> None:
    for mask in (root / "masks").iterdir():
        mask.unlink()
    (root / "masks").rmdir()


def rename_images(root: Path) -> None:
    (root / "images").rename(root / "pictures")


def drop_a_mask(root: Path) -> None:
    (root / "masks" / "0001.png").unlink()


def spoil_an_image(root: Path) -> None:
    (root / "images" / "0001.png").write_bytes(b"no image")


def crop_a_mask(root: Path) -> None:
    cv2.imwrite(str(root / "masks" / "0001.png"), np.zeros((500, 534, 3), np.uint8))


def name_by_word(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder / "0001.png").rename(root / folder / "elbow.png")


def number_twice(root: Path) -> None:
    for folder in ("images", "masks"):
        (root / folder / "1.png").write_bytes((root / folder / "0001.png").read_bytes())


def erase_nerves(root: Path) -> None:
    for mask in (root / "masks").iterdir():
        cv2.imwrite(str(mask), np.zeros((512, 534, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_masks, "found images/ without masks/, expected both"),
        (rename_images, "found no images/.*expected a folder with images/ and masks/"),
        (drop_a_mask, "0001.png: found no mask, expected .*0001.png"),
        (spoil_an_image, "0001.png: cannot be read, expected a PNG"),
        (crop_a_mask, r"0001.png: found \(500, 534\) pixels, expected \(512, 534\)"),
        (name_by_word, "elbow.png: expected a number"),
        (number_twice, "1.png: expected a number of its own"),
        (erase_nerves, "found no windows with and without a nerve"),
    ],
)  # fmt: skip
def test_damaged_source_is_one_clear_error(tmp_path, damage, message):
    damage(write_source(tmp_path / "source", range(2)))
    with pytest.raises(InputError, match=message):
        quiet(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is written before the source is known to be good"


def test_destination_must_be_empty(source, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    for taken in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(InputError, match="already there, expected a new or empty folder"):
            quiet(source, taken)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


@pytest.mark.parametrize("wrong", [{"presence": 0}, {"presence": 1}, {"test_share": 1}, {"windows_per_frame": 0}])
def test_parameters_out_of_range(source, tmp_path, wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))}={next(iter(wrong.values()))}"):
        quiet(source, tmp_path / "out", **wrong)


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.fixture
def served(tmp_path):
    """A folder and the address under which a local web server offers it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            """Keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_download_in_the_repository_layout(source, served, tmp_path):
    """Like the archive GitHub makes: one top folder, dataset/ and within it the authors' own test half."""
    folder, address = served
    members = {"usgra-seg-main/README.md": b"", "usgra-seg-main/LICENSE": b"licence"}
    for name, content in files(source).items():
        if name.endswith(".png"):
            half = "dataset/test" if name.endswith("0003.png") else "dataset"
            members[f"usgra-seg-main/{half}/{name}"] = content
    (folder / "main.zip").write_bytes(zipped(members))
    quiet("download", tmp_path / "a", url=f"{address}/main.zip")
    quiet(None, tmp_path / "b", url=(folder / "main.zip").as_uri())
    quiet(source, tmp_path / "local")
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "local") | {"LICENSE": b"licence"}


@pytest.mark.parametrize("member", ["../evil.png", "images/../../../evil.png", "/evil.png"])
def test_archive_members_must_stay_inside(served, tmp_path, member):
    folder, address = served
    (folder / "main.zip").write_bytes(zipped({"images/0000.png": b"", member: b"evil"}))
    with pytest.raises(InputError, match="expected paths that stay inside the archive"):
        quiet("download", tmp_path / "out", url=f"{address}/main.zip")
    assert not list(tmp_path.rglob("evil.png"))


def test_failed_downloads_are_one_clear_error(served, tmp_path):
    folder, address = served
    (folder / "page.zip").write_bytes(b"<html>not an archive</html>")
    for url in (f"{address}/absent.zip", "http://127.0.0.1:9/closed.zip", "no address"):
        with pytest.raises(InputError, match="could not be fetched .*local copy's folder can be given instead"):
            quiet("download", tmp_path / "out", url=url)
    with pytest.raises(InputError, match="found no zip archive, expected one; a local copy's folder can be given"):
        quiet("download", tmp_path / "out", url=f"{address}/page.zip")


@pytest.mark.skipif(not REAL.is_dir(), reason="needs NERVECEG_SHARED/data/usgra-seg")
def test_real_set(tmp_path):
    counts = import_usgra(REAL, tmp_path, progress=False)
    table = pd.read_csv(tmp_path / "windows.csv")
    assert counts.train > 700 and counts.test > 100
    assert 0.36 <= table["nerve"].mean() <= 0.46
    assert table.groupby("subject")["split"].nunique().max() == 1
    twins = table[table["source"].isin(["0018.png", "0099.png"])]  # one scan in two sizes
    assert twins["source"].nunique() == 2 and twins["subject"].nunique() == 1
    medians = table.groupby("nerve")["upscaling"].median()
    assert abs(medians[0] - medians[1]) < 0.1, "scale must not tell presence"
    masks = pd.concat([pd.read_csv(tmp_path / name, keep_default_na=False)["pixels"]
                       for name in ("train_masks.csv", "solution.csv")])  # fmt: skip
    areas = [rle.decode(text).sum() for text in masks if text]
    assert 5000 < np.median(areas) < 11000
    assert 3500 < np.percentile(areas, 5) < np.percentile(areas, 95) < 17500
