"""The exceptions for what a user can fix: mistakes in the input, and disks that cannot be written."""

from collections.abc import Iterable
from typing import TypeVar

Value = TypeVar("Value")


class InputError(ValueError):
    """Bad input. The message names the file or parameter, what was found and what was expected.

    The command line prints the message without a traceback and exits with code 2.
    """


class StorageError(RuntimeError):
    """A file that cannot be written. The message names it, the reason, and the space that is needed and free.

    Nothing that was finished is lost: run the same command again (`run` with `--resume`) once there is room. The exit
    code is 1.
    """


def one_of(name: str, value: Value, allowed: Iterable) -> Value:
    """Return `value` if it is among `allowed`. Raises InputError, which names the parameter and its choices."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"{name}: expected one of {allowed}, found {value!r}")
    return value


def at_least(least: int, **values: int) -> None:
    """Raise InputError for the first of the named `values` that is below `least`."""
    for name, value in values.items():
        if value < least:
            raise InputError(f"{name}: expected {least} or more, found {value}")
