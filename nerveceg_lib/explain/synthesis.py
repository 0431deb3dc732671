"""Images that a network generates: what a channel, a layer or the target responds to most.

Each method takes a `Request` and returns one image (1, C, H, W) in standardised grey values.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from nerveceg_lib.explain.attribution import for_channel
from nerveceg_lib.explain.hooks import Request

GREY_LIMIT = 3.0  # standard deviations; the grey values of real standardised frames hardly exceed it


def class_image(request: Request, steps: int = 100, lr: float = 0.05, penalty: float = 0.0, seed: int = 0) -> Tensor:
    """Return an image that raises the target (Simonyan et al. 2013, arXiv:1312.6034).

    Only the size is taken from the request's image; the search starts from noise. `penalty` is the weight of
    `_roughness`. Without it the result is noise that fools the network rather than what the network looks for.
    """
    return _maximise(request.score, _noise(request, seed), steps, lr, penalty)


def filter_image(
    request: Request, channel: int | None = None, steps: int = 100, lr: float = 0.05, seed: int = 0
) -> Tensor:
    """Return an image that excites one channel of a layer (Erhan et al. 2009).

    By default this is the channel with the highest mean for the request's image.
    """
    return class_image(for_channel(request, channel), steps, lr, 0.001, seed)


def inversion(request: Request, steps: int = 200, lr: float = 0.05, seed: int = 0) -> Tensor:
    """Return an image that a layer can hardly tell from the request's (Mahendran & Vedaldi 2015, arXiv:1412.0035)."""
    wanted, _ = request.features(request.image.detach())

    def likeness(image: Tensor) -> Tensor:
        features, _ = request.features(image)
        return -((features - wanted) ** 2).sum() / (wanted**2).sum()

    return _maximise(likeness, _noise(request, seed), steps, lr, 1e-5)


def deep_dream(request: Request, steps: int = 20, lr: float = 0.03) -> Tensor:
    """Return the image with whatever a layer sees in it made stronger (Mordvintsev et al. 2015).

    The search runs at three sizes, from coarse to fine; the detail that is found at one size is carried to the next.
    """
    frame = request.image.detach()
    detail = torch.zeros_like(frame)

    def strength(image: Tensor) -> Tensor:
        features, _ = request.features(image)
        return features.square().mean()

    for octave in (2, 1, 0):
        size = [max(32, round(side / 1.4**octave)) for side in frame.shape[-2:]]
        small_frame = F.interpolate(frame, size, mode="bilinear", antialias=True)
        detail = F.interpolate(detail, size, mode="bilinear", antialias=True)
        detail = _maximise(strength, small_frame + detail, steps, lr, 0.0) - small_frame
    return frame + detail


def _maximise(objective: Callable, start: Tensor, steps: int, lr: float, penalty: float) -> Tensor:
    """Raise `objective` less `penalty` times `_roughness` from `start`, within the grey values of real frames."""
    image = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=lr, maximize=True)
    for _ in range(steps):
        optimiser.zero_grad()
        (objective(image).sum() - penalty * _roughness(image)).backward()
        optimiser.step()
        image.data.clamp_(-GREY_LIMIT, GREY_LIMIT)
    return image.detach()


def _roughness(image: Tensor) -> Tensor:
    """Return total variation plus energy, summed over pixels, which is high for noise and low for pictures."""
    return sum((image.diff(dim=axis) ** 2).sum() for axis in (2, 3)) + 0.1 * (image**2).sum()


def _noise(request: Request, seed: int) -> Tensor:
    return 0.1 * torch.randn(request.image.shape, generator=torch.Generator().manual_seed(seed))
