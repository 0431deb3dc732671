"""Explicit initialisation: convolutions by one named scheme, batch norm as the identity."""

from collections.abc import Callable

import torch
from torch import nn

from nerveceg_lib.errors import one_of

SCHEMES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "kaiming": lambda weight: nn.init.kaiming_normal_(weight, nonlinearity="relu"),  # He et al. 2015
    "xavier": nn.init.xavier_normal_,  # Glorot & Bengio 2010
    "orthogonal": nn.init.orthogonal_,  # Saxe et al. 2014
    "normal": lambda weight: nn.init.normal_(weight, std=0.02),  # Radford et al. 2016
}


def initialise(module: nn.Module, scheme: str) -> None:
    """Draw all weights of `module` anew. Raises InputError for a scheme that `SCHEMES` does not name."""
    draw = SCHEMES[one_of("init", scheme, SCHEMES)]
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            draw(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
