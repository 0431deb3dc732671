"""Inference, checked with networks whose answer is known, and Grad-CAM against a hand-computed map."""

import numpy as np
import pytest
import torch
from torch import nn

from nerveceg_lib import rle
from nerveceg_lib.errors import InputError
from nerveceg_lib.explain import grad_cam, to_frame
from nerveceg_lib.inference import mask_table, predict_masks, predict_presence


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


class TwoMaps(nn.Module):
    """Feature maps (x, -2x); output = 3 mean(first) + 1 mean(second)."""

    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(2, 1, bias=False)
        self.features.weight.data = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
        self.head.weight.data = torch.tensor([[3.0, 1.0]])

    def forward(self, image):
        return self.head(self.features(image).mean(dim=(2, 3))).squeeze(1)


def test_grad_cam_by_hand():
    model = TwoMaps().train()
    image = torch.tensor([[[[1.0, -1.0], [2.0, 0.0]]]])
    # gradients of the mean: 3/4 and 1/4 at each pixel, so the map is ReLU(3/4 x - 2/4 x) = ReLU(x / 4)
    expected = torch.tensor([[[0.25, 0.0], [0.5, 0.0]]])
    before = len(model.features._forward_hooks)
    assert torch.allclose(grad_cam(model, image, "features"), expected)
    assert torch.allclose(grad_cam(model, image, "features", lambda logit: 2 * logit), 2 * expected)
    assert len(model.features._forward_hooks) == before and model.features.weight.grad is None
    assert model.training, "the model comes back in the mode it had"


def test_grad_cam_of_an_unknown_layer_is_refused():
    with pytest.raises(InputError, match="layer: 'neck' is not a layer of TwoMaps"):
        grad_cam(TwoMaps(), torch.zeros(1, 1, 2, 2), "neck")


def test_maps_are_resized_to_the_frame():
    assert to_frame(torch.ones(2, 4, 6), (42, 58)).shape == (2, 42, 58)
