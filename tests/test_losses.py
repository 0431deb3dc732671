"""Losses against values worked out by hand."""

import math

import pytest
import torch

from nerveceg_lib import losses
from nerveceg_lib.errors import InputError


def logit(p):
    return torch.logit(torch.tensor(p))


HALF = torch.zeros(1, 1, 2, 2)  # probability one half everywhere
TOP = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])


def test_bce_at_one_half_is_log_two():
    assert losses.bce(HALF, TOP).item() == pytest.approx(math.log(2))


def test_dice_by_hand():
    # overlap 2 * 0.5, sums 4 * 0.5 and 2, smooth 1: 1 - (2 + 1) / (4 + 1)
    assert losses.dice(HALF, TOP).item() == pytest.approx(1 - 3 / 5)


def test_dice_is_per_frame_not_over_the_batch():
    # second frame: empty truth, probability one half: 1 - 1 / (2 + 1)
    both = losses.dice(torch.cat([HALF, HALF]), torch.cat([TOP, 0 * TOP]))
    assert both.item() == pytest.approx((2 / 5 + 2 / 3) / 2)


def test_dice_of_a_blank_prediction_on_an_empty_mask_is_zero():
    assert losses.dice(torch.full((1, 1, 2, 2), -40.0), 0 * TOP).item() == pytest.approx(0, abs=1e-6)


def test_bce_dice_is_the_sum():
    expected = losses.bce(HALF, TOP) + losses.dice(HALF, TOP)
    assert losses.bce_dice(HALF, TOP).item() == pytest.approx(expected.item())


def test_coverage_compares_with_the_mean_of_each_cell():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = torch.tensor([[1.0, 1.0], [1.0, 0.0]])  # first of four cells covered to 3/4
    perfect = torch.stack([logit(0.75), logit(1e-6), logit(1e-6), logit(1e-6)]).view(1, 1, 2, 2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / 4
    assert losses.coverage([perfect, perfect], mask).item() == pytest.approx(entropy, abs=1e-4)


def test_focal_by_hand():
    # every pixel: wrong by one half, squared, times log 2; the weights 1/4 and 3/4 average to one half
    assert losses.focal(HALF, TOP).item() == pytest.approx(0.5 * 0.25 * math.log(2))
    assert losses.focal(HALF, TOP, positive=1.0, gamma=0.0).item() == pytest.approx(0.5 * math.log(2))


def test_tversky_by_hand():
    # TP 1, FP 1, FN 1 at one half everywhere
    assert losses.tversky(HALF, TOP).item() == pytest.approx(1 - 2 / (1 + 0.3 + 0.7 + 1))
    only_missed = losses.tversky(HALF, TOP, false_positive=0.0, false_negative=2.0, smooth=0.0)
    assert only_missed.item() == pytest.approx(1 - 1 / 3)


def test_tversky_with_equal_weights_is_dice():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 1, 8, 8), torch.rand(3, 1, 8, 8)
    overlap = (logits.sigmoid() * target).flatten(1).sum(1)
    total = (logits.sigmoid() + target).flatten(1).sum(1)
    assert losses.dice(logits, target).item() == pytest.approx((1 - (2 * overlap + 1) / (total + 1)).mean().item())


def test_focal_tversky_is_the_power_of_each_frame():
    frames = [losses.tversky(HALF, TOP).item(), losses.tversky(HALF, 0 * TOP).item()]
    both = losses.focal_tversky(torch.cat([HALF, HALF]), torch.cat([TOP, 0 * TOP]))
    assert both.item() == pytest.approx(sum(f**0.75 for f in frames) / 2)


def test_lovasz_hinge_by_hand():
    # logits 2, -1 on nerve and 0.5, -3 on background: hinge errors 0 (margin kept), 2, 1.5, 0
    logits = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
    # most wrong first: missed pixel, Jaccard loss 1 - 1/2; then the extra one, 1 - 1/3
    assert losses.lovasz_hinge(logits, TOP).item() == pytest.approx(2 * 0.5 + 1.5 * (2 / 3 - 1 / 2))


