"""How far outlines lie apart, by MONAI. Distances are in pixels of the full frame."""

import warnings

import numpy as np


def contour_scores(prediction: np.ndarray, truth: np.ndarray, tolerance: float = 5.0) -> dict[str, float]:
    """`hausdorff95` (px) and `surface_dice` (0..1) of two masks (H, W), non-zero = nerve.

    Hausdorff 95: the larger of the two directed 95th percentiles of distances between the outlines. Surface Dice
    (Nikolov et al. 2018, arXiv:1809.04430): the share of both outlines within `tolerance` px of the other. Both
    are NaN where a mask is empty, for there is no outline. Raises ValueError for shapes that differ.
    """
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice  # seconds to import

    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    if not (prediction.any() and truth.any()):
        return {"hausdorff95": float("nan"), "surface_dice": float("nan")}
    one, other = (torch.from_numpy(mask != 0).float()[None, None] for mask in (prediction, truth))  # (1, 1, H, W)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*always_return_as_numpy")  # MONAI 1.6 warns of its own argument
        return {
            "hausdorff95": float(compute_hausdorff_distance(one, other, include_background=True, percentile=95)),
            "surface_dice": float(compute_surface_dice(one, other, [tolerance], include_background=True)),
        }
