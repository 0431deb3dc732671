"""One registry of models: every network of the kit is built by name from a plain, JSON-safe configuration."""

import inspect
from collections.abc import Callable

from torch import nn

from nerveceg_lib.errors import InputError, one_of
from nerveceg_lib.models import unet
from nerveceg_lib.models.efficient_unet import EFFICIENT_UNETS
from nerveceg_lib.models.presence import CLASSIFIERS as PLAIN_CLASSIFIERS
from nerveceg_lib.models.shared_trunk import SHARED_TRUNKS

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {**PLAIN_CLASSIFIERS, **SHARED_TRUNKS}
SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    "unet": unet.unet,
    "deep-residual-unet": unet.deep_residual_unet,
    "r2unet": unet.r2unet,
    "attention-unet": unet.attention_unet,
    "r2attention-unet": unet.r2attention_unet,
    **EFFICIENT_UNETS,
}


def build_model(name: str, **config) -> nn.Module:
    """Build network `name` from `CLASSIFIERS` or `SEGMENTERS`.

    A classifier maps images (B, in_channels, H, W) to one presence logit a frame, (B,); a segmenter to
    mask logits (B, 1, H, W). Raises InputError for an unknown name or option, with what is allowed.
    """
    allowed = options(name)
    if unknown := sorted(set(config) - allowed):
        raise InputError(f"{name}: unknown options {unknown}, expected some of {sorted(allowed)}")
    return (CLASSIFIERS | SEGMENTERS)[name](**config)


def options(name: str) -> set[str]:
    """The options that network `name` takes. Raises InputError for an unknown name."""
    registry = CLASSIFIERS | SEGMENTERS
    parameters = inspect.signature(registry[one_of("model", name, registry)]).parameters.values()
    own = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
    if len(own) == len(parameters):
        return own
    shared = inspect.signature(unet.EncoderDecoder).parameters.values()
    return own | {p.name for p in shared if p.kind is p.KEYWORD_ONLY}


def supported(name: str, **wanted) -> dict:
    """Those of the `wanted` options that network `name` has: what notebooks pass on from their parameters."""
    return {option: value for option, value in wanted.items() if option in options(name)}
