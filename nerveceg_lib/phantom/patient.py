"""A patient: anatomy drawn once, then any of its frames rendered in any order."""

from functools import cached_property

import cv2
import numpy as np

from nerveceg_lib.phantom.cohort import Plan
from nerveceg_lib.phantom.difficulty import Difficulty, difficulty_named
from nerveceg_lib.phantom.path import SHAPE, Frames, walk
from nerveceg_lib.phantom.scanner import Scanner
from nerveceg_lib.phantom.speckle import speckle_field
from nerveceg_lib.phantom.surroundings import Surroundings
from nerveceg_lib.phantom.tissue import CANVAS, LEFT, tissue

STREAMS = ("path", "tissue", "speckle", "scanner", "structures", "frame")


def make_patient(plan: Plan, difficulty: str = "medium") -> "Patient":
    """Build a patient. Raises InputError if there is no such difficulty."""
    return Patient(plan, difficulty_named(difficulty))


class Patient:
    """Frames 0 to plan.frames - 1 of one patient, in random order; each a pure function of plan and index."""

    def __init__(self, plan: Plan, difficulty: Difficulty) -> None:
        self.plan, self.difficulty = plan, difficulty
        self.frames: Frames = walk(plan, self._generator("path"))
        self.usual = tuple(np.mean([[o.x, o.y] for o in self.frames.outlines], axis=0))

    def _generator(self, what: str, *index: int) -> np.random.Generator:
        """A generator of its own for each thing drawn, so that no order of calls changes any of them."""
        key = (*self.plan.seed.spawn_key, STREAMS.index(what), *index)
        return np.random.default_rng(np.random.SeedSequence(self.plan.seed.entropy, spawn_key=key))

    def label(self, index: int) -> np.ndarray:
        """The mask that belongs to a frame: uint8 (420, 580), 0 and 1. Cheap: nothing is rendered."""
        if not self.frames.labelled[index]:
            return np.zeros(SHAPE, np.uint8)
        return self.frames.outlines[index].mask(SHAPE)

    def render(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """A frame and its mask: uint8 (420, 580) grey levels 0 to 255, and uint8 (420, 580) of 0 and 1."""
        rng = self._generator("frame", index)
        shift = self._surroundings.displacement(self.frames, index)
        columns, rows = (cv2.resize(part, SHAPE[::-1], interpolation=cv2.INTER_CUBIC) for part in shift)
        columns += np.arange(LEFT, LEFT + SHAPE[1], dtype=np.float32)[None, :]
        rows += np.arange(SHAPE[0], dtype=np.float32)[:, None]
        seen = cv2.remap(self._tissue, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        level, mirror = cv2.split(seen)
        self._surroundings.paint(self.frames, index, shift, (level, mirror), rng)
        steady = cv2.remap(self._speckle, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        top, left = rng.integers(0, CANVAS[0] - SHAPE[0]), rng.integers(0, CANVAS[1] - SHAPE[1])
        fresh = self._speckle[top : top + SHAPE[0], left : left + SHAPE[1]]
        return self._scanner.image(level, mirror, steady, fresh, rng), self.label(index)

    @cached_property
    def _tissue(self) -> np.ndarray:
        return tissue(self.usual, self._generator("tissue"))

    @cached_property
    def _speckle(self) -> np.ndarray:
        return speckle_field(CANVAS, self._generator("speckle"))

    @cached_property
    def _scanner(self) -> Scanner:
        return Scanner(self.plan.traits, self._generator("scanner"))

    @cached_property
    def _surroundings(self) -> Surroundings:
        return Surroundings(self.usual, self.difficulty, self._generator("structures"))
