"""From echoes to grey levels: speckle, depth gain, noise floor, log compression and the grey map."""

import cv2
import numpy as np

from nerveceg_lib.phantom.path import SHAPE
from nerveceg_lib.phantom.speckle import log_intensity, smooth_noise
from nerveceg_lib.phantom.tissue import DB

RANGE = 54.0  # dB between black and white
SPECKLE = 0.27  # share of the log speckle's contrast that a scanner's speckle reduction leaves
MEMORY = 0.8  # share of the speckle that moves with the tissue; the rest is new in each frame


class Scanner:
    """One patient's machine settings: gain by depth and width, power of noise and of the probe's face."""

    def __init__(self, traits: dict[str, float], rng: np.random.Generator) -> None:
        depth = np.linspace(0, 1, SHAPE[0], dtype=np.float32)[:, None]
        bands = 1.2 * smooth_noise((SHAPE[0], 1), 1, 60, rng)
        slope = -11 + 6 * traits["depth"]
        sides = 2.0 * smooth_noise((1, SHAPE[1]), 70, 1, rng)
        self.gain = (DB * (0.1 + 4.6 * traits["gain"] + slope * depth**1.3 + bands + sides)).astype(np.float32)
        noise = np.exp(DB * (-57 + 7.5 * traits["floor"] + 3 * depth))
        face = rng.uniform(0.003, 0.06) * np.exp(-np.arange(SHAPE[0], dtype=np.float32)[:, None] / 1.6)
        self.added = noise + face

    def image(
        self,
        level: np.ndarray,
        mirror: np.ndarray,
        steady: np.ndarray,
        fresh: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Grey frame uint8 (420, 580), 0 to 255.

        level: log power of diffuse echoes, mirror: power of mirror-like ones, float32 (420, 580); steady and
        fresh: speckle fields (420, 580, 2 * LOOKS), moving with the tissue and new in this frame."""
        field = cv2.addWeighted(steady, MEMORY**0.5, fresh, (1 - MEMORY) ** 0.5, 0)
        grain = np.float32(SPECKLE) * log_intensity(field)
        gain = self.gain + np.float32(DB * rng.normal(0, 0.4))
        power = cv2.exp(level + gain) + mirror * np.exp(gain) + self.added
        decibels = (cv2.log(power) + grain) * np.float32(1 / (DB * RANGE)) + np.float32(1)
        unit = np.clip(decibels, 0, 1)
        return cv2.convertScaleAbs(unit * cv2.sqrt(unit), alpha=255)
