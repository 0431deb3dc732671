"""A patient's frames as points on a smooth path: where the nerve lies, its shape, and whether it shows."""

import math
from dataclasses import dataclass

import numpy as np

from nerveceg_lib.phantom.cohort import Plan
from nerveceg_lib.phantom.outline import HARMONICS, Outline

SHAPE = (420, 580)
# Quantiles of the real masks of the Kaggle Ultrasound Nerve Segmentation data (1,858 non-empty ones): area in
# px^2, centroid in px, eccentricity, major axis in degrees with y down.
LEVELS = (0.0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1.0)
QUANTILES = {
    "area": (2684, 3847, 4650, 5069, 5814, 6980, 8149, 9541, 10380, 12400, 17439),
    "x": (180, 239, 268, 282, 307, 333, 363, 386, 400, 441, 480),
    "y": (70, 89, 101, 105, 120, 138, 162, 196, 225, 249, 330),
    "eccentricity": (0.433, 0.608, 0.713, 0.756, 0.81, 0.856, 0.892, 0.923, 0.939, 0.966, 0.985),
    "angle": (-134, -122, -107, -99.5, -83.3, -66.8, -51.3, -41.7, -36.5, -23.6, 20),
}
# Share of the variance that lies between the frames of one patient, measured on the same masks.
WITHIN = {"area": 0.72, "x": 0.65, "y": 0.2, "eccentricity": 0.7, "angle": 0.65}
CURVES = (
    *WITHIN,
    "bend",
    "rough",
    *(f"wave{i}" for i in range(6)),
    "present",
    "decoy",
    *(f"warp{i}" for i in range(6)),
)
WOBBLE = 0.5  # share of variance in the probe hand's fast wobble, which sets how alike neighbours are


@dataclass(frozen=True)
class Frames:
    """Per frame, arrays of length n: shows (a nerve is in the picture), labelled (it is also in the mask),
    twin (frame that a contradictory frame nearly repeats, else -1), curves (name -> float values)."""

    shows: np.ndarray
    labelled: np.ndarray
    twin: np.ndarray
    curves: dict[str, np.ndarray]
    outlines: list[Outline]


def walk(plan: Plan, rng: np.random.Generator) -> Frames:
    """Draw all frames of a patient. A contradictory frame is one more step next to a positive one."""
    copies, positives = plan.contradictory, plan.positives
    path = _Path(rng)
    time = rng.random(plan.frames - copies)
    order = np.argsort(-path(time)["present"], kind="stable")
    time = time[order]  # positives come first
    twins = rng.integers(0, max(positives, 1), copies)
    nudges = rng.uniform(2e-4, 6e-4, copies) * rng.choice([-1, 1], copies)
    time = np.concatenate([time, time[twins] + nudges])
    index = np.arange(plan.frames)
    labelled = index < positives
    shows = labelled | (index >= plan.frames - copies)
    twin = np.full(plan.frames, -1)
    twin[plan.frames - copies :] = twins
    shuffle = rng.permutation(plan.frames)
    place = np.argsort(shuffle)
    twin = np.where(twin >= 0, place[twin], -1)[shuffle]
    labelled, shows = labelled[shuffle], shows[shuffle]
    curves = path(time[shuffle])
    # by the labelled frames alone: counted in, copies would draw the middle to themselves and lie nearer to it
    scores = {name: _score(plan.traits[name], curves[name], labelled, share) for name, share in WITHIN.items()}
    outlines = [_outline({n: s[i] for n, s in scores.items()}, curves, i) for i in range(plan.frames)]
    return Frames(shows, labelled, twin, curves, outlines)


class _Path:
    """Random smooth functions of time 0 to 1, of about unit variance: slow sweep plus fast wobble."""

    def __init__(self, rng: np.random.Generator) -> None:
        count = len(CURVES)
        self.cycles = np.concatenate([rng.uniform(0.3, 2.5, (3, count)), rng.uniform(15, 40, (2, count))])
        self.phase = rng.uniform(0, 2 * math.pi, (5, count))
        weight = np.array([1 - WOBBLE] * 3 + [WOBBLE] * 2) / [3, 3, 3, 2, 2]
        self.amplitude = np.sqrt(2 * weight)[:, None] * np.ones(count)
        steady = [CURVES.index(name) for name in ("present", "decoy")]
        self.amplitude[3:, steady] = 0

    def __call__(self, time: np.ndarray) -> dict[str, np.ndarray]:
        angle = 2 * math.pi * self.cycles * time[:, None, None] + self.phase  # (n, 5, curves)
        values = (self.amplitude * np.cos(angle)).sum(axis=1)
        return dict(zip(CURVES, values.T, strict=True))


def _score(patient: float, curve: np.ndarray, labelled: np.ndarray, within: float) -> np.ndarray:
    """Uniform scores (n,) from a patient's normal score and a curve standardised over its positive frames."""
    seen = curve[labelled] if labelled.any() else curve
    centred = (curve - seen.mean()) / max(seen.std(), 0.5)
    total = math.sqrt(1 - within) * patient + math.sqrt(within) * np.clip(centred, -2.7, 2.7)
    return np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in total])


def _outline(scores: dict[str, float], curves: dict[str, np.ndarray], i: int) -> Outline:
    value = {name: float(np.interp(scores[name], LEVELS, QUANTILES[name])) for name in QUANTILES}
    rough = 0.036 * math.exp(0.55 * curves["rough"][i])
    waves = [rough * complex(curves[f"wave{2 * k}"][i], curves[f"wave{2 * k + 1}"][i]) for k in range(len(HARMONICS))]
    outline = Outline(
        value["x"],
        value["y"],
        value["area"],
        value["eccentricity"],
        math.radians(value["angle"]),
        bend=0.21 * float(curves["bend"][i]),
        waves=tuple(wave / max(1.0, abs(wave) / 0.12) for wave in waves),
    )
    lowest = outline.reach[1] + 8
    return outline if outline.y >= lowest else Outline(**{**vars(outline), "y": lowest})
