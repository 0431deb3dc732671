"""The phantom data set: does it have the statistics, the layout and the faults that it promises?"""

import filecmp
import re
from itertools import pairwise

import cv2
import numpy as np
import pandas as pd
import pytest

from nerveceg_lib.data import io
from nerveceg_lib.rle import decode
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.io import UNFINISHED
from nerveceg_tools.phantom import Patient, cohort, make_phantom, write, write_phantom
from nerveceg_tools.phantom.anatomy import DIFFICULTIES
from nerveceg_tools.phantom.calipers import draw_calipers

# Percentiles 5, 50, 95 of the real masks (2,323 masks, measured on the competition's training set).
REAL_MASKS = {
    "area": (4664, 6976, 10347), "x": (268, 333, 400), "y": (101, 138, 224),
    "eccentricity": (0.71, 0.86, 0.94), "solidity": (0.93, 0.97, 0.985),
}  # fmt: skip
REAL_PRESENCE, REAL_PRESENCE_SD = 0.412, 0.23
# Grey levels of 204 real frames (usgra-seg, cut to the same field of view), and how far a phantom may be off.
REAL_GREY = {"mean": (50.8, 7.6), 5: (2, 6), 25: (21, 7), 50: (41, 8), 75: (71, 11), 95: (135, 27)}
TABLES = {"train_masks": ["subject", "img", "pixels"], "solution": ["img", "pixels"]}
SMALL = {"patients": 3, "frames_per_patient": 12, "test_frames": 10, "seed": 7, "contradictory": 0.1}


def plans(frames: list[int], seed: int, **options) -> list:
    return cohort(frames, np.random.SeedSequence(seed), **options)


def shape_figures(mask: np.ndarray) -> dict[str, float]:
    """Area, centroid, eccentricity and solidity as scikit-image's regionprops defines them."""
    m = cv2.moments(mask, binaryImage=True)
    spread = np.array([[m["mu20"], m["mu11"]], [m["mu11"], m["mu02"]]]) / m["m00"] + np.eye(2) / 12
    minor, major = np.linalg.eigvalsh(spread)
    hull = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32))
    return {
        "area": m["m00"],
        "x": m["m10"] / m["m00"],
        "y": m["m01"] / m["m00"],
        "eccentricity": np.sqrt(1 - minor / major),
        "solidity": m["m00"] / cv2.fillConvexPoly(np.zeros_like(mask), hull, 1).sum(),
        "axis": np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1]) / 2,
    }


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom")
    write_phantom(out, **SMALL)
    return out


@pytest.mark.parametrize(("patients", "frames", "seed"), [(47, 30, 0), (24, 25, 1), (24, 25, 2)])
def test_masks_are_like_real_ones(patients, frames, seed):
    drawn = [Patient(plan) for plan in plans([frames] * patients, seed)]
    masks = [patient.label(i) for patient in drawn for i in np.flatnonzero(patient.frames.labelled)]
    figures = pd.DataFrame([shape_figures(mask) for mask in masks])
    for name, real in REAL_MASKS.items():
        assert np.percentile(figures[name], [5, 50, 95]) == pytest.approx(real, rel=0.15), name
    assert np.degrees(np.angle(np.exp(2j * figures["axis"]).mean())) / 2 == pytest.approx(-68, abs=8)
    for mask in masks:
        contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        assert len(contours) == 1 and hierarchy[0, 0, 2] == -1, "one piece without holes"
        assert mask[1:-1, 1:-1].sum() == mask.sum(), "inside the frame"


def test_larger_nerves_lie_deeper():
    found = []
    for seed in range(6):
        frames = [Patient(plan).frames for plan in plans([30] * 47, seed)]
        shown = [(o.area, o.y) for f in frames for o, labelled in zip(f.outlines, f.labelled, strict=True) if labelled]
        found.append(np.corrcoef(np.array(shown).T)[0, 1])
    assert np.mean(found) == pytest.approx(0.28, abs=0.06)  # of area and depth of the real masks


