"""Access to the inside of a network: layers by name, their outputs, and a model that comes back unchanged."""

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from nerveceg_lib.runtime.errors import InputError

Target = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Request:
    """What one call of an explanation method is about.

    Args:
        model: the network, in evaluation mode and with frozen weights (see `frozen`).
        image: one standardised image, float32 (1, C, H, W), that requires gradients.
        target: maps the model's output (N, ...) to one number per image (N,).
        layer: a name from `model.named_modules()`, or "" if the method needs none.
        channel: if set, the mean of this channel of the layer is explained instead of the target.
    """

    model: nn.Module
    image: Tensor
    target: Target
    layer: str
    channel: int | None = None

    def score(self, images: Tensor) -> Tensor:
        """Return the explained number for each of the images (N, C, H, W), shape (N,)."""
        if self.channel is not None:
            return self.features(images)[0][:, self.channel].mean((1, 2))
        return self.target(self.model(images))

    def features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output (N, K, h, w) of the layer for images (N, C, H, W), and the model's output.

        If the layer runs several times per image, as in a recurrent network, the output of its last run is returned.
        Raises InputError for layers without such an output.
        """
        outputs: list = []
        with hooked([find_layer(self.model, self.layer)], lambda module, inputs, output: outputs.append(output)):
            final = self.model(images)
        if not outputs or getattr(outputs[-1], "ndim", 0) != 4:
            shapes = [getattr(output, "shape", type(output).__name__) for output in outputs[-1:]]
            raise InputError(f"layer: expected one that puts out (N, K, h, w), found {self.layer!r} with {shapes}")
        return outputs[-1], final


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Put `model` into evaluation mode with frozen weights; restore modes and `requires_grad` on leaving."""
    modes = [(module, module.training) for module in model.modules()]
    trainable = [(weight, weight.requires_grad) for weight in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        for weight, requires_grad in trainable:
            weight.requires_grad_(requires_grad)


@contextmanager
def hooked(modules: Sequence[nn.Module], after: Callable, before: Callable | None = None) -> Iterator[None]:
    """Attach forward hooks to `modules` and remove them on leaving.

    `after(module, inputs, output)` runs after a module and `before(module, inputs)` ahead of it. What `after` returns
    replaces the module's output. If it returns None, a copy of the output is passed on, because an in-place ReLU
    behind the module would otherwise change the tensor that the hook has kept.
    """

    def after_with_copy(module: nn.Module, inputs: tuple, output: object) -> object:
        replacement = after(module, inputs, output)
        return output.clone() if replacement is None and isinstance(output, Tensor) else replacement

    handles = [module.register_forward_hook(after_with_copy) for module in modules]
    handles += [module.register_forward_pre_hook(before) for module in modules if before]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the layer called `name` in `model.named_modules()`.

    Raises InputError with similar names if there is none.
    """
    layers = dict(model.named_modules())
    if name not in layers or not name:
        similar_names = difflib.get_close_matches(name, layers, n=3, cutoff=0.3)
        raise InputError(f"layer: expected one of {type(model).__name__}, such as {similar_names}, found {name!r}")
    return layers[name]


def region(mask: Tensor) -> Target:
    """Return a target for segmenters: the sum of the logits inside `mask` (H, W), with 1 inside and 0 outside.

    This is the target of Seg-Grad-CAM (Vinogradova et al. 2020, arXiv:2002.11434).
    """
    return lambda logits: (logits * mask).flatten(1).sum(1)


def default_target(output: Tensor) -> Target:
    """Return the target that is explained by default, given the model's output for one image.

    For a classifier's logit (1,) this is the logit. For a segmenter's logits (1, 1, H, W) it is their sum over the
    predicted mask, or over the highest one percent of the pixels if the mask is smaller than that.
    """
    if output.ndim == 1:
        return lambda logits: logits
    return region((output[0, 0] >= output.quantile(0.99).clamp_max(0)).to(output.dtype))
