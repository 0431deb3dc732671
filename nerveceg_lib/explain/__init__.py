"""What networks look at: 23 explanation methods for classifiers and segmenters, all through `explain`.

The list follows the collection "PyTorch CNN Visualizations" (Ozbulak), extended to networks that segment.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nerveceg_lib.explain import attribution, synthesis
from nerveceg_lib.explain.hooks import Request, Target, default_target, find_layer, frozen
from nerveceg_lib.runtime.errors import InputError, one_of


class Method(NamedTuple):
    """An explanation method.

    `map_type` says what `function` returns: a "signed" map (positive: speaks for the target), an "evidence" map
    (0 or more), or a "picture" in standardised grey values.
    """

    function: Callable[..., Tensor]
    map_type: str


METHODS = {
    "gradient": Method(attribution.gradient, "signed"),
    "gradient-magnitude": Method(partial(attribution.gradient, transform=torch.abs), "evidence"),
    "positive-saliency": Method(partial(attribution.gradient, transform=torch.relu), "evidence"),
    "negative-saliency": Method(partial(attribution.gradient, transform=lambda signed: (-signed).relu()), "evidence"),
    "guided-backpropagation": Method(attribution.guided_backpropagation, "signed"),
    "gradient-x-image": Method(attribution.gradient_x_image, "signed"),
    "integrated-gradients": Method(attribution.integrated_gradients, "signed"),
    "smoothgrad": Method(attribution.smoothgrad, "signed"),
    "guided-smoothgrad": Method(attribution.guided_smoothgrad, "signed"),
    "grad-cam": Method(attribution.grad_cam, "evidence"),
    "seg-grad-cam": Method(attribution.seg_grad_cam, "evidence"),
    "guided-grad-cam": Method(attribution.guided_grad_cam, "signed"),
    "score-cam": Method(attribution.score_cam, "evidence"),
    "layer-cam": Method(attribution.layer_cam, "evidence"),
    "hierarchical-cam": Method(attribution.hierarchical_cam, "evidence"),
    "lrp": Method(attribution.relevance_propagation, "signed"),
    "guided-activation": Method(attribution.guided_activation, "signed"),
    "attention-gate": Method(attribution.attention, "evidence"),
    "filter": Method(synthesis.filter_image, "picture"),
    "inversion": Method(synthesis.inversion, "picture"),
    "deep-dream": Method(synthesis.deep_dream, "picture"),
    "class-image": Method(synthesis.class_image, "picture"),
    "class-image-regularised": Method(
        partial(synthesis.class_image, total_variation=0.01, l1=0.01, blur=0.5), "picture"
    ),
}


def explain(
    model: nn.Module,
    images: Tensor,
    method: str = "grad-cam",
    target: Target | None = None,
    layer: str = "",
    **options,
) -> Tensor:
    """Explain the model's output for each image by one of `METHODS`.

    Args:
        model: any network; its modes, gradients and hooks are the same afterwards as before.
        images: standardised images, float32 (B, C, H, W).
        method: a name in `METHODS`.
        target: maps the model's output (N, ...) to one number per image (N,). The default is a classifier's logit, or
            the sum of a segmenter's logits over the mask that it predicts.
        layer: a name from `model.named_modules()`, by default `model.cam_layer`.
        options: options of the method's function, such as `steps`.

    Returns one map, or one picture, per image: float32 (B, H, W). Raises InputError for methods, layers, options and
    images that do not fit, and for networks that the method is not defined for, with the reason.
    """
    function = METHODS[one_of("method", method, METHODS)].function
    if images.ndim != 4 or not images.is_floating_point():
        raise InputError(f"images: expected floats (B, C, H, W), found {images.dtype} {tuple(images.shape)}")
    allowed = sorted(set(inspect.signature(function).parameters) - {"request", "transform"})
    for name in options:
        one_of(f"option of {method}", name, allowed)
    if layer:
        find_layer(model, layer)
    layer = layer or getattr(model, "cam_layer", "")
    maps = []
    with frozen(model), torch.enable_grad():
        for image in images.detach().split(1):
            image_target = target or default_target(model(image))
            result = function(Request(model, image.clone().requires_grad_(), image_target, layer), **options).detach()
            is_picture = result.ndim == 4  # (1, C, H, W), and a map (h, w) otherwise
            maps.append(result.mean(1) if is_picture else attribution.resize_maps(result, image).unsqueeze(0))
    return torch.cat(maps)
