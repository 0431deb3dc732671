"""Explanations, checked by their mathematics: formulas by hand, completeness, conservation, no trace left behind."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from captum.attr import GuidedBackprop
from torch import nn

from nerveceg_lib.errors import InputError
from nerveceg_lib.explain import METHODS, explain, trust
from nerveceg_lib.explain.attribution import gates
from nerveceg_lib.explain.borrow import region
from nerveceg_lib.explain_plots import cascade, faithfulness_curves, gallery
from nerveceg_lib.models import build_model, supported

QUICK = {
    "integrated-gradients": {"steps": 4, "most": 4},
    "smoothgrad": {"samples": 2},
    **{name: {"steps": 2} for name, method in METHODS.items() if method.kind == "picture"},
}
SMOOTH = ["efficientnet-b0", "shared-efficient-unet-b0", "efficient-unet-b0", "shared-unet"]  # LRP has no rule for them
GATED = ["attention-unet", "r2attention-unet"]
PLAIN = ["resnet18", "r2unet-encoder", "unet", "deep-residual-unet", "r2unet"]
DRAWS_NO_MASK = ["efficientnet-b0", "shared-efficient-unet-b0", "shared-unet", "resnet18", "r2unet-encoder"]


class TwoMaps(nn.Module):
    """Two 1x1 feature maps of a grey image, their means weighed 3 and -2."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(2, 1, bias=False)
        self.features.weight.data = torch.tensor([1.0, 1.0]).reshape(2, 1, 1, 1)
        self.head.weight.data = torch.tensor([[3.0, -2.0]])

    def forward(self, image):
        return self.head(self.features(image).mean(dim=(2, 3))).squeeze(1)


