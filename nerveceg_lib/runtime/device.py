"""Where networks compute (CPU or GPU) and in which number format."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from nerveceg_lib.runtime.errors import one_of

PRECISIONS = ("fp32", "bf16", "auto")


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: str) -> str:
    """Return "fp32" or "bf16"; "auto" is bf16 where the hardware multiplies it. Raises InputError for other names."""
    if one_of("precision", precision, PRECISIONS) != "auto":
        return precision
    return "bf16" if has_fast_bf16() else "fp32"


def has_fast_bf16() -> bool:
    """Return whether `device()` has bf16 units: a GPU since Ampere, a CPU with AVX512-BF16 or AMX."""
    if device().type == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def channels_last(network: nn.Module) -> nn.Module:
    """Return `network` itself, with its weights laid out channels last."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # documented, not in the stub


def autocast(precision: str) -> AbstractContextManager:
    """Return a context in which convolutions and matrix products run in bf16 if `precision` resolves to it."""
    if resolve_precision(precision) == "fp32":
        return nullcontext()
    return torch.autocast(device().type, torch.bfloat16)
