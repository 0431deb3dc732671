"""Types and ranges of a notebook's parameters, whoever passes them: Jupyter, papermill, a profile, the command line."""

import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping

from nerveceg_lib.runtime.errors import InputError, one_of

TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
SMALLEST, LARGEST = 1e-12, 1e9
RANGES = {  # least and greatest value of a number, by its name in the notebooks
    **dict.fromkeys(["patience", "fold", "heldout_part", "phantom_test_frames"], (0, LARGEST)),
    **dict.fromkeys(["epochs", "batch_size", "accumulate_grad_batches", "devices", "num_nodes"], (1, LARGEST)),
    **dict.fromkeys(["base_channels", "num_frames", "phantom_patients", "phantom_frames"], (1, LARGEST)),
    **dict.fromkeys(["height", "width"], (32, 4096)),  # EfficientNet halves its input five times
    "lr": (SMALLEST, LARGEST),
    **dict.fromkeys(["seed", "split_seed"], (0, 2**32 - 1)),  # all that NumPy takes
    **dict.fromkeys(["folds", "num_steps"], (2, LARGEST)),  # integrated gradients need two steps
    "heldout_share": (SMALLEST, 0.5 - SMALLEST),
    "similarity": (0, 1),
    "ema_decay": (0, 1 - SMALLEST),
    "coverage_weight": (0, LARGEST),
    "encoder_lr_factor": (0, 1),
}


def check_parameters(names: dict[str, object]) -> None:
    """Give the parameters of a notebook the types that its parameter cell declares; `names` are its `globals()`.

    papermill passes `false` as text, which Python takes for true. Raises InputError as `typed` does.
    """
    # a function since Python 3.14, see PEP 649
    declared: dict = names["__annotate__"](1) if "__annotate__" in names else names["__annotations__"]  # type: ignore
    names.update(typed({name: names[name] for name in declared}, {name: kind() for name, kind in declared.items()}))


def typed(values: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    """Return `values` in the types of their `defaults`; text that spells a number or true or false counts as it.

    Raises one InputError with a line for each value of another type or outside its range.
    """
    converted, mistakes = {}, []
    for name, value in values.items():
        try:
            converted[name] = _convert(value, type(defaults[name]))
        except (ValueError, OverflowError):
            mistakes.append(f"{name}: expected {TYPES[type(defaults[name])]}, found {value!r}")
    if mistakes := mistakes + out_of_range(converted):
        raise InputError("\n".join(mistakes))
    return converted


def find(parameter: str, name: str, known: Mapping[str, Callable]) -> Callable:
    """Return the network or loss called `name`: one of `known`, or "module:name" for what Python can import.

    Raises InputError, which names the parameter and lists what is known, for any other name.
    """
    if name in known:
        return known[name]
    if ":" in name:
        try:
            imported = pkgutil.resolve_name(name)
            inspect.signature(imported)  # raises TypeError for what cannot be called
            return imported
        except Exception as e:  # the user's module may raise anything
            raise InputError(f"{parameter}: expected {name!r} to be importable and callable, found {e!r}") from e
    return known[one_of(parameter, name, [*sorted(known), "module:name"])]


def out_of_range(values: Mapping[str, object]) -> list[str]:
    """Return a line for each number of `values` that is not in the range of its name in RANGES."""
    mistakes = []
    for name, value in values.items():
        low, high = RANGES.get(name.rpartition(".")[2], (-LARGEST, LARGEST))
        if isinstance(value, int | float) and not low <= value <= high:
            expected = f"{low:,} or more" if high == LARGEST else f"a number from {low:,} to {high:,}"
            mistakes.append(f"{name}: expected {expected}, found {value}")
    return mistakes


def _convert(value: object, wanted: type) -> object:
    if wanted is bool and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower())
    elif isinstance(value, str) or (wanted is float and type(value) is int):
        value = wanted(value)  # PyYAML takes 1e-3 for text
    if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError
    return value
