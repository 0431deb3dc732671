"""Maps that say which pixels speak for the target. Each method takes a `Look` and gives one map (h, w)."""

import copy
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, NoiseTunnel, Saliency
from torch import nn

from nerveceg_lib.errors import InputError, one_of
from nerveceg_lib.explain.borrow import Look, find_layer, hooked
from nerveceg_lib.folding import fold_batch_norm
from nerveceg_lib.models.blocks import AttentionSkip
from nerveceg_lib.models.shared_trunk import SharedTrunk


def gradient(look: Look, part: Callable = torch.positive) -> torch.Tensor:
    """Vanilla backpropagation (Simonyan et al. 2013, arXiv:1312.6034), or one `part` of its signed map."""
    return part(Saliency(look.score).attribute(look.image, abs=False).sum(1)[0])


def guided_backpropagation(look: Look) -> torch.Tensor:
    """Springenberg et al. 2014, arXiv:1412.6806: what speaks against the target is dropped at every activation.

    The rule is made for ReLU, whose slope is never negative. SiLU's is, below -1.28: cutting the gradient on both sides
    of an activation carries the rule over and is the rule itself for ReLU. SiLU's small slopes below 0 stay.
    """
    activations = [module for module in look.model.modules() if isinstance(module, nn.ReLU | nn.SiLU)]
    if not activations:
        raise InputError(f"guided backpropagation: expected ReLU or SiLU, found none in {type(look.model).__name__}")

    def cut(module: nn.Module, inputs: tuple, output: torch.Tensor | None = None) -> None:
        (inputs[0] if output is None else output).register_hook(F.relu)

    with hooked(activations, after=cut, before=cut):
        return gradient(look)


def guided_activation(look: Look, channel: int | None = None) -> torch.Tensor:
    """Guided backpropagation of one channel of a layer; without `channel` that of the strongest in this frame."""
    return guided_backpropagation(of_channel(look, channel))


def of_channel(look: Look, channel: int | None) -> Look:
    """The same look with the mean of one channel of a layer as target."""
    means = look.features(look.image)[0].mean((0, 2, 3))
    channel = int(means.argmax()) if channel is None else channel
    if not 0 <= channel < len(means):
        raise InputError(f"channel: expected 0 to {len(means) - 1} in layer {look.layers[0]!r}, found {channel}")
    return replace(look, channel=channel)


def gradient_x_image(look: Look) -> torch.Tensor:
    """Shrikumar et al. 2016, arXiv:1605.01713."""
    return InputXGradient(look.score).attribute(look.image).sum(1)[0]


def integrated_gradients(look: Look, baseline: float = 0.0, steps: int = 64, most: int = 2048) -> torch.Tensor:
    """Sundararajan et al. 2017, arXiv:1703.01365; the `baseline` 0 is a frame of its own mean grey.

    `steps` are doubled, to `most` at the utmost, until the map's sum is the difference of the outputs within 1%.
    """
    method = IntegratedGradients(look.score)
    options = {"method": "riemann_middle", "internal_batch_size": 16, "return_convergence_delta": True}
    found, gap = method.attribute(look.image, baseline, n_steps=steps, **options)
    if abs(gap) > 0.01 * abs(found.sum()) and steps < most:
        return integrated_gradients(look, baseline, 2 * steps, most)
    return found.sum(1)[0]


def smoothgrad(look: Look, samples: int = 25, noise: float = 0.15, seed: int = 0) -> torch.Tensor:
    """Smilkov et al. 2017, arXiv:1706.03825: mean gradient under `noise`, a share of the image's range."""
    method, image = NoiseTunnel(Saliency(look.score)), look.image.detach()
    spread = noise * float(image.max() - image.min())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return method.attribute(image, "smoothgrad", samples, 5, spread, abs=False).sum(1)[0]


def grad_cam(look: Look) -> torch.Tensor:
    """Selvaraju et al. 2017, arXiv:1610.02391."""
    layer_cam(look)  # says what is wrong with a layer that has no map
    method = LayerGradCam(look.score, find_layer(look.model, look.layers[0]))
    return method.attribute(look.image, relu_attributions=True)[0, 0]


def seg_grad_cam(look: Look) -> torch.Tensor:
    """Grad-CAM of the logits in a region (Vinogradova et al. 2020, arXiv:2002.11434)."""
    if look.model(look.image).ndim != 4:
        raise InputError(f"seg-grad-cam: expected a segmenter, found {type(look.model).__name__}, which draws no mask")
    return grad_cam(look)


def guided_grad_cam(look: Look) -> torch.Tensor:
    """Guided backpropagation where Grad-CAM sees evidence (Selvaraju et al. 2017)."""
    return guided_backpropagation(look) * enlarge(grad_cam(look), look.image)


