"""Pictures that networks make: what a channel, a layer or the target would like to see. Each gives one (H, W)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

from nerveceg_lib.explain.attribution import of_channel
from nerveceg_lib.explain.borrow import Look

GREY = 3.0  # standard deviations: real standardised frames hardly go further


def class_image(
    look: Look, steps: int = 100, rate: float = 0.05, regularise: float = 0.0, seed: int = 0
) -> torch.Tensor:
    """An image that raises the target (Simonyan et al. 2013, arXiv:1312.6034); the frame lends its size alone.

    `regularise` weighs `_roughness`: without it what comes out is what fools the network, not what it looks for.
    """
    return _climb(look.score, _noise(look, seed), steps, rate, regularise)


def filter_image(
    look: Look, channel: int | None = None, steps: int = 100, rate: float = 0.05, regularise: float = 0.001
) -> torch.Tensor:
    """An image that excites one channel of a layer (Erhan et al. 2009), by default the strongest in this frame."""
    return class_image(of_channel(look, channel), steps, rate, regularise)


def inverted(look: Look, steps: int = 200, rate: float = 0.05, regularise: float = 1e-5, seed: int = 0) -> torch.Tensor:
    """An image that a layer can hardly tell from the frame (Mahendran & Vedaldi 2015, arXiv:1412.0035)."""
    wanted = look.features(look.image)[0].detach()

    def likeness(image: torch.Tensor) -> torch.Tensor:
        return -((look.features(image)[0] - wanted) ** 2).sum() / (wanted**2).sum()

    return _climb(likeness, _noise(look, seed), steps, rate, regularise)


def deep_dream(look: Look, steps: int = 20, rate: float = 0.03, octaves: int = 3) -> torch.Tensor:
    """The frame with whatever a layer sees in it made stronger, from coarse to fine (Mordvintsev et al. 2015)."""
    frame, detail = look.image.detach(), torch.zeros_like(look.image)
    for octave in reversed(range(octaves)):
        size = [max(32, round(side / 1.4**octave)) for side in frame.shape[-2:]]
        small, detail = (F.interpolate(part, size, mode="bilinear", antialias=True) for part in (frame, detail))
        strength = lambda image: look.features(image)[0].square().mean()  # noqa: E731
        detail = _climb(strength, small + detail, steps, rate, 0.0) - small
    return frame + detail


def _climb(objective: Callable, start: torch.Tensor, steps: int, rate: float, regularise: float) -> torch.Tensor:
    """Raise `objective` less `regularise` times `_roughness` from `start`, inside the range of real frames."""
    image = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([image], lr=rate, maximize=True)
    for _ in range(steps):
        optimiser.zero_grad()
        (objective(image).sum() - regularise * _roughness(image)).backward()
        optimiser.step()
        image.data.clamp_(-GREY, GREY)
    return image.detach()


def _roughness(image: torch.Tensor) -> torch.Tensor:
    """Total variation and energy, summed over pixels: what sets adversarial noise apart from pictures."""
    return sum((image.diff(dim=axis) ** 2).sum() for axis in (2, 3)) + 0.1 * (image**2).sum()


def _noise(look: Look, seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(look.image.shape, generator=torch.Generator().manual_seed(seed))
