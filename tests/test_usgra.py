"""The USGRA-seg import, on small sources that are drawn here and on the real data set where it is available."""

import zipfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from nerveceg_lib import rle
from nerveceg_lib.data import io as layout
from nerveceg_lib.runtime.errors import InputError
from nerveceg_tools.importers import usgra, windows
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
        images, methods = draw_frame(2 if number == DOUBLE else number), (cv2.INTER_AREA, cv2.INTER_NEAREST)
        for folder, image, method in zip(("images", "masks"), images, methods, strict=True):
            pixels = cv2.resize(image, (640, 614), interpolation=method) if number == DOUBLE else image
            cv2.imwrite(str(root / folder / f"{number:04}.png"), pixels)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def imported(source, tmp_path_factory):
    """The imported folder, what the import said, and windows.csv."""
    root = tmp_path_factory.mktemp("imported")
    line = usgra.import_usgra(source, root)
    return root, line, pd.read_csv(root / "windows.csv")


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def read_rows(root: Path, table: pd.DataFrame):
    """Each row of windows.csv with its image and its RLE."""
    solution = pd.read_csv(root / "solution.csv", keep_default_na=False).set_index("img")["pixels"]
    train = pd.read_csv(root / "train_masks.csv", keep_default_na=False).set_index(["subject", "img"])["pixels"]
    for row in table.itertuples():
        if row.split == "test":
            yield row, layout.read_frame(layout.test_path(root, row.img)), solution[row.img]
            continue
        text = train[row.subject, row.img]
        np.testing.assert_array_equal(layout.read_mask(layout.mask_path(root, row.subject, row.img)), rle.decode(text))
        yield row, layout.read_frame(layout.image_path(root, row.subject, row.img)), text


def test_the_summary_and_the_attribution(imported):
    root, line, table = imported
    train = table[table["split"] == "train"]
    assert line.startswith(f"{len(train)} training windows of {train['subject'].nunique()} subjects, ")
    assert line.endswith("these are other files than those that the kit's results come from")
    text = (root / "ATTRIBUTION.txt").read_text()
    assert "tmkand/usgra-seg" in text and "https://creativecommons.org/licenses/by/4.0/" in text and "rescaled" in text


def test_windows_show_what_their_box_says(source, imported):
    """The window is the box, rescaled; its mask is the red in the box, in one piece that the window does not cut."""
    root, _, table = imported
    for row, image, text in read_rows(root, table):
        frame = cv2.imread(str(source / "images" / row.source), cv2.IMREAD_GRAYSCALE)
        red = cv2.imread(str(source / "masks" / row.source))[..., 2] > 64
        box = np.s_[row.y : row.y + row.h, row.x : row.x + row.w]
        x0, y0, x1, y1 = (frame.shape[1] / 534 * edge for edge in FIELD)
        assert x0 <= row.x <= row.x + row.w <= x1 + 1 and y0 <= row.y <= row.y + row.h <= y1 + 1
        assert 1 <= row.upscaling <= windows.MAX_UPSCALING
        assert abs(image.mean() - frame[box].mean()) < 2
        mask = rle.decode(text)
        assert red[box].sum() in (0, red.sum()) and red[box].any() == mask.any() == row.nerve
        back = cv2.resize(mask, (row.w, row.h), interpolation=cv2.INTER_AREA)
        assert np.sum((back > 0) != red[box]) <= 0.2 * red[box].sum()
        if row.nerve:
            assert windows.AREA_LIMITS[0] * 0.97 <= mask.sum() <= windows.AREA_LIMITS[1] * 1.03
            assert cv2.connectedComponents(mask)[0] == 2 and mask[1:-1, 1:-1].sum() == mask.sum()


def test_presence_and_split_by_subject(imported):
    _, _, table = imported
    assert 0.36 <= table["nerve"].mean() <= 0.46 and table["split"].nunique() == 2
    assert table.groupby("subject")["split"].nunique().max() == table.groupby("source")["split"].nunique().max() == 1
    for name, subject in table.groupby("source")["subject"].first().items():
        assert subject == (3 if name == f"{DOUBLE:04}.png" else int(name[:4]) + 1), "two sizes of one scan are one"
    assert {"0002.png", f"{DOUBLE:04}.png"} <= set(table["source"])


def test_two_nerves_never_share_a_window_and_colour_and_darkness_are_left_out():
    pieces, coloured = np.zeros((512, 534), np.int32), np.zeros((512, 534), bool)
    grey = np.full(pieces.shape, 90, np.uint8)
    cv2.ellipse(pieces, (90, 100), (30, 20), 0, 0, 360, 1, -1)
    cv2.ellipse(pieces, (400, 160), (30, 20), 0, 0, 360, 2, -1)
    coloured[300, 250] = True
    frame = windows.Frame("0.png", grey, pieces, coloured, (4, 8, 530, 470))
    drawn = windows.choose(frame, 20, np.random.default_rng(0))
    assert set(drawn["piece"]) == {0, 1, 2}
    for row in drawn.itertuples():
        box = np.s_[row.y : row.y + row.h, row.x : row.x + row.w]
        assert set(np.unique(pieces[box])) - {0} == {row.piece} - {0} and not coloured[box].any()
    large = cv2.ellipse(0 * pieces, (267, 200), (160, 120), 0, 0, 360, 1, -1)
    assert not windows.choose(replace(frame, pieces=large), 20, np.random.default_rng(0))["piece"].any()
    for empty in (replace(frame, grey=0 * grey), replace(frame, field=(0, 0, 100, 100))):
        assert windows.choose(empty, 20, np.random.default_rng(0)).empty
    assert windows.find_field(0 * grey) == (0, 0, 0, 0)


