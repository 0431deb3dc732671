"""Inference, checked with networks whose answer is known."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nerveceg_lib import compute, metrics, rle
from nerveceg_lib.errors import InputError
from nerveceg_lib.folding import fold_batch_norm, merge_upsampling
from nerveceg_lib.inference import (
    OneTrunk,
    PresenceStage,
    Stage,
    TwoNetworks,
    mask_table,
    predict_masks,
    predict_presence,
    prediction_table,
    segment,
)
from nerveceg_lib.models import CLASSIFIERS, SEGMENTERS, build_model, supported


class Brightness(nn.Module):
    """Logit of a pixel: its standardised grey value."""

    def forward(self, image):
        return 10 * image


class Contrast(nn.Module):
    def forward(self, image):
        return image.amax(dim=(1, 2, 3)) - 1


def two_frames():
    frames = np.full((2, 420, 580), 20, np.uint8)
    frames[1, 100:200, 300:400] = 220
    return frames


def test_mask_comes_back_at_full_size_in_the_right_place():
    blank, square = predict_masks(Brightness(), two_frames(), np.array([0, 1]), (210, 290))
    assert blank.shape == square.shape == (420, 580) and blank.dtype == np.uint8
    assert not blank.any()
    truth = two_frames()[1] > 100
    assert 2 * (square & truth).sum() / (square.sum() + truth.sum()) > 0.97


def test_a_clean_up_has_the_last_word_on_every_mask():
    size, rows = (210, 290), np.array([0, 1])
    system = TwoNetworks(PresenceStage([Contrast()], size), Stage([Brightness()], size))
    table = prediction_table(
        segment(system, [two_frames()], clean=np.ones_like), rows, np.ones((2, 420, 580), np.uint8)
    )
    assert table["mask_area"].tolist() == [420 * 580] * 2 and table["mask_dice"].tolist() == [1.0, 1.0]
    assert table["inside"].iloc[0] == 0  # evidence is of the map, before it


def test_presence_does_not_depend_on_the_batch_size():
    frames = np.random.default_rng(0).integers(0, 256, (5, 420, 580)).astype(np.uint8)
    rows = np.array([4, 0, 2])
    one, all_at_once = (predict_presence(Contrast(), frames, rows, (64, 96), size) for size in (1, 32))
    assert one.shape == (3,) and np.allclose(one, all_at_once)
    assert np.allclose(one[1], predict_presence(Contrast(), frames, np.array([0]), (64, 96)))
    assert predict_presence(Contrast(), frames, rows[:0], (64, 96)).shape == (0,)


def test_mask_table_holds_area_code_and_dice():
    truth = (two_frames() > 100).astype(np.uint8)
    rows = np.array([1, 0])
    table = mask_table((truth[row] for row in rows), rows, truth)
    assert table["row"].tolist() == [1, 0]
    assert table["mask_area"].tolist() == [10_000, 0]
    assert table["mask_dice"].tolist() == [1.0, 1.0]
    assert np.array_equal(rle.decode(table["pixels"][0]), truth[1]) and table["pixels"][1] == ""
    assert list(mask_table(iter([]), rows[:0])) == ["row", "mask_area", "pixels"]


def trained_batch_norm(model):
    """Statistics and scales as after a training, not those of a fresh network, which change nothing."""
    generator = torch.Generator().manual_seed(1)
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator))
        norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
        norm.weight.data.copy_(torch.randn(norm.num_features, generator=generator))
    return model.eval()


@pytest.mark.parametrize("name", [*(n for n in (*SEGMENTERS, *CLASSIFIERS) if "-b" not in n), "efficient-unet-b0"])
def test_folded_batch_norm_changes_nothing(name):
    model = trained_batch_norm(build_model(name, **supported(name, base_channels=4)))
    image = torch.randn(2, 1, 50, 70)
    folded = fold_batch_norm(model, image[:1])
    with torch.inference_mode():
        torch.testing.assert_close(folded(image), model(image), rtol=1e-3, atol=1e-4 * model(image).abs().max().item())
    count = [sum(isinstance(m, nn.BatchNorm2d) for m in x.modules()) for x in (model, folded)]
    assert count[1] < count[0] or name == "r2unet-encoder", "the recurrent encoder has no layer that runs only once"
    assert not any(m._forward_hooks for m in folded.modules())


@pytest.mark.parametrize("bias", [True, False])
def test_upsampling_merged_into_its_convolution_changes_nothing(bias):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(3, 5, 3, padding=1, bias=bias), nn.ReLU())
    image = torch.randn(2, 3, 7, 9)
    expected, merged = plain(image), merge_upsampling(copy.deepcopy(plain))
    assert isinstance(merged[1], nn.ConvTranspose2d) and merged(image).shape == (2, 5, 14, 18)
    torch.testing.assert_close(merged(image), expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_merged_is_left_alone():
    up, down = nn.Upsample(scale_factor=2), nn.Conv2d(3, 3, 3, stride=2, padding=1)
    bilinear = nn.Upsample(scale_factor=2, mode="bilinear")
    for chain in (nn.Sequential(up, down), nn.Sequential(bilinear, nn.Conv2d(3, 3, 3, padding=1)), nn.Sequential(up)):
        kinds = [type(module) for module in chain]
        assert [type(module) for module in merge_upsampling(chain)] == kinds


def test_second_stage_sees_only_frames_that_pass_the_gate_and_order_is_kept():
    frames = np.concatenate([two_frames()] * 3)[[0, 1, 1, 0, 1, 0]]
    system = TwoNetworks(PresenceStage([Contrast()], (42, 58)), Stage([Brightness()], (84, 116)))
    found = list(segment(system, (frames[start : start + 4] for start in (0, 4)), threshold=0.5))
    assert [prediction.mask is not None for prediction in found] == [False, True, True, False, True, False]
    assert all(
        prediction.mask[150, 350] and not prediction.mask[10, 10] for prediction in found if prediction.mask is not None
    )
    everything = list(segment(system, iter([frames])))
    assert all(prediction.mask is not None for prediction in everything)
    assert [p.probability for p in everything] == pytest.approx([p.probability for p in found])
    table = prediction_table(iter(found), np.arange(6), (frames > 100).astype(np.uint8))
    assert table["mask_area"].gt(0).tolist() == [False, True, True, False, True, False]
    assert table["mask_dice"].min() > 0.95, "a blank mask of a blank frame is right"


@pytest.mark.parametrize("flip", [False, True])
def test_one_trunk_gives_what_its_network_gives(flip):
    torch.manual_seed(0)
    noise = np.random.default_rng(0).integers(0, 256, (1, 420, 580)).astype(np.uint8)
    models = [build_model("efficient-unet-b0") for _ in range(2)]
    batch = Stage(models, (64, 96)).read(np.concatenate([noise, two_frames()]))
    for model in models:
        for _ in range(20):  # batch statistics of these frames, so that the network tells them apart
            model.train()(batch)
        model.eval()
    stage = Stage(models, (64, 96), flip=flip)
    views = [(batch, False), (batch.flip(-1), True)] if flip else [(batch, False)]
    with torch.inference_mode():
        pairs = [(*model(view, presence=True), back) for model in models for view, back in views]
    masks = torch.stack([(m.flip(-1) if back else m).sigmoid() for m, _, back in pairs]).mean(0).squeeze(1)
    presence = torch.stack([p.sigmoid() for _, p, _ in pairs]).mean(0)
    threshold = presence.mean().item()
    probability, kept, drawn = OneTrunk(stage)(batch, threshold)
    torch.testing.assert_close(probability, presence, rtol=1e-3, atol=1e-4)
    assert kept.tolist() == (presence > threshold).tolist() and 0 < kept.sum() < 3
    torch.testing.assert_close(drawn.mean(0), masks[kept], rtol=1e-2, atol=1e-3)
    assert OneTrunk(stage)(batch, 1.0)[2] is None


class Dimmed(Brightness):
    def forward(self, image):
        return 3 * image - 1


def test_evidence_of_several_networks_is_the_mean_of_theirs_and_blank_frames_have_none():
    def table(*segmenters):
        system = TwoNetworks(PresenceStage([Contrast()], (42, 58)), Stage(list(segmenters), (42, 58)))
        return prediction_table(segment(system, iter([two_frames()]), threshold=0.5), np.arange(2))

    one, other, both = table(Brightness()), table(Dimmed()), table(Brightness(), Dimmed())
    names = ["peak", "inside", "entropy", "soft_dice"]
    assert both.loc[0, names].isna().all() and both["probability"].between(0, 1).all()
    expected = [(one.loc[1, name] + other.loc[1, name]) / 2 for name in names]
    np.testing.assert_allclose(both.loc[1, names].tolist(), expected, rtol=1e-5)
    assert one.loc[1, "peak"] > other.loc[1, "peak"] and one.loc[1, "entropy"] < other.loc[1, "entropy"]


def test_memory_of_the_stream_is_that_of_a_few_batches():
    """The reader stops when nobody takes results: it must not run ahead through a million frames."""
    read = []

    def batches():
        for start in range(1000):
            read.append(start)
            yield two_frames()

    system = TwoNetworks(PresenceStage([Contrast()], (42, 58)), Stage([Brightness()], (42, 58)))
    stream = segment(system, batches())
    for _ in range(4):
        next(stream)
    assert len(read) < 12


def test_precision_names_are_checked_and_auto_is_one_of_them():
    assert compute.resolve_precision("auto") in ("fp32", "bf16")
    with pytest.raises(InputError, match="precision: expected one of.*'fp16'"):
        compute.resolve_precision("fp16")


def test_bf16_gives_nearly_the_same_masks():
    frames = np.concatenate([two_frames()] * 2)
    rows = np.arange(4)
    exact, rounded = (
        list(predict_masks(build_sharp(), frames, rows, (105, 145), precision=precision))
        for precision in ("fp32", "bf16")
    )
    assert np.mean([metrics.dice(a, b) for a, b in zip(exact, rounded, strict=True)]) > 0.99


def build_sharp():
    """A convolution that blurs: unlike a point-wise network it does run in bf16."""
    conv = nn.Conv2d(1, 1, 5, padding=2)
    nn.init.constant_(conv.weight, 0.4)
    nn.init.constant_(conv.bias, -5.0)
    return conv
