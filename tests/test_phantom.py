"""The phantom data set: does it have the statistics, the layout and the honesty it promises?"""

import filecmp
import re
from itertools import pairwise

import cv2
import numpy as np
import pandas as pd
import pytest

from nerveceg_lib.data.phantom_set import write_phantom
from nerveceg_lib.errors import InputError
from nerveceg_lib.phantom import DIFFICULTIES, cohort, make_patient
from nerveceg_lib.rle import decode

# Percentiles 5, 50, 95 of the real masks (2,323 masks, measured on the competition's training set).
REAL_MASKS = {
    "area": (4664, 6976, 10347),
    "x": (268, 333, 400),
    "y": (101, 138, 224),
    "eccentricity": (0.71, 0.86, 0.94),
    "solidity": (0.93, 0.97, 0.985),
}
REAL_PRESENCE, REAL_PRESENCE_SD = 0.412, 0.23
# Grey levels of 204 real frames (usgra-seg, cut to the same field of view), and how far a phantom may be off.
REAL_GREY = {"mean": (50.8, 7.6), 5: (2, 6), 25: (21, 7), 50: (41, 8), 75: (71, 11), 95: (135, 27)}
SMALL = {"subjects": 3, "frames_per_subject": 12, "test_frames": 10, "progress": False}


def shape_figures(mask: np.ndarray) -> dict[str, float]:
    """Area, centroid, eccentricity and solidity as scikit-image's regionprops defines them."""
    m = cv2.moments(mask, binaryImage=True)
    spread = np.array([[m["mu20"], m["mu11"]], [m["mu11"], m["mu02"]]]) / m["m00"] + np.eye(2) / 12
    minor, major = np.linalg.eigvalsh(spread)
    axis = np.arctan2(2 * spread[0, 1], spread[0, 0] - spread[1, 1]) / 2
    hull = cv2.convexHull(np.argwhere(mask)[:, ::-1].astype(np.int32))
    filled = cv2.fillConvexPoly(np.zeros_like(mask), hull, 1)
    return {
        "area": m["m00"],
        "x": m["m10"] / m["m00"],
        "y": m["m01"] / m["m00"],
        "eccentricity": np.sqrt(1 - minor / major),
        "solidity": m["m00"] / filled.sum(),
        "axis": axis,
    }


def all_masks(subjects: int, frames: int, seed: int) -> list[np.ndarray]:
    patients = [make_patient(plan) for plan in cohort([frames] * subjects, seed=seed)]
    return [patient.label(i) for patient in patients for i in np.flatnonzero(patient.frames.labelled)]


@pytest.fixture(scope="module")
def masks() -> list[np.ndarray]:
    return all_masks(47, 30, seed=0)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom")
    write_phantom(out, **SMALL, seed=7, contradictory=0.1, workers=1)
    return out


def test_mask_statistics(masks):
    figures = pd.DataFrame([shape_figures(mask) for mask in masks])
    for name, real in REAL_MASKS.items():
        assert np.percentile(figures[name], [5, 50, 95]) == pytest.approx(real, rel=0.15), name
    mean_axis = np.degrees(np.angle(np.exp(2j * figures["axis"]).mean())) / 2
    assert mean_axis == pytest.approx(-68, abs=8)


@pytest.mark.parametrize("seed", [1, 2])
def test_mask_statistics_hold_for_few_patients(seed):
    figures = pd.DataFrame([shape_figures(mask) for mask in all_masks(24, 25, seed)])
    for name, real in REAL_MASKS.items():
        assert np.percentile(figures[name], [5, 50, 95]) == pytest.approx(real, rel=0.15), name


