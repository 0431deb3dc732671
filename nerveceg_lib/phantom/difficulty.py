"""How hard the phantom is: the nerve's contrast against how often and how well others imitate it."""

from dataclasses import dataclass

from nerveceg_lib.errors import InputError


@dataclass(frozen=True)
class Difficulty:
    """contrast: factor on the nerve's inner contrast in decibels. decoys: share, above 0 to 1, of negative
    frames with another structure in the nerve's place. imitation: 0 to 1, how much of its look that wears."""

    contrast: float
    decoys: float
    imitation: float


DIFFICULTIES = {
    "easy": Difficulty(contrast=1.25, decoys=0.3, imitation=0.0),
    "medium": Difficulty(contrast=1.0, decoys=0.6, imitation=0.1),
    "hard": Difficulty(contrast=0.55, decoys=0.85, imitation=0.55),
}


def difficulty_named(name: str) -> Difficulty:
    """Look up a difficulty. Raises InputError that lists the names if there is none of that name."""
    if name not in DIFFICULTIES:
        raise InputError(f"difficulty: found {name!r}, expected one of {', '.join(DIFFICULTIES)}")
    return DIFFICULTIES[name]
