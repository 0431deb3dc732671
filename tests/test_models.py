"""Every registered network: shapes, sizes, gradients, rebuilding from JSON; and what is special to each."""

import json
from urllib.error import URLError

import pytest
import torch
from efficientnet_pytorch import EfficientNet

from nerveceg_lib.checkpoints import load_checkpoint, save_checkpoint
from nerveceg_lib.errors import InputError
from nerveceg_lib.models import CLASSIFIERS, SEGMENTERS, build_model

TINY = {"unet": {"base_channels": 4, "depth": 3}}


@pytest.mark.parametrize("name", SEGMENTERS)
@pytest.mark.parametrize("size", [(64, 96), (61, 83), (420, 580)])
def test_segmenter_gives_one_logit_a_pixel_at_any_size(name, size):
    model = build_model(name, **TINY[name]).eval()
    assert model(torch.randn(2, 1, *size)).shape == (2, 1, *size)


@pytest.mark.parametrize("size", [(64, 96), (61, 83)])
def test_classifier_gives_one_logit_a_frame_and_coverage_maps(size):
    model = build_model("efficientnet-b0").eval()
    logit, maps = model(torch.randn(2, 1, *size), coverage=True)
    assert logit.shape == (2,)
    assert [tuple(m.shape) for m in maps] == [(2, 1, -(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16)]


@pytest.mark.parametrize("name", [*SEGMENTERS, "efficientnet-b0"])
def test_gradient_reaches_every_parameter(name):
    model = build_model(name, **TINY.get(name, {})).train()
    image = torch.randn(2, 1, 64, 64)
    outputs = [model(image)] if name in SEGMENTERS else [o for o in model(image, coverage=True)]
    flat = torch.cat([o.flatten() for output in outputs for o in (output if isinstance(output, list) else [output])])
    flat.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", [*SEGMENTERS, "efficientnet-b0"])
def test_network_is_rebuilt_from_its_checkpoint(name, tmp_path):
    config = TINY.get(name, {})
    model = build_model(name, **config).eval()
    save_checkpoint(tmp_path / "net.pt", model, name, config, size=(64, 64))
    rebuilt, facts = load_checkpoint(tmp_path / "net.pt")
    image = torch.randn(1, 1, 64, 64)
    assert torch.equal(rebuilt(image), model(image))
    assert not rebuilt.training and facts["size"] == [64, 64]


def test_unet_has_the_known_number_of_parameters():
    model = build_model("unet", in_channels=3, base_channels=64, depth=5)
    assert sum(p.numel() for p in model.parameters()) == 34_527_041


def test_efficientnet_b4_is_the_library_s_network_in_another_dress():
    """Same function as efficientnet-pytorch's own forward, given its weights and a three-channel copy of the frame."""
    model = build_model("efficientnet-b4").eval()
    reference = EfficientNet.from_name("efficientnet-b4", num_classes=1, image_size=None).eval()
    reference.load_state_dict(model.net.state_dict())
    image = torch.randn(1, 1, 64, 96)
    with torch.no_grad():
        assert torch.allclose(model(image), reference(image.expand(-1, 3, -1, -1)).squeeze(1), atol=1e-4)


def test_pretrained_weights_are_loaded_into_the_network(monkeypatch):
    weights = EfficientNet.from_name("efficientnet-b0").state_dict()
    monkeypatch.setattr("efficientnet_pytorch.utils.model_zoo.load_url", lambda url: dict(weights))
    model = build_model("efficientnet-b0", pretrained=True)
    assert torch.equal(model.net._conv_stem.weight, weights["_conv_stem.weight"])


def test_pretrained_without_a_network_says_so(monkeypatch):
    def offline(url):
        raise URLError("no route to host")

    monkeypatch.setattr("efficientnet_pytorch.utils.model_zoo.load_url", offline)
    with pytest.raises(InputError, match="pretrained.*efficientnet-b0.*no route to host.*pretrained=False"):
        build_model("efficientnet-b0", pretrained=True)


def test_unknown_names_and_options_are_answered_with_what_is_allowed():
    with pytest.raises(InputError, match="efficientnet-b4.*unet.*found 'vgg'"):
        build_model("vgg")
    with pytest.raises(InputError, match=r"unet: unknown options \['colour'\].*base_channels"):
        build_model("unet", colour=3)
    with pytest.raises(InputError, match="depth: expected 2 or more, found 1"):
        build_model("unet", depth=1)
    assert set(CLASSIFIERS) == {f"efficientnet-b{n}" for n in range(8)}


def test_broken_checkpoints_are_refused(tmp_path):
    path = tmp_path / "net.pt"
    with pytest.raises(InputError, match="at least one is missing"):
        load_checkpoint(path)
    save_checkpoint(path, build_model("unet", **TINY["unet"]), "unet", TINY["unet"])
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
