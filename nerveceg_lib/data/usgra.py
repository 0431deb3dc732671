"""Turn the open USGRA-seg set into data that look and lie like the competition's.

USGRA-seg (https://github.com/tmkand/usgra-seg, CC BY 4.0) holds real ultrasound frames of peripheral
nerves with masks drawn by the examining anaesthetist. Every frame shows a nerve, so frames without one
are windows cut beside it. Many frames are one scan, or two of one sweep, saved in different sizes: a
subject is therefore a group of frames that look alike, not a file, or train would leak into test.
"""

import re
import shutil
import tempfile
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import cv2
import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from nerveceg_lib import rle
from nerveceg_lib.data import layout
from nerveceg_lib.data.windows import Frame, choose, cut, find_field, thin
from nerveceg_lib.errors import InputError
from nerveceg_lib.files import new_folder, storing, whole_folder

ARCHIVE_URL = "https://github.com/tmkand/usgra-seg/archive/HEAD.zip"  # HEAD: whatever the main branch is called
ATTRIBUTION = """\
The frames and masks in this folder come from USGRA-seg (Ultrasound-Guided Regional Anaesthesia semantic
segmentation), GitHub repository tmkand/usgra-seg: https://github.com/tmkand/usgra-seg
Licence: Creative Commons Attribution 4.0 International (CC BY 4.0), https://creativecommons.org/licenses/by/4.0/

Changes made: frames were turned to grey, windows were cut out of them and rescaled to 420 x 580 pixels;
the nerve outlines were cut and rescaled with them, the vessel outlines left out. windows.csv names the
source frame and the box of every window.
"""
_ROOTS = (".", "dataset", "dataset/test")  # a local copy; the repository's own two halves
_SLIP = 9  # px; smaller components of a mask are slips of the pen
_COLOURED = 80  # spread of the channels: scan pixels reach 50 (a bluish tint), markers and text more
_SAME_SCAN = 0.55  # correlation of two frames; pairs above it that were looked at show one scan or one sweep


@dataclass(frozen=True)
class ImportCounts:
    """What `import_usgra` wrote: source frames used, subjects, and windows in train, in test and with a nerve."""

    frames: int
    subjects: int
    train: int
    test: int
    nerve: int


