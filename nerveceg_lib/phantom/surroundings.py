"""What moves around a patient's nerve: deformation, look-alikes in the tissue and in the nerve's place."""

import math
from dataclasses import replace

import numpy as np

from nerveceg_lib.phantom.difficulty import Difficulty
from nerveceg_lib.phantom.outline import Outline
from nerveceg_lib.phantom.path import SHAPE, Frames
from nerveceg_lib.phantom.structures import DECOYS, Painter
from nerveceg_lib.phantom.tissue import LEFT

GRID = (15, 20)  # nodes of the displacement field


class Surroundings:
    """Everything in a patient's frames but the fixed tissue. usual: mean centre (x, y) of the nerve, px."""

    def __init__(self, usual: tuple[float, float], difficulty: Difficulty, rng: np.random.Generator) -> None:
        self.usual, self.decoys = usual, difficulty.decoys
        self.painter = Painter(difficulty.contrast, difficulty.imitation, rng)
        self.kinds = [str(kind) for kind in rng.permutation(DECOYS)]
        self.bystanders = [self._bystander(rng) for _ in range(rng.integers(1, 5))]
        down, right = np.meshgrid(np.linspace(0, math.pi, GRID[0]), np.linspace(0, math.pi, GRID[1]), indexing="ij")
        waves = np.array([np.cos(i * down + j * right) for i in range(3) for j in range(3)])
        self.modes = np.einsum("kw,wyx->kyx", rng.normal(0, 1.4, (6, 9)), waves)  # one field per warp curve
        self.grip = np.minimum(down / math.pi * SHAPE[0] / 90, 1)  # the probe holds the skin in place

    def _bystander(self, rng: np.random.Generator) -> tuple[str, Outline]:
        kind = str(rng.choice(DECOYS, p=[0.45, 0.2, 0.15, 0.2]))
        turn, far = rng.uniform(0, 2 * math.pi), rng.uniform(105, 230)
        x, y = self.usual[0] + far * math.cos(turn), max(75.0, self.usual[1] + 0.7 * far * math.sin(turn))
        long = {"vessel": (0.2, 0.75), "node": (0.4, 0.85), "tendon": (0.75, 0.95), "sheath": (0.75, 0.95)}[kind]
        area = rng.uniform(900, 6000) if kind == "vessel" else rng.uniform(2000, 8000)
        waves = tuple((rng.normal(0, 1, 3) + 1j * rng.normal(0, 1, 3)) * [0.025, 0.012, 0.006])
        return kind, Outline(x, y, area, rng.uniform(*long), rng.uniform(-1.4, 1.4), rng.normal(0, 0.15), waves)

    def displacement(self, frames: Frames, index: int) -> np.ndarray:
        """Where each grid node's tissue comes from: float32 (2, *GRID), px added to columns and rows.

        The probe slides with the nerve; pressing it in squeezes what lies deep."""
        outline = frames.outlines[index]
        warp = np.array([frames.curves[f"warp{k}"][index] for k in range(6)])[:, None, None] * self.modes
        across = 0.75 * (self.usual[0] - outline.x) + warp[:3].sum(axis=0) * self.grip
        along = (0.75 * (self.usual[1] - outline.y) + warp[3:].sum(axis=0)) * self.grip
        return np.stack([np.clip(across, 5 - LEFT, LEFT - 5), np.clip(along, -75, 75)]).astype(np.float32)

    def paint(
        self,
        frames: Frames,
        index: int,
        shift: np.ndarray,
        layers: tuple[np.ndarray, np.ndarray],
        rng: np.random.Generator,
    ) -> None:
        """Paint the bystanders, then what is in the nerve's place (a nerve, a decoy or nothing), into the
        layers (level, mirror), both float32 (420, 580), in place."""
        curves = frames.curves
        for k, (kind, outline) in enumerate(self.bystanders):
            strength = min(1.0, 0.75 + 0.3 * curves[f"warp{k}"][index])
            self.painter.paint(kind, *layers, self._moved(kind, outline, shift, rng), strength)
        place = frames.outlines[index]
        if frames.shows[index]:
            self.painter.paint("nerve", *layers, place)
            return
        fate = 0.5 * (1 + math.erf(curves["decoy"][index] / math.sqrt(2))) / self.decoys
        if fate < 1:
            kind = self.kinds[int(fate * len(self.kinds))]
            self.painter.paint(kind, *layers, replace(place, eccentricity=0.5) if kind == "vessel" else place)

    @staticmethod
    def _moved(kind: str, outline: Outline, shift: np.ndarray, rng: np.random.Generator) -> Outline:
        row = int(np.clip(outline.y / SHAPE[0] * (GRID[0] - 1), 0, GRID[0] - 1))
        column = int(np.clip(outline.x / SHAPE[1] * (GRID[1] - 1), 0, GRID[1] - 1))
        across, along = (float(part) for part in shift[:, row, column])
        pulse = math.exp(0.12 * rng.standard_normal()) if kind == "vessel" else 1.0
        return replace(outline, x=outline.x - across, y=outline.y - along, area=outline.area * pulse)