def copy_pair(root: Path, name: str) -> None:
    for folder in ("images", "masks"):
        (root / folder / name).write_bytes((root / folder / "0001.png").read_bytes())


def erase_nerves(root: Path) -> None:
    for mask in (root / "masks").iterdir():
        cv2.imwrite(str(mask), np.zeros((512, 534, 3), np.uint8))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "masks" / "0001.png").unlink(), "0001.png: expected a mask .*0001.png, found none"),
        (lambda root: (root / "images" / "0001.png").write_bytes(b"no"), "0001.png: expected a readable image, found"),
        (lambda root: cv2.imwrite(str(root / "masks" / "0001.png"), np.zeros((500, 534, 3), np.uint8)),
         r"0001.png: expected \(512, 534\) pixels as in .*0001.png, found \(500, 534\)"),
        (lambda root: copy_pair(root, "elbow.png"), "elbow.png: expected a number of its own"),
        (erase_nerves, "expected windows with and without a nerve"),
    ],
)  # fmt: skip
def test_a_damaged_source_is_one_clear_error(tmp_path, damage, message):
    damage(write_source(tmp_path / "source", range(2)))
    with pytest.raises(InputError, match=message):
        usgra.import_usgra(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing is written before the source is known to be good"


@pytest.fixture
def offer(tmp_path, monkeypatch):
    """Let the download fetch an archive with these members."""

    def offer(members: dict[str, bytes]) -> None:
        with zipfile.ZipFile(tmp_path / "HEAD.zip", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        monkeypatch.setattr(usgra, "ARCHIVE_URL", (tmp_path / "HEAD.zip").as_uri())

    return offer


def test_download_in_the_repository_layout(source, imported, offer, tmp_path):
    """An archive like GitHub's: one top folder, dataset/ and in it the authors' test half. Unsafe members stay out."""
    members = {"usgra-seg-main/README.md": b"", "usgra-seg-main/LICENSE": b"licence"}
    for name, content in files(source).items():
        if name.endswith(".png"):
            members[f"usgra-seg-main/{'dataset/test' if name.endswith('0003.png') else 'dataset'}/{name}"] = content
    offer(members | {"../evil.png": b"evil", "usgra-seg-main/../../evil.png": b"evil", f"{tmp_path}/evil.png": b"evil"})
    usgra.import_usgra("download", tmp_path / "out")
    assert files(tmp_path / "out") == files(imported[0]) | {"LICENSE": b"licence"}
    assert not list(tmp_path.rglob("evil.png"))


def test_failed_downloads_are_one_clear_error(offer, monkeypatch, tmp_path):
    offer({})
    (tmp_path / "page.zip").write_text("<html>not an archive</html>")
    pages = [(tmp_path / name).as_uri() for name in ("HEAD.zip", "page.zip", "absent.zip")]
    for url in (*pages, "http://127.0.0.1:9/closed.zip", "no address"):
        monkeypatch.setattr(usgra, "ARCHIVE_URL", url)
        with pytest.raises(InputError, match=f"^{url}: expected a zip archive to download, found: .*local copy can be"):
            usgra.import_usgra("download", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="needs NERVECEG_SHARED/data/usgra-seg")
@pytest.mark.slow
def test_real_set(tmp_path):
    line = usgra.import_usgra(REAL, tmp_path)
    assert line.endswith("these are the files that the kit's results come from")
    table = pd.read_csv(tmp_path / "windows.csv")
    assert table["split"].value_counts().to_dict() == {"train": 934, "test": 243} and table["nerve"].sum() == 483
    assert table.groupby("subject")["split"].nunique().max() == 1
    twins = table[table["source"].isin(["0018.png", "0099.png"])]  # one scan in two sizes
    assert twins["source"].nunique() == 2 and twins["subject"].nunique() == 1
    assert np.ptp(table.groupby("nerve")["upscaling"].median()) < 0.1, "scale must not tell presence"
    tables = [pd.read_csv(tmp_path / name, keep_default_na=False) for name in ("train_masks.csv", "solution.csv")]
    areas = [rle.decode(text).sum() for text in pd.concat(tables)["pixels"] if text]
    assert 5000 < np.median(areas) < 11000
    assert 3500 < np.percentile(areas, 5) < np.percentile(areas, 95) < 17500