def test_masks_of_a_patient_resemble_each_other():
    patients = [Patient(plan) for plan in plans([120] * 10, seed=4)]
    stacks = [
        np.array([p.label(i)[::6, ::6].ravel() for i in np.flatnonzero(p.frames.labelled)], float) for p in patients
    ]
    nearest, foreign = [], []
    for k, stack in enumerate(stacks):
        others = np.concatenate(stacks[:k] + stacks[k + 1 :])
        for mask in stack[:: max(1, len(stack) // 15)]:
            dice = [2 * (masks @ mask) / (masks.sum(axis=1) + mask.sum()) for masks in (stack, others)]
            nearest += np.sort(dice[0])[-2:-1].tolist()  # the best is the mask itself
            foreign.append(dice[1].mean())
    assert (np.mean(nearest), np.mean(foreign)) == pytest.approx((0.82, 0.26), abs=0.06)


@pytest.mark.parametrize(("patients", "frames", "contradictory"), [(47, 120, 0.03), (24, 40, 0.5), (8, 10, 0.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_presence_and_contradictory_share(patients, frames, contradictory, seed):
    planned = plans([frames] * patients, seed, contradictory=contradictory)
    shares = np.array([plan.positives / plan.frames for plan in planned])
    assert shares.mean() == pytest.approx(REAL_PRESENCE, abs=0.02)
    assert shares.std() == pytest.approx(REAL_PRESENCE_SD, abs=0.04)
    assert shares.min() > 0 and shares.max() < 1
    assert sum(plan.contradictory for plan in planned) == round(contradictory * patients * frames)


def test_contradictory_frames_repeat_a_positive_one():
    patient = Patient(plans([60], seed=5, contradictory=0.1)[0])
    frames = patient.frames
    copies = np.flatnonzero(frames.twin >= 0)
    assert len(copies) == 6
    for copy in copies:
        twin = frames.twin[copy]
        assert frames.labelled[twin] and frames.shows[copy] and not patient.label(copy).any()
        one, other = frames.outlines[copy].mask(), frames.outlines[twin].mask()
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.9
        image, twin_image, other_image = (patient.render(i)[0] for i in (copy, twin, np.flatnonzero(~frames.shows)[0]))
        assert not np.array_equal(image, twin_image)
        smooth = [cv2.GaussianBlur(pixels, (0, 0), 4).ravel() for pixels in (image, twin_image, other_image)]
        assert np.corrcoef(smooth[0], smooth[1])[0, 1] > np.corrcoef(smooth[0], smooth[2])[0, 1]


def grey_figures(frames: np.ndarray) -> np.ndarray:
    """Brightness, contrast and energy of detail at three scales of float32 frames (n, H, W): (n, 5)."""
    rows = []
    for frame in frames:
        scales = [frame, *(cv2.GaussianBlur(frame, (0, 0), sigma) for sigma in (1, 2, 4))]
        rows.append([frame.mean(), frame.std(), *(np.log(np.mean((a - b) ** 2)) for a, b in pairwise(scales))])
    return np.array(rows)


@pytest.mark.slow
def test_contradictory_frames_carry_no_tell():
    """No grey figure differs systematically between the copies and the frames that they repeat (paired t)."""
    patients = [Patient(plan) for plan in plans([20] * 6, seed=6, contradictory=0.25)]
    pairs = [(p, i, p.frames.twin[i]) for p in patients for i in np.flatnonzero(p.frames.twin >= 0)]
    copies, twins = (np.array([pair[0].render(pair[k])[0] for pair in pairs], np.float32) for k in (1, 2))
    noise = np.random.default_rng(0).normal(0, 3, copies.shape).astype(np.float32)
    strongest = []
    for tell in (0, noise, 3):  # both planted tells are found, so the limit below means something
        gap = grey_figures(np.rint(copies + tell).clip(0, 255)) - grey_figures(twins)
        strongest.append(np.abs(gap.mean(axis=0) / gap.std(axis=0, ddof=1)).max() * len(gap) ** 0.5)
    assert strongest[0] < 4 and min(strongest[1:]) > 6  # twelve seeds gave 0.2 to 2.9


@pytest.mark.slow
def test_grey_levels_and_speckle():
    patients = [Patient(plan) for plan in plans([4] * 14, seed=0)]
    frames = np.array([patient.render(i)[0] for patient in patients for i in (0, 2)])
    for name, (real, tolerance) in REAL_GREY.items():
        grey = frames.mean() if name == "mean" else np.percentile(frames, name)
        assert grey == pytest.approx(real, abs=tolerance), name
    detail = frames[0].astype(np.float32) - cv2.GaussianBlur(frames[0].astype(np.float32), (0, 0), 3)
    axial, lateral = (np.mean(detail * np.roll(detail, 2, axis=axis)) for axis in (0, 1))
    assert lateral > axial, "the grain is wider than it is high"


@pytest.mark.slow
def test_easy_nerves_stand_out_more_than_hard_ones():
    contrast = {}
    for name in DIFFICULTIES:
        spread = []
        for plan in plans([10] * 4, seed=2):
            patient = Patient(plan, name)
            frame, mask = patient.render(int(np.flatnonzero(patient.frames.labelled)[0]))
            spread.append(cv2.GaussianBlur(frame, (0, 0), 2)[cv2.erode(mask, np.ones((9, 9))) > 0].std())
        contrast[name] = np.mean(spread)
    assert contrast["easy"] > contrast["medium"] > contrast["hard"]


def test_tables_agree_with_files(data_set):
    assert sorted(path.name for path in data_set.iterdir()) == [
        "contradictory.csv", "sample_submission.csv", "solution.csv", "test", "train", "train_masks.csv",
    ]  # fmt: skip
    assert io.list_frames(data_set)[0].groupby("subject").size().to_dict() == {0: 10, 1: 12, 2: 12, 3: 12}
    table, solution = (io.read_masks_csv(data_set / f"{name}.csv", columns) for name, columns in TABLES.items())
    for row in table.itertuples():
        assert np.array_equal(io.read_mask(io.mask_path(data_set, row.subject, row.img)), decode(row.pixels))
    sample = pd.read_csv(data_set / "sample_submission.csv")
    assert list(solution["img"]) == list(sample["img"]) == list(range(1, 11))
    assert 0 < (solution["pixels"] != "").sum() < 10
    twins = pd.read_csv(data_set / "contradictory.csv").merge(table, on=["subject", "img"])
    assert len(twins) == round(0.1 * 36) and (twins["pixels"] == "").all()
    twins = twins.merge(table, left_on=["subject", "twin"], right_on=["subject", "img"], suffixes=("", "_twin"))
    assert (twins["pixels_twin"] != "").all()


def test_a_seed_draws_what_it_drew_in_earlier_releases(data_set):
    pixels = io.read_masks_csv(data_set / "solution.csv")["pixels"]
    areas = [0, 0, 5555, 5792, 0, 0, 9285, 0, 7699, 0]
    assert [decode(text).sum() for text in pixels] == pytest.approx(areas, abs=3)  # processors differ in the last bit
    grey = [io.read_frame(io.test_path(data_set, image)).mean() for image in range(1, 7)]
    assert grey == pytest.approx([39.64, 35.29, 35.23, 39.35, 37.98, 40.25], abs=0.02)


@pytest.mark.slow
def test_workers_do_not_change_a_byte_but_seeds_do(data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(write, "CHUNK", 5)
    monkeypatch.setattr(write, "cores", lambda: 2)
    write_phantom(tmp_path / "same", **SMALL)
    files = [str(path.relative_to(data_set)) for path in data_set.rglob("*") if path.is_file()]
    assert filecmp.cmpfiles(data_set, tmp_path / "same", files, shallow=False)[1:] == ([], [])
    monkeypatch.setattr(write, "cores", lambda: 1)
    write_phantom(tmp_path / "other", **SMALL | {"seed": 8})
    assert not filecmp.cmpfiles(data_set, tmp_path / "other", [f for f in files if "test/" in f], shallow=False)[0]


def test_calipers_change_nothing_but_their_own_pixels(data_set, tmp_path):
    write_phantom(tmp_path / "marked", **SMALL, caliper_share=(0.6, 0.2))
    frames = io.describe_frames(tmp_path / "marked", io.list_frames(tmp_path / "marked")[0])
    calipers = pd.read_csv(tmp_path / "marked" / "names.csv")["calipers"]
    assert len(calipers) == 46 and calipers.sum() == (frames["clean"] == 0).sum()
    for frame in frames.itertuples():
        plain, marked = (io.read_frame(folder / frame.path) for folder in (data_set, tmp_path / "marked"))
        changed = np.count_nonzero(plain != marked)
        assert (changed > 0) == (frame.clean == 0) and (marked >= plain).all()
        assert changed <= 4 * 16, "at most four crosses of four arms of four pixels"
    shares = []
    for patient in (Patient(plan, caliper_share=(0.6, 0.2)) for plan in plans([200] * 5, seed=0)):
        has_calipers = np.array([patient.has_calipers(index) for index in range(200)])
        shares.append([has_calipers[patient.frames.labelled == label].mean() for label in (True, False)])
    assert np.mean(shares, axis=0) == pytest.approx([0.6, 0.2], abs=0.06)


def test_calipers_measure_the_long_axis():
    outline = cv2.ellipse(np.zeros((420, 580), np.uint8), (300, 200), (60, 20), 30, 0, 360, 1, -1)
    for seed in range(8):
        _, crosses = draw_calipers(np.zeros_like(outline), outline, np.random.default_rng(seed))
        _, _, _, middles = cv2.connectedComponentsWithStats(cv2.dilate(crosses, np.ones((5, 5))))
        middles = middles[1:]
        assert len(middles) in (2, 4) and crosses.sum() == 16 * len(middles)
        lengths = np.linalg.norm(middles[:, None] - middles[None], axis=2)
        assert lengths.max() == pytest.approx(120, abs=4) and middles.mean(0) == pytest.approx([300, 200], abs=2)


BAD_OPTIONS = [("difficulty", "brutal"), ("caliper_share", (0.5, 1.5)), ("contradictory", 0.6), ("seed", -1),
               ("contradictory", float("nan")), ("frames_per_patient", 0), ("test_frames", -1),
               ("patients", 0)]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS)
def test_bad_options_are_named(tmp_path, option, value):
    with pytest.raises(InputError, match=rf"{option}: expected .*found {re.escape(repr(value))}"):
        write_phantom(tmp_path / "set", **SMALL | {option: value})
    assert not (tmp_path / "set").exists()


def test_made_once_for_each_set_of_options_and_a_half_made_one_is_thrown_away(root):
    options = {"patients": 1, "frames_per_patient": 2, "test_frames": 0}
    made = make_phantom(**options)
    assert (made / "solution.csv").read_text() == "img,pixels\n"
    (made / "mark").touch()
    assert make_phantom(**options) == made != make_phantom(**options, seed=1) and (made / "mark").exists()
    made.rename(root / (UNFINISHED + made.name))
    assert make_phantom(**options) == made and not (made / "mark").exists()
