"""Class activation maps: what a network looks at."""

from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from torch import nn

from nerveceg_lib.errors import InputError


def grad_cam(
    model: nn.Module,
    image: torch.Tensor,
    layer: str,
    target: Callable[[torch.Tensor], torch.Tensor] = lambda logits: logits,
) -> torch.Tensor:
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) of `image` (B, 1, H, W) at the layer named `layer`.

    `target` maps the model's output to one figure a frame, (B,); by default the presence logit itself.
    Returns float32 (B, H, W), 0 or more: evidence for the target. Raises InputError for an unknown layer.
    """
    modules = dict(model.named_modules())
    if layer not in modules:
        raise InputError(f"layer: {layer!r} is not a layer of {type(model).__name__}; see model.named_modules()")
    was_training = model.training
    cam = LayerGradCam(lambda x: target(model.eval()(x)), modules[layer])
    maps = cam.attribute(image, relu_attributions=True)  # (B, 1, h, w)
    model.train(was_training)
    full = F.interpolate(maps, size=image.shape[-2:], mode="bilinear", align_corners=False)
    return full.squeeze(1).detach()


def to_frame(maps: torch.Tensor, shape: tuple[int, int]) -> np.ndarray:
    """Maps (B, h, w) resized to the frame's `shape` (H, W): float32 (B, H, W)."""
    height, width = shape
    return np.stack([cv2.resize(one.numpy(), (width, height), interpolation=cv2.INTER_LINEAR) for one in maps])
