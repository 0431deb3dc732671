"""What a network costs: weights, multiply-adds, time, memory."""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


def parameters(model: nn.Module) -> int:
    """Number of trainable weights."""
    return sum(weights.numel() for weights in model.parameters() if weights.requires_grad)


def gmacs(model: nn.Module, image: torch.Tensor) -> float:
    """Billions of multiply-adds of a forward pass over `image` (B, C, H, W); convolutions and matrix products count."""
    was_training = model.training
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    model.train(was_training)
    return counter.get_total_flops() / 2 / 1e9


def peak_memory(work: Callable[[], object]) -> float:
    """Most MiB of CPU tensors alive at once during `work()`, beyond those alive before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    changes = [event for event in recorded.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        alive += change.nbytes()
        peak = max(peak, alive)
    return peak / 2**20


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall-clock seconds of `work()`, after one call that does not count."""
    durations = []
    for _ in range(1 + repeats):
        start = time.perf_counter()
        work()
        durations.append(time.perf_counter() - start)
    return median(durations[1:])
