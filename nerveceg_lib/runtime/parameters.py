"""Types of a notebook's parameters, whoever passes them: Jupyter, papermill, a profile or the command line."""

import math
from collections.abc import Mapping

from nerveceg_lib.runtime.errors import InputError

TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_parameters(names: dict[str, object]) -> None:
    """Give the parameters of a notebook the types that its parameter cell declares; `names` are its `globals()`.

    papermill passes `false` as text, which Python takes for true. Raises InputError as `typed` does.
    """
    # a function since Python 3.14, see PEP 649
    declared: dict = names["__annotate__"](1) if "__annotate__" in names else names["__annotations__"]  # type: ignore
    names.update(typed({name: names[name] for name in declared}, {name: kind() for name, kind in declared.items()}))


def typed(values: Mapping[str, object], defaults: Mapping[str, object]) -> dict[str, object]:
    """Return `values` in the types of their `defaults`; text that spells a number or true or false counts as it.

    Raises one InputError with a line for each value of another type.
    """
    converted, mistakes = {}, []
    for name, value in values.items():
        try:
            converted[name] = _convert(value, type(defaults[name]))
        except (ValueError, OverflowError):
            mistakes.append(f"{name}: expected {TYPES[type(defaults[name])]}, found {value!r}")
    if mistakes:
        raise InputError("\n".join(mistakes))
    return converted


def _convert(value: object, wanted: type) -> object:
    if wanted is bool and isinstance(value, str):
        value = {"true": True, "false": False}.get(value.lower())
    elif isinstance(value, str) or (wanted is float and type(value) is int):
        value = wanted(value)  # PyYAML takes 1e-3 for text
    if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError
    return value
