"""From echoes to grey levels: speckle, depth gain, noise floor, log compression and the grey map.

Speckle is the log envelope of a complex Gaussian field seen through a point-spread function. Fully developed speckle
has independent Gaussian real and imaginary parts, so its intensity is exponential (Burckhardt 1978, "Speckle in
ultrasound B-mode scans", IEEE Trans. Sonics Ultrason. 25). Scanners average several looks (spatial compounding) and
filter, which leaves a finer, weaker grain.
"""

import math

import cv2
import numpy as np

from nerveceg_lib.rle import FRAME_SHAPE

DB = math.log(10) / 10  # a decibel as a difference of natural logs of power
LOOKS = 2
AXIAL, LATERAL = 1.1, 2.2  # standard deviations of the point-spread function in px; matched to real frames
RANGE = 54.0  # dB between black and white
SPECKLE = 0.27  # share of the log speckle's contrast that a scanner's speckle reduction leaves
MEMORY = 0.8  # share of the speckle that moves with the tissue; the rest is new in each frame


def speckle_field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Real and imaginary parts of LOOKS complex fields: float32 (H, W, 2 * LOOKS), unit variance each."""
    white = rng.standard_normal((*shape, 2 * LOOKS), dtype=np.float32)
    field = cv2.GaussianBlur(white, (0, 0), sigmaX=LATERAL, sigmaY=AXIAL)
    return field / field.std()


def log_intensity(field: np.ndarray) -> np.ndarray:
    """Natural log of the mean intensity over looks, float32 (H, W), of a field (H, W, 2 * LOOKS)."""
    power = cv2.transform(field * field, np.full((1, 2 * LOOKS), 1 / (2 * LOOKS), np.float32))
    return cv2.log(power + np.float32(1e-3))


def smooth_noise(shape: tuple[int, int], lateral: float, axial: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise float32 (H, W) of unit variance with blur widths in px, drawn coarse and enlarged."""
    steps = max(1, int(axial / 1.5)), max(1, int(lateral / 1.5))
    coarse = rng.standard_normal((shape[0] // steps[0] + 8, shape[1] // steps[1] + 8), dtype=np.float32)
    smooth = cv2.GaussianBlur(coarse, (0, 0), sigmaX=lateral / steps[1], sigmaY=axial / steps[0])
    size = (smooth.shape[1] - 6) * steps[1], (smooth.shape[0] - 6) * steps[0]
    full = cv2.resize(smooth[3:-3, 3:-3], size, interpolation=cv2.INTER_CUBIC)[: shape[0], : shape[1]]
    return (full - full.mean()) / full.std()


class Scanner:
    """The machine settings for one patient: gain by depth and width, power of noise and of the probe's face."""

    def __init__(self, traits: dict[str, float], rng: np.random.Generator) -> None:
        depth = np.linspace(0, 1, FRAME_SHAPE[0], dtype=np.float32)[:, None]
        bands = 1.2 * smooth_noise((FRAME_SHAPE[0], 1), 1, 60, rng)
        slope = -11 + 6 * traits["depth"]
        sides = 2.0 * smooth_noise((1, FRAME_SHAPE[1]), 70, 1, rng)
        self.gain = (DB * (0.1 + 4.6 * traits["gain"] + slope * depth**1.3 + bands + sides)).astype(np.float32)
        noise = np.exp(DB * (-57 + 7.5 * traits["floor"] + 3 * depth))
        face = rng.uniform(0.003, 0.06) * np.exp(-np.arange(FRAME_SHAPE[0], dtype=np.float32)[:, None] / 1.6)
        self.added = noise + face

    def image(
        self, level: np.ndarray, mirror: np.ndarray, steady: np.ndarray, fresh: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Return the grey frame, uint8 (420, 580).

        level, mirror: log power of the diffuse echoes and power of the mirror-like ones, float32 (420, 580). steady,
        fresh: the speckle that moves with the tissue and the speckle of this frame alone, (420, 580, 2 * LOOKS).
        """
        field = cv2.addWeighted(steady, MEMORY**0.5, fresh, (1 - MEMORY) ** 0.5, 0)
        grain = np.float32(SPECKLE) * log_intensity(field)
        gain = self.gain + np.float32(DB * rng.normal(0, 0.4))
        power = cv2.exp(level + gain) + mirror * np.exp(gain) + self.added
        decibels = (cv2.log(power) + grain) * np.float32(1 / (DB * RANGE)) + np.float32(1)
        unit = np.clip(decibels, 0, 1)
        return cv2.convertScaleAbs(unit * cv2.sqrt(unit), alpha=255)
