"""The exceptions for what a user can fix: mistakes, and disks that take no more."""

from collections.abc import Iterable
from typing import TypeVar

Choice = TypeVar("Choice")


class InputError(ValueError):
    """Bad input: the message names the file or parameter, what was found and what was expected.

    The command line prints the message without a traceback and exits with code 2.
    """


class StorageError(RuntimeError):
    """A place that cannot be written: the message names it, why, and the space needed and free.

    Nothing finished is lost: the same command (`run` with `--resume`) goes on once there is room. Exit code 1.
    """


def one_of(name: str, value: Choice, allowed: Iterable) -> Choice:
    """Return `value` if it is among `allowed`. Raises InputError that names the parameter `name` and the choice."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"{name}: expected one of {allowed}, found {value!r}")
    return value


def at_least(least: int, **given: int) -> None:
    """Raise InputError for the first of the parameters `given` by name that is below `least`."""
    for name, value in given.items():
        if value < least:
            raise InputError(f"{name}: expected {least} or more, found {value}")
