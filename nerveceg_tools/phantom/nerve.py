"""Where a patient's nerve lies in each frame, what outline it has, and whether it is in the picture.

The frames of a patient are points on a smooth path, as if a probe had been moved over the neck. The outline is a
bent, wavy ellipse that is known by a formula.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_tools.phantom.cohort import Plan

HARMONICS = (3, 4, 5)
TURN = 4096  # steps of the radius table, fine enough that no outline shows them
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
DEPTH_SHARE = 0.34  # correlation of the scores of area and depth; the masks then have the real ones' 0.28
WAVES, WARPS = ([f"{name}{i}" for i in range(6)] for name in ("wave", "warp"))
CURVES = (*WITHIN, "bend", "rough", *WAVES, "present", "decoy", *WARPS)
WOBBLE = 0.5  # share of variance in the probe hand's fast wobble, which decides how much neighbours are alike


@dataclass(frozen=True)
class Outline:
    """A closed outline.

    x, y: centre in pixels. area: in px^2. angle: of the major axis, in radians (y down). bend: sideways shift of
    the tips in minor half axes. waves: complex amplitude of each of HARMONICS, relative to the radius.
    """

    x: float
    y: float
    area: float
    eccentricity: float
    angle: float
    bend: float = 0.0
    waves: tuple[complex, ...] = ()

    @property
    def axes(self) -> tuple[float, float]:
        """The half axes (major, minor) that give the area and eccentricity once waves and bend are applied."""
        ratio = math.sqrt(1 - self.eccentricity**2) / math.sqrt(1 + self.bend**2 / 4)
        product = self.area / (math.pi * (1 + sum(abs(wave) ** 2 for wave in self.waves) / 2))
        return math.sqrt(product / ratio), math.sqrt(product * ratio)

    @property
    def reach(self) -> tuple[float, float]:
        """Half the width and half the height of a box that holds the outline."""
        major, minor = self.axes
        swell = 1 + sum(abs(wave) for wave in self.waves)
        cos, sin = abs(math.cos(self.angle)), abs(math.sin(self.angle))
        along, across = major * swell, minor * (swell + abs(self.bend))
        return math.hypot(along * cos, across * sin), math.hypot(along * sin, across * cos)

    def window(self, shape: tuple[int, int], margin: int) -> tuple[slice, slice]:
        """Rows and columns of a (H, W) frame that hold the outline and `margin` px around it."""
        half_width, half_height = (int(size) + margin + 1 for size in self.reach)
        x, y = int(self.x), int(self.y)
        return (
            slice(min(max(y - half_height, 0), shape[0]), max(min(y + half_height, shape[0]), 0)),
            slice(min(max(x - half_width, 0), shape[1]), max(min(x + half_width, shape[1]), 0)),
        )

    def coordinates(self, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates of a window's pixels in the outline's own system, three float32 arrays (h, w).

        rho is 1 on the outline and less inside it; the other two are the position along and across the bent axis,
        both from -1 to 1 in the plain ellipse.
        """
        major, minor = self.axes
        dx = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None, :] - np.float32(self.x)
        dy = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - np.float32(self.y)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        along = dx * np.float32(cos / major) + dy * np.float32(sin / major)
        across = dy * np.float32(cos / minor) - dx * np.float32(sin / minor)
        if self.bend:
            across -= np.float32(self.bend) * (along * along - np.float32(0.25))
        length, theta = cv2.cartToPolar(along, across)
        if self.waves:
            length /= self._radius_table()[(theta * np.float32(TURN / (2 * math.pi))).astype(np.int32) & (TURN - 1)]
        return length, along, across

    def _radius_table(self) -> np.ndarray:
        turn = np.linspace(0, 2 * math.pi, TURN, endpoint=False)
        waves = zip(HARMONICS, self.waves, strict=True)
        return (1 + sum((wave * np.exp(1j * k * turn)).real for k, wave in waves)).astype(np.float32)

    def mask(self) -> np.ndarray:
        """Return the filled outline as uint8 (420, 580) of 0 and 1."""
        filled = np.zeros(FRAME_SHAPE, np.uint8)
        window = self.window(FRAME_SHAPE, 2)
        filled[window] = self.coordinates(window)[0] <= 1
        return filled


