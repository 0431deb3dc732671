"""A patient's anatomy: the tissue, what lies in it, and how both move from frame to frame.

The tissue (skin, fat, fasciae, muscle with fibre streaks, bone with its shadow) is drawn once, on a canvas wider than
the frame. Layers are drawn flat and then draped over a smooth relief, so that streaks follow the fasciae. The nerve and
the structures that can be taken for it are painted into each frame's `level` (log power of diffuse echoes) and `mirror`
(power of mirror-like echoes), both float32 (H, W), in place. Levels are natural logs of echo power; DB converts
decibels.
"""

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_tools.phantom.nerve import WARPS, Frames, Outline, border
from nerveceg_tools.phantom.scanner import DB, smooth_noise

CANVAS = (500, 880)  # rows, columns: the frame and what the probe's motion uncovers
LEFT = 150  # canvas column of the frame's left edge
GRID = (15, 20)  # nodes of the displacement field
DECOYS = ("vessel", "node", "tendon", "sheath")
ECCENTRICITIES = {"vessel": (0.2, 0.75), "node": (0.4, 0.85), "tendon": (0.75, 0.95), "sheath": (0.75, 0.95)}
RIM = {"nerve": 0, "vessel": 0, "node": -4, "tendon": -6, "sheath": 0}  # dB relative to the patient's rims
TEXTURE = (160, 320)  # rows across, columns along the nerve; both span -1.25 to 1.25 of its half axes
SPAN = 1.25


@dataclass(frozen=True)
class Difficulty:
    """How hard the phantom is: how well a nerve can be seen, and how often and how well other structures imitate it.

    contrast: factor on the nerve's inner contrast in decibels. fading: standard deviation, in decibels, of the strength
    of a rim along an outline. shadows: mean number of shadows that fall on a patient's frames. decoys: share (above 0,
    up to 1) of the negative frames that have another structure in the nerve's place. imitation: how much such
    structures, there and elsewhere, look like a nerve inside, 0 to 1.
    """

    contrast: float
    fading: float
    shadows: float
    decoys: float
    imitation: float


DIFFICULTIES = {
    "easy": Difficulty(contrast=1.25, fading=4.5, shadows=0.0, decoys=0.3, imitation=0.0),
    "medium": Difficulty(contrast=0.6, fading=12.0, shadows=2.0, decoys=0.4, imitation=0.4),
    "hard": Difficulty(contrast=0.5, fading=12.0, shadows=2.0, decoys=0.85, imitation=0.6),
}


