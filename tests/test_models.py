"""One tester for every registered network; and what is special to each."""

import copy
import inspect
import json
import math
from urllib.error import URLError

import pytest
import torch
from efficientnet_pytorch import EfficientNet
from torch import nn

from nerveceg_lib import complexity
from nerveceg_lib.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.errors import InputError
from nerveceg_lib.models import CLASSIFIERS, SEGMENTERS, SHARED_TRUNKS, build_model, options, supported
from nerveceg_lib.models.initialise import SCHEMES
from nerveceg_lib.models.shared_trunk import SharedTrunk

NETWORKS = [*CLASSIFIERS, *SEGMENTERS]
FAMILY = ["unet", "deep-residual-unet", "r2unet", "attention-unet", "r2attention-unet"]
ONE_OF_EACH_KIND = [
    *FAMILY,
    "efficient-unet-b0",
    "efficientnet-b0",
    "resnet18",
    "resnet50",
    "r2unet-encoder",
    "shared-unet",
]


def small(name, **config):
    """The network `name` at a few channels, where it can be had so."""
    torch.manual_seed(0)
    return build_model(name, **supported(name, base_channels=4, depth=4), **config)


def settled(name, **config):
    """The same for evaluation: batch norm has seen a batch, so that values keep a sensible size."""
    model = small(name, **config).train()
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(8, 1, 64, 64))
    return model.eval()


def close(found, expected):
    """Up to rounding, at the scale of the values."""
    return (found - expected).abs().max() < 1e-3 * expected.abs().max() + 1e-5