def test_masks_are_one_piece_without_holes_inside_the_frame(masks):
    for mask in masks:
        contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
        assert len(contours) == 1 and hierarchy[0, 0, 2] == -1
        assert cv2.connectedComponents(mask, connectivity=4)[0] == 2
        assert not (mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def test_masks_of_a_patient_resemble_each_other():
    rng = np.random.default_rng(0)
    patients = [make_patient(plan) for plan in cohort([120] * 10, seed=4)]
    stacks = [np.array([p.label(i)[::6, ::6].ravel() for i in np.flatnonzero(p.frames.labelled)]) for p in patients]
    nearest, foreign = [], []
    for k, stack in enumerate(stacks):
        others = np.concatenate(stacks[:k] + stacks[k + 1 :]).astype(float)
        for i in rng.permutation(len(stack))[:15]:
            nearest.append(np.delete(_dice(stack.astype(float), i, stack), i).max(initial=0))
            foreign.append(_dice(others, i, stack).mean())
    assert np.mean(nearest) == pytest.approx(0.82, abs=0.06)
    assert np.mean(foreign) == pytest.approx(0.26, abs=0.06)


def _dice(many: np.ndarray, i: int, stack: np.ndarray) -> np.ndarray:
    return 2 * (many @ stack[i]) / (many.sum(axis=1) + stack[i].sum())


@pytest.mark.parametrize(("subjects", "frames"), [(47, 120), (24, 40), (8, 10)])
@pytest.mark.parametrize("seed", [0, 1])
def test_presence(subjects, frames, seed):
    plans = cohort([frames] * subjects, seed=seed)
    shares = np.array([plan.positives / plan.frames for plan in plans])
    assert shares.mean() == pytest.approx(REAL_PRESENCE, abs=0.02)
    assert shares.std() == pytest.approx(REAL_PRESENCE_SD, abs=0.04)
    assert all(0 < plan.positives < plan.frames for plan in plans)


@pytest.mark.parametrize("share", [0.0, 0.03, 0.2, 0.5])
def test_contradictory_share(share):
    plans = cohort([50] * 20, seed=3, contradictory=share)
    assert sum(plan.contradictory for plan in plans) == round(share * 1000)
    assert np.mean([plan.positives / 50 for plan in plans]) == pytest.approx(REAL_PRESENCE, abs=0.02)


def test_contradictory_frames_repeat_a_positive_one():
    patient = make_patient(cohort([60], seed=5, contradictory=0.1)[0])
    frames = patient.frames
    copies = np.flatnonzero(frames.twin >= 0)
    assert len(copies) == 6
    for copy in copies:
        twin = frames.twin[copy]
        assert frames.labelled[twin] and frames.shows[copy] and not patient.label(copy).any()
        one, other = frames.outlines[copy].mask((420, 580)), frames.outlines[twin].mask((420, 580))
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.9
        (image, _), (twin_image, _) = patient.render(copy), patient.render(twin)
        assert not np.array_equal(image, twin_image)
        far = next(i for i in range(60) if not frames.shows[i])
        blurred = [cv2.GaussianBlur(f, (0, 0), 4).ravel() for f in (image, twin_image, patient.render(far)[0])]
        assert np.corrcoef(blurred[0], blurred[1])[0, 1] > np.corrcoef(blurred[0], blurred[2])[0, 1]


def grey_figures(frames: np.ndarray) -> np.ndarray:
    """Brightness, contrast and energy of detail at three scales of float32 frames (n, H, W): (n, 5)."""
    rows = []
    for frame in frames:
        scales = [frame, *(cv2.GaussianBlur(frame, (0, 0), sigma) for sigma in (1, 2, 4))]
        rows.append([frame.mean(), frame.std(), *(np.log(np.mean((a - b) ** 2)) for a, b in pairwise(scales))])
    return np.array(rows)


def strongest_tell(copies: np.ndarray, twins: np.ndarray) -> float:
    """Largest paired t over the grey figures of copies and their twins."""
    gap = copies - twins
    return float(np.abs(gap.mean(axis=0) / gap.std(axis=0, ddof=1)).max() * len(gap) ** 0.5)


def test_contradictory_frames_carry_no_tell():
    # against the twin, for patients differ by more than any tell; twelve seeds gave 0.2 to 2.9
    patients = [make_patient(plan) for plan in cohort([20] * 6, seed=6, contradictory=0.25)]
    pairs = [(p, i, p.frames.twin[i]) for p in patients for i in np.flatnonzero(p.frames.twin >= 0)]
    copies, twins = (np.array([pair[0].render(pair[k])[0] for pair in pairs], np.float32) for k in (1, 2))
    figures = grey_figures(twins)
    assert len(pairs) == 30
    assert strongest_tell(grey_figures(copies), figures) < 4
    noise = np.random.default_rng(0).normal(0, 3, copies.shape).astype(np.float32)
    for tell in (noise, 3):  # this detector finds either, so the limit above means something
        planted = np.rint(copies + tell).clip(0, 255)
        assert strongest_tell(grey_figures(planted), figures) > 6


def test_grey_levels():
    patients = [make_patient(plan) for plan in cohort([4] * 14, seed=0)]
    frames = np.array([patient.render(i)[0] for patient in patients for i in (0, 2)])
    assert frames.dtype == np.uint8 and frames.shape[1:] == (420, 580)
    for name, (real, tolerance) in REAL_GREY.items():
        found = frames.mean() if name == "mean" else np.percentile(frames, name)
        assert found == pytest.approx(real, abs=tolerance), name


def test_speckle_is_wider_than_high():
    frame = make_patient(cohort([1], seed=0)[0]).render(0)[0].astype(np.float32)
    detail = frame - cv2.GaussianBlur(frame, (0, 0), 3)
    axial, lateral = (np.mean(detail * np.roll(detail, 2, axis=axis)) for axis in (0, 1))
    assert lateral > axial


def test_easy_nerves_stand_out_more_than_hard_ones():
    plans = cohort([10] * 4, seed=2)
    contrast = {}
    for name in DIFFICULTIES:
        spread = []
        for plan in plans:
            patient = make_patient(plan, name)
            index = int(np.flatnonzero(patient.frames.labelled)[0])
            frame, mask = patient.render(index)
            spread.append(cv2.GaussianBlur(frame, (0, 0), 2)[cv2.erode(mask, np.ones((9, 9))) > 0].std())
        contrast[name] = np.mean(spread)
    assert contrast["easy"] > contrast["medium"] > contrast["hard"]


def test_layout(data_set):
    assert sorted(path.name for path in data_set.iterdir()) == [
        "contradictory.csv", "sample_submission.csv", "solution.csv", "test", "train", "train_masks.csv",
    ]  # fmt: skip
    names = [path.name for path in (data_set / "train").iterdir()]
    assert len(names) == 2 * 36 and all(re.fullmatch(r"[1-3]_[0-9]+(_mask)?\.tif", name) for name in names)
    assert {path.name for path in (data_set / "test").iterdir()} == {f"{i}.tif" for i in range(1, 11)}
    frame = cv2.imread(str(data_set / "test" / "1.tif"), cv2.IMREAD_UNCHANGED)
    assert frame.shape == (420, 580) and frame.dtype == np.uint8


def test_tables_agree_with_files(data_set):
    table = pd.read_csv(data_set / "train_masks.csv", keep_default_na=False)
    assert list(table.columns) == ["subject", "img", "pixels"] and len(table) == 36
    for row in table.itertuples():
        mask = cv2.imread(str(data_set / "train" / f"{row.subject}_{row.img}_mask.tif"), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, decode(row.pixels) * 255)
    solution = pd.read_csv(data_set / "solution.csv", keep_default_na=False)
    sample = pd.read_csv(data_set / "sample_submission.csv")
    assert list(solution["img"]) == list(sample["img"]) == list(range(1, 11))
    assert 0 < (solution["pixels"] != "").sum() < 10
    twins = pd.read_csv(data_set / "contradictory.csv").merge(table, on=["subject", "img"])
    assert len(twins) == round(0.1 * 36) and (twins["pixels"] == "").all()
    twins = twins.merge(table, left_on=["subject", "twin"], right_on=["subject", "img"], suffixes=("", "_twin"))
    assert (twins["pixels_twin"] != "").all()


def test_workers_do_not_change_a_byte(data_set, tmp_path):
    write_phantom(tmp_path, **SMALL, seed=7, contradictory=0.1, workers=2)
    files = [str(path.relative_to(data_set)) for path in data_set.rglob("*") if path.is_file()]
    assert filecmp.cmpfiles(data_set, tmp_path, files, shallow=False)[1:] == ([], [])


def test_seeds_differ(data_set, tmp_path):
    write_phantom(tmp_path, **SMALL, seed=8, contradictory=0.1, workers=1)
    files = [path.name for path in (data_set / "test").iterdir()]
    assert not filecmp.cmpfiles(data_set / "test", tmp_path / "test", files, shallow=False)[0]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("difficulty", "brutal"),
        ("contradictory", 0.6),
        ("contradictory", float("nan")),
        ("subjects", 0),
        ("subjects", 2.5),
        ("frames_per_subject", 0),
        ("test_frames", -1),
        ("workers", 0),
        ("seed", -1),
    ],
)
def test_bad_options_are_named(tmp_path, option, value):
    with pytest.raises(InputError, match=rf"{option}: found .*expected"):
        write_phantom(tmp_path / "set", **{**SMALL, option: value})
    assert not (tmp_path / "set").exists()


def test_no_test_frames(tmp_path):
    write_phantom(tmp_path, subjects=1, frames_per_subject=2, test_frames=0, workers=1, progress=False)
    assert (tmp_path / "solution.csv").read_text() == "img,pixels\n"