def layer_cam(look: Look) -> torch.Tensor:
    """Element-wise Grad-CAM: LayerCAM (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943)."""
    features, output = look.features(look.image)
    if not (maps := _element_wise(look, [features], output)):
        raise InputError(f"layer: expected one that the target depends on, found {look.layers[0]!r}, which has no say")
    return maps[0]


def _element_wise(look: Look, features: list[torch.Tensor], output: torch.Tensor) -> list[torch.Tensor]:
    slopes = torch.autograd.grad(look.target(output).sum(), features, allow_unused=True)
    pairs = zip(slopes, features, strict=True)
    return [(slope.relu() * feature).sum(1).relu()[0] for slope, feature in pairs if slope is not None]


def hierarchical_cam(look: Look) -> torch.Tensor:
    """LayerCAM of several layers, largest of the scaled maps; of one: of the last at each resolution down to its."""
    chosen = [find_layer(look.model, name) for name in look.layers] if len(look.layers) > 1 else None
    coarsest = 1 if chosen or look.layers == ("",) else look.features(look.image)[0].shape[2]
    last = {}

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        if (
            isinstance(output, torch.Tensor)
            and output.ndim == 4
            and output.shape[1] > 1
            and output.shape[2] >= coarsest
        ):
            last[module if chosen else output.shape[2:]] = output

    with hooked(chosen or list(look.model.modules())[1:], note):
        output = look.model(look.image)
    maps = [enlarge(one, look.image) for one in _element_wise(look, list(last.values()), output)]
    return torch.stack([torch.tanh(2 * one / one.max().clamp_min(1e-12)) for one in maps]).amax(0)


@torch.no_grad()
def score_cam(look: Look) -> torch.Tensor:
    """Wang et al. 2020, arXiv:1910.01279: a channel weighs what the target is when only its places are shown."""
    features = look.features(look.image)[0][0]  # (K, h, w)
    low, high = features.amin((1, 2), keepdim=True), features.amax((1, 2), keepdim=True)
    shown = enlarge((features - low) / (high - low).clamp_min(1e-12), look.image).unsqueeze(1)  # (K, 1, H, W)
    scores = torch.cat([look.score(look.image * part) for part in shown.split(32)])
    weights = (scores - look.score(torch.zeros_like(look.image))).softmax(0)
    return torch.einsum("k,khw->hw", weights, features).relu()


def relevance(look: Look, gamma: float = 0.25) -> torch.Tensor:
    """Layer-wise relevance propagation (Bach et al. 2015, doi:10.1371/journal.pone.0130140).

    Batch norm is folded; the gamma rule (Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10) holds where inputs are
    activations, 0 or more, and the 0 rule elsewhere. Each layer is rewritten so that gradient x image is the
    relevance; biases take their share. captum's LRP knows neither sums nor skip connections.
    """
    bent = [part for part in look.model.modules() if isinstance(part, nn.SiLU | nn.Sigmoid | SharedTrunk)]
    if bent:
        raise InputError(
            f"lrp: expected ReLU, pooling and linear layers alone (unet, deep-residual-unet, r2unet, r2unet-encoder, "
            f"resnets), found {type(bent[0]).__name__}, for which no rule conserves relevance"
        )
    model = fold_batch_norm(look.model, look.image.detach())
    linear = [part for part in model.modules() if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)]
    twins: dict[nn.Module, nn.Module] = {part: copy.deepcopy(part) for part in linear}
    for weight in (weight for twin in twins.values() for weight in twin.parameters()):
        weight.add_(gamma * weight.clamp_min(0))

    def rule(module: nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor | None:
        if inputs[0].min() < 0:
            return None
        strong = twins[module](inputs[0])
        return strong * (output / torch.where(strong == 0, 1, strong)).detach()

    with hooked(linear, rule):
        return gradient_x_image(replace(look, model=model))


@torch.no_grad()
def attention(look: Look) -> torch.Tensor:
    """What an attention gate lets through, 0 to 1 (Oktay et al. 2018): the one called `layer`, or the finest."""
    if not (found := gates(look.model)):
        raise InputError(f"attention-gate: expected one of the attention-unets, found {type(look.model).__name__}")
    default = look.layers[0] == getattr(look.model, "cam_layer", "")
    return look.features(look.image, found[0] if default else one_of("layer", look.layers[0], found))[0][0, 0]


def gates(model: nn.Module) -> list[str]:
    """Names of a network's attention gates, the finest first."""
    gated = [name for name, part in model.named_modules() if isinstance(part, AttentionSkip) and part.grid != "none"]
    return [f"{name}.psi" for name in gated]


def enlarge(maps: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """Maps (h, w) or (K, h, w) at the size of `image` (1, C, H, W)."""
    stack = maps.reshape(1, -1, *maps.shape[-2:])
    full = F.interpolate(stack, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return full.reshape(*maps.shape[:-2], *image.shape[-2:])
