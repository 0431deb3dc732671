"""Speckle: the log envelope of a complex Gaussian field seen through a point-spread function.

Fully developed speckle has independent Gaussian real and imaginary parts, so its intensity is exponential
(Burckhardt 1978, "Speckle in ultrasound B-mode scans", IEEE Trans. Sonics Ultrason. 25). Scanners average
several looks (spatial compounding) and filter, which leaves a finer, weaker grain.
"""

import cv2
import numpy as np

LOOKS = 2
AXIAL, LATERAL = 1.1, 2.2  # standard deviations of the point-spread function in px; matched to real frames


def speckle_field(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Real and imaginary parts of LOOKS complex fields: float32 (H, W, 2 * LOOKS), unit variance each."""
    white = rng.standard_normal((*shape, 2 * LOOKS), dtype=np.float32)
    field = cv2.GaussianBlur(white, (0, 0), sigmaX=LATERAL, sigmaY=AXIAL)
    return field / field.std()


def log_intensity(field: np.ndarray) -> np.ndarray:
    """Natural log of the mean intensity over looks, float32 (H, W), of a field (H, W, 2 * LOOKS)."""
    power = cv2.transform(field * field, np.full((1, 2 * LOOKS), 1 / (2 * LOOKS), np.float32))
    return cv2.log(power + np.float32(1e-3))


def smooth_noise(shape: tuple[int, int], lateral: float, axial: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise float32 (H, W) of unit variance with blur widths in px, drawn coarse and enlarged."""
    steps = max(1, int(axial / 1.5)), max(1, int(lateral / 1.5))
    coarse = rng.standard_normal((shape[0] // steps[0] + 8, shape[1] // steps[1] + 8), dtype=np.float32)
    smooth = cv2.GaussianBlur(coarse, (0, 0), sigmaX=lateral / steps[1], sigmaY=axial / steps[0])
    size = (smooth.shape[1] - 6) * steps[1], (smooth.shape[0] - 6) * steps[0]
    full = cv2.resize(smooth[3:-3, 3:-3], size, interpolation=cv2.INTER_CUBIC)[: shape[0], : shape[1]]
    return (full - full.mean()) / full.std()
