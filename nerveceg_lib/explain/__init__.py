"""What networks look at: every method by name, through one call, for classifiers and segmenters.

The catalogue is that of the collection "PyTorch CNN Visualizations" (Ozbulak), for networks that judge or outline.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from nerveceg_lib.errors import InputError, one_of
from nerveceg_lib.explain import attribution, generation
from nerveceg_lib.explain.borrow import Look, Target, borrowed, default_target, find_layer


class Method(NamedTuple):
    """`kind`: a "signed" map, an "evidence" map (0 or more), or a "picture" in standardised grey values."""

    run: Callable[..., torch.Tensor]
    kind: str


METHODS = {
    "gradient": Method(attribution.gradient, "signed"),
    "gradient-magnitude": Method(partial(attribution.gradient, part=torch.abs), "evidence"),
    "positive-saliency": Method(partial(attribution.gradient, part=torch.relu), "evidence"),
    "negative-saliency": Method(partial(attribution.gradient, part=lambda signed: (-signed).relu()), "evidence"),
    "guided-backpropagation": Method(attribution.guided_backpropagation, "signed"),
    "gradient-x-image": Method(attribution.gradient_x_image, "signed"),
    "integrated-gradients": Method(attribution.integrated_gradients, "signed"),
    "smoothgrad": Method(attribution.smoothgrad, "signed"),
    "grad-cam": Method(attribution.grad_cam, "evidence"),
    "seg-grad-cam": Method(attribution.seg_grad_cam, "evidence"),
    "guided-grad-cam": Method(attribution.guided_grad_cam, "signed"),
    "score-cam": Method(attribution.score_cam, "evidence"),
    "layer-cam": Method(attribution.layer_cam, "evidence"),
    "hierarchical-cam": Method(attribution.hierarchical_cam, "evidence"),
    "lrp": Method(attribution.relevance, "signed"),
    "guided-activation": Method(attribution.guided_activation, "signed"),
    "attention-gate": Method(attribution.attention, "evidence"),
    "filter": Method(generation.filter_image, "picture"),
    "inversion": Method(generation.inverted, "picture"),
    "deep-dream": Method(generation.deep_dream, "picture"),
    "class-image": Method(generation.class_image, "picture"),
    "class-image-regularised": Method(partial(generation.class_image, regularise=0.01), "picture"),
}


def explain(
    model: nn.Module,
    frame: torch.Tensor,
    method: str = "grad-cam",
    target: Target | None = None,
    layer: str | tuple[str, ...] = "",
    **options,
) -> torch.Tensor:
    """One of METHODS for each image of `frame` (B, C, H, W), standardised: float32 (B, H, W).

    `target` maps the model's output (N, ...) to one figure an image (N,): by default a classifier's logit, or the sum
    of a segmenter's logits over what it outlines. `layer` is a name of `model.named_modules()`, by default
    `model.cam_layer`; "hierarchical-cam" takes several. `options` are those of the method's function. The model comes
    back in the mode, with the gradients and without the hooks that it had. Raises InputError for names and options
    that do not exist, and with the reason for a network that the method is not defined for.
    """
    run = METHODS[one_of("method", method, METHODS)].run
    if frame.ndim != 4 or not frame.is_floating_point():
        raise InputError(f"frame: expected floats (B, C, H, W), found {frame.dtype} {tuple(frame.shape)}")
    known = set(inspect.signature(run).parameters) - {"look", "part"}
    for name in set(options) - known:
        one_of(f"option of {method}", name, sorted(known))
    layers = (layer or getattr(model, "cam_layer", ""),) if isinstance(layer, str) else tuple(layer)
    for name in layers if layer else ():
        find_layer(model, name)
    with borrowed(model), torch.enable_grad():
        return torch.cat([_one(run, model, image.detach().unsqueeze(0), target, layers, options) for image in frame])


def _one(run: Callable, model: nn.Module, image: torch.Tensor, target, layers, options) -> torch.Tensor:
    if target is None:
        with torch.no_grad():
            target = default_target(model(image))
    found = run(Look(model, image.clone().requires_grad_(), target, layers), **options).detach()
    picture = found.ndim == 4
    return found.mean(1) if picture else attribution.enlarge(found, image).unsqueeze(0)
