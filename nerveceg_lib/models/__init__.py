"""The registry of networks: each one is built by name from plain options that fit into a JSON file."""

import inspect
from collections.abc import Callable, Mapping

import yaml
from torch import nn

from nerveceg_lib.models import unet
from nerveceg_lib.models.classifiers import CLASSIFIERS
from nerveceg_lib.models.efficient_unet import EFFICIENT_UNETS
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.parameters import find

SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    "unet": unet.unet,
    "deep-residual-unet": unet.deep_residual_unet,
    "r2unet": unet.r2unet,
    "attention-unet": unet.attention_unet,
    "r2attention-unet": unet.r2attention_unet,
    **EFFICIENT_UNETS,
}
NETWORKS = CLASSIFIERS | SEGMENTERS


def build_model(name: str, **options) -> nn.Module:
    """Build a network by name.

    Args:
        name: a name in `CLASSIFIERS` or `SEGMENTERS`, or "module:class" for a network of your own that Python can
            import, such as "my_networks:TinyUNet" from `notebooks/my_networks.py`.
        options: what the network's builder takes, such as `base_channels`.

    A classifier maps standardised frames (B, 1, H, W) to presence logits (B,); a segmenter maps them to mask logits
    (B, 1, H, W). Raises InputError for an unknown name or option, with what is allowed.
    """
    allowed = options_of(name)
    if unknown := sorted(set(options) - allowed):
        raise InputError(f"{name}: unknown options {unknown}, expected some of {sorted(allowed)}")
    return find("model", name, NETWORKS)(**options)


def options_of(name: str, networks: Mapping[str, Callable] = NETWORKS) -> set[str]:
    """Return the names of the options that network `name` takes. Raises InputError for a name not in `networks`."""
    return set(inspect.signature(find("model", name, networks)).parameters)


def supported(name: str, networks: Mapping[str, Callable] = NETWORKS, **options) -> dict:
    """Return those of `options` that network `name` takes.

    `networks` is CLASSIFIERS where a classifier is needed, and SEGMENTERS where a segmenter is. Sizes such as
    `base_channels` are left out for networks whose widths are fixed. An option that is switched on (True) and that the
    network does not have raises InputError.
    """
    allowed = options_of(name, networks)
    if missing := [option for option, value in options.items() if value is True and option not in allowed]:
        raise InputError(f"{missing[0]}: {name} does not have it, expected some of {sorted(allowed)}")
    return {option: value for option, value in options.items() if option in allowed}


def parse_options(text: str) -> dict:
    """Return options written like "dropout: 0.4, drop_connect: 0.2". Raises InputError for other text."""
    try:
        options = yaml.safe_load(f"{{{text}}}")
        complete = None not in options.values()  # YAML takes "dropout=0.4" for a name without a value
    except yaml.YAMLError:
        complete = False
    if not complete:
        raise InputError(f'model_options: expected text like "dropout: 0.4, shortcut: projection", found {text!r}')
    return options