def test_lovasz_hinge_of_sure_mistakes_is_one_less_than_hinge_times_jaccard_loss():
    """At logits of +-a all wrong pixels have error 1 + a, so the value is (1 + a) times the Jaccard loss."""
    drawn = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])  # overlap 1, union 3
    assert losses.lovasz_hinge((2 * drawn - 1) * 5, TOP).item() == pytest.approx(6 * (1 - 1 / 3), rel=1e-5)


def test_boundary_weights_by_hand():
    mask = torch.zeros(1, 1, 1, 8)
    mask[..., 4:] = 1
    # 1 px wide: rim pixels survive 1 of 2 erosions, the others both; the frame's edge is no outline
    expected = torch.tensor([1, 1, 1, 3, 3, 1, 1, 1.0])
    assert torch.allclose(losses.boundary_weights(mask, width=1, strength=4).flatten(), expected)
    assert torch.equal(losses.boundary_weights(0 * mask), torch.ones_like(mask))


def test_boundary_bce_weighs_mistakes_at_the_outline():
    mask = torch.zeros(1, 1, 1, 16)
    mask[..., 8:] = 1
    sure = (2 * mask - 1) * 8
    near, far = sure.clone(), sure.clone()
    near[..., 7], far[..., 0] = 8, 8
    assert losses.boundary_bce(near, mask).item() > 3 * losses.boundary_bce(far, mask).item()
    assert losses.bce(near, mask).item() == pytest.approx(losses.bce(far, mask).item())


EMPTY_AT_HALF = {  # an empty 2x2 frame, probability one half everywhere: what the docstrings promise
    "bce": math.log(2),
    "boundary_bce": math.log(2),
    "focal": 0.75 * 0.25 * math.log(2),
    "dice": 1 - 1 / 3,
    "bce_dice": math.log(2) + 1 - 1 / 3,
    "tversky": 1 - 1 / (0.3 * 2 + 1),
    "focal_tversky": (1 - 1 / 1.6) ** 0.75,
    "lovasz_hinge": 1.0,
}


@pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)
def test_empty_mask(name):
    loss = losses.segmentation_loss(name)
    assert loss(HALF, 0 * TOP).item() == pytest.approx(EMPTY_AT_HALF[name])
    logits = torch.full((1, 1, 2, 2), -30.0, requires_grad=True)
    blank = loss(logits, 0 * TOP)
    blank.backward()
    assert blank.item() < 1e-4 and logits.grad.abs().max() < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)
def test_extreme_logits_give_finite_values_and_gradients(name, dtype):
    values = torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=dtype)
    for target in (TOP, 0 * TOP, 0 * TOP + 1):
        logits = values.expand(1, 1, 2, 2).clone().requires_grad_()
        value = losses.segmentation_loss(name)(logits, target.to(dtype))
        value.backward()
        assert value.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)
def test_half_precision_does_not_overflow_on_a_whole_frame(name):
    logits = torch.full((1, 1, 420, 580), 3.0, dtype=torch.float16)
    target = torch.ones_like(logits)
    wide = losses.segmentation_loss(name)(logits.double(), target.double())
    assert losses.segmentation_loss(name)(logits, target).item() == pytest.approx(wide.item(), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)
def test_gradient_is_that_of_the_value(name):
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 1, 3, 3) > 0.5).double()
    assert torch.autograd.gradcheck(lambda x: losses.segmentation_loss(name)(x, target), logits)


@pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)
def test_descent_finds_the_mask(name):
    torch.manual_seed(0)
    target = torch.zeros(1, 1, 12, 12)
    target[..., 3:9, 4:8] = 1
    logits = torch.randn(1, 1, 12, 12).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        losses.segmentation_loss(name)(logits, target).backward()
        optimizer.step()
    assert ((logits > 0) == (target > 0.5)).all()


def test_shapes_are_checked_and_names_answered_with_the_list():
    with pytest.raises(ValueError, match="differ in shape"):
        losses.bce(HALF, TOP.squeeze(1))
    with pytest.raises(InputError, match="bce_dice.*found 'hinge'"):
        losses.segmentation_loss("hinge")
