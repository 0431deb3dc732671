"""What lies in a patient's tissue frame by frame: the nerve and the structures that can be taken for it.

Each is painted into a frame's `level` (log power of diffuse echoes) and `mirror` (power of mirror-like
echoes), both float32 (H, W), in place.
"""

import math

import cv2
import numpy as np

from nerveceg_lib.phantom.outline import Outline, border
from nerveceg_lib.phantom.speckle import smooth_noise
from nerveceg_lib.phantom.tissue import DB

DECOYS = ("vessel", "node", "tendon", "sheath")
TEXTURE = (160, 320)  # rows across, columns along the nerve; both span -1.25 to 1.25 of its half axes
SPAN = 1.25
RIM = {"nerve": 0, "vessel": 0, "node": -4, "tendon": -6, "sheath": 0}  # dB against the patient's rims


def fascicles(rng: np.random.Generator) -> np.ndarray:
    """Texture of a nerve's cross-section: float32 TEXTURE, about -1 in dark fascicles and +1 in bright tissue
    between them. Coordinates are those of Outline.coordinates, with a typical axis ratio of 1 to 2."""
    across: np.ndarray = np.linspace(-SPAN, SPAN, TEXTURE[0], dtype=np.float32)[:, None]
    along: np.ndarray = np.linspace(-2 * SPAN, 2 * SPAN, TEXTURE[1], dtype=np.float32)[None, :]
    texture = np.ones(TEXTURE, np.float32)
    along = along + 0.1 * smooth_noise(TEXTURE, 22, 22, rng)
    across = across + 0.1 * smooth_noise(TEXTURE, 22, 22, rng)
    placed: list[tuple[float, float, float]] = []
    for _ in range(400):
        radius = rng.uniform(0.2, 0.5)
        turn, reach = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
        x, y = 2 * reach * math.cos(turn) * (1 - radius / 2.2), reach * math.sin(turn) * (1 - radius)
        if all(math.hypot(x - px, y - py) > 0.93 * (radius + pr) + 0.06 for px, py, pr in placed):
            placed.append((x, y, radius))
            depth, squash = rng.uniform(0.55, 1), rng.uniform(0.8, 1.25)
            distance = np.hypot((along - x) * squash, (across - y) / squash) / radius
            texture = np.minimum(texture, 1 - depth * (1 - np.tanh((distance - 0.86) * 3.5)))
    return texture + 0.25 * smooth_noise(TEXTURE, 8, 8, rng)


class Painter:
    """Paints one patient's structures: holds the textures and contrasts that stay from frame to frame."""

    def __init__(self, contrast: float, imitation: float, rng: np.random.Generator) -> None:
        self.contrast, self.imitation = contrast, imitation
        self.nerve_texture, self.false_texture = fascicles(rng), fascicles(rng)
        self.streaks = smooth_noise(TEXTURE, 45, 4, rng)
        self.patchy = np.exp(DB * 4.5 * smooth_noise(TEXTURE, 26, 16, rng))
        self.swing = {
            "nerve": rng.uniform(4.5, 6.0),
            "tendon": rng.uniform(1.2, 2.6),
            "node": rng.uniform(5, 9),
        }
        self.halo = rng.uniform(0.5, 4.5)
        self.vessel = rng.uniform(8, 16)
        self.rim = rng.uniform(-25, -21)

    def paint(self, kind: str, level: np.ndarray, mirror: np.ndarray, outline: Outline, strength: float = 1.0) -> None:
        """Paint `kind` ("nerve" or one of DECOYS); strength 0 to 1 fades it in."""
        window = outline.window(level.shape, 10)
        if level[window].size == 0 or strength <= 0.02:
            return
        rho, *place = outline.coordinates(window)
        distance, facing = border(rho)
        inside = np.clip(0.5 - distance / (5 if kind == "nerve" else 9), 0, 1) * np.float32(strength)
        echoes, mirrors = level[window], mirror[window]  # views: painting them paints the frame
        echoes += np.exp(-0.5 * (distance / 9) ** 2) * np.float32(DB * self.halo * strength)
        base = float(echoes.mean())
        echoes += inside * (base + DB * self._texture(kind, place, (echoes - base) / DB) - echoes)
        if kind != "sheath":
            mirrors *= 1 - 0.99 * inside
        facing = 0.06 + 0.94 * facing**3 if kind == "nerve" else facing**8
        rim = np.exp(-0.5 * (distance / np.float32(1.7)) ** 2) * facing * self._sample(self.patchy, place)
        mirrors += rim * np.float32(strength * math.exp(DB * (self.rim + RIM[kind])))
        if kind == "vessel":
            self._enhance(level, outline, strength)

    def _texture(self, kind: str, place: list[np.ndarray], unchanged: np.ndarray) -> np.ndarray | float:
        """Level inside a structure in dB over its surroundings; decoys but vessels may imitate a nerve."""
        if kind == "nerve":
            return self._honeycomb(self.nerve_texture, place)
        if kind == "vessel":
            return -self.vessel
        if kind == "node":
            hilum = np.exp(-4 * ((place[0] * 1.3) ** 2 + (place[1] * 2.6) ** 2))
            own = 14 * hilum - self.swing["node"]
        elif kind == "tendon":
            own = 3.5 + self.swing["tendon"] * self._sample(self.streaks, place)
        else:
            own = unchanged
        return own + self.imitation * (self._honeycomb(self.false_texture, place) - own)

    def _honeycomb(self, texture: np.ndarray, place: list[np.ndarray]) -> np.ndarray:
        return self.contrast * (5 + self.swing["nerve"] * self._sample(texture, place))

    @staticmethod
    def _sample(texture: np.ndarray, place: list[np.ndarray]) -> np.ndarray:
        columns = (place[0] + SPAN) * np.float32((TEXTURE[1] - 1) / (2 * SPAN))
        rows = (place[1] + SPAN) * np.float32((TEXTURE[0] - 1) / (2 * SPAN))
        return cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    @staticmethod
    def _enhance(level: np.ndarray, outline: Outline, strength: float) -> None:
        """Blood hardly weakens the beam: brighter below a vessel, darker below its refracting sides."""
        wide, high = outline.reach
        top, left, right = (
            int(outline.y + 0.8 * high),
            int(outline.x - 1.6 * wide),
            int(outline.x + 1.6 * wide),
        )
        left, right = max(left, 0), min(right, level.shape[1])
        if right <= left or not 0 <= top < level.shape[0]:
            return
        offset = (np.arange(left, right, dtype=np.float32) - np.float32(outline.x)) / np.float32(wide)
        profile = np.exp(-2.5 * offset**2) - 0.5 * np.exp(-40 * (np.abs(offset) - 1.05) ** 2)
        below = np.arange(level.shape[0] - top, dtype=np.float32)
        fade = np.minimum(below / (0.3 * high + 1), 1) * np.exp(-below / 110)
        level[top:, left:right] += np.float32(6 * DB * strength) * fade[:, None] * profile[None, :]
