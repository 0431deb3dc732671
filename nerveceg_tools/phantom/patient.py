"""A patient: the anatomy is drawn once, and then any of the frames can be rendered in any order."""

from functools import cached_property

import cv2
import numpy as np

from nerveceg_lib.rle import FRAME_SHAPE
from nerveceg_tools.phantom.anatomy import CANVAS, DIFFICULTIES, LEFT, Surroundings, tissue
from nerveceg_tools.phantom.calipers import draw_calipers
from nerveceg_tools.phantom.cohort import Plan
from nerveceg_tools.phantom.nerve import walk
from nerveceg_tools.phantom.scanner import Scanner, speckle_field

STREAMS = ("path", "tissue", "speckle", "scanner", "structures", "frame", "calipers")


class Patient:
    """Frames 0 to plan.frames - 1 of one patient, in random order; each depends on plan and index alone."""

    def __init__(self, plan: Plan, difficulty: str = "medium", caliper_share: tuple[float, float] = (0, 0)) -> None:
        self.plan, self.difficulty, self.caliper_share = plan, DIFFICULTIES[difficulty], caliper_share
        self.frames = walk(plan, self._generator("path"))

    def _generator(self, what: str, *index: int) -> np.random.Generator:
        """Return a separate generator for each thing that is drawn, so that the order of calls changes nothing."""
        key = (*self.plan.seed.spawn_key, STREAMS.index(what), *index)
        return np.random.default_rng(np.random.SeedSequence(self.plan.seed.entropy, spawn_key=key))

    def label(self, index: int) -> np.ndarray:
        """Return the mask of a frame: uint8 (420, 580), 0 and 1. This is cheap, since nothing is rendered."""
        return self.frames.outlines[index].mask() * self.frames.labelled[index]

    def has_calipers(self, index: int) -> bool:
        """Return whether an examiner has left calipers in a frame."""
        positive, negative = self.caliper_share
        return self._generator("calipers", index).random() < (positive if self.frames.labelled[index] else negative)

    def render(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a frame and its mask: uint8 (420, 580) grey levels 0 to 255, and uint8 (420, 580) of 0 and 1."""
        background, speckle, scanner, surroundings = self._anatomy
        rng = self._generator("frame", index)
        shift = surroundings.displacement(self.frames, index)
        columns, rows = (cv2.resize(axis, FRAME_SHAPE[::-1], interpolation=cv2.INTER_CUBIC) for axis in shift)
        columns += np.arange(LEFT, LEFT + FRAME_SHAPE[1], dtype=np.float32)[None, :]
        rows += np.arange(FRAME_SHAPE[0], dtype=np.float32)[:, None]
        moved, steady = (
            cv2.remap(canvas, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
            for canvas in (background, speckle)
        )
        level, mirror = cv2.split(moved)
        surroundings.paint(self.frames, index, shift, [level, mirror], rng)
        top, left = (rng.integers(0, wide - narrow) for wide, narrow in zip(CANVAS, FRAME_SHAPE, strict=True))
        fresh = speckle[top : top + FRAME_SHAPE[0], left : left + FRAME_SHAPE[1]]
        image = scanner.image(level, mirror, steady, fresh, rng)
        if self.has_calipers(index):  # those of a frame without a nerve are where the nerve would be
            image, _ = draw_calipers(image, self.frames.outlines[index].mask(), self._generator("calipers", index, 1))
        return image, self.label(index)

    @cached_property
    def _anatomy(self) -> tuple[np.ndarray, np.ndarray, Scanner, Surroundings]:
        """What stays the same from frame to frame, drawn when the first frame is rendered."""
        x, y = np.mean([[outline.x, outline.y] for outline in self.frames.outlines], axis=0)
        return (
            tissue((x, y), self._generator("tissue")),
            speckle_field(CANVAS, self._generator("speckle")),
            Scanner(self.plan.traits, self._generator("scanner")),
            Surroundings((x, y), self.difficulty, self._generator("structures")),
        )
