"""A patient's surroundings of the nerve: skin, fat, fasciae, muscle with fibre streaks, and bone with shadow.

Layers are drawn flat and then draped over a smooth relief, so that streaks follow the fasciae.
Levels are natural logs of echo power; DB converts decibels.
"""

import math

import cv2
import numpy as np

from nerveceg_lib.phantom.outline import Outline, border
from nerveceg_lib.phantom.speckle import smooth_noise

DB = math.log(10) / 10
CANVAS = (500, 880)  # rows, columns: the frame and what the probe's motion uncovers
LEFT = 150  # canvas column of the frame's left edge


def tissue(nerve: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Canvas of a patient, float32 (*CANVAS, 2): log power of diffuse echoes, power of mirror-like ones.

    nerve: usual centre (x, y) of the nerve in frame pixels; bone stays clear of it.
    """
    flat = _Flat(rng)
    level, mirror = flat.drape(rng)
    for _ in range(rng.integers(2, 5)):
        _belly(level, mirror, nerve, rng)
    if rng.random() < 0.6:
        _bone(level, mirror, nerve[1], rng)
    return np.dstack([level, mirror])


class _Flat:
    """Horizontal layers: diffuse level in log power and mirror-like line power, both float32 CANVAS."""

    def __init__(self, rng: np.random.Generator) -> None:
        height = CANVAS[0] + 60
        shape = (height, CANVAS[1])
        skin, fat = rng.uniform(12, 24), rng.uniform(25, 70)
        borders = skin + fat + np.cumsum(np.concatenate([[0], rng.uniform(35, 110, 5)]))
        levels = np.concatenate([[rng.normal(-30.5, 2.5), rng.normal(-36, 3)], rng.normal(-34, 3.2, 6)])
        rows = np.arange(height)
        layer = np.searchsorted(np.concatenate([[skin], borders]), rows)
        column = cv2.GaussianBlur(levels[np.minimum(layer, 7)].astype(np.float32)[:, None], (0, 0), 1.5)
        streaky = rng.uniform(0.4, 1.6, 8)[np.minimum(layer, 7)].astype(np.float32)[:, None]
        self.level = column + 3.3 * smooth_noise(shape, 60, 30, rng) + 1.5 * smooth_noise(shape, 9, 5, rng)
        self.level += 1.8 * smooth_noise(shape, 26, 13, rng) + 0.6 * smooth_noise(shape, 5, 2, rng)
        self.level += 1.2 * streaky * smooth_noise(shape, 28, 2.6, rng)
        self.level *= DB
        self.mirror = np.zeros(shape, np.float32)
        for depth in borders[:4]:
            for _ in range(rng.integers(1, 4)):
                start, length = rng.uniform(-200, 350), rng.uniform(300, 1000)
                row, peak = depth + rng.normal(0, 6), rng.uniform(-22, -8)
                _line(self.mirror, row, (start, start + length), peak, rng)
        crowded = np.exp(0.8 * smooth_noise(shape, 70, 40, rng))
        for _ in range(int(rng.uniform(700, 2200))):
            row, start = skin + rng.beta(1.1, 1.5) * (height - skin - 1), rng.uniform(-40, CANVAS[1] - 1)
            if rng.random() < 0.45 * streaky[int(row), 0] * crowded[int(row), max(int(start), 0)]:
                length = rng.gamma(1.6, 13) + 10
                _line(self.mirror, row, (start, start + length), rng.normal(-23, 6.5), rng)

    def drape(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Bend the layers over a smooth relief that fades towards the skin."""
        rows = np.arange(CANVAS[0], dtype=np.float32)[:, None]
        columns = np.arange(CANVAS[1], dtype=np.float32)[None, :]
        relief = rng.uniform(6, 20) * smooth_noise(CANVAS, 95, 60, rng)
        relief += rng.normal(0, 0.09) * (columns - CANVAS[1] / 2)
        source = rows + 25 + relief * np.minimum(rows / 110, 1) - 25 * np.maximum(1 - rows / 60, 0)
        across = np.repeat(columns, CANVAS[0], axis=0)
        tilt = cv2.Sobel(source, cv2.CV_32F, 1, 0, scale=0.125)
        level = cv2.remap(self.level, across, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mirror = cv2.remap(self.mirror, across, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return level, mirror * np.exp(-0.5 * (tilt / 0.2) ** 2)


def _line(mirror: np.ndarray, row: float, span: tuple[float, float], peak: float, rng: np.random.Generator) -> None:
    """Add a thin interface of `peak` dB between two columns; its strength and row wander, its ends fade."""
    first, last = max(int(span[0]), 0), min(int(span[1]), mirror.shape[1])
    if last - first < 4:
        return
    length = span[1] - span[0]
    x = np.arange(first, last, dtype=np.float32)
    place = (x - span[0]) / length
    cycles = np.array([0.0015, 0.004, 0.009, 0.003, 0.007, 0.016]) * rng.uniform(0.6, 1.4, 6)
    swing = np.sin(2 * math.pi * (cycles[:, None] * x + rng.random((6, 1))))
    centre = row + rng.normal(0, [6, 2.0, 0.7]) @ swing[:3] + rng.normal(0, 3 + length / 60) * (place - 0.5)
    power = np.exp(DB * (peak + rng.normal(0, [5, 6, 2.5]) @ swing[3:]))
    power *= np.exp(-0.5 * (np.gradient(centre) / 0.15) ** 2)
    power *= np.minimum(1, np.minimum(place, 1 - place) * length / 25) ** 2
    top, bottom = max(int(centre.min()) - 7, 0), min(int(centre.max()) + 8, mirror.shape[0])
    distance = np.arange(top, bottom, dtype=np.float32)[:, None] - centre.astype(np.float32)
    width = np.float32(rng.uniform(0.8, 1.1 + min(length, 200) / 400))
    mirror[top:bottom, first:last] += power.astype(np.float32) * np.exp(-0.5 * (distance / width) ** 2)


def _belly(level: np.ndarray, mirror: np.ndarray, nerve: tuple[float, float], rng: np.random.Generator) -> None:
    """A muscle in cross-section: darker, finely streaked, in a patchy bright fascia."""
    side = rng.choice([-1, 1])
    x = LEFT + nerve[0] + side * rng.uniform(90, 260)
    y, area = nerve[1] + rng.uniform(-20, 110), rng.uniform(9e3, 40e3)
    eccentricity, angle, bend = rng.uniform(0.5, 0.93), rng.uniform(-0.6, 0.6), rng.normal(0, 0.3)
    waves = tuple(rng.normal(0, 0.04, 3) + 1j * rng.normal(0, 0.04, 3))
    outline = Outline(x, y, area, eccentricity, angle, bend, waves)
    window = outline.window(CANVAS, 12)
    if level[window].size == 0:
        return
    rho, _, _ = outline.coordinates(window)
    distance, facing = border(rho)
    inside = np.clip(-distance / 8, 0, 1)
    level[window] -= DB * (rng.uniform(2, 8) + 1.5 * smooth_noise(rho.shape, 22, 2.2, rng)) * inside
    mirror[window] *= 1 - rng.uniform(0.6, 1) * inside
    patchy = np.exp(DB * (rng.uniform(-30, -14) + 7 * smooth_noise(rho.shape, 30, 14, rng)))
    mirror[window] += patchy * facing**10 * np.exp(-0.5 * (distance / rng.uniform(1.2, 2.2)) ** 2)


def _bone(level: np.ndarray, mirror: np.ndarray, depth: float, rng: np.random.Generator) -> None:
    """A rib or transverse process: a bright convex surface, and nothing but shadow below."""
    columns = np.arange(CANVAS[1], dtype=np.float32)
    middle, half = rng.uniform(LEFT - 40, LEFT + 620), rng.uniform(40, 190)
    offset = (columns - middle) / half
    rough = rng.uniform(2, 9) * smooth_noise((1, CANVAS[1]), 28, 1, rng)[0]
    surface = max(depth + 90, rng.uniform(210, 380)) + rng.uniform(15, 80) * offset**2 + rng.normal(0, 12) * offset
    below = np.arange(CANVAS[0], dtype=np.float32)[:, None] - (surface + rough).astype(np.float32)
    edge = (0.5 - 0.5 * np.tanh((np.abs(offset) - 1) * half / 28)).astype(np.float32)
    shadow = edge * np.clip(below / 10, 0, 1)
    level -= DB * rng.uniform(6, 22) * shadow
    mirror *= 1 - 0.97 * shadow
    slant = np.gradient(surface)
    shine = rng.uniform(-20, -9) - 14 * np.minimum(np.abs(slant), 1.2) + 3.5 * smooth_noise((1, CANVAS[1]), 18, 1, rng)
    width = np.where(below < 0, 1.6, rng.uniform(2.5, 5)).astype(np.float32)
    mirror += edge**2 * np.exp(DB * shine).astype(np.float32) * np.exp(-0.5 * (below / width) ** 2)
