"""Maps of the pixels that speak for the target. Each method takes a `Request` and returns one map (h, w)."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, IntegratedGradients, NoiseTunnel, Saliency
from torch import Tensor, nn

from nerveceg_lib.explain.hooks import Request, hooked
from nerveceg_lib.inference.fuse import fold_batch_norm
from nerveceg_lib.models.blocks import AttentionSkip
from nerveceg_lib.runtime.errors import InputError, one_of

Layer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def gradient(request: Request, transform: Callable = torch.positive) -> Tensor:
    """Return the gradient of the target with respect to each pixel (Simonyan et al. 2013, arXiv:1312.6034).

    `transform` is applied to the signed map (H, W), for example `torch.abs`.
    """
    return transform(Saliency(request.score).attribute(request.image, abs=False).sum(1)[0])


def guided_backpropagation(request: Request) -> Tensor:
    """Return the gradient without whatever speaks against the target at any activation.

    Springenberg et al. 2014, arXiv:1412.6806. The method was made for ReLU, whose slope is never negative. SiLU's slope
    is negative below -1.28. The gradient is therefore clipped at 0 both before and behind each activation, which for
    ReLU is the original method. Raises InputError for networks without ReLU or SiLU.
    """
    with _clipped_gradients(request.model):
        return gradient(request)


def guided_smoothgrad(request: Request, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Tensor:
    """Return guided backpropagation averaged over noisy copies of the image, as `smoothgrad` averages the gradient.

    Smilkov et al. 2017, arXiv:1706.03825, section 3.3. Raises InputError for networks without ReLU or SiLU.
    """
    with _clipped_gradients(request.model):
        return smoothgrad(request, samples, noise, seed)


@contextmanager
def _clipped_gradients(model: nn.Module) -> Iterator[None]:
    activations = _activations(model)
    if not activations:
        raise InputError(f"guided backpropagation: expected ReLU or SiLU, found none in {type(model).__name__}")

    def clip_gradient(module: nn.Module, inputs: tuple, output: Tensor | None = None) -> None:
        tensor = inputs[0] if output is None else output
        tensor.register_hook(F.relu)

    with hooked(activations, after=clip_gradient, before=clip_gradient):
        yield


def _activations(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.ReLU | nn.ReLU6 | nn.SiLU)]


def guided_activation(request: Request, channel: int | None = None) -> Tensor:
    """Return guided backpropagation of one channel of a layer, by default the channel with the highest mean."""
    return guided_backpropagation(for_channel(request, channel))


def for_channel(request: Request, channel: int | None) -> Request:
    """Return the same request for the mean of one channel of its layer (None: the one with the highest mean).

    Raises InputError for channels that the layer does not have.
    """
    means = request.features(request.image)[0].mean((0, 2, 3))
    channel = int(means.argmax()) if channel is None else channel
    if not 0 <= channel < len(means):
        raise InputError(f"channel: expected 0 to {len(means) - 1} in layer {request.layer!r}, found {channel}")
    return replace(request, channel=channel)


def gradient_x_image(request: Request) -> Tensor:
    """Return the product of gradient and image (Shrikumar et al. 2016, arXiv:1605.01713)."""
    return InputXGradient(request.score).attribute(request.image).sum(1)[0]


def integrated_gradients(request: Request, steps: int = 64, max_steps: int = 2048) -> Tensor:
    """Return integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365).

    The baseline is an image of zeros, which is the mean grey of a standardised frame. The number of `steps` on the way
    from there to the image is doubled, up to `max_steps`, until the map's sum agrees with the difference of the two
    outputs within 1%.
    """
    options = {"method": "riemann_middle", "internal_batch_size": 16, "return_convergence_delta": True}
    integrate = partial(IntegratedGradients(request.score).attribute, request.image, **options)
    attributions, difference = integrate(n_steps=steps)
    while abs(difference) > 0.01 * abs(attributions.sum()) and steps < max_steps:
        steps *= 2
        attributions, difference = integrate(n_steps=steps)
    return attributions.sum(1)[0]


def smoothgrad(request: Request, samples: int = 25, noise: float = 0.15, seed: int = 0) -> Tensor:
    """Return the mean gradient over noisy copies of the image (Smilkov et al. 2017, arXiv:1706.03825).

    `noise` is the standard deviation of the noise as a share of the image's range.
    """
    image = request.image.detach()
    deviation = noise * float(image.max() - image.min())
    method, batch_size = NoiseTunnel(Saliency(request.score)), 5
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return method.attribute(image, "smoothgrad", samples, batch_size, deviation, abs=False).sum(1)[0]


def grad_cam(request: Request) -> Tensor:
    """Return Grad-CAM of a layer (Selvaraju et al. 2017, arXiv:1610.02391).

    Each channel is weighted by its mean gradient. Raises InputError for layers that the target does not depend on.
    """
    features, output = request.features(request.image)
    features, gradients = _with_gradients(request, [features], output)[0]
    weights = gradients.mean((2, 3), keepdim=True)
    return (weights * features).sum(1).relu()[0]


def seg_grad_cam(request: Request) -> Tensor:
    """Return Grad-CAM for the logits in a region of the mask (Vinogradova et al. 2020, arXiv:2002.11434).

    Raises InputError for networks that do not predict a mask.
    """
    if request.model(request.image).ndim != 4:
        raise InputError(f"seg-grad-cam: expected a segmenter, found the classifier {type(request.model).__name__}")
    return grad_cam(request)


def guided_grad_cam(request: Request) -> Tensor:
    """Return the product of guided backpropagation and Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391)."""
    return guided_backpropagation(request) * resize_maps(grad_cam(request), request.image)


def layer_cam(request: Request) -> Tensor:
    """Return LayerCAM, also called element-wise Grad-CAM (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943).

    Each pixel of each channel is weighted by its own gradient, or by 0 if that is negative. Raises InputError for
    layers that the target does not depend on.
    """
    features, output = request.features(request.image)
    return _element_wise_cam(*_with_gradients(request, [features], output)[0])


def hierarchical_cam(request: Request) -> Tensor:
    """Combine LayerCAM over several layers: the maximum of the maps, each scaled to tanh(2 x / max x).

    These are the last layers at each resolution that is at least as fine as that of the request's layer; without a
    layer, the last ones at every resolution.
    """
    last_outputs: dict[torch.Size, Tensor] = {}  # by resolution

    def record(module: nn.Module, inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] > 1:
            last_outputs[output.shape[2:]] = output

    image = request.image
    with hooked(list(request.model.modules())[1:], record):
        final = request.model(image)
    min_height = request.features(image)[0].shape[2] if request.layer else 0
    features = [output for output in last_outputs.values() if output.shape[2] >= min_height]
    maps = [resize_maps(_element_wise_cam(*pair), image) for pair in _with_gradients(request, features, final)]
    return torch.stack([torch.tanh(2 * cam / cam.max().clamp_min(1e-12)) for cam in maps]).amax(0)


def _with_gradients(request: Request, features: list[Tensor], output: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pair each of the features with the target's gradient; features that the target does not depend on are dropped.

    Raises InputError if none are left.
    """
    gradients = torch.autograd.grad(request.target(output).sum(), features, allow_unused=True)
    pairs = [pair for pair in zip(features, gradients, strict=True) if pair[1] is not None]
    if not pairs:
        raise InputError(f"layer: expected one that the target depends on, found {request.layer!r}")
    return pairs


