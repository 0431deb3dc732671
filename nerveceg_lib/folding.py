"""Batch norm folded into the convolution before it: in evaluation both are one affine map, so one pass does."""

import copy
from collections import Counter

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norm(model: nn.Module, example: torch.Tensor) -> nn.Module:
    """A copy of `model` in eval mode with the same outputs and fewer layers.

    One forward pass over `example` (B, C, H, W) finds out which batch norm takes the very output of which
    convolution. Layers that run several times a pass (the recurrent ones) are left as they are. A
    convolution whose output something besides its batch norm uses must not be given: no network here has one.
    """
    model = copy.deepcopy(model).eval()
    names = {module: name for name, module in model.named_modules()}
    runs, outputs, pairs = Counter(), {}, {}

    def note(module: nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        runs[module] += 1
        if isinstance(module, nn.BatchNorm2d):
            pairs[module] = outputs.get(id(inputs[0]), (None, None))[0]
        else:
            outputs[id(output)] = module, output  # kept alive, or its id would be given to another tensor

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d)
    hooks = [module.register_forward_hook(note) for module in names if isinstance(module, kinds)]
    try:
        with torch.inference_mode():
            model(example)
    finally:
        for hook in hooks:
            hook.remove()
    for norm, conv in pairs.items():
        if conv is not None and runs[conv] == runs[norm] == 1:
            fused = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
            model.set_submodule(names[conv], fused)
            model.set_submodule(names[norm], nn.Identity())
    return model