def import_usgra(
    source: str | Path | None,
    destination: str | Path,
    *,
    seed: int = 0,
    windows_per_frame: int = 16,
    presence: float = 0.41,
    test_share: float = 0.2,
    progress: bool = True,
    url: str = ARCHIVE_URL,
) -> ImportCounts:
    """Write windows of USGRA-seg into the folder `destination` in the competition's layout (see `layout`).

    `source` is a folder with images/ and masks/ (or the repository's own folder); "download" or None
    fetches the zip archive at `url`. Windows are 420x580 pixels, rescaled from boxes of that aspect
    ratio inside the scan; `windows.choose` says which are taken, at most `windows_per_frame` with and as
    many without a nerve per frame, and `windows.thin` brings the share with a nerve to `presence` (0..1)
    at every scale and depth. Subjects are numbered 1 + their lowest file number; a `test_share` (0..1)
    of them goes to test/ under shuffled numbers. Beside the competition's files there are solution.csv,
    windows.csv (split, subject, img, nerve, source file, box in source pixels, upscaling),
    ATTRIBUTION.txt and the source's LICENSE. The same seed gives the same files.

    Raises InputError for a source that lacks images or masks, an unreadable file, sizes that differ, a
    file name that is no number, a destination that is not empty, a failed or unsafe download, and
    parameters outside their range.
    """
    if not (0 < presence < 1 and 0 <= test_share < 1 and windows_per_frame >= 1):
        raise InputError(
            f"presence={presence}, test_share={test_share}, windows_per_frame={windows_per_frame}: expected "
            "0 < presence < 1, 0 <= test_share < 1 and at least 1 window per frame"
        )
    destination = new_folder(destination)
    rng = np.random.default_rng(seed)
    with ExitStack() as stack:
        if source in (None, "download"):
            source = _download(url, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        frames, found = {}, []
        for pair in tqdm(_pairs(Path(source)), "read frames", disable=not progress, delay=5, mininterval=5):
            frame = _read(*pair)
            frames[frame.name] = frame
            found.append(choose(frame, windows_per_frame, rng))
        licence = Path(source) / "LICENSE"
        texts = {"ATTRIBUTION.txt": ATTRIBUTION.encode()} | (
            {"LICENSE": licence.read_bytes()} if licence.is_file() else {}
        )
    windows = thin(pd.concat(found, ignore_index=True), presence, rng)
    if windows.empty:
        raise InputError(f"{source}: found no windows with and without a nerve at one scale and depth, expected some")
    windows["subject"] = windows["source"].map(_subjects(list(frames.values())))
    windows = _number(windows, test_share, rng)
    with storing(destination), whole_folder(destination) as folder:
        _write(folder, windows, frames, progress)
        for name, text in texts.items():
            (folder / name).write_bytes(text)
    return _count(windows)


def _download(url: str, folder: Path) -> Path:
    """Fetch and unpack the archive at `url` inside `folder`; return the folder that holds the repository."""
    archive, unpacked = folder / "archive.zip", (folder / "unpacked").resolve()
    try:
        with urlopen(url, timeout=60) as answer, archive.open("wb") as file:
            shutil.copyfileobj(answer, file)
    except (OSError, ValueError, HTTPException) as error:
        raise InputError(
            f"{url}: could not be fetched ({error}), expected a zip archive; a local copy's folder can be given instead"
        ) from error
    if not zipfile.is_zipfile(archive):
        raise InputError(f"{url}: found no zip archive, expected one; a local copy's folder can be given instead")
    with zipfile.ZipFile(archive) as members:
        for name in members.namelist():
            if not (unpacked / name).resolve().is_relative_to(unpacked):
                raise InputError(f"{url}: found member {name!r}, expected paths that stay inside the archive")
        members.extractall(unpacked)
    top = [entry for entry in unpacked.iterdir() if entry.is_dir()]
    return top[0] if len(top) == 1 else unpacked  # GitHub packs everything into one folder


def _pairs(source: Path) -> list[tuple[Path, Path]]:
    """The image and mask files of every images/ and masks/ pair of folders in `source`, sorted by number."""
    pairs: dict[int, tuple[Path, Path]] = {}
    for root in (source / name for name in _ROOTS):
        if not (root / "images").is_dir():
            continue
        if not (root / "masks").is_dir():
            raise InputError(f"{root}: found images/ without masks/, expected both")
        for image in sorted((root / "images").glob("*.png")):
            mask = root / "masks" / image.name
            if not mask.is_file():
                raise InputError(f"{image}: found no mask, expected {mask}")
            if not re.fullmatch("[0-9]{1,9}", image.stem) or int(image.stem) in pairs:
                raise InputError(f"{image}: expected a number of its own as file name, such as 0012.png")
            pairs[int(image.stem)] = (image, mask)
    if not pairs:
        raise InputError(f"{source}: found no images/*.png, expected a folder with images/ and masks/")
    return [pairs[number] for number in sorted(pairs)]


def _read(image_file: Path, mask_file: Path) -> Frame:
    image, mask = _pixels(image_file), _pixels(mask_file)
    if image.shape != mask.shape:
        raise InputError(f"{mask_file}: found {mask.shape[:2]} pixels, expected {image.shape[:2]} as in {image_file}")
    red = (mask[..., 2] > 64) & (mask[..., :2].max(axis=-1) < 64)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
    pieces[stats[pieces, cv2.CC_STAT_AREA] < _SLIP] = 0
    coloured = image.max(axis=-1).astype(int) - image.min(axis=-1) > _COLOURED
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    field = find_field(np.where(coloured, np.uint8(0), grey))
    return Frame(image_file.name, grey, pieces, coloured, field)


def _pixels(file: Path) -> np.ndarray:
    """Blue, green and red, uint8 (H, W, 3)."""
    pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
    if pixels is None:
        raise InputError(f"{file}: cannot be read, expected a PNG image")
    return pixels


def _subjects(frames: list[Frame]) -> dict[str, int]:
    """Subject of every frame: 1 + the lowest file number among the frames that show the same scan."""
    patterns = []
    for frame in frames:
        x0, y0, x1, y1 = frame.field
        scan = frame.grey[y0:y1, x0:x1] if x1 > x0 and y1 > y0 else frame.grey
        scan = cv2.resize(scan, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
        patterns.append(cv2.GaussianBlur(scan, (0, 0), 1) - cv2.GaussianBlur(scan, (0, 0), 8))
    same = np.zeros((len(frames), len(frames)))
    for i, pattern in enumerate(patterns):
        for j in range(i):  # the best match over small shifts: neighbours in a sweep are moved a little
            same[i, j] = cv2.matchTemplate(patterns[j], pattern[6:-6, 6:-6], cv2.TM_CCOEFF_NORMED).max()
    groups = connected_components(same > _SAME_SCAN, directed=False)[1]
    numbers = pd.Series([int(Path(frame.name).stem) + 1 for frame in frames])
    return dict(zip((frame.name for frame in frames), numbers.groupby(groups).transform("min"), strict=True))


def _number(windows: pd.DataFrame, test_share: float, rng: np.random.Generator) -> pd.DataFrame:
    """Add `split` by subject and `img`: 1, 2, .. within each train subject and over the whole of test."""
    subjects = np.unique(windows["subject"])
    test = rng.permutation(subjects)[: int(test_share * len(subjects))]
    windows = windows.sample(frac=1, random_state=rng)
    in_test = windows["subject"].isin(test)
    windows["split"] = np.where(in_test, "test", "train")
    windows["img"] = windows.groupby(windows["subject"].where(~in_test, 0)).cumcount() + 1
    return windows.sort_values(["split", "subject", "img"])


def _write(root: Path, windows: pd.DataFrame, frames: dict[str, Frame], progress: bool) -> None:
    (root / "train").mkdir()
    (root / "test").mkdir()
    train, test = [], []
    for row in tqdm(
        windows.itertuples(), "write windows", total=len(windows), disable=not progress, delay=5, mininterval=5
    ):
        image, mask = cut(frames[row.source], row.x, row.y, row.w, row.h, row.piece)
        if row.split == "test":
            layout.write_frame(layout.test_path(root, row.img), image)
            test.append((row.img, rle.encode(mask)))
        else:
            layout.write_frame(layout.image_path(root, row.subject, row.img), image)
            layout.write_mask(layout.mask_path(root, row.subject, row.img), mask)
            train.append((row.subject, row.img, rle.encode(mask)))
    layout.write_train_masks(root, train)
    layout.write_test_tables(root, test)
    table = windows.assign(
        nerve=(windows["piece"] > 0).astype(int), upscaling=(rle.FRAME_SHAPE[1] / windows["w"]).round(3)
    )
    columns = ["split", "subject", "img", "nerve", "source", "x", "y", "w", "h", "upscaling"]
    table[columns].to_csv(root / "windows.csv", index=False)


def _count(windows: pd.DataFrame) -> ImportCounts:
    return ImportCounts(
        frames=windows["source"].nunique(),
        subjects=windows["subject"].nunique(),
        train=int((windows["split"] == "train").sum()),
        test=int((windows["split"] == "test").sum()),
        nerve=int((windows["piece"] > 0).sum()),
    )