def outputs(model, image):
    """Everything the network can be trained on, flat."""
    if getattr(model, "presence", None) is not None:
        mask, presence = model(image, presence=True)
        return torch.cat([mask.flatten(), presence])
    if "coverage" in inspect.signature(model.forward).parameters:
        logit, maps = model(image, coverage=True)
        return torch.cat([logit, *(m.flatten() for m in maps)])
    return model(image).flatten()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_shape_at_any_size(name, size):
    model, image = small(name).eval(), torch.randn(2, 1, *size)
    with torch.inference_mode():
        assert model(image).shape == ((2, 1, *size) if name in SEGMENTERS else (2,))
        if name in CLASSIFIERS:
            _, maps = model(image, coverage=True)
            strides = (1,) if name in SHARED_TRUNKS else (4, 8, 16)
            assert [tuple(m.shape) for m in maps] == [(2, 1, -(-size[0] // s), -(-size[1] // s)) for s in strides]


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_whole_frame(name):
    with torch.inference_mode():
        result = small(name).eval()(torch.randn(1, 1, 420, 580))
    assert result.shape == ((1, 1, 420, 580) if name in SEGMENTERS else (1,))


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_reaches_every_parameter(name):
    model = small(name).train()
    outputs(model, torch.randn(2, 1, 64, 64)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_evaluation_repeats_itself_whatever_the_rest_of_the_batch(name):
    model, image = settled(name), torch.randn(3, 1, 64, 64)
    with torch.inference_mode():
        together = model(image)
        assert torch.equal(model(image), together)
        assert close(model(image[1:2]), together[1:2])


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_training_repeats_itself_for_a_seed(name):
    results = []
    for _ in range(2):
        model = small(name).train()
        torch.manual_seed(1)
        results.append(outputs(model, torch.ones(2, 1, 64, 64).cumsum(3)))
    assert torch.equal(*results)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_is_rebuilt_from_its_checkpoint(name, tmp_path):
    config = supported(name, base_channels=4, depth=4)
    model = build_model(name, **config).eval()
    save_checkpoint(tmp_path / "net.pt", model, name, config, size=(64, 64))
    rebuilt, facts = load_checkpoint(tmp_path / "net.pt")
    image = torch.randn(1, 1, 64, 64)
    assert torch.equal(rebuilt(image), model(image))
    assert not rebuilt.training and facts["size"] == [64, 64]


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_bfloat16_is_close(name):
    model, image = settled(name), torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        exact = model(image)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = model(image).float()
    assert rounded.isfinite().all()
    assert (rounded - exact).abs().mean() < 0.4 * exact.abs().mean()  # rounding grows over 50 untrained layers


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_channels_last_is_the_same_function(name):
    model, image = settled(name), torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        expected = model(image)
        found = model.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
    assert close(found, expected)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_compiles_and_exports_as_one_graph(name):
    """Dynamo and AOT autograd see the whole network; the code generator behind them wants a C++ compiler."""
    model, image = settled(name), torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = model(image)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
        assert close(compiled(image), expected)
        exported = torch.export.export(model, (image,)).module()
        assert close(exported(image), expected)


@pytest.mark.parametrize(
    "name, config, count",
    [
        ("unet", {}, 34_527_041),
        ("attention-unet", {}, 34_878_573),
        ("r2unet", {"recurrence": 2}, 39_091_393),
        ("r2attention-unet", {"recurrence": 2}, 39_442_925),
        ("deep-residual-unet", {}, 7_789_313),  # Zhang et al. 2018, table 1: 7.8 M
        ("deep-residual-unet", {"shortcut": "projection"}, 8_220_993),
    ],
)
def test_known_number_of_parameters(name, config, count):
    assert complexity.parameters(build_model(name, in_channels=3, **config)) == count


@pytest.mark.parametrize("layers, millions", [(18, 11.69), (34, 21.80), (50, 25.56), (101, 44.55), (152, 60.19)])
def test_resnets_have_the_published_number_of_parameters(layers, millions):
    model = build_model(f"resnet{layers}", in_channels=3)
    last = 512 * (4 if layers >= 50 else 1)
    trunk = complexity.parameters(model.trunk) + 1000 * (last + 1)  # with ImageNet's last layer
    assert round(trunk / 1e6, 2) == pytest.approx(millions)


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_multiply_adds_agree_with_an_independent_count(name):
    """Counted here layer by layer from shapes, there by torch operation by operation."""
    model, image, counted = small(name).eval(), torch.randn(1, 1, 64, 96), []

    def count(layer, inputs, result):
        weights = layer.weight[0].numel()  # multiply-adds of one output value
        spread = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else result
        counted.append(spread.numel() * weights)

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            layer.register_forward_hook(count)
    found = complexity.gmacs(model, image)
    assert found * 1e9 == pytest.approx(sum(counted), rel=0.01)


def test_multiply_adds_of_the_unet_by_hand():
    """Five levels of two 3x3 convolutions down, four of up-convolution and two convolutions up, one 1x1."""
    size, width = 64 * 64, 64
    down = sum(size / 4**k * 9 * (width * 2**k) * (i + width * 2**k) for k, i in enumerate((3, 64, 128, 256, 512)))
    up = sum(size / 4**k * 9 * (width * 2**k) ** 2 * (2 + 2 + 1) for k in range(4))
    model = build_model("unet", in_channels=3)
    assert complexity.gmacs(model, torch.randn(1, 3, 64, 64)) == pytest.approx((down + up + size * width) / 1e9)


def test_peak_memory_counts_what_is_alive_at_once():
    def one_after_the_other():
        torch.zeros(1024, 1024)
        torch.zeros(1024, 1024)

    def together():
        return torch.zeros(1024, 1024), torch.zeros(1024, 1024)

    assert complexity.peak_memory(one_after_the_other) == pytest.approx(4, rel=0.01)  # MiB
    assert complexity.peak_memory(together) == pytest.approx(8, rel=0.01)


def test_members_of_the_family_differ_by_their_blocks_alone():
    models = {name: small(name) for name in FAMILY}
    assert len({type(model) for model in models.values()}) == 1
    blocks = {name: {type(part).__name__ for part in model.modules()} for name, model in models.items()}
    assert "RecurrentConv" in blocks["r2unet"] and "AttentionSkip" in blocks["attention-unet"]
    assert blocks["r2attention-unet"] == blocks["r2unet"] - {"ConcatSkip"} | blocks["attention-unet"] - {"DoubleConv"}


def test_recurrence_repeats_the_same_weights():
    few, many = small("r2unet", recurrence=1), small("r2unet", recurrence=3)
    assert complexity.parameters(few) == complexity.parameters(many)
    image = torch.randn(1, 1, 64, 64)
    assert complexity.gmacs(many, image) > 1.5 * complexity.gmacs(few, image)
    many.load_state_dict(few.state_dict(), strict=False)  # the further steps have statistics of their own
    assert not torch.allclose(few.eval()(image), many.eval()(image))


def test_closed_attention_gate_blocks_the_skip_and_an_open_one_hands_it_on():
    model = small("attention-unet")
    gate = model.decoder.skip[0]
    skip, decoded = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for bias, expected in ((-50.0, torch.zeros_like(skip)), (50.0, skip)):
        nn.init.constant_(gate.psi[1].bias, bias)
        assert torch.allclose(gate.eval()(skip, decoded, None), torch.cat([expected, decoded], 1), atol=1e-6)


def test_coarse_attention_works_on_the_decoders_grid_and_spares_the_finest_level():
    model = small("attention-unet", gate_grid="coarse")
    seen = []
    model.decoder.skip[1].psi.register_forward_hook(lambda m, i, o: seen.append(tuple(o.shape[-2:])))
    model(torch.randn(1, 1, 64, 64))
    assert seen == [(16, 16)] and not list(model.decoder.skip[0].parameters())


def test_weightless_shortcut_hands_on_the_encoders_features():
    model = small("deep-residual-unet").eval()
    unit = model.decoder.units[0]
    nn.init.zeros_(unit.residual[-1].weight)
    joined = torch.randn(1, 4 + 8, 16, 16)  # skip features first
    assert torch.equal(unit(joined), joined[:, :4])


@pytest.mark.parametrize("upsample", ["nearest", "bilinear", "transpose"])
@pytest.mark.parametrize("name", ["unet", "efficient-unet-b0"])
def test_every_upsampling(name, upsample):
    assert small(name, upsample=upsample)(torch.randn(2, 1, 37, 45)).shape == (2, 1, 37, 45)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_initialisation_is_the_one_asked_for(scheme):
    torch.manual_seed(0)
    model = build_model("unet", base_channels=32, depth=3, init=scheme)
    weight = model.encoder.units[1][5].weight  # 32 -> ... 64 -> 64 channels, 3x3
    if scheme == "orthogonal":
        flat = weight.flatten(1)
        assert torch.allclose(flat @ flat.T, torch.eye(len(flat)), atol=1e-4)
    else:
        fan = 64 * 9
        expected = {"kaiming": (2 / fan) ** 0.5, "xavier": (2 / (2 * fan)) ** 0.5, "normal": 0.02}[scheme]
        assert weight.std().item() == pytest.approx(expected, rel=0.05)
    assert not any(p.any() for n, p in model.named_parameters() if n.endswith("bias"))


@pytest.mark.parametrize("name", [*FAMILY, "efficient-unet-b0"])
def test_gradient_checkpointing_changes_memory_and_nothing_else(name):
    plain = small(name).train()
    saving = small(name, checkpointing=True).train()
    saving.load_state_dict(copy.deepcopy(plain.state_dict()))
    image, used = torch.randn(2, 1, 64, 96), []
    for model in (plain, saving):
        model.zero_grad()
        used.append(complexity.peak_memory(lambda model=model: model(image).square().mean().backward()))
    for (key, one), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        if one.grad is not None:  # the presence head has none from the mask
            assert close(other.grad, one.grad), key
    for key, value in plain.state_dict().items():
        assert torch.equal(value, saving.state_dict()[key]), key
    assert used[1] < used[0]


def test_deep_supervision_trains_every_level():
    model = small("unet", deep_supervision=True)
    logits, coarser = model(torch.randn(2, 1, 61, 83), deep=True)
    assert logits.shape == (2, 1, 61, 83) and [c.shape for c in coarser] == [logits.shape] * 2
    sum(o.square().mean() for o in (logits, *coarser)).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert small("unet")(torch.randn(1, 1, 64, 64), deep=True)[1] == []


class Seen(nn.Module):
    """A segmenter of known outputs: two pixels with logits 0 and log 3, two fine channels, a bottleneck of one."""

    look_widths = 2, 1

    def look(self, image):
        masks = torch.tensor([0.0, math.log(3.0)]).reshape(1, 1, 1, 2)
        fine = torch.tensor([[1.0, 2.0], [10.0, 20.0]]).reshape(1, 2, 1, 2)
        return masks, fine, torch.tensor([[4.0, 6.0]]).reshape(1, 1, 1, 2)


def test_the_presence_of_a_shared_trunk_by_hand():
    trunk = SharedTrunk(Seen(), "", dropout=0.0)
    place = (0.5 * 1 + 0.75 * 2) / 1.25  # under the mask's probabilities, 1/2 and 3/4
    views = [math.log((1 + 3) / 2), place, 10 * place, 5.0]
    for number, view in enumerate(views):
        nn.init.zeros_(trunk.head[1].bias)
        trunk.head[1].weight.data = torch.eye(4)[number : number + 1]
        logit, maps = trunk(torch.zeros(1, 1, 1, 2), coverage=True)
        assert logit.tolist() == pytest.approx([view])
        assert torch.equal(maps[0], Seen().look(None)[0])


@pytest.mark.parametrize("trunk", SHARED_TRUNKS)
def test_the_segmenter_inside_a_shared_trunk_is_the_family_s(trunk):
    inside = small(trunk).segmenter
    name = trunk.removeprefix("shared-")
    alone = small(name, **({"presence_head": False} if "efficient" in name else {}))
    alone.load_state_dict(inside.state_dict())
    image = torch.randn(2, 1, 61, 83)
    assert torch.equal(alone.eval()(image), inside.eval().look(image)[0])


def test_efficientnet_b4_is_the_library_s_network_in_another_dress():
    """Same function as efficientnet-pytorch's own forward, given its weights and a three-channel copy of the frame."""
    model = build_model("efficientnet-b4").eval()
    reference = EfficientNet.from_name("efficientnet-b4", num_classes=1, image_size=None).eval()
    head = {f"_fc.{key}": value for key, value in model.head[1].state_dict().items()}
    reference.load_state_dict(model.trunk.net.state_dict() | head)
    image = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.allclose(model(image), reference(image.expand(-1, 3, -1, -1)).squeeze(1), atol=1e-4)
    assert model.cam_layer == "trunk.net._blocks.9"


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_to_explain_is_as_fine_as_the_question_asks(name):
    model, seen = small(name).eval(), []
    dict(model.named_modules())[model.cam_layer].register_forward_hook(lambda m, i, o: seen.append(o.shape[-2:]))
    with torch.inference_mode():
        model(torch.randn(1, 1, 64, 96))
    assert [tuple(shape) for shape in seen] == [(8, 12) if name in CLASSIFIERS else (32, 48)]


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficient-unet-b0"])
def test_pretrained_weights_are_loaded_into_the_network(name, monkeypatch):
    weights = EfficientNet.from_name("efficientnet-b0").state_dict()
    monkeypatch.setattr("efficientnet_pytorch.utils.model_zoo.load_url", lambda url: dict(weights))
    model = build_model(name, pretrained=True)
    assert torch.equal(model.trunk.net._conv_stem.weight, weights["_conv_stem.weight"])


def test_pretrained_without_a_network_says_so(monkeypatch):
    def offline(url):
        raise URLError("no route to host")

    monkeypatch.setattr("efficientnet_pytorch.utils.model_zoo.load_url", offline)
    with pytest.raises(InputError, match="pretrained.*efficientnet-b0.*no route to host.*pretrained=False"):
        build_model("efficientnet-b0", pretrained=True)


@pytest.mark.parametrize(
    "name, config, message",
    [
        ("vgg", {}, "model: expected one of .*'efficientnet-b4'.*'unet'.*found 'vgg'"),
        ("unet", {"colour": 3}, r"unet: unknown options \['colour'\].*base_channels"),
        ("unet", {"recurrence": 2}, r"unet: unknown options \['recurrence'\]"),
        ("resnet18", {"pretrained": True}, r"resnet18: unknown options \['pretrained'\]"),
        ("unet", {"depth": 1}, "depth: expected 2 or more, found 1"),
        ("unet", {"in_channels": 0}, "in_channels: expected 1 or more, found 0"),
        ("r2unet", {"recurrence": 0}, "recurrence: expected 1 or more, found 0"),
        ("r2unet-encoder", {"base_channels": 0}, "base_channels: expected 1 or more, found 0"),
        ("unet", {"dropout": 1.0}, "dropout: expected 0 or more and below 1, found 1.0"),
        ("resnet18", {"dropout": -0.1}, "dropout: expected 0 or more and below 1, found -0.1"),
        ("unet", {"upsample": "cubic"}, "upsample: expected one of .*'nearest'.*found 'cubic'"),
        ("deep-residual-unet", {"upsample": "transpose"}, "upsample: expected one of .*'bilinear'.*found 'transpose'"),
        ("deep-residual-unet", {"shortcut": "none"}, "shortcut: expected one of .*'projection'.*found 'none'"),
        ("attention-unet", {"gate_grid": "medium"}, "gate_grid: expected one of .*'coarse'.*found 'medium'"),
        ("unet", {"init": "zeros"}, "init: expected one of .*'orthogonal'.*found 'zeros'"),
        ("efficient-unet-b0", {"in_channels": 2}, "in_channels: expected 1 .* or 3 .*found 2"),
        ("efficient-unet-b0", {"stem_channels": 0}, "stem_channels: expected 1 or more, found 0"),
    ],
)
def test_what_cannot_be_built_is_answered_with_what_can(name, config, message):
    with pytest.raises(InputError, match=message):
        build_model(name, **config)


def test_options_say_what_a_network_takes():
    assert {"recurrence", "gate_grid", "base_channels", "upsample"} <= options("r2attention-unet")
    assert supported("efficientnet-b0", base_channels=4, dropout=0.1) == {"dropout": 0.1}


def test_broken_checkpoints_are_refused(tmp_path):
    path, config = tmp_path / "net.pt", {"base_channels": 4, "depth": 3}
    with pytest.raises(InputError, match="at least one is missing"):
        load_checkpoint(path)
    save_checkpoint(path, build_model("unet", **config), "unet", config)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not the weights of unet"):
        load_checkpoint(path)
    path.write_bytes(whole)
    facts = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(facts | {"config": {"base_channels": 8, "depth": 3}}))
    with pytest.raises(InputError, match="not the weights of unet"):
        load_checkpoint(path)
    path.with_suffix(".json").write_text(json.dumps(facts | {"format": 99}))
    with pytest.raises(InputError, match="expected format 1, found 99"):
        load_checkpoint(path)
