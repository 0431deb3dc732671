"""What a network consists of and what it costs: layers, weights and multiply-adds."""

from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def layer_table(network: nn.Module, size: tuple[int, int]) -> pd.DataFrame:
    """List what one frame (1, 1, h, w) flows through, in order: `layer`, `type`, `output` shape, `parameters`.

    The units of a `ModuleList` count as one layer each. Consecutive layers with the same output shape share a row.
    """
    units: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{unit}.") for unit in units)
        parent = network.get_submodule(name.rpartition(".")[0])
        if name and not inside and (isinstance(parent, nn.ModuleList) or not list(module.children())):
            units[name] = module
    rows: list[dict[str, Any]] = []

    def note(name: str, module: nn.Module, output: torch.Tensor) -> None:
        count = sum(weights.numel() for weights in module.parameters())
        shape = tuple(output.shape[1:])
        row: dict[str, Any] = {"layer": name, "type": type(module).__name__, "output": shape, "parameters": count}
        if rows and rows[-1]["output"] == shape:
            previous = rows.pop()
            for column in ("layer", "type"):
                first = previous[column].split(" … ")[0]
                row[column] = row[column] if first == row[column] else f"{first} … {row[column]}"
            row["parameters"] += previous["parameters"]
        rows.append(row)

    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: note(name, module, output))
        for name, module in units.items()
    ]
    was_training = network.training
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 1, *size))
    network.train(was_training)
    for hook in hooks:
        hook.remove()
    return pd.DataFrame(rows)


def parameters(model: nn.Module) -> int:
    """Return the number of trainable weights."""
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)


def gmacs(model: nn.Module, image: torch.Tensor) -> float:
    """Return the multiply-adds of a forward pass over `image` (B, C, H, W), in billions.

    Convolutions and matrix products are counted.
    """
    was_training = model.training
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    model.train(was_training)
    return counter.get_total_flops() / 2 / 1e9
