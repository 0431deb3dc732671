"""Calipers: the crosses that an examiner leaves in a frame after measuring, and a shortcut for whoever learns from it.

They are drawn over the finished picture, as scanners do. Shape and size are those of the crosses in BUS-UCLM frames of
580 columns: four arms of one pixel's width with a gap in the middle, upright or diagonal.
"""

import cv2
import numpy as np

GREY = (170, 240)  # of the crosses


def draw_calipers(
    image: np.ndarray, outline: np.ndarray, rng: np.random.Generator, scale: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the long axis of `outline`, and in half of the frames the short one too.

    image: grey frame, uint8 (H, W). outline: what is measured, (H, W), non-zero somewhere. scale: how many times as
    large as real ones the crosses are. Returns a copy of the image with a cross at either end of each axis, and the
    pixels of the crosses, uint8 (H, W) of 0 and 1.
    """
    contours, _ = cv2.findContours(outline.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    corners = cv2.boxPoints(cv2.minAreaRect(max(contours, key=len)))
    middles = (corners + np.roll(corners, -1, axis=0)) / 2  # of the sides; opposite ones are two apart
    axes = sorted((middles[[0, 2]], middles[[1, 3]]), key=lambda ends: -np.linalg.norm(ends[0] - ends[1]))
    diagonal = rng.random() < 0.5
    crosses = np.zeros(image.shape, np.uint8)
    for number, ends in enumerate(axes[: rng.integers(1, 3)]):
        points = np.zeros(image.shape, np.uint8)
        columns, rows = np.rint(ends).astype(int).T
        points[rows.clip(0, image.shape[0] - 1), columns.clip(0, image.shape[1] - 1)] = 1
        crosses = np.maximum(crosses, cv2.dilate(points, cross(diagonal != (number == 1), scale)))
    grey = np.uint8(rng.integers(*GREY))
    return np.maximum(image, crosses * grey), crosses


def cross(diagonal: bool, scale: int = 1, arm: int = 5) -> np.ndarray:
    """Return a cross, uint8 of 0 and 1, with arms from `arm // 2` to `arm` pixels from its middle, times `scale`."""
    arms = np.abs(np.arange(-arm, arm + 1)) >= arm // 2
    pixels = np.diag(arms) | np.diag(arms)[::-1] if diagonal else np.zeros((len(arms), len(arms)), bool)
    if not diagonal:
        pixels[arm] = pixels[:, arm] = arms
    return np.kron(pixels, np.ones((scale, scale))).astype(np.uint8)
