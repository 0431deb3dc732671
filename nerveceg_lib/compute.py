"""Where and in which number format networks compute."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from nerveceg_lib.errors import at_least, one_of

PRECISIONS = ("fp32", "bf16", "auto")


@dataclass(frozen=True)
class Hardware:
    """What a training runs on: `devices` (GPUs, or CPU processes) on each of `num_nodes` machines, joined by
    Lightning's `strategy` ("auto" is DDP for more than one), computing in `precision`."""

    precision: str = "fp32"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"

    def __post_init__(self):
        one_of("precision", self.precision, PRECISIONS)
        at_least(1, devices=self.devices, num_nodes=self.num_nodes)


def device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: str) -> str:
    """ "fp32" or "bf16"; "auto" is bf16 where the processor multiplies it in hardware. InputError for other names."""
    if one_of("precision", precision, PRECISIONS) != "auto":
        return precision
    return "bf16" if has_fast_bf16() else "fp32"


def has_fast_bf16() -> bool:
    """True if `device()` has bf16 units: Ampere and later; on the CPU AVX512-BF16 or AMX."""
    if device().type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    found: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def channels_last(network: nn.Module) -> nn.Module:
    """`network` itself with its weights laid out channels last."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # documented, not in the stub


def autocast(precision: str) -> AbstractContextManager:
    """Context in which convolutions and matrix products run in bf16 if `precision` resolves to it."""
    if resolve_precision(precision) == "fp32":
        return nullcontext()
    return torch.autocast(device().type, torch.bfloat16)
