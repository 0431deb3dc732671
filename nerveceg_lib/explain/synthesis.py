"""Images that a network generates: what a channel, a layer or the target responds to most.

Each method takes a `Request` and returns one image (1, C, H, W) in standardised grey values.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from kornia.filters import gaussian_blur2d
from torch import Tensor

from nerveceg_lib.explain.attribution import for_channel
from nerveceg_lib.explain.hooks import Request

GREY_LIMIT = 3.0  # standard deviations; the grey values of real standardised frames hardly exceed it


def class_image(
    request: Request,
    steps: int = 100,
    lr: float = 0.05,
    total_variation: float = 0.0,
    l1: float = 0.0,
    blur: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Return an image that raises the target (Simonyan et al. 2013, arXiv:1312.6034).

    Only the size is taken from the request's image; the search starts from noise. Without regularisation the result is
    noise that fools the network rather than what the network looks for.

    Args:
        steps, lr: number and size of the steps of gradient ascent.
        total_variation: weight of the sum of squared differences of neighbouring pixels (Mahendran & Vedaldi 2015,
            arXiv:1412.0035), which keeps the image smooth.
        l1: weight of the sum of absolute grey values, which keeps the image at mean grey where nothing is gained.
        blur: standard deviation in pixels of the Gaussian by which the image is blurred after every fourth step
            (Yosinski et al. 2015, arXiv:1506.06579), 0 for none.
        seed: of the noise.
    """

    def regularised(image: Tensor) -> Tensor:
        return request.score(image) - total_variation * _variation(image) - l1 * image.abs().sum()

    return _maximise(regularised, _noise(request, seed), steps, lr, blur)


def filter_image(
    request: Request, channel: int | None = None, steps: int = 100, lr: float = 0.05, seed: int = 0
) -> Tensor:
    """Return an image that excites one channel of a layer (Erhan et al. 2009).

    By default this is the channel with the highest mean for the request's image.
    """
    return class_image(for_channel(request, channel), steps, lr, total_variation=0.001, seed=seed)


def inversion(request: Request, steps: int = 200, lr: float = 0.05, seed: int = 0) -> Tensor:
    """Return an image that a layer can hardly tell from the request's (Mahendran & Vedaldi 2015, arXiv:1412.0035)."""
    wanted, _ = request.features(request.image.detach())

    def likeness(image: Tensor) -> Tensor:
        features, _ = request.features(image)
        return -((features - wanted) ** 2).sum() / (wanted**2).sum() - 1e-5 * _variation(image)

    return _maximise(likeness, _noise(request, seed), steps, lr)


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
        detail = _maximise(strength, small_frame + detail, steps, lr) - small_frame
    return frame + detail


def _maximise(objective: Callable, start: Tensor, steps: int, lr: float, blur: float = 0.0) -> Tensor:
    """Raise `objective` from `start`, within the grey values of real frames; `blur` is that of `class_image`."""
    image = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=lr, maximize=True)
    for step in range(1, steps + 1):
        optimiser.zero_grad()
        objective(image).sum().backward()
        optimiser.step()
        if blur and step % 4 == 0:
            image.data = gaussian_blur2d(image.data, (7, 7), (blur, blur))
        image.data.clamp_(-GREY_LIMIT, GREY_LIMIT)
    return image.detach()


def _variation(image: Tensor) -> Tensor:
    return image.diff(dim=2).square().sum() + image.diff(dim=3).square().sum()


def _noise(request: Request, seed: int) -> Tensor:
    return 0.1 * torch.randn(request.image.shape, generator=torch.Generator().manual_seed(seed))
