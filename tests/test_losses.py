"""Losses against values worked out by hand."""

import math

import pytest
import torch

from nerveceg_lib import losses
from nerveceg_lib.runtime.errors import InputError

HALF = torch.zeros(1, 1, 2, 2)  # probability one half everywhere
TOP = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]]]])
every_loss = pytest.mark.parametrize("name", losses.SEGMENTATION_LOSSES)

BY_HAND = {  # of one half everywhere, for the mask TOP and for an empty one, as the docstrings promise
    "bce": (math.log(2), math.log(2)),
    "boundary_bce": ((1 + 4 * 5 / 6) * math.log(2), math.log(2)),  # all four pixels lie at the outline
    "dice": (1 - 3 / 5, 1 - 1 / 3),  # overlap 2 * 0.5, sums 4 * 0.5 and 2, smooth 1: 1 - (2 + 1) / (4 + 1)
    "bce_dice": (math.log(2) + 1 - 3 / 5, math.log(2) + 1 - 1 / 3),
    # every pixel is wrong by one half, squared, times log 2; the weights 1/4 and 3/4 average to one half
    "focal": (0.5 * 0.25 * math.log(2), 0.75 * 0.25 * math.log(2)),
    "tversky": (1 - 2 / (1 + 0.3 + 0.7 + 1), 1 - 1 / (0.3 * 2 + 1)),  # TP 1, FP 1, FN 1; empty: FP 2
    "focal_tversky": ((1 / 3) ** 0.75, (1 - 1 / 1.6) ** 0.75),
    "lovasz_hinge": (1.0, 1.0),  # every hinge error is 1, so it is the Jaccard loss of all pixels wrong
}


@every_loss
def test_by_hand_and_per_frame(name):
    loss = losses.segmentation_loss(name)
    with_nerve, empty = BY_HAND[name]
    assert loss(HALF, TOP).item() == pytest.approx(with_nerve)
    assert loss(HALF, 0 * TOP).item() == pytest.approx(empty)
    both = loss(torch.cat([HALF, HALF]), torch.cat([TOP, 0 * TOP]))
    assert both.item() == pytest.approx((with_nerve + empty) / 2), "the mean over frames, not over the batch"


@every_loss
def test_a_blank_prediction_of_an_empty_mask_costs_nothing(name):
    logits = torch.full((1, 1, 2, 2), -30.0, requires_grad=True)
    loss = losses.segmentation_loss(name)(logits, 0 * TOP)
    loss.backward()
    assert loss.item() < 1e-4 and logits.grad.abs().max() < 1e-3


def test_coverage_compares_with_the_mean_of_each_cell():
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2, :2] = torch.tensor([[1.0, 1.0], [1.0, 0.0]])  # the first of four cells is covered to 3/4
    perfect = torch.logit(torch.tensor([0.75, 1e-6, 1e-6, 1e-6])).view(1, 1, 2, 2)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / 4
    assert losses.coverage([perfect, perfect], mask).item() == pytest.approx(entropy, abs=1e-4)


def test_lovasz_hinge_by_hand():
    # logits 2, -1 on nerve and 0.5, -3 on background: hinge errors 0 (margin kept), 2, 1.5, 0
    logits = torch.tensor([[[[2.0, -1.0], [0.5, -3.0]]]])
    # the worst error first: the missed pixel, Jaccard loss 1 - 1/2; then the extra one, 1 - 1/3
    assert losses.lovasz_hinge(logits, TOP).item() == pytest.approx(2 * 0.5 + 1.5 * (2 / 3 - 1 / 2))
    prediction = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])  # overlap 1, union 3
    # at logits of +-5 all wrong pixels have the error 6, so the value is 6 times the Jaccard loss
    assert losses.lovasz_hinge((2 * prediction - 1) * 5, TOP).item() == pytest.approx(6 * (1 - 1 / 3), rel=1e-5)


def test_boundary_weights():
    mask = torch.zeros(1, 1, 1, 8)
    mask[..., 4:] = 1
    # 1 px wide: pixels at the outline survive 1 of 2 erosions, the others both; the frame's edge is no outline
    expected = torch.tensor([1, 1, 1, 3, 3, 1, 1, 1.0])
    assert torch.allclose(losses.boundary_weights(mask, width=1, strength=4).flatten(), expected)
    assert torch.equal(losses.boundary_weights(0 * mask), torch.ones_like(mask))
    near, far = (2 * mask - 1) * 8, (2 * mask - 1) * 8
    near[..., 3], far[..., 0] = 8, 8
    assert losses.boundary_bce(near, mask).item() > 1.5 * losses.boundary_bce(far, mask).item()
    assert losses.bce(near, mask).item() == pytest.approx(losses.bce(far, mask).item())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@every_loss
def test_extreme_logits_give_finite_values_and_gradients(name, dtype):
    values = torch.tensor([[1e4, -1e4], [1e4, -1e4]], dtype=dtype)
    for target in (TOP, 0 * TOP, 0 * TOP + 1):
        logits = values.expand(1, 1, 2, 2).clone().requires_grad_()
        value = losses.segmentation_loss(name)(logits, target.to(dtype))
        value.backward()
        assert value.isfinite() and logits.grad.isfinite().all()


@every_loss
def test_half_precision_does_not_overflow_on_a_whole_frame(name):
    logits = torch.full((1, 1, 420, 580), 3.0, dtype=torch.float16)
    target = torch.ones_like(logits)
    wide = losses.segmentation_loss(name)(logits.double(), target.double())
    assert losses.segmentation_loss(name)(logits, target).item() == pytest.approx(wide.item(), rel=1e-3, abs=1e-5)


@every_loss
def test_gradient_is_that_of_the_value(name):
    torch.manual_seed(0)
    logits = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    target = (torch.rand(2, 1, 3, 3) > 0.5).double()
    assert torch.autograd.gradcheck(lambda x: losses.segmentation_loss(name)(x, target), logits)


def test_shapes_are_checked_and_names_answered_with_the_list():
    with pytest.raises(InputError, match="model: expected a network whose output has the shape of its target"):
        losses.bce(HALF, TOP.squeeze(1))
    with pytest.raises(InputError, match="bce_dice.*found 'hinge'"):
        losses.segmentation_loss("hinge")
