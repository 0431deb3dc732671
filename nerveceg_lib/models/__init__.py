"""One registry of models: every network of the kit is built by name from a plain, JSON-safe configuration."""

import inspect

from torch import nn

from nerveceg_lib.errors import InputError
from nerveceg_lib.models.efficientnet import EfficientNetPresence
from nerveceg_lib.models.unet import unet

CLASSIFIERS = {f"efficientnet-b{n}": EfficientNetPresence for n in range(8)}
SEGMENTERS = {"unet": unet}


def build_model(name: str, **config) -> nn.Module:
    """Build network `name` from `CLASSIFIERS` or `SEGMENTERS`.

    A classifier maps images (B, in_channels, H, W) to one presence logit a frame, (B,); a segmenter to
    mask logits (B, 1, H, W). Raises InputError for an unknown name or option, with what is allowed.
    """
    registry = CLASSIFIERS | SEGMENTERS
    if name not in registry:
        raise InputError(f"model: expected one of {sorted(registry)}, found {name!r}")
    builder = registry[name]
    allowed = set(inspect.signature(builder).parameters) - {"name"}
    if unknown := sorted(set(config) - allowed):
        raise InputError(f"{name}: unknown options {unknown}, expected some of {sorted(allowed)}")
    return builder(name, **config) if name in CLASSIFIERS else builder(**config)
