"""Clean up a mask after segmentation: drop specks, fill holes, smooth the outline, make it the shape of a nerve.

Every mask is (H, W), any dtype, non-zero = nerve, and is left as it was; every result is a new uint8 mask of the
same shape with values 0 and 1. A blank mask stays blank: whether a frame has a nerve is the gate's affair.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np

from nerveceg_lib.errors import InputError, at_least


def remove_small(mask: np.ndarray, min_area: int) -> np.ndarray:
    """Drop the components (8-connected) with fewer than `min_area` pixels: no annotated nerve is that small."""
    labels, areas = _components(mask)
    return _binary(mask) & (areas[labels] >= min_area)


def component_areas(mask: np.ndarray) -> np.ndarray:
    """Pixels of each component (8-connected), in no order: int (components,)."""
    return _components(mask)[1][1:]


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Keep the largest component (8-connected), of equals just one: an annotated frame has one nerve."""
    labels, areas = _components(mask)
    return _binary(mask) & (labels == areas.argmax())


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """Fill what the mask encloses: background from which no 4-connected path leads out of the frame."""
    outside = np.pad(_binary(mask) ^ 1, 1, constant_values=1)  # a rim joins all that the frame's border cuts off
    _, labels = cv2.connectedComponents(outside, connectivity=4)
    return (labels[1:-1, 1:-1] != labels[0, 0]).astype(np.uint8)


def smooth(mask: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with a Gaussian of `sigma` px and cut at 0.5: straight edges stay, teeth and thin bridges go.

    Raises InputError for a `sigma` of 0 or less.
    """
    if sigma <= 0:
        raise InputError(f"sigma: expected more than 0 px, found {sigma}")
    # cv2's default border, a mirror, would draw an edge near the frame's border onto it
    blurred = cv2.GaussianBlur(_binary(mask).astype(np.float32), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    return (blurred > 0.5).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """The mean and the principal components of training masks, which make a predicted mask the shape of a nerve."""

    mean: np.ndarray  # (h * w,) float32, share of nerve in every pixel of the small masks
    axes: np.ndarray  # (components, h * w) float32, orthonormal
    size: tuple[int, int]  # (h, w)

    @classmethod
    def fit(cls, masks: Iterable[np.ndarray], components: int = 30, size: tuple[int, int] = (52, 72)) -> "ShapeModel":
        """Learn from the masks that are not blank, taken one by one and kept at `size` (h, w) only.

        n masks span n - 1 directions around their mean: with few of them there are fewer `components`. Raises
        InputError if every mask is blank or `components` is below 1.
        """
        from sklearn.decomposition import PCA  # a second to import

        at_least(1, components=components)
        small = [_shrink(mask, size) for mask in masks if np.any(mask)]
        if not small:
            raise InputError("masks: a shape model needs at least one that is not blank, found none")
        components = min(components, len(small) - 1, size[0] * size[1])
        with np.errstate(invalid="ignore"):  # the variance of a single mask, not used here, is 0 / 0
            pca = PCA(components, random_state=0).fit(np.stack(small))
        return cls(pca.mean_, pca.components_, size)

    def reconstruct(self, mask: np.ndarray) -> np.ndarray:
        """Project the mask on the components and cut the reconstruction at 0.5.

        A mask that resembles no training mask may come back blank.
        """
        if not np.any(mask):
            return _binary(mask)
        weights = self.axes @ (_shrink(mask, self.size) - self.mean)
        small = (self.mean + weights @ self.axes).reshape(self.size)
        return (cv2.resize(small, mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5).astype(np.uint8)


def _binary(mask: np.ndarray) -> np.ndarray:
    return (np.asarray(mask) != 0).astype(np.uint8)


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Component of every pixel (H, W), 0 = background, and the area of each component, that of background as 0."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(_binary(mask), connectivity=8)
    return labels, np.append(0, stats[1:, cv2.CC_STAT_AREA])


def _shrink(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of nerve (0..1) in each of the h * w areas that make up the mask, flat, float32."""
    return cv2.resize(_binary(mask).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA).ravel()


CLEANUPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": _binary,
    "small": partial(remove_small, min_area=1500),  # the smallest annotated nerve has 2684 px
    "largest": largest_component,
    "holes": fill_holes,
    "smooth": partial(smooth, sigma=3),
}
