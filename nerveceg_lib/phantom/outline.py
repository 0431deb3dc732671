"""Closed outlines of nerves and their look-alikes: a bent, wavy ellipse known by formula."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

HARMONICS = (3, 4, 5)
TURN = 4096  # steps of the radius table, fine enough that no outline shows them


@dataclass(frozen=True)
class Outline:
    """Centre (x, y) in pixels, area in px^2, eccentricity, angle of the major axis in radians (y down).

    bend: sideways shift of the tips in minor half axes; waves: complex amplitude of each of HARMONICS,
    relative to the radius.
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
        """Half axes (major, minor) that give the area and eccentricity after waves and bend."""
        ratio = math.sqrt(1 - self.eccentricity**2) / math.sqrt(1 + self.bend**2 / 4)
        product = self.area / (math.pi * (1 + sum(abs(wave) ** 2 for wave in self.waves) / 2))
        return math.sqrt(product / ratio), math.sqrt(product * ratio)

    @property
    def reach(self) -> tuple[float, float]:
        """Half width and half height of a box that holds the outline."""
        major, minor = self.axes
        swell = 1 + sum(abs(wave) for wave in self.waves)
        cos, sin = abs(math.cos(self.angle)), abs(math.sin(self.angle))
        along, across = major * swell, minor * (swell + abs(self.bend))
        return math.hypot(along * cos, across * sin), math.hypot(along * sin, across * cos)

    def window(self, shape: tuple[int, int], margin: int) -> tuple[slice, slice]:
        """Rows and columns of the part of a (H, W) frame that holds the outline and `margin` px around."""
        wide, high = (int(size) + margin + 1 for size in self.reach)
        x, y = int(self.x), int(self.y)
        return (
            slice(min(max(y - high, 0), shape[0]), max(min(y + high, shape[0]), 0)),
            slice(min(max(x - wide, 0), shape[1]), max(min(x + wide, shape[1]), 0)),
        )

    def coordinates(self, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Own coordinates of a window's pixels, float32 (h, w) each: rho (1 on the outline, less inside),
        and position along and across the bent axis, both -1 to 1 in the plain ellipse."""
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

    def mask(self, shape: tuple[int, int]) -> np.ndarray:
        """The filled outline: uint8 (H, W), 0 and 1."""
        filled = np.zeros(shape, np.uint8)
        window = self.window(shape, 2)
        filled[window] = self.coordinates(window)[0] <= 1
        return filled


def border(rho: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signed distance to the outline in px (negative inside; good near it) and how it meets the beam.

    The second is 1 where the outline lies across the beam and 0 where it runs along: interfaces across shine.
    """
    right, down = (cv2.Sobel(rho, cv2.CV_32F, dx, 1 - dx, scale=0.125) for dx in (1, 0))
    steep = cv2.magnitude(right, down) + np.float32(1e-4)
    return (rho - 1) / steep, np.abs(down) / steep