def _element_wise_cam(features: Tensor, gradients: Tensor) -> Tensor:
    """Return the map (h, w) of features (1, K, h, w) that are weighted by their positive gradients."""
    return (gradients.relu() * features).sum(1).relu()[0]


@torch.no_grad()
def score_cam(request: Request) -> Tensor:
    """Return Score-CAM of a layer (Wang et al. 2020, arXiv:1910.01279).

    Each channel is weighted by the softmax of the target for the image multiplied by that channel, so no gradients are
    needed. The paper subtracts the target for a blank image from each of them, which the softmax cancels.
    """
    features = request.features(request.image)[0][0]  # (K, h, w)
    resized = resize_maps(features, request.image)
    low, high = resized.amin((1, 2), keepdim=True), resized.amax((1, 2), keepdim=True)
    channel_masks = ((resized - low) / (high - low).clamp_min(1e-12)).unsqueeze(1)
    scores = torch.cat([request.score(request.image * masks) for masks in channel_masks.split(32)])
    return torch.einsum("k,khw->hw", scores.softmax(0), features).relu()


def relevance_propagation(request: Request, gamma: float = 0.25) -> Tensor:
    """Return layer-wise relevance propagation (Bach et al. 2015, doi:10.1371/journal.pone.0130140).

    captum's LRP supports neither sums nor skip connections. Here each layer is rewritten so that gradient x image is
    the relevance. Batch norm is folded into the convolutions first; biases take their share. The rules:

    - convolutions and linear layers: the gamma rule (Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10), extended
      to inputs of both signs (Andeol et al. 2021, arXiv:2106.04923);
    - activations: the identity rule (Achtibat et al. 2024, arXiv:2402.05602), which hands on all relevance;
    - products with a gate, in squeeze-and-excitation and attention: all relevance goes to the signal and none to the
      gate (Arras et al. 2017, arXiv:1706.07206).
    """
    model = fold_batch_norm(request.model, request.image.detach())
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    # squeeze-and-excitation has no module for its sigmoid, so the layer ahead of that is held constant instead
    gates = [m for name, m in model.named_modules() if name.endswith("_se_expand") or isinstance(m, nn.Sigmoid)]

    def gamma_rule(module: Layer, inputs: tuple, output: Tensor) -> Tensor:
        above, below = inputs[0].clamp_min(0), inputs[0].clamp_max(0)
        positive = _products(module, above, 1) + _products(module, below, -1)
        negative = _products(module, above, -1) + _products(module, below, 1)
        return _with_value(output + gamma * torch.where(output > 0, positive, negative), output)

    with (
        hooked(layers, gamma_rule),
        hooked(_activations(model), lambda module, inputs, output: _with_value(inputs[0], output)),
        hooked(gates, lambda module, inputs, output: output.detach()),
    ):
        return gradient_x_image(replace(request, model=model))


