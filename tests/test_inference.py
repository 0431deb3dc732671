"""Inference, checked with networks whose answer is known, and networks rewritten for inference."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from nerveceg_lib import rle
from nerveceg_lib.inference.ensemble import Ensemble, PresenceEnsemble
from nerveceg_lib.inference.fuse import fold_batch_norm, merge_upsampling
from nerveceg_lib.inference.two_stage import OneNetwork, TwoNetworks, prediction_table, segment
from nerveceg_lib.models import CLASSIFIERS, SEGMENTERS, build_model, supported

FRAMES = np.full((2, 420, 580), 20, np.uint8)
FRAMES[1, 100:160, 300:400] = 220  # a bright rectangle
TRUTH = (FRAMES > 100).astype(np.uint8)


class Bright(nn.Module):
    """A classifier that takes what is bright for a nerve."""

    def forward(self, image):
        return 4 * (image.amax((1, 2, 3)) - 2)


def brightness(weight=0.4):
    """Return a network that takes bright regions for a nerve; it blurs, because a point-wise one never runs in bf16."""
    network = nn.Conv2d(1, 1, 5, padding=2)
    nn.init.constant_(network.weight, weight)
    nn.init.constant_(network.bias, -25 * 3.07 * weight)  # half-way between dark and bright
    return network


def two_networks(*segmenters, precision="fp32"):
    masks = Ensemble(segmenters or [brightness()], (210, 290), precision)
    return TwoNetworks(PresenceEnsemble([Bright()], (42, 58), precision), masks)


def trained_batch_norm(network):
    """Give batch norm statistics and scales as after a training: those of a fresh network change nothing."""
    torch.manual_seed(1)
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 1.5)
        nn.init.normal_(norm.weight)
    return network.eval()


@pytest.mark.parametrize("name", [*(n for n in (*SEGMENTERS, *CLASSIFIERS) if "-b" not in n), "efficient-unet-b0"])
def test_folded_batch_norm_changes_nothing(name):
    network = trained_batch_norm(build_model(name, **supported(name, base_channels=4)))
    image = torch.randn(2, 1, 50, 70)
    folded = fold_batch_norm(network, image[:1])
    with torch.inference_mode():
        expected = network(image)
        torch.testing.assert_close(folded(image), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())
    before, after = (sum(isinstance(m, nn.BatchNorm2d) for m in n.modules()) for n in (network, folded))
    assert after < before
    assert not any(module._forward_hooks for module in folded.modules())


@pytest.mark.parametrize("bias", [True, False])
def test_upsampling_merged_into_its_convolution_changes_nothing(bias):
    plain = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 5, 3, padding=1, bias=bias), nn.ReLU())
    image, merged = torch.randn(2, 3, 7, 9), merge_upsampling(copy.deepcopy(plain))
    assert isinstance(merged[1], nn.ConvTranspose2d)
    torch.testing.assert_close(merged(image), plain(image), rtol=1e-4, atol=1e-5)
    up, bilinear = plain[0], nn.Upsample(scale_factor=2, mode="bilinear")
    for layers in ([up, nn.Conv2d(3, 3, 3, stride=2, padding=1)], [bilinear, nn.Conv2d(3, 3, 3, padding=1)], [up]):
        assert list(merge_upsampling(nn.Sequential(*layers))) == layers, "what cannot be merged is left alone"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_second_stage_sees_only_frames_that_pass_the_first_and_masks_are_in_their_places(precision):
    order, system = [0, 1, 1, 0, 1, 0], two_networks(precision=precision)
    images, passes = FRAMES[order], [bool(number) for number in order]
    predictions = segment(system, (images[start : start + 4] for start in (0, 4)), threshold=0.5)
    table = prediction_table(predictions, np.arange(6), TRUTH[order])
    assert table["mask_area"].gt(0).tolist() == passes and table["peak"].notna().tolist() == passes
    assert table["mask_dice"].min() > 0.97 and (table["mask_dice"] == 1).tolist() == [not passed for passed in passes]
    assert [int(rle.decode(text).sum()) for text in table["pixels"]] == table["mask_area"].tolist()
    everything = prediction_table(segment(system, [images], clean=np.ones_like), np.arange(6))
    assert everything["probability"].tolist() == pytest.approx(table["probability"].tolist())
    assert (everything["mask_area"] == 420 * 580).all(), "a clean-up is the last step for every mask"
    assert everything["inside"][0] == 0, "the evidence is that of the map before it"


def test_evidence_of_several_networks_is_the_mean_of_theirs():
    segmenters = brightness(), brightness(0.02)
    systems = [two_networks(segmenters[0]), two_networks(segmenters[1]), two_networks(*segmenters)]
    names = ["peak", "inside", "entropy", "soft_dice"]
    one, other, both = (prediction_table(segment(s, [FRAMES]), [0, 1]).loc[1, names].to_numpy() for s in systems)
    assert both.tolist() == pytest.approx((one + other) / 2, rel=1e-5) and not np.allclose(one.tolist(), other.tolist())


@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
def test_one_network_for_both_stages_gives_what_two_networks_would(flip):
    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 256, (1, 420, 580)).astype(np.uint8)
    images, networks = (
        np.concatenate([noise, FRAMES]),
        [build_model("efficient-unet-b0", presence_head=True) for _ in range(2)],
    )
    batch = Ensemble([], (64, 96)).read(images)
    for network in networks:
        for _ in range(20):  # batch norm learns these frames, so that the network tells them apart
            network.train()(batch)
    ensemble, presence = (kind(networks, (64, 96), flip=flip) for kind in (Ensemble, PresenceEnsemble))
    threshold = presence(batch).mean().item()
    one, two = (
        prediction_table(segment(system, [images], threshold), np.arange(3))
        for system in (OneNetwork(ensemble), TwoNetworks(presence, ensemble))
    )
    assert 0 < one["peak"].notna().sum() < 3
    pd.testing.assert_frame_equal(one, two, rtol=1e-3)


@pytest.mark.parametrize(
    "system",
    [two_networks(), OneNetwork(Ensemble([build_model("unet", base_channels=2, presence_head=True)], (42, 58)))],
)
def test_the_frame_that_sets_the_threshold_passes_it(system):
    """Gates keep the largest number below its probability, which single precision cannot tell from it."""
    lowest = min(prediction.probability for prediction in segment(system, [FRAMES]))
    passed = segment(system, [FRAMES], threshold=np.nextafter(lowest, -1))
    assert all(prediction.mask is not None for prediction in passed)


def test_only_a_few_batches_are_read_ahead():
    """The reader must not run through a million frames while nobody takes the results."""
    reads = []
    stream = segment(two_networks(), (reads.append(number) or FRAMES for number in range(1000)))
    for _ in range(4):
        next(stream)
    assert len(reads) < 12
