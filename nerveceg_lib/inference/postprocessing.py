"""Clean up a predicted mask: drop specks, fill holes, smooth the outline.

Masks are (H, W), any dtype, non-zero = nerve, and are not changed. Every result is a new uint8 mask of the same shape
with values 0 and 1. A blank mask stays blank: whether a frame has a nerve is up to the gate.
"""

from collections.abc import Callable
from functools import partial

import cv2
import numpy as np
from scipy.ndimage import binary_fill_holes


def remove_small(mask: np.ndarray, min_area: int) -> np.ndarray:
    """Drop the components (8-connected) with fewer than `min_area` pixels: no annotated nerve is that small."""
    labels, areas = _components(mask)
    return _binary(mask) & (areas[labels] >= min_area)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Keep only the largest component (8-connected), and one of several equals: an annotated frame has one nerve."""
    labels, areas = _components(mask)
    return _binary(mask) & (labels == areas.argmax())


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill the background that the mask encloses, so that no 4-connected path leads out of the frame."""
    return binary_fill_holes(_binary(mask)).astype(np.uint8)


def smooth(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a Gaussian of `sigma` px and cut at 0.5: straight edges stay, teeth and thin bridges disappear."""
    # OpenCV's default border, a mirror, would pull an edge near the frame's border onto it
    blurred = cv2.GaussianBlur(_binary(mask).astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return (blurred > 0.5).astype(np.uint8)


def _binary(mask: np.ndarray) -> np.ndarray:
    return (np.asarray(mask) != 0).astype(np.uint8)


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the component of every pixel (H, W), 0 = background, and the area of each, 0 for the background."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(_binary(mask), connectivity=8)
    return labels, np.append(0, stats[1:, cv2.CC_STAT_AREA])


CLEANUPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": _binary,
    "small": partial(remove_small, min_area=1500),  # the smallest annotated nerve has 2684 px
    "largest": largest_component,
    "holes": fill_holes,
    "smooth": partial(smooth, sigma=3),
}
