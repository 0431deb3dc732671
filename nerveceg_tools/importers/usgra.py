"""Turn the open USGRA-seg data set into data with the look and the faults of the competition's.

USGRA-seg (https://github.com/tmkand/usgra-seg, CC BY 4.0) holds real ultrasound frames of peripheral nerves with masks
drawn by the examining anaesthetist. Every frame shows a nerve, so frames without one are windows cut beside it. Many
frames are one scan, or two of one sweep, saved in different sizes. A subject is therefore a group of frames that look
alike, not a file; otherwise training frames would leak into the test set.
"""

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from nerveceg_lib import rle
from nerveceg_lib.data import io
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import new_folder, storing, whole_folder
from nerveceg_tools.importers import download, read_image
from nerveceg_tools.importers.windows import Frame, choose, cut, find_field, thin

ARCHIVE_URL = "https://github.com/tmkand/usgra-seg/archive/HEAD.zip"  # HEAD: whatever the main branch is called
# of the 204 training frames and masks that the kit's results come from
FILES_SHA256 = "5768cbe0774c5016852499a3853fa419be3eec86587d771e0d93d7931028ea8d"
ATTRIBUTION = """\
The frames and masks in this folder come from USGRA-seg (Ultrasound-Guided Regional Anaesthesia semantic
segmentation), GitHub repository tmkand/usgra-seg: https://github.com/tmkand/usgra-seg
Licence: Creative Commons Attribution 4.0 International (CC BY 4.0), https://creativecommons.org/licenses/by/4.0/

Changes made: frames were turned to grey, windows were cut out of them and rescaled to 420 x 580 pixels;
the nerve outlines were cut and rescaled with them, the vessel outlines left out. windows.csv names the
source frame and the box of every window.
"""
WINDOWS_PER_FRAME = 16  # at most, with a nerve, and as many without
PRESENCE = 0.41  # share of windows with a nerve, as in the competition
TEST_SHARE = 0.2  # of the subjects
SMALLEST_PIECE = 9  # px; smaller components of a mask are slips of the pen
COLOURED = 80  # spread of the channels: pixels of the scan reach 50 (a bluish tint), markers and text more
SAME_SCAN = 0.55  # correlation of two frames; all pairs above it that were looked at show one scan or one sweep


def import_usgra(source: str | Path, destination: str | Path, *, seed: int = 0) -> str:
    """Write windows of USGRA-seg into the folder `destination`, and return a line that counts them.

    source: a folder with images/ and masks/, the repository's own folder, or "download". destination: a new or empty
    folder, which gets the competition's layout. The same seed gives the same files.

    Windows are boxes of 420x580's proportions inside the scan, rescaled to 420x580; `windows.choose` and `windows.thin`
    say which are taken. Subjects are numbered 1 + their lowest file number, and some of them go to test/ under shuffled
    numbers. In addition to the competition's files there are solution.csv, windows.csv (split, subject, img, nerve,
    source file, box in source pixels, upscaling), ATTRIBUTION.txt and the source's LICENSE.

    Raises InputError for a source that lacks images or masks, an unreadable file, sizes that differ, a file name that
    is not a number, a destination that is not empty, and a failed download.
    """
    destination, rng = new_folder(destination), np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        source = download(ARCHIVE_URL, Path(scratch)) if source == "download" else Path(source)
        pairs = _pairs(source)
        digest = hashlib.sha256(b"".join(path.read_bytes() for pair in pairs for path in pair)).hexdigest()
        frames = [_read(*files) for files in tqdm(pairs, "read frames", delay=5, mininterval=5)]
        boxes = [choose(frame, WINDOWS_PER_FRAME, rng) for frame in frames]
        windows = thin(pd.concat(boxes, ignore_index=True), PRESENCE, rng)
        if windows.empty:
            raise InputError(f"{source}: expected windows with and without a nerve at one scale and depth, found none")
        windows = _split(windows.assign(subject=windows["source"].map(_subjects(frames))), rng)
        with storing(destination), whole_folder(destination) as folder:
            _write(folder, windows, {frame.name: frame for frame in frames})
            (folder / "ATTRIBUTION.txt").write_text(ATTRIBUTION)
            for licence in source.glob("LICENSE"):
                shutil.copyfile(licence, folder / licence.name)
    train = windows[windows["split"] == "train"]
    published = "the files" if digest == FILES_SHA256 else "other files than those"
    return (
        f"{len(train)} training windows of {train['subject'].nunique()} subjects, {len(windows) - len(train)} test "
        f"windows, {np.mean(windows['piece'] > 0):.0%} with a nerve, from {windows['source'].nunique()} frames; "
        f"these are {published} that the kit's results come from"
    )