def border(rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the signed distance to the outline in px (negative inside; good near it) and how it meets the beam.

    The second is 1 where the outline lies across the beam and 0 where it runs along it: an interface across the beam
    is bright.
    """
    right, down = (cv2.Sobel(rho, cv2.CV_32F, dx, 1 - dx, scale=0.125) for dx in (1, 0))
    steep = cv2.magnitude(right, down) + np.float32(1e-4)
    return (rho - 1) / steep, np.abs(down) / steep


@dataclass(frozen=True)
class Frames:
    """What is known about the n frames of a patient before anything is drawn.

    shows: whether a nerve is in the picture, (n,). labelled: whether it is also in the mask, (n,). twin: the frame that
    a contradictory frame nearly repeats, -1 for all others, (n,). curves: name -> values (n,). outlines: the nerve's.
    """

    shows: np.ndarray
    labelled: np.ndarray
    twin: np.ndarray
    curves: dict[str, np.ndarray]
    outlines: list[Outline]


def walk(plan: Plan, rng: np.random.Generator) -> Frames:
    """Draw all frames of a patient. A contradictory frame is one small step away from a positive one."""
    copies, positives = plan.contradictory, plan.positives
    path = _Path(rng)
    time = rng.random(plan.frames - copies)
    time = time[np.argsort(-path(time)["present"], kind="stable")]  # positives come first
    twins = rng.integers(0, max(positives, 1), copies)
    nudges = rng.uniform(2e-4, 6e-4, copies) * rng.choice([-1, 1], copies)
    time = np.concatenate([time, time[twins] + nudges])
    index = np.arange(plan.frames)
    labelled = index < positives
    shows = labelled | (index >= plan.frames - copies)
    twin = np.concatenate([np.full(plan.frames - copies, -1), twins])
    shuffle = rng.permutation(plan.frames)
    position = np.argsort(shuffle)
    twin = np.where(twin >= 0, position[twin], -1)[shuffle]
    labelled, shows = labelled[shuffle], shows[shuffle]
    traits, curves = _larger_if_deeper(plan.traits), _larger_if_deeper(path(time[shuffle]))
    # Scores come from the labelled frames alone: if the copies counted, they would pull the mean towards themselves.
    scores = {name: _score(traits[name], curves[name], labelled, share) for name, share in WITHIN.items()}
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


def _larger_if_deeper(scores: dict) -> dict:
    return scores | {"area": DEPTH_SHARE * scores["y"] + math.sqrt(1 - DEPTH_SHARE**2) * scores["area"]}


def _score(patient: float, curve: np.ndarray, labelled: np.ndarray, within: float) -> np.ndarray:
    """Uniform scores (n,) from a patient's normal score and a curve standardised over its positive frames."""
    positive = curve[labelled] if labelled.any() else curve
    centred = (curve - positive.mean()) / max(positive.std(), 0.5)
    total = math.sqrt(1 - within) * patient + math.sqrt(within) * np.clip(centred, -2.7, 2.7)
    return np.array([0.5 * (1 + math.erf(value / math.sqrt(2))) for value in total])


def _outline(scores: dict[str, float], curves: dict[str, np.ndarray], i: int) -> Outline:
    value = {name: float(np.interp(scores[name], LEVELS, QUANTILES[name])) for name in QUANTILES}
    rough = 0.036 * math.exp(0.55 * curves["rough"][i])
    waves = [
        rough * complex(curves[real][i], curves[imag][i]) for real, imag in zip(WAVES[::2], WAVES[1::2], strict=True)
    ]
    outline = Outline(
        **value | {"angle": math.radians(value["angle"])},
        bend=0.21 * float(curves["bend"][i]),
        waves=tuple(wave / max(1.0, abs(wave) / 0.12) for wave in waves),
    )
    return replace(outline, y=max(outline.y, outline.reach[1] + 8))
