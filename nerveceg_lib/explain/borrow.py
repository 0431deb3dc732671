"""Networks lent out for a look inside: layers by name, what they put out, and no trace left behind."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from nerveceg_lib.errors import InputError

Target = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Look:
    """What a method is asked about: one image (1, C, H, W), a target for the model's output, and layers by name.

    With a `channel` it is about the mean of that channel of the first layer instead of the target.
    """

    model: nn.Module
    image: torch.Tensor
    target: Target
    layers: tuple[str, ...]
    channel: int | None = None

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """The target (N,) of images (N, C, H, W)."""
        if self.channel is not None:
            return self.features(images)[0][:, self.channel].mean((1, 2))
        return self.target(self.model(images))

    def features(self, images: torch.Tensor, layer: str = "") -> tuple[torch.Tensor, torch.Tensor]:
        """What a layer (the first of all) puts out the last time it runs, (N, K, h, w), and the model's output."""
        layer, seen = layer or self.layers[0], []
        with hooked([find_layer(self.model, layer)], lambda module, inputs, output: seen.append(output)):
            final = self.model(images)
        if not seen or getattr(seen[-1], "ndim", 0) != 4:
            found = [getattr(output, "shape", type(output).__name__) for output in seen[-1:]]
            raise InputError(f"layer: expected one that puts out (N, K, h, w), found {layer!r} with {found}")
        return seen[-1], final


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and frozen weights; on leaving, modes and `requires_grad` are again as they were."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad in wanted:
            weight.requires_grad_(requires_grad)


@contextmanager
def hooked(modules: Sequence[nn.Module], after: Callable, before: Callable | None = None) -> Iterator[None]:
    """Forward hooks on `modules`, freed on leaving; what `after` returns, if anything, replaces a layer's output.

    Else that is copied before anything else sees it: a ReLU in place behind the layer would change it afterwards.
    """

    def guarded(module: nn.Module, inputs: tuple, output: object) -> object:
        changed = after(module, inputs, output)
        return output.clone() if changed is None and isinstance(output, torch.Tensor) else changed

    handles = [module.register_forward_hook(guarded) for module in modules]
    handles += [module.register_forward_pre_hook(before) for module in modules if before]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """The layer called `name` in `model.named_modules()`. Raises InputError with names like it."""
    layers = dict(model.named_modules())
    if name not in layers or not name:
        close = difflib.get_close_matches(name, layers, n=3, cutoff=0.3)
        raise InputError(f"layer: expected one of {type(model).__name__}, such as {close}, found {name!r}")
    return layers[name]


def region(mask: torch.Tensor) -> Target:
    """Sum of a segmenter's logits in `mask` (H, W), as in Seg-Grad-CAM (Vinogradova et al. 2020, arXiv:2002.11434)."""
    return lambda logits: (logits * mask).flatten(1).sum(1)


def default_target(output: torch.Tensor) -> Target:
    """A classifier's logit (B,) itself; of a segmenter's logits (1, 1, H, W) the sum over what it outlines.

    If that is less than one pixel in a hundred, the highest hundredth: what comes nearest to an outline.
    """
    if output.ndim == 1:
        return lambda logits: logits
    return region((output[0, 0] >= output.quantile(0.99).clamp_max(0)).to(output.dtype))
