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


@pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)
def test_extreme_logits_give_finite_values_and_gradients(name):
    logits = torch.tensor([[[[1e4, -1e4], [1e4, -1e4]]]], requires_grad=True)
    value = losses.segmentation_loss(name)(logits, TOP)
    value.backward()
    assert value.isfinite() and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)
def test_gradient_is_that_of_the_value(name):
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 1, 3, 3) > 0.5).double()
    # dice works in float32, so finite differences need a wider step
    assert torch.autograd.gradcheck(lambda x: losses.segmentation_loss(name)(x, target), logits, eps=1e-2, atol=1e-3)


def test_shapes_are_checked_and_names_answered_with_the_list():
    with pytest.raises(ValueError, match="differ in shape"):
        losses.bce(HALF, TOP.squeeze(1))
    with pytest.raises(InputError, match="bce_dice.*found 'hinge'"):
        losses.segmentation_loss("hinge")