def _pairs(source: Path) -> list[tuple[Path, Path]]:
    """Return the image and mask files in `source`, or in the repository's own two halves, sorted by number."""
    pairs: dict[int, tuple[Path, Path]] = {}
    for folder in (source, source / "dataset", source / "dataset" / "test"):
        for image in sorted((folder / "images").glob("*.png")):
            mask = folder / "masks" / image.name
            if not mask.is_file():
                raise InputError(f"{image}: expected a mask {mask}, found none")
            if not re.fullmatch("[0-9]{1,9}", image.stem) or int(image.stem) in pairs:
                raise InputError(f"{image}: expected a number of its own as file name, such as 0012.png")
            pairs[int(image.stem)] = (image, mask)
    if not pairs:
        raise InputError(f"{source}: expected a folder with images/ and masks/, found no images/*.png")
    return [pairs[number] for number in sorted(pairs)]


def _read(image_file: Path, mask_file: Path) -> Frame:
    image, mask = read_image(image_file, "RGB"), read_image(mask_file, "RGB")
    if image.shape != mask.shape:
        raise InputError(f"{mask_file}: expected {image.shape[:2]} pixels as in {image_file}, found {mask.shape[:2]}")
    red = (mask[..., 0] > 64) & (mask[..., 1:].max(axis=-1) < 64)
    _, pieces, stats, _ = cv2.connectedComponentsWithStats(red.astype(np.uint8))
    pieces[stats[pieces, cv2.CC_STAT_AREA] < SMALLEST_PIECE] = 0
    coloured = image.max(axis=-1).astype(int) - image.min(axis=-1) > COLOURED
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    field = find_field(np.where(coloured, np.uint8(0), grey))
    return Frame(image_file.name, grey, pieces, coloured, field)


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
    groups = connected_components(same > SAME_SCAN, directed=False)[1]
    numbers = pd.Series([int(Path(frame.name).stem) + 1 for frame in frames])
    return dict(zip((frame.name for frame in frames), numbers.groupby(groups).transform("min"), strict=True))


def _split(windows: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Add `split` by subject and `img`: 1, 2, ... within each training subject and over the whole test set."""
    subjects = np.unique(windows["subject"])
    test = rng.permutation(subjects)[: int(TEST_SHARE * len(subjects))]
    windows = windows.sample(frac=1, random_state=rng)
    in_test = windows["subject"].isin(test)
    windows["split"] = np.where(in_test, "test", "train")
    windows["img"] = windows.groupby(windows["subject"].where(~in_test, 0)).cumcount() + 1
    return windows.sort_values(["split", "subject", "img"])


def _write(root: Path, windows: pd.DataFrame, frames: dict[str, Frame]) -> None:
    (root / "train").mkdir()
    (root / "test").mkdir()
    train, test = [], []
    for row in tqdm(windows.itertuples(), "write windows", len(windows), delay=5, mininterval=5):
        image, mask = cut(frames[row.source], row.x, row.y, row.w, row.h, row.piece)
        if row.split == "test":
            io.write_frame(io.test_path(root, row.img), image)
            test.append((row.img, rle.encode(mask)))
        else:
            io.write_frame(io.image_path(root, row.subject, row.img), image)
            io.write_mask(io.mask_path(root, row.subject, row.img), mask)
            train.append((row.subject, row.img, rle.encode(mask)))
    io.write_train_masks(root, train)
    io.write_test_tables(root, test)
    nerve, upscaling = (windows["piece"] > 0).astype(int), (rle.FRAME_SHAPE[1] / windows["w"]).round(3)
    columns = ["split", "subject", "img", "nerve", "source", "x", "y", "w", "h", "upscaling"]
    windows.assign(nerve=nerve, upscaling=upscaling)[columns].to_csv(root / "windows.csv", index=False)
