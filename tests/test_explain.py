"""Tests of the explanation methods: formulas by hand, completeness, conservation, and models left unchanged."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop, LayerActivation, LayerGradCam
from torch import nn

from nerveceg_lib.explain import METHODS, explain
from nerveceg_lib.explain.attribution import attention_gates
from nerveceg_lib.explain.hooks import region
from nerveceg_lib.models import CLASSIFIERS, build_model, supported
from nerveceg_lib.runtime.errors import InputError
from tests.cells import definitions

evaluation = definitions("05_cnn_visualizations")
FEW_STEPS = {name: {"steps": 2} for name, method in METHODS.items() if method.map_type == "picture"}
FEW_STEPS |= {"integrated-gradients": {"steps": 4, "max_steps": 4}}
FEW_STEPS |= {name: {"samples": 2} for name in ("smoothgrad", "guided-smoothgrad")}
WITH_OTHER_ACTIVATIONS = ["efficientnet-b0", "efficient-unet-lite0"]
WITH_ATTENTION = ["attention-unet", "r2attention-unet"]
RELU_ONLY = ["resnet18", "unet", "deep-residual-unet", "r2unet"]


def tiny_classifier():
    torch.manual_seed(1)
    layers = nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1), nn.Flatten(0))


def network(name):
    """A network with batch statistics and uneven scales, as after training: a fresh one has almost no output."""
    torch.manual_seed(0)
    model = build_model(name, **supported(name, base_channels=4)).train()
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        model(noise(8, 1, 64, 96))
    return model.eval()


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def target_of(name):
    return (lambda logits: logits) if name in CLASSIFIERS else region(torch.ones(32, 48))  # logit, or sum of logits


def pixel_sum(images):
    return images.sum((1, 2, 3))


def number_of_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def activation(model, images, layer):
    return LayerActivation(model, model.get_submodule(layer)).attribute(images).detach()


@pytest.mark.parametrize("name", WITH_OTHER_ACTIVATIONS + WITH_ATTENTION + RELU_ONLY)
def test_every_method_works_or_says_why_and_leaves_the_model_unchanged(name):
    model, image = network(name).train(), noise(1, 1, 32, 48)
    first_weight, *other_weights = model.parameters()
    first_weight.requires_grad_(False)
    for weight in other_weights:
        weight.grad = torch.full_like(weight, 7.0)
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).eval()
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    refused = set() if name in WITH_ATTENTION else {"attention-gate"}
    refused |= {"seg-grad-cam"} if name in CLASSIFIERS else set()
    for method, (_, map_type) in METHODS.items():
        if method in refused:
            with pytest.raises(InputError, match=f"{method}: expected .*, found "):
                explain(model, image, method)
        else:
            maps = explain(model, image, method, **FEW_STEPS.get(method, {}))
            assert maps.shape == (1, 32, 48) and maps.dtype == torch.float32 and maps.isfinite().all(), method
            assert not maps.requires_grad and (map_type != "evidence" or maps.min() >= 0), method
        assert number_of_hooks(model) == 0, method
    assert [module.training for module in model.modules()] == modes
    assert not first_weight.requires_grad and first_weight.grad is None
    assert all(weight.requires_grad and bool((weight.grad == 7).all()) for weight in other_weights)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name, layer", [("unet", "encoder.units.1"), ("r2unet", "decoder.units.1.recurrent.0.conv")])
def test_grad_cam_is_that_of_captum(name, layer):  # the layer of the r2unet runs three times
    model, image = network(name), noise(1, 1, 32, 48)
    reference = LayerGradCam(lambda batch: target_of(name)(model(batch)), model.get_submodule(layer))
    cam = F.interpolate(reference.attribute(image, relu_attributions=True).detach(), (32, 48), mode="bilinear")[0]
    torch.testing.assert_close(explain(model, image, "grad-cam", target_of(name), layer), cam)


def test_layer_cam_and_score_cam_are_their_formulas():
    model, image = tiny_classifier(), noise(1, 1, 8, 8)
    with torch.no_grad():
        features = model[:5](image)
        slopes = model[7].weight.reshape(1, 4, 1, 1) / 16  # of the logit, the same at each of the 4x4 pixels
        masks = F.interpolate(features, (8, 8), mode="bilinear")[0]
        low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
        masks = (masks - low) / (high - low).clamp_min(1e-9)
        gains = torch.cat([model(image * mask) - model(torch.zeros_like(image)) for mask in masks])
        weights = {"layer-cam": slopes.relu(), "score-cam": gains.softmax(0).reshape(1, 4, 1, 1)}
    for method, weight in weights.items():
        expected = F.interpolate((weight * features).sum(1, keepdim=True).relu(), (8, 8), mode="bilinear")[0].detach()
        torch.testing.assert_close(explain(model, image, method, layer="4"), expected)
    before_relu = explain(model, image, "grad-cam", layer="3")
    model[4].inplace = True
    torch.testing.assert_close(explain(model, image, "grad-cam", layer="3"), before_relu)


def test_hierarchical_cam_is_the_maximum_of_the_scaled_maps():
    model, image = tiny_classifier(), noise(1, 1, 8, 8)
    maps = [explain(model, image, "layer-cam", layer=layer) for layer in ("1", "4")]
    scaled = torch.stack([torch.tanh(2 * cam / cam.max()) for cam in maps])
    # the last layer of each resolution, but none that is coarser than the given one
    torch.testing.assert_close(explain(model, image, "hierarchical-cam", layer="4"), scaled.amax(0))
    torch.testing.assert_close(explain(model, image, "hierarchical-cam", layer="1"), scaled[0])


@pytest.mark.parametrize("name", ["efficientnet-b0", "resnet18", "unet", "attention-unet"])
def test_integrated_gradients_are_complete(name):
    model, image = network(name), noise(1, 1, 32, 48)
    with torch.no_grad():
        at_baseline, at_image = target_of(name)(model(torch.cat([torch.zeros_like(image), image])))
    total = explain(model, image, "integrated-gradients", target_of(name)).sum()
    assert abs(total - (at_image - at_baseline)) < 0.0101 * abs(at_image - at_baseline)


def test_variants_of_the_gradient_fit_together():
    model, image = network("unet"), noise(1, 1, 32, 48)
    names = ("gradient", "gradient-magnitude", "positive-saliency", "negative-saliency", "gradient-x-image")
    gradient, magnitude, positive, negative, product = (explain(model, image, name) for name in names)
    torch.testing.assert_close(positive - negative, gradient)
    torch.testing.assert_close(positive + negative, magnitude)
    torch.testing.assert_close(product, gradient * image[:, 0])
    without_noise = explain(model, image, "smoothgrad", noise=0.0, samples=3)
    torch.testing.assert_close(without_noise, gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item())
    first, again, other = (explain(model, image, "smoothgrad", samples=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ["resnet18", "unet"])
def test_guided_backpropagation_of_relu_networks_is_that_of_captum(name):
    model, image = network(name), noise(1, 1, 32, 48)
    reference = copy.deepcopy(model)
    for module in (module for module in reference.modules() if isinstance(module, nn.ReLU)):
        module.inplace = False  # captum's hooks fail on ReLUs in place
    scored = nn.Sequential(reference)
    scored.register_forward_hook(lambda module, inputs, output: target_of(name)(output))
    expected = GuidedBackprop(scored).attribute(image.clone().requires_grad_())[:, 0]
    guided = explain(model, image, "guided-backpropagation", target_of(name))
    torch.testing.assert_close(guided, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    product = guided * explain(model, image, "grad-cam", target_of(name))
    torch.testing.assert_close(explain(model, image, "guided-grad-cam", target_of(name)), product)


def test_guided_backpropagation_through_silu_clips_on_both_sides():
    image = torch.tensor([[[[1.0, -0.5, -2.0]]]])  # the slopes of SiLU are 0.93, 0.26 and -0.09 there
    slopes = torch.autograd.functional.jacobian(lambda x: F.silu(x).sum(), image)[0]
    torch.testing.assert_close(explain(nn.SiLU(), image, "guided-backpropagation", pixel_sum), slopes.relu())
    assert not explain(nn.SiLU(), image, "guided-backpropagation", lambda output: -pixel_sum(output)).any()
    with pytest.raises(InputError, match="expected ReLU or SiLU, found none in Conv2d"):
        explain(nn.Conv2d(1, 1, 1), image, "guided-backpropagation")


def test_guided_smoothgrad_is_the_mean_of_guided_backpropagation_over_noisy_copies():
    model, image, copies = network("resnet18"), noise(1, 1, 32, 48), []
    model.register_forward_pre_hook(lambda module, inputs: copies.extend(inputs[0].detach().split(1)))
    smooth = explain(model, image, "guided-smoothgrad", target_of("resnet18"), samples=3)
    noisy = torch.cat(copies)
    assert len(noisy) == 3 and 0.1 < (noisy - image).std() / (image.max() - image.min()) < 0.2
    each = explain(model, noisy, "guided-backpropagation", target_of("resnet18"))
    torch.testing.assert_close(smooth, each.mean(0, keepdim=True), rtol=1e-3, atol=1e-5 * each.abs().max().item())


def test_guided_activation_is_guided_backpropagation_of_one_channel():
    model, image = tiny_classifier(), noise(1, 1, 8, 8)
    strongest = int(model[:2](image).mean((0, 2, 3)).argmax())
    for channel, options in ((1, {"channel": 1}), (strongest, {})):
        target = lambda features, channel=channel: features[:, channel].mean((1, 2))  # noqa: E731
        expected = explain(model[:2], image, "guided-backpropagation", target)
        torch.testing.assert_close(explain(model, image, "guided-activation", layer="1", **options), expected)


@pytest.mark.parametrize("name", WITH_OTHER_ACTIVATIONS + WITH_ATTENTION + RELU_ONLY)
def test_relevance_is_conserved(name):
    model, image = network(name), noise(1, 1, 32, 48)
    for module in model.modules():  # biases would take a share of the relevance
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    with torch.no_grad():
        score = target_of(name)(model(image))[0]
    relevance = explain(model, image, "lrp", target_of(name))
    assert abs(relevance.sum() - score) < 0.01 * abs(score)
    product = explain(model, image, "gradient-x-image", target_of(name))
    assert not torch.allclose(relevance, product, rtol=0.1), "the gamma rule has an effect"
    if name in RELU_ONLY:  # where activations and gates hand on their gradient, the 0 rule is gradient x image
        without_rule = explain(model, image, "lrp", target_of(name), gamma=0.0)
        torch.testing.assert_close(without_rule, product, rtol=1e-2, atol=1e-3 * product.abs().max().item())


@pytest.mark.parametrize(
    "image, expected",
    [
        # 2 * 3 - 1 * 4 = 2 is shared out like 2 (1 + gamma) * 3 to -1 * 4; gamma = 1 gives 12 to -4, that is 3 and -1
        ([3.0, 4.0], [3.0, -1.0]),
        # 2 * 1 - 1 * 4 = -2 favours the negative product: 2 to -4 (1 + gamma), that is 2 to -8
        ([1.0, 4.0], [2 / 3, -8 / 3]),
        # 2 * -1 - 1 * -4 = 2: negative pixels with negative weights speak for the target as well
        ([-1.0, -4.0], [-2 / 3, 8 / 3]),
    ],
)
def test_the_gamma_rule_by_hand(image, expected):
    layer = nn.Conv2d(1, 1, (1, 2), bias=False)
    layer.weight.data = torch.tensor([[[[2.0, -1.0]]]])
    relevance = explain(layer, torch.tensor([[[image]]]), "lrp", pixel_sum, gamma=1.0)
    torch.testing.assert_close(relevance, torch.tensor([[expected]]))


def test_relevance_passes_activations_whole_and_gates_not_at_all():
    image = torch.tensor([[[[1.0, -0.5, 7.0]]]])
    for activation_layer in (nn.SiLU(), nn.ReLU6()):
        relevance = explain(activation_layer, image, "lrp", pixel_sum)
        torch.testing.assert_close(relevance, activation_layer(image)[0])

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Sigmoid())

        def forward(self, frame):
            return self.gate(frame) * frame

    torch.testing.assert_close(explain(Gated(), image, "lrp", pixel_sum), Gated()(image)[0])


@pytest.mark.parametrize("name", ["efficientnet-b0", "unet"])
def test_class_images_raise_the_target_and_the_penalty_makes_them_smoother(name):
    model, image, methods = network(name), noise(1, 1, 32, 48), ("class-image", "class-image-regularised")
    plain, regularised = (explain(model, image, method, target_of(name), steps=20) for method in methods)
    with torch.no_grad():
        blank_score, *scores = target_of(name)(model(torch.stack([torch.zeros_like(image[0]), plain, regularised])))
    assert min(scores) > blank_score
    assert explain(model, image, "class-image", target_of(name), steps=1, lr=9.0).abs().max() == 3, "the grey limit"
    assert regularised.diff(dim=1).square().sum() < plain.diff(dim=1).square().sum()


@pytest.mark.parametrize(
    "option, roughness",
    [
        ({"total_variation": 1.0}, lambda image: image.diff(dim=1).square().sum() + image.diff(dim=2).square().sum()),
        ({"l1": 10.0}, lambda image: image.abs().sum()),
        ({"blur": 2.0}, lambda image: image.diff(dim=1).abs().sum()),
    ],
)
def test_each_regularisation_of_class_images_lowers_what_it_penalises(option, roughness):
    model, image = network("unet"), noise(1, 1, 32, 48)
    plain, regularised = (explain(model, image, "class-image", steps=8, **options) for options in ({}, option))
    assert roughness(regularised) < 0.5 * roughness(plain)


def test_filters_dreams_and_inversions_do_what_their_names_say():
    model, image, layer = network("unet"), noise(1, 1, 48, 64), "encoder.units.1"
    blank, wanted = torch.zeros_like(image), activation(model, image, layer)
    excited, dream, inverse, again = (
        explain(model, image, method, layer=layer, **options).unsqueeze(1)
        for method, options in (("filter", {"channel": 2}), ("deep-dream", {}), ("inversion", {}), ("inversion", {}))
    )
    assert activation(model, excited, layer)[0, 2].mean() > activation(model, blank, layer)[0, 2].mean()
    assert activation(model, dream, layer).square().mean() > 1.2 * wanted.square().mean()
    distances = [float((activation(model, x, layer) - wanted).square().sum()) for x in (inverse, blank)]
    assert distances[0] < 0.2 * distances[1] and torch.equal(inverse, again)


def test_attention_gates_at_every_level():
    model, image = network("attention-unet"), noise(1, 1, 32, 48)
    assert len(gates := attention_gates(model)) == 4
    for gate, options in [(gates[0], {}), *((gate, {"layer": gate}) for gate in gates)]:
        expected = F.interpolate(activation(model, image, gate), (32, 48), mode="bilinear")[0]
        torch.testing.assert_close(explain(model, image, "attention-gate", **options), expected)


def test_the_default_target_is_the_predicted_mask():
    model, image = network("unet"), noise(1, 1, 32, 48)
    with torch.no_grad():
        mask = (model(image)[0, 0] >= 0).float()
    assert mask.mean() > 0.01
    torch.testing.assert_close(explain(model, image, "gradient"), explain(model, image, "gradient", region(mask)))
    model.heads[0].bias.data -= 1e4  # now the mask is empty, and the pixels that come nearest to it are explained
    assert explain(model, image, "gradient").abs().sum() > 0


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("cam", {}, "method: expected one of .*'grad-cam'.*found 'cam'"),
        ("gradient", {"layer": "encoder.unit.3"}, "layer: expected .*, such as .*encoder.units.3.*'encoder.unit.3'"),
        ("grad-cam", {"layer": "encoder"}, r"layer: expected .* \(N, K, h, w\), found 'encoder' with \['list'\]"),
        ("gradient", {"steps": 3}, r"option of gradient: expected one of \[\], found 'steps'"),
        ("filter", {"channel": 99}, "channel: expected 0 to 7 in layer 'decoder.units.1', found 99"),
        ("gradient", {"images": torch.zeros(1, 8, 8)}, r"images: .* floats .*, found torch.float32 \(1, 8, 8\)"),
        ("attention-gate", {"model": "attention-unet", "layer": "heads.0"}, r"layer: expected .*psi.*'heads.0'"),
        ("layer-cam", {"model": "efficient-unet-b0", "layer": "encoder.net._conv_head"}, "layer: .* target depends on"),
    ],
)
def test_bad_requests_are_refused(method, options, message):
    arguments = {"images": noise(1, 1, 32, 48)} | options | {"model": network(options.get("model", "unet"))}
    with pytest.raises(InputError, match=message):
        explain(method=method, **arguments)


def test_localisation_by_hand():
    maps = np.array([[[1.0, 3.0], [-5.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 6.0]]])
    masks = np.array([[[1, 0], [1, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 1]]])
    table = evaluation.localisation(maps, masks)
    assert table["energy"].tolist() == [0.25, 0.0, 0.75] and table["hit"].tolist() == [0, 0, 1]
    prior = evaluation.centre_prior((5, 7))
    assert np.unravel_index(prior.argmax(), prior.shape) == (2, 3) and np.allclose(prior, prior[::-1, ::-1])


def test_deletion_and_insertion_by_hand():
    image = torch.tensor([[[[4.0, 1.0], [2.0, 3.0]]]])
    curves = evaluation.faithfulness(pixel_sum, image, image[0, 0], steps=4)
    assert curves["deletion_grey"].tolist() == [10, 6, 3, 1, 0], "the brightest pixel goes first"
    assert curves["insertion"][-1] == 10
    # kernel and image have hardly any width, so the blurred image is the image, and nothing is left to inpaint from
    assert curves["deletion_blur"] == pytest.approx([10] * 5) and curves["deletion_inpaint"][[0, -1]].tolist() == [
        10,
        0,
    ]
    reverse = evaluation.faithfulness(pixel_sum, image, -image[0, 0], steps=4)
    assert reverse["deletion_grey"].tolist() == [10, 9, 7, 4, 0]


def test_inpainting_continues_what_surrounds_a_hole():
    ramp = torch.linspace(-1, 1, 32).expand(1, 1, 24, 32)
    hole = torch.zeros(1, 24, 32, dtype=torch.bool)
    hole[:, 8:14, 10:16] = True
    filled = evaluation.inpaint(torch.where(hole, 1.0, ramp), hole)
    assert torch.equal(filled[~hole[None]], ramp[~hole[None]]) and (filled - ramp).abs().max() < 0.3


def test_the_right_map_is_rated_better_than_a_wrong_one():
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[0, :2, :2] = masks[1, 4:6, 4:6] = 1
    images, maps = torch.tensor(masks).unsqueeze(1).float(), {"right": masks, "wrong": 1 - masks}
    table, curves = evaluation.evaluate(lambda images: pixel_sum(images) / 4, images, masks, maps, steps=16)
    right, wrong = (table[table["method"] == method] for method in maps)
    assert right["frame"].tolist() == [0, 1] and right["energy"].tolist() == [1, 1] and wrong["hit"].tolist() == [0, 0]
    assert right["deletion_grey"].tolist() == [1 / 32] * 2, "gone after one of sixteen steps"
    assert wrong["deletion_grey"].tolist() == [1 - 1 / 32] * 2 and wrong["insertion"].max() < right["insertion"].min()
    assert right["deletion_inpaint"].max() < 0.1, "inpainted by the background"
    assert curves["right"]["deletion_grey"].tolist() == [1, *[0] * 16] and len(curves["wrong"]["insertion"]) == 17


def test_random_weights_spread_from_the_output_and_the_model_stays_as_it_was():
    model, image = network("unet"), noise(1, 1, 32, 48)
    state = copy.deepcopy(model.state_dict())
    few, half, whole = (
        {key for key, value in other.state_dict().items() if not torch.equal(state[key], value)}
        for other in evaluation.with_random_layers(model, image, (0.1, 0.5, 1.0), seed=1)
    )
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert few < half < whole and 0.4 * len(whole) < len(half) < 0.6 * len(whole)
    assert "heads.0.weight" in few and {key.split(".")[0] for key in few} <= {"decoder", "heads"}
    assert {key for key in state if key.endswith("weight")} <= whole


def test_similarity_and_ranks_by_hand():
    first = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert evaluation.rank_correlation(first, -10 * first**3) == pytest.approx(1)  # ranks of the absolute values
    assert evaluation.rank_correlation(first, np.zeros((2, 2))) == 0
    columns = ["energy", "hit", "insertion", "similarity"]
    rows = {"worst": [0.1, 0.2, 0.6, 0.9], "best": [0.4, 0.9, 0.8, 0.1], "middle": [0.3, 0.5, 0.4, 0.2]}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    deletions = dict(zip(evaluation.DELETIONS, ([0.1, 0.1, 0.1], [0.3, 0.2, 0.4], [0.5, 0.3, 0.4]), strict=True))
    ranking = evaluation.rank_methods(table.assign(**deletions))
    assert ranking.index.tolist() == ["best", "middle", "worst"]
    assert ranking["rank"].tolist() == pytest.approx([(1 + 1 + 1) / 3, (2 + 3 + 2) / 3, (3 + 2 + 3) / 3])


def measured(rng, better, patients=16):
    """Four frames of each patient: random maps, and two methods that are `better` than them by so much."""
    rows = []
    for frame in range(4 * patients):
        level = rng.normal(0, 0.1)
        for method in ("grad-cam", "gradient", "random map", "middle of the frame"):
            gain = better if method in evaluation.METHODS else 0
            noise = rng.normal(level, 0.1, 5)
            row = dict(zip(["energy", *evaluation.DELETIONS, "insertion"], noise, strict=True))
            row |= {name: row[name] - gain for name in evaluation.DELETIONS} | {"energy": row["energy"] + gain}
            rows.append(row | {"frame": frame, "subject": frame % patients, "method": method, "similarity": 0.1})
    return pd.DataFrame(rows)


@pytest.mark.slow
def test_a_verdict_needs_a_difference_that_chance_does_not_explain():
    rng = np.random.default_rng(0)
    verdict = evaluation.judge(measured(rng, better=0.2))
    assert verdict["trusted"].all() and verdict[["points at it", "marks what matters"]].max(axis=None) < 0.01
    table = measured(rng, better=0.2)
    assert not evaluation.judge(table.assign(similarity=0.6))["trusted"].any()
    passed = [evaluation.judge(measured(rng, better=0.0, patients=12))["trusted"].any() for _ in range(20)]
    assert np.mean(passed) <= 0.15, "5% of useless pairs of methods may pass one test, and fewer pass both"


def test_the_sign_flip_test_by_hand():
    # three patients with means 1, 2 and 3: of the 8 ways to choose signs only one has a mean as large
    assert evaluation.p_value([1, 1, 2, 3], [1, 1, 2, 3]) == pytest.approx(1 / 8)
    assert evaluation.p_value([-1, 2, 3], [1, 2, 3]) == pytest.approx(2 / 8)