class Tiny(nn.Module):
    """Convolution, activation, convolution, activation, a weighted mean: small enough to work out by hand."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), activation(), nn.AvgPool2d(2), nn.Conv2d(3, 4, 3, padding=1), activation()
        )
        self.head = nn.Linear(4, 1)

    def forward(self, image):
        return self.head(self.body(image).mean((2, 3))).squeeze(1)


def network(name, seed=0):
    """With batch statistics and uneven scales, as after a training: through a fresh network hardly anything comes."""
    torch.manual_seed(seed)
    model = build_model(name, **supported(name, base_channels=4)).train()
    for norm in (part for part in model.modules() if isinstance(part, nn.BatchNorm2d)):
        nn.init.uniform_(norm.weight, 0.7, 1.3)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
        norm.momentum = 1.0
    with torch.no_grad():
        model(image(8, 1, 64, 96))
    return model.eval()


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(part, kind)) for part in model.modules() for kind in kinds)


def image(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SMOOTH + GATED + PLAIN)
def test_every_method_works_or_says_why_and_leaves_no_trace(name):
    model, frame = network(name).train(), image(1, 1, 32, 48)
    first, *others = model.parameters()
    first.requires_grad_(False)
    for weight in others:
        weight.grad = torch.full_like(weight, 7.0)
    next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d)).eval()
    before = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    refused = {"lrp"} if name in SMOOTH + GATED else set()
    refused |= set() if name in GATED else {"attention-gate"}
    refused |= {"seg-grad-cam"} if name in DRAWS_NO_MASK else set()
    for method, (_, kind) in METHODS.items():
        if method in refused:
            with pytest.raises(InputError, match=f"{method}: expected .*, found "):
                explain(model, frame, method)
        else:
            found = explain(model, frame, method, **QUICK.get(method, {}))
            assert found.shape == (1, 32, 48) and found.dtype == torch.float32 and found.isfinite().all(), method
            assert not found.requires_grad and (kind != "evidence" or found.min() >= 0), method
        assert hooks(model) == 0, method
    assert [part.training for part in model.modules()] == before[1]
    assert not first.requires_grad and first.grad is None
    assert all(weight.requires_grad and bool((weight.grad == 7).all()) for weight in others)
    assert all(torch.equal(value, before[0][key]) for key, value in model.state_dict().items())


def test_a_failing_target_leaves_no_trace_either():
    model = network("unet").train()
    with pytest.raises(ZeroDivisionError):
        explain(model, image(1, 1, 32, 32), "guided-grad-cam", target=lambda logits: 1 / 0)
    assert hooks(model) == 0 and model.training and all(weight.requires_grad for weight in model.parameters())


def test_grad_cam_by_hand():
    frame = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]]]])
    # gradients of the mean: 3/4 and -2/4 at each pixel, so the map is ReLU(3/4 x - 2/4 x) = ReLU(x / 4)
    expected = torch.tensor([[[0.25, 0.0], [0.5, 0.0]]])
    torch.testing.assert_close(explain(TwoMaps(), frame, layer="features"), expected)
    torch.testing.assert_close(
        explain(TwoMaps(), frame, layer="features", target=lambda logit: 2 * logit), 2 * expected
    )


def test_layer_cam_by_hand():
    frame = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]]]])
    # the second map speaks against the target everywhere and drops out: ReLU(3/4 x)
    expected = torch.tensor([[[0.75, 0.0], [1.5, 0.0]]])
    torch.testing.assert_close(explain(TwoMaps(), frame, "layer-cam", layer="features"), expected)


def test_layer_cam_is_its_formula():
    torch.manual_seed(1)
    model, frame = Tiny(), image(1, 1, 8, 8)
    features = model.body(frame)
    # d logit / d features is the head's weight over the number of places
    slope = model.head.weight.reshape(4, 1, 1) / features[0, 0].numel()
    expected = F.interpolate((slope.relu() * features[0]).sum(0).relu()[None, None], (8, 8), mode="bilinear")[0]
    torch.testing.assert_close(explain(model, frame, "layer-cam", layer="body.4"), expected.detach())


def test_score_cam_is_its_formula():
    torch.manual_seed(2)
    model, frame = Tiny(), image(1, 1, 8, 8)
    with torch.no_grad():
        features, gains = model.body(frame)[0], []
        for channel in features:
            full = F.interpolate(channel[None, None], (8, 8), mode="bilinear")
            span = (channel.max() - channel.min()).clamp_min(1e-9)
            gains.append(model(frame * (full - channel.min()) / span) - model(torch.zeros(1, 1, 8, 8)))
        weights = torch.cat(gains).softmax(0)
        expected = sum(weight * channel for weight, channel in zip(weights, features, strict=True)).relu()
    expected = F.interpolate(expected[None, None], (8, 8), mode="bilinear")[0]
    torch.testing.assert_close(explain(model, frame, "score-cam", layer="body.4"), expected)


def test_hierarchical_cam_is_the_largest_of_the_scaled_maps():
    torch.manual_seed(1)
    model, frame = Tiny(), image(1, 1, 8, 8)
    each = [explain(model, frame, "layer-cam", layer=layer) for layer in ("body.1", "body.4")]
    expected = torch.stack([torch.tanh(2 * one / one.max()) for one in each]).amax(0)
    together = explain(model, frame, "hierarchical-cam", layer=("body.1", "body.4"))
    torch.testing.assert_close(together, expected)
    # without layers it takes the last of each size, with one none that is coarser
    torch.testing.assert_close(explain(model, frame, "hierarchical-cam"), expected)
    finest = torch.tanh(2 * each[0] / each[0].max())
    torch.testing.assert_close(explain(model, frame, "hierarchical-cam", layer="body.1"), finest)


@pytest.mark.parametrize("name", ["efficientnet-b0", "resnet18", "unet", "shared-unet", "attention-unet"])
def test_integrated_gradients_are_complete(name):
    model, frame = network(name), image(1, 1, 32, 48)
    target = None if model(frame).ndim == 1 else region(torch.ones(32, 48))
    with torch.no_grad():
        outputs = model(torch.cat([frame, torch.zeros_like(frame)]))
        start, end = (target or (lambda logits: logits))(outputs).flip(0)
    total = explain(model, frame, "integrated-gradients", target).sum()
    assert abs(total - (end - start)) < 0.0101 * abs(end - start)


@pytest.mark.parametrize("name", ["efficientnet-b0", "r2unet"])
def test_smoothgrad_without_noise_is_the_gradient(name):
    model, frame = network(name), image(2, 1, 32, 48)
    plain = explain(model, frame, "gradient")
    smooth = explain(model, frame, "smoothgrad", noise=0.0, samples=3)
    torch.testing.assert_close(smooth, plain, rtol=1e-3, atol=1e-5 * plain.abs().max().item())
    noisy = [explain(model, frame, "smoothgrad", samples=3, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])


def test_parts_of_the_gradient_fit_together():
    model, frame = network("unet"), image(1, 1, 32, 48)
    names = ("gradient", "gradient-magnitude", "positive-saliency", "negative-saliency", "gradient-x-image")
    plain, grey, positive, negative, product = (explain(model, frame, name) for name in names)
    torch.testing.assert_close(positive - negative, plain)
    torch.testing.assert_close(positive + negative, grey)
    torch.testing.assert_close(product, plain * frame[:, 0])


@pytest.mark.parametrize("model", [Tiny(), network("resnet18"), network("unet")], ids=["tiny", "resnet18", "unet"])
def test_guided_backpropagation_of_relu_networks_is_captum_s(model):
    frame = image(1, 1, 32, 48)
    target = None if model(frame).ndim == 1 else region(torch.ones(32, 48))

    class Scored(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = copy.deepcopy(model)
            for part in self.model.modules():
                if isinstance(part, nn.ReLU):
                    part.inplace = False  # which captum's hooks cannot bear

        def forward(self, given):
            return self.model(given) if target is None else target(self.model(given))

    expected = GuidedBackprop(Scored()).attribute(frame.clone().requires_grad_())[:, 0]
    found = explain(model, frame, "guided-backpropagation", target)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item())
    product = found * explain(model, frame, "grad-cam", target, layer="body.1" if isinstance(model, Tiny) else "")
    guided = explain(model, frame, "guided-grad-cam", target, layer="body.1" if isinstance(model, Tiny) else "")
    torch.testing.assert_close(guided, product)


def test_guided_backpropagation_through_silu_cuts_both_sides():
    class OneSiLU(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.act, self.sign = nn.SiLU(), sign

        def forward(self, given):
            return self.sign * self.act(given).sum((1, 2, 3))

    frame = torch.tensor([[[[1.0, -0.5, -2.0]]]])  # slopes of SiLU: 0.93, 0.26, -0.09
    slope = torch.autograd.functional.jacobian(lambda x: F.silu(x).sum(), frame)[0, 0]
    assert slope[0, 2] < 0
    torch.testing.assert_close(explain(OneSiLU(1), frame, "guided-backpropagation")[0], slope.relu())
    assert not explain(OneSiLU(-1), frame, "guided-backpropagation").any()


def without_biases(model):
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.zero_()
        if getattr(part, "bias", None) is not None:
            part.bias.data.zero_()
    return model


@pytest.mark.parametrize("name", PLAIN)
def test_relevance_is_conserved(name):
    model, frame = without_biases(network(name)), image(1, 1, 32, 48)
    target = (lambda logits: logits) if name in DRAWS_NO_MASK else region(torch.ones(32, 48))
    with torch.no_grad():
        wanted = target(model(frame))[0]
    relevance = explain(model, frame, "lrp", target)
    assert abs(relevance.sum() - wanted) < 0.01 * abs(wanted)
    plain = explain(model, frame, "gradient-x-image", target)
    assert not torch.allclose(relevance, plain, rtol=0.1), "the gamma rule does something"
    without = explain(model, frame, "lrp", target, gamma=0.0)
    torch.testing.assert_close(without, plain, rtol=1e-2, atol=1e-3 * plain.abs().max().item())


def test_the_gamma_rule_by_hand():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.add = nn.Conv2d(2, 1, 1, bias=False)
            self.add.weight.data = torch.tensor([2.0, -1.0]).reshape(1, 2, 1, 1)

        def forward(self, given):
            return self.add(torch.cat([given[..., :1], given[..., 1:]], dim=1)).sum((1, 2, 3))

    # 2 * 3 - 1 * 4 = 2 is shared out like 2 (1 + g) * 3 to -1 * 4, with g = 1 like 12 to -4: 3 and -1
    found = explain(Sum(), torch.tensor([[[[3.0, 4.0]]]]), "lrp", gamma=1.0)
    torch.testing.assert_close(found, torch.tensor([[[3.0, -1.0]]]))


@pytest.mark.parametrize("name", ["efficientnet-b0", "unet"])
@pytest.mark.parametrize("method", ["class-image", "class-image-regularised"])
def test_made_images_raise_the_target(name, method):
    model, frame = network(name), image(1, 1, 32, 48)
    target = (lambda logits: logits) if name in DRAWS_NO_MASK else region(torch.ones(32, 48))
    made = explain(model, frame, method, target, steps=20)
    rougher = explain(model, frame, "class-image", target, steps=20, regularise=0.0)
    with torch.no_grad():
        before, after = target(model(torch.cat([torch.zeros_like(frame), made.unsqueeze(1)])))
    assert after > before and made.abs().max() <= 3
    energy = [float(picture.diff(dim=1).square().sum()) for picture in (made, rougher)]
    assert energy[0] == energy[1] if method == "class-image" else energy[0] < energy[1]


def activation(model, frame, layer):
    seen = []
    handle = dict(model.named_modules())[layer].register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    with torch.no_grad():
        model(frame)
    handle.remove()
    return seen[0]


def test_filters_dreams_and_inversions_do_what_they_say():
    model, frame, layer = network("unet"), image(1, 1, 48, 64), "encoder.units.1"
    picture = explain(model, frame, "filter", layer=layer, channel=2, steps=30).unsqueeze(1)
    blank = torch.zeros_like(frame)
    assert activation(model, picture, layer)[0, 2].mean() > activation(model, blank, layer)[0, 2].mean()
    dream = explain(model, frame, "deep-dream", layer=layer).unsqueeze(1)
    assert activation(model, dream, layer).square().mean() > 1.2 * activation(model, frame, layer).square().mean()
    wanted = activation(model, frame, layer)
    inverse = explain(model, frame, "inversion", layer=layer).unsqueeze(1)
    distance = [float((activation(model, x, layer) - wanted).square().sum()) for x in (inverse, blank)]
    assert distance[0] < 0.2 * distance[1]
    again = explain(model, frame, "inversion", layer=layer).unsqueeze(1)
    assert torch.equal(again, inverse)


def test_guided_activation_is_guided_backpropagation_of_one_channel():
    torch.manual_seed(3)
    model, frame = Tiny(), image(1, 1, 8, 8)
    found = explain(model, frame, "guided-activation", layer="body.1", channel=1)
    alone = nn.Sequential(*model.body[:2])
    expected = explain(alone, frame, "guided-backpropagation", lambda features: features[:, 1].mean((1, 2)))
    torch.testing.assert_close(found, expected)
    strongest = int(alone(frame).mean((0, 2, 3)).argmax())
    default = explain(model, frame, "guided-activation", layer="body.1")
    torch.testing.assert_close(default, explain(model, frame, "guided-activation", layer="body.1", channel=strongest))


@pytest.mark.parametrize("grid, levels", [("fine", 4), ("coarse", 3)])
def test_attention_gates_at_every_level(grid, levels):
    model, frame = build_model("attention-unet", base_channels=4, gate_grid=grid).eval(), image(1, 1, 32, 48)
    assert len(gates(model)) == levels
    for gate in gates(model):
        raw = activation(model, frame, gate)
        expected = F.interpolate(raw, (32, 48), mode="bilinear")[:, 0]
        torch.testing.assert_close(explain(model, frame, "attention-gate", layer=gate), expected)
    torch.testing.assert_close(
        explain(model, frame, "attention-gate"), explain(model, frame, "attention-gate", layer=gates(model)[0])
    )
    with pytest.raises(InputError, match=r"layer: expected one of \['decoder.skip"):
        explain(model, frame, "attention-gate", layer="heads.0")


def test_the_default_target_is_what_the_segmenter_outlines():
    model, frame = network("unet"), image(1, 1, 32, 48)
    with torch.no_grad():
        outlined = (model(frame)[0, 0] >= 0).float()
    assert outlined.mean() > 0.01
    torch.testing.assert_close(explain(model, frame, "gradient"), explain(model, frame, "gradient", region(outlined)))
    model.heads[0].bias.data -= 1e4  # now it draws nothing, and what comes nearest is explained
    assert explain(model, frame, "gradient").abs().sum() > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"method": "cam"}, "method: expected one of .*'grad-cam'.*found 'cam'"),
        (
            {"layer": "encoder.unit.3"},
            "layer: expected one of EncoderDecoder, such as .*encoder.units.3.*'encoder.unit.3'",
        ),
        ({"layer": "encoder"}, r"layer: expected one that puts out \(N, K, h, w\), found 'encoder' with \['list'\]"),
        ({"method": "gradient", "steps": 3}, r"option of gradient: expected one of \[\], found 'steps'"),
        ({"method": "filter", "channel": 99}, "channel: expected 0 to 7 in layer 'decoder.units.1', found 99"),
        ({"frame": torch.zeros(32, 48)}, r"frame: expected floats \(B, C, H, W\), found torch.float32 \(32, 48\)"),
        ({"frame": torch.zeros(1, 1, 32, 48, dtype=torch.uint8)}, "frame: expected floats .*, found torch.uint8"),
    ],
)
def test_bad_questions_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        explain(**{"model": network("unet"), "frame": image(1, 1, 32, 48)} | arguments)


def test_a_layer_without_a_say_is_refused():
    with pytest.raises(
        InputError, match="layer: expected one that the target depends on, found 'trunk.net._conv_head'"
    ):
        explain(network("efficient-unet-b0"), image(1, 1, 32, 48), layer="trunk.net._conv_head")
    with pytest.raises(InputError, match="guided backpropagation: expected ReLU or SiLU, found none in TwoMaps"):
        explain(TwoMaps(), image(1, 1, 8, 8), "guided-backpropagation")


def test_localisation_by_hand():
    maps = np.array([[[1.0, 3.0], [-5.0, 0.0]], [[-1.0, 0.0], [0.0, 0.0]], [[2.0, 0.0], [0.0, 6.0]]])
    masks = np.array([[[1, 0], [1, 0]], [[1, 0], [0, 0]], [[0, 0], [0, 1]]])
    found = trust.localisation(maps, masks)
    assert found["energy"].tolist() == [0.25, 0.0, 0.75]
    assert found["hit"].tolist() == [0, 0, 1]


def test_the_centre_prior_knows_the_middle_alone():
    prior = trust.centre_prior((5, 7))
    assert np.unravel_index(prior.argmax(), prior.shape) == (2, 3)
    assert np.allclose(prior, prior[::-1, ::-1])


def test_deletion_and_insertion_by_hand():
    frame = torch.tensor([[[[4.0, 1.0], [2.0, 3.0]]]])
    score = lambda images: images.sum((1, 2, 3))  # noqa: E731
    deletion, insertion = trust.faithfulness(score, frame, frame[0, 0], steps=4)
    assert deletion.tolist() == [10, 6, 3, 1, 0]  # the brightest pixel goes first
    assert insertion[-1] == 10
    worst, _ = trust.faithfulness(score, frame, -frame[0, 0], steps=4)
    assert worst.tolist() == [10, 9, 7, 4, 0]


def test_the_right_map_is_judged_better_than_a_wrong_one():
    frame, masks = torch.zeros(2, 1, 8, 8), np.zeros((2, 8, 8), np.uint8)
    frame[0, 0, :2, :2] = frame[1, 0, 4:6, 4:6] = 1.0
    masks[0, :2, :2] = masks[1, 4:6, 4:6] = 1
    score = lambda images: images.sum((1, 2, 3)) / 4  # noqa: E731
    table, curves = trust.judge(score, frame, masks, {"right": masks, "wrong": 1 - masks}, steps=16)
    right, wrong = (table[table["method"] == method] for method in ("right", "wrong"))
    assert right["frame"].tolist() == [0, 1] and right["energy"].tolist() == [1, 1] and wrong["hit"].tolist() == [0, 0]
    assert right["deletion"].tolist() == [1 / 32] * 2, "gone after one of sixteen steps"
    assert wrong["deletion"].tolist() == [1 - 1 / 32] * 2
    assert (right["insertion"].to_numpy() > wrong["insertion"].to_numpy()).all()
    assert curves["right"][0].tolist() == [1, *[0] * 16] and len(curves["wrong"][1]) == 17


def test_randomisation_cascades_from_the_output_and_touches_a_copy_alone():
    model, frame = network("unet"), image(1, 1, 32, 48)
    before = copy.deepcopy(model.state_dict())
    few, half, whole = trust.randomised(model, frame, (0.1, 0.5, 1.0), seed=1)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def changed(other):
        new = other.state_dict()
        return {key.split(".")[0] for key in before if not torch.equal(before[key], new[key])}

    assert changed(few) <= {"decoder", "heads"} and "heads" in changed(few)
    assert not torch.equal(half.heads[0].weight, model.heads[0].weight)
    assert torch.equal(half.encoder.units[0][1].weight, model.encoder.units[0][1].weight)
    assert changed(whole) == {"decoder", "encoder", "heads"}
    weight, other = model.encoder.units[3][1].weight, whole.encoder.units[3][1].weight
    assert torch.isclose(weight.std(), other.std(), rtol=0.1)


def test_similarity_by_hand():
    first = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert trust.similarity(first, -10 * first**3) == pytest.approx(1)  # ranks of the absolute values
    assert trust.similarity(first, first[::-1, ::-1]) == pytest.approx(-1)
    assert trust.similarity(first, np.zeros((2, 2))) == 0


def test_ranks_by_hand():
    columns = ["energy", "hit", "deletion", "insertion", "similarity"]
    table = pd.DataFrame(
        [[0.1, 0.2, 0.3, 0.6, 0.9], [0.4, 0.9, 0.2, 0.8, 0.1], [0.3, 0.5, 0.3, 0.4, 0.2]],
        index=["worst", "best", "middle"], columns=columns,
    )  # fmt: skip
    # places: best 1, 1, 1; middle 2, 3, 2; worst 3, 2, 3
    found = trust.ranked(table)
    assert found.index.tolist() == ["best", "middle", "worst"]
    assert found["rank"].tolist() == pytest.approx([1, 7 / 3, 8 / 3])


def test_the_gallery_shows_every_map_on_one_scale_over_the_frame():
    frames = [np.full((420, 580), grey, np.uint8) for grey in (40, 200)]
    truths = [np.zeros((420, 580), np.uint8) for _ in frames]
    truths[1][100:200, 200:300] = 1
    maps = {name: np.stack([np.eye(8), -4 * np.eye(8)]) for name in ("gradient", "grad-cam", "class-image")}
    figure = gallery(frames, ["right, P = 0.9", "missed, P = 0.1"], maps, truths)
    axes = np.array(figure.axes).reshape(2, 4)
    assert [axis.get_title() for axis in axes[:, 0]] == ["right, P = 0.9", "missed, P = 0.1"]
    assert [axis.get_title() for axis in axes[0, 1:]] == ["gradient", "grad-cam", "class-image"]
    assert {axis.images[-1].get_clim() for axis in axes[:, 1]} == {(-1, 1)}
    assert axes[1, 1].images[-1].get_array().min() == -1 and axes[0, 1].images[-1].get_array().max() < 0.5
    assert [len(axis.images) for axis in axes[0]] == [1, 2, 2, 1], "maps over the frame, pictures alone"
    assert [len(axis.collections) for axis in axes[1]] == [1] * 4 and not axes[0, 0].collections


def test_trust_figures_hold_one_line_a_method():
    curves = {"grad-cam": (np.linspace(1, 0, 5), np.linspace(0, 1, 5)), "random": (np.ones(5), np.ones(5))}
    figure = faithfulness_curves(curves, "P(nerve)")
    assert [len(axis.lines) for axis in figure.axes] == [2, 2]
    table = pd.DataFrame([[0.5, 0.1], [0.9, 0.9]], index=["grad-cam", "gradient"], columns=[0.5, 1.0])
    lines = cascade(table, 0.5).axes[0].lines
    assert lines[0].get_xdata().tolist() == [0, 50, 100] and lines[0].get_ydata().tolist() == [1, 0.5, 0.1]
