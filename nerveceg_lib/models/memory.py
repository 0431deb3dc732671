"""Gradient checkpointing that leaves batch norm's running statistics as if each block ran once."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def call(block: nn.Module, x: torch.Tensor, checkpointing: bool) -> torch.Tensor:
    """`block(x)`; while training with `checkpointing` its activations are recomputed in the backward pass."""
    if not (checkpointing and block.training and torch.is_grad_enabled()):
        return block(x)
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [(norm, norm.momentum, n, n.clone()) for norm in norms if (n := norm.num_batches_tracked) is not None]
    for norm, *_ in before:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, seen, batches in before:
            norm.momentum = momentum
            seen.copy_(batches)