def tissue(nerve: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Draw a patient's canvas, float32 (*CANVAS, 2): log power of diffuse echoes, power of mirror-like ones.

    nerve: usual centre (x, y) of the nerve in frame pixels; no bone is drawn there.
    """
    level, mirror = _drape(*_layers(rng), rng)
    for _ in range(rng.integers(2, 5)):
        _belly(level, mirror, nerve, rng)
    if rng.random() < 0.6:
        _bone(level, mirror, nerve[1], rng)
    return np.dstack([level, mirror])


def _layers(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw horizontal layers: diffuse level in log power and mirror-like line power, float32, 60 rows above CANVAS."""
    height = CANVAS[0] + 60
    shape = (height, CANVAS[1])
    skin, fat = rng.uniform(12, 24), rng.uniform(25, 70)
    borders = skin + fat + np.cumsum(np.concatenate([[0], rng.uniform(35, 110, 5)]))
    levels = np.concatenate([[rng.normal(-30.5, 2.5), rng.normal(-36, 3)], rng.normal(-34, 3.2, 6)])
    rows = np.arange(height)
    layer = np.searchsorted(np.concatenate([[skin], borders]), rows)
    column = cv2.GaussianBlur(levels[np.minimum(layer, 7)].astype(np.float32)[:, None], (0, 0), 1.5)
    streaky = rng.uniform(0.4, 1.6, 8)[np.minimum(layer, 7)].astype(np.float32)[:, None]
    level = column + 3.3 * smooth_noise(shape, 60, 30, rng) + 1.5 * smooth_noise(shape, 9, 5, rng)
    level += 1.8 * smooth_noise(shape, 26, 13, rng) + 0.6 * smooth_noise(shape, 5, 2, rng)
    level += 1.2 * streaky * smooth_noise(shape, 28, 2.6, rng)
    level *= DB
    mirror = np.zeros(shape, np.float32)
    for depth in borders[:4]:
        for _ in range(rng.integers(1, 4)):
            start, length = rng.uniform(-200, 350), rng.uniform(300, 1000)
            row, peak = depth + rng.normal(0, 6), rng.uniform(-22, -8)
            _line(mirror, row, (start, start + length), peak, rng)
    crowded = np.exp(0.8 * smooth_noise(shape, 70, 40, rng))
    for _ in range(int(rng.uniform(700, 2200))):
        row, start = skin + rng.beta(1.1, 1.5) * (height - skin - 1), rng.uniform(-40, CANVAS[1] - 1)
        if rng.random() < 0.45 * streaky[int(row), 0] * crowded[int(row), max(int(start), 0)]:
            length = rng.gamma(1.6, 13) + 10
            _line(mirror, row, (start, start + length), rng.normal(-23, 6.5), rng)
    return level, mirror


def _drape(level: np.ndarray, mirror: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Bend the layers over a smooth relief that fades towards the skin."""
    rows = np.arange(CANVAS[0], dtype=np.float32)[:, None]
    columns = np.arange(CANVAS[1], dtype=np.float32)[None, :]
    relief = rng.uniform(6, 20) * smooth_noise(CANVAS, 95, 60, rng)
    relief += rng.normal(0, 0.09) * (columns - CANVAS[1] / 2)
    source = rows + 25 + relief * np.minimum(rows / 110, 1) - 25 * np.maximum(1 - rows / 60, 0)
    across = np.repeat(columns, CANVAS[0], axis=0)
    tilt = cv2.Sobel(source, cv2.CV_32F, 1, 0, scale=0.125)
    level, mirror = (
        cv2.remap(layer, across, source, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for layer in (level, mirror)
    )
    return level, mirror * np.exp(-0.5 * (tilt / 0.2) ** 2)


def _line(mirror: np.ndarray, row: float, span: tuple[float, float], peak: float, rng: np.random.Generator) -> None:
    """Add a thin interface of `peak` dB between two columns. Its strength and row vary, and its ends fade."""
    first, last = max(int(span[0]), 0), min(int(span[1]), mirror.shape[1])
    if last - first < 4:
        return
    length = span[1] - span[0]
    x = np.arange(first, last, dtype=np.float32)
    position = (x - span[0]) / length
    cycles = np.array([0.0015, 0.004, 0.009, 0.003, 0.007, 0.016]) * rng.uniform(0.6, 1.4, 6)
    swing = np.sin(2 * math.pi * (cycles[:, None] * x + rng.random((6, 1))))
    centre = row + rng.normal(0, [6, 2.0, 0.7]) @ swing[:3] + rng.normal(0, 3 + length / 60) * (position - 0.5)
    power = np.exp(DB * (peak + rng.normal(0, [5, 6, 2.5]) @ swing[3:]))
    power *= np.exp(-0.5 * (np.gradient(centre) / 0.15) ** 2)
    power *= np.minimum(1, np.minimum(position, 1 - position) * length / 25) ** 2
    top, bottom = max(int(centre.min()) - 7, 0), min(int(centre.max()) + 8, mirror.shape[0])
    distance = np.arange(top, bottom, dtype=np.float32)[:, None] - centre.astype(np.float32)
    width = np.float32(rng.uniform(0.8, 1.1 + min(length, 200) / 400))
    mirror[top:bottom, first:last] += power.astype(np.float32) * np.exp(-0.5 * (distance / width) ** 2)


def _belly(level: np.ndarray, mirror: np.ndarray, nerve: tuple[float, float], rng: np.random.Generator) -> None:
    """Draw a muscle in cross-section: darker, finely streaked, in a patchy bright fascia."""
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
    """Draw a rib or transverse process: a bright convex surface with nothing but shadow below it."""
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


def fascicles(rng: np.random.Generator) -> np.ndarray:
    """Draw the texture of a nerve's cross-section, float32 TEXTURE.

    It is about -1 in the dark fascicles and +1 in the bright tissue between them. Coordinates are those of
    `Outline.coordinates`, with a typical axis ratio of 1 to 2.
    """
    across: np.ndarray = np.linspace(-SPAN, SPAN, TEXTURE[0], dtype=np.float32)[:, None]
    along: np.ndarray = np.linspace(-2 * SPAN, 2 * SPAN, TEXTURE[1], dtype=np.float32)[None, :]
    texture = np.ones(TEXTURE, np.float32)
    along = along + 0.1 * smooth_noise(TEXTURE, 22, 22, rng)
    across = across + 0.1 * smooth_noise(TEXTURE, 22, 22, rng)
    drawn: list[tuple[float, float, float]] = []
    for _ in range(400):
        radius = rng.uniform(0.15, 0.55)
        turn, reach = rng.uniform(0, 2 * math.pi), math.sqrt(rng.random())
        x, y = 2 * reach * math.cos(turn) * (1 - radius / 2.2), reach * math.sin(turn) * (1 - radius)
        if all(math.hypot(x - px, y - py) > 0.93 * (radius + pr) + 0.06 for px, py, pr in drawn):
            drawn.append((x, y, radius))
            depth, squash = rng.uniform(0.55, 1), rng.uniform(0.8, 1.25)
            distance = np.hypot((along - x) * squash, (across - y) / squash) / radius
            texture = np.minimum(texture, 1 - depth * (1 - np.tanh((distance - 0.86) * 3.5)))
    return texture + 0.25 * smooth_noise(TEXTURE, 8, 8, rng)


def _sample(texture: np.ndarray, position: list[np.ndarray]) -> np.ndarray:
    columns = (position[0] + SPAN) * np.float32((TEXTURE[1] - 1) / (2 * SPAN))
    rows = (position[1] + SPAN) * np.float32((TEXTURE[0] - 1) / (2 * SPAN))
    return cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


class Painter:
    """Paint one patient's structures, with textures and contrasts that stay the same from frame to frame."""

    def __init__(self, difficulty: Difficulty, rng: np.random.Generator) -> None:
        self.contrast, self.imitation = difficulty.contrast, difficulty.imitation
        self.nerve_texture, self.false_texture = fascicles(rng), fascicles(rng)
        self.streaks = smooth_noise(TEXTURE, 45, 4, rng)
        # rims that fade more are also weaker on average
        self.patchy = np.exp(DB * difficulty.fading * (smooth_noise(TEXTURE, 26, 16, rng) - 0.05 * difficulty.fading))
        self.swing = {"nerve": rng.uniform(4.5, 6.0), "tendon": rng.uniform(1.2, 2.6), "node": rng.uniform(5, 9)}
        self.halo = rng.uniform(0.5, 4.5)
        self.vessel = rng.uniform(8, 16)
        self.rim = rng.uniform(-25, -21)

    def paint(
        self, structure: str, level: np.ndarray, mirror: np.ndarray, outline: Outline, strength: float = 1.0
    ) -> None:
        """Paint a structure, "nerve" or one of DECOYS; a strength below 1 lets what lies behind it show through."""
        window = outline.window(level.shape, 10)
        if level[window].size == 0 or strength <= 0.02:
            return
        rho, *position = outline.coordinates(window)
        distance, facing = border(rho)
        inside = np.clip(0.5 - distance / (5 if structure == "nerve" else 9), 0, 1) * np.float32(strength)
        echoes, mirrors = level[window], mirror[window]  # views: painting them paints the frame
        echoes += np.exp(-0.5 * (distance / 9) ** 2) * np.float32(DB * self.halo * strength)
        base = float(echoes.mean())
        echoes += inside * (base + DB * self._texture(structure, position, (echoes - base) / DB) - echoes)
        if structure != "sheath":
            mirrors *= 1 - 0.99 * inside
        facing = 0.06 + 0.94 * facing**3 if structure == "nerve" else facing**8
        rim = np.exp(-0.5 * (distance / np.float32(1.7)) ** 2) * facing * _sample(self.patchy, position)
        mirrors += rim * np.float32(strength * math.exp(DB * (self.rim + RIM[structure])))
        if structure == "vessel":
            _enhance(level, outline, strength)

    def _texture(self, structure: str, position: list[np.ndarray], unchanged: np.ndarray) -> np.ndarray | float:
        """Level inside a structure in dB against its surroundings; decoys other than vessels may imitate a nerve."""
        if structure == "nerve":
            return self._honeycomb(self.nerve_texture, position)
        if structure == "vessel":
            return -self.vessel
        if structure == "node":
            hilum = np.exp(-4 * ((position[0] * 1.3) ** 2 + (position[1] * 2.6) ** 2))
            texture = 14 * hilum - self.swing["node"]
        elif structure == "tendon":
            texture = 3.5 + self.swing["tendon"] * _sample(self.streaks, position)
        else:
            texture = unchanged
        return texture + self.imitation * (self._honeycomb(self.false_texture, position) - texture)

    def _honeycomb(self, texture: np.ndarray, position: list[np.ndarray]) -> np.ndarray:
        return self.contrast * (5 + self.swing["nerve"] * _sample(texture, position))


def _enhance(level: np.ndarray, outline: Outline, strength: float) -> None:
    """Brighten what lies below a vessel, since blood hardly weakens the beam, and darken what lies below its sides."""
    half_width, half_height = outline.reach
    top = int(outline.y + 0.8 * half_height)
    left = max(int(outline.x - 1.6 * half_width), 0)
    right = min(int(outline.x + 1.6 * half_width), level.shape[1])
    if right <= left or not 0 <= top < level.shape[0]:
        return
    offset = (np.arange(left, right, dtype=np.float32) - np.float32(outline.x)) / np.float32(half_width)
    profile = np.exp(-2.5 * offset**2) - 0.5 * np.exp(-40 * (np.abs(offset) - 1.05) ** 2)
    below = np.arange(level.shape[0] - top, dtype=np.float32)
    fade = np.minimum(below / (0.3 * half_height + 1), 1) * np.exp(-below / 110)
    level[top:, left:right] += np.float32(6 * DB * strength) * fade[:, None] * profile[None, :]


def _moved(structure: str, outline: Outline, shift: np.ndarray, rng: np.random.Generator) -> Outline:
    row = int(np.clip(outline.y / FRAME_SHAPE[0] * (GRID[0] - 1), 0, GRID[0] - 1))
    column = int(np.clip(outline.x / FRAME_SHAPE[1] * (GRID[1] - 1), 0, GRID[1] - 1))
    across, along = (float(part) for part in shift[:, row, column])
    pulse = math.exp(0.12 * rng.standard_normal()) if structure == "vessel" else 1.0
    return replace(outline, x=outline.x - across, y=outline.y - along, area=outline.area * pulse)


class Surroundings:
    """Everything in a patient's frames except the fixed tissue. usual: mean centre (x, y) of the nerve, px."""

    def __init__(self, usual: tuple[float, float], difficulty: Difficulty, rng: np.random.Generator) -> None:
        self.usual, self.decoys = usual, difficulty.decoys
        self.painter = Painter(difficulty, rng)
        self.decoy_order = [str(structure) for structure in rng.permutation(DECOYS)]
        self.bystanders = [self._bystander(rng) for _ in range(rng.integers(1, 5))]
        down, right = np.meshgrid(np.linspace(0, math.pi, GRID[0]), np.linspace(0, math.pi, GRID[1]), indexing="ij")
        waves = np.array([np.cos(i * down + j * right) for i in range(3) for j in range(3)])
        self.modes = np.einsum("kw,wyx->kyx", rng.normal(0, 1.4, (6, 9)), waves)  # one field per warp curve
        self.grip = np.minimum(down / math.pi * FRAME_SHAPE[0] / 90, 1)  # the probe holds the skin in place
        self.shade = np.sum([self._shadow(rng) for _ in range(rng.poisson(difficulty.shadows))], axis=0)

    def _bystander(self, rng: np.random.Generator) -> tuple[str, Outline]:
        structure = str(rng.choice(DECOYS, p=[0.45, 0.2, 0.15, 0.2]))
        turn, far = rng.uniform(0, 2 * math.pi), rng.uniform(105, 230)
        x, y = self.usual[0] + far * math.cos(turn), max(75.0, self.usual[1] + 0.7 * far * math.sin(turn))
        area = rng.uniform(900, 6000) if structure == "vessel" else rng.uniform(2000, 8000)
        waves = tuple((rng.normal(0, 1, 3) + 1j * rng.normal(0, 1, 3)) * [0.025, 0.012, 0.006])
        eccentricity, angle = rng.uniform(*ECCENTRICITIES[structure]), rng.uniform(-1.4, 1.4)
        return structure, Outline(x, y, area, eccentricity, angle, rng.normal(0, 0.15), waves)

    def _shadow(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the shadow of poor contact or of gas, float32 FRAME_SHAPE: by how many decibels echoes are weaker."""
        middle, half = self.usual[0] + rng.normal(0, 60), rng.uniform(10, 35)
        across = np.exp(-(((np.arange(FRAME_SHAPE[1]) - middle) / half) ** 2))
        below = np.clip((np.arange(FRAME_SHAPE[0]) - rng.uniform(0, self.usual[1])) / 30, 0, 1)
        return np.outer(rng.uniform(6, 16) * below, across).astype(np.float32)

    def displacement(self, frames: Frames, index: int) -> np.ndarray:
        """Return where each grid node's tissue comes from: float32 (2, *GRID), px added to columns and rows.

        The probe slides with the nerve, and pressing it in squeezes the deep tissue.
        """
        outline = frames.outlines[index]
        warp = np.array([frames.curves[name][index] for name in WARPS])[:, None, None] * self.modes
        across = 0.75 * (self.usual[0] - outline.x) + warp[:3].sum(axis=0) * self.grip
        along = (0.75 * (self.usual[1] - outline.y) + warp[3:].sum(axis=0)) * self.grip
        return np.stack([np.clip(across, 5 - LEFT, LEFT - 5), np.clip(along, -75, 75)]).astype(np.float32)

    def paint(
        self, frames: Frames, index: int, shift: np.ndarray, layers: list[np.ndarray], rng: np.random.Generator
    ) -> None:
        """Paint the bystanders, whatever is in the nerve's place (a nerve, a decoy or nothing), and the shadows.

        layers: level and mirror, float32 (420, 580) each, which are changed in place.
        """
        curves, (level, mirror) = frames.curves, layers
        for (structure, outline), warp in zip(self.bystanders, WARPS, strict=False):
            strength = min(1.0, 0.75 + 0.3 * curves[warp][index])
            self.painter.paint(structure, level, mirror, _moved(structure, outline, shift, rng), strength)
        self._paint_place(frames, index, level, mirror)
        level -= DB * self.shade
        mirror *= np.exp(-DB * self.shade)

    def _paint_place(self, frames: Frames, index: int, level: np.ndarray, mirror: np.ndarray) -> None:
        """Paint whatever is in the nerve's place."""
        outline = frames.outlines[index]
        if frames.shows[index]:
            self.painter.paint("nerve", level, mirror, outline)
            return
        fate = 0.5 * (1 + math.erf(frames.curves["decoy"][index] / math.sqrt(2))) / self.decoys
        if fate < 1:
            decoy = self.decoy_order[int(fate * len(self.decoy_order))]
            outline = replace(outline, eccentricity=0.5) if decoy == "vessel" else outline
            self.painter.paint(decoy, level, mirror, outline)