def _products(layer: Layer, inputs: Tensor, sign: int) -> Tensor:
    """Return the output of `layer` with nothing but its weights of one sign."""
    signed = copy.copy(layer)
    signed._parameters = {"weight": nn.Parameter(sign * (sign * layer.weight).clamp_min(0), False), "bias": None}
    return signed.forward(inputs)


def _with_value(source: Tensor, value: Tensor) -> Tensor:
    """Return `value`, but with gradients that hand all of it to `source`: gradient x source is `value`."""
    return source * (value / torch.where(source == 0, 1, source)).detach()


@torch.no_grad()
def attention(request: Request) -> Tensor:
    """Return the weights, 0 to 1, of an attention gate (Oktay et al. 2018, arXiv:1804.03999).

    The request's layer names the gate (see `attention_gates`); by default it is the finest one. Raises InputError for
    networks without attention gates.
    """
    gates = attention_gates(request.model)
    if not gates:
        raise InputError(f"attention-gate: expected one of the attention-unets, found {type(request.model).__name__}")
    is_default = request.layer == getattr(request.model, "cam_layer", "")
    gate = gates[0] if is_default else one_of("layer", request.layer, gates)
    return replace(request, layer=gate).features(request.image)[0][0, 0]


def attention_gates(model: nn.Module) -> list[str]:
    """Return the names of a network's attention gates for `explain(..., layer=name)`, the finest first."""
    modules = model.named_modules()
    return [f"{name}.psi" for name, module in modules if isinstance(module, AttentionSkip) and hasattr(module, "psi")]


def resize_maps(maps: Tensor, image: Tensor) -> Tensor:
    """Resize maps (h, w) or (K, h, w) to the height and width of `image` (1, C, H, W)."""
    batch = maps.reshape(1, -1, *maps.shape[-2:])
    resized = F.interpolate(batch, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return resized.reshape(*maps.shape[:-2], *image.shape[-2:])
