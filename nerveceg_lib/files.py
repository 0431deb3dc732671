"""Write small files so that no half-written one ever stands under its final name."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from nerveceg_lib.errors import InputError


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary path)`, bring the result to the disk, then rename it to `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # else a power cut may leave the new name over an empty file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, lambda p: p.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n"))


def read_json(path: Path) -> Any:
    """Read a JSON file; InputError if it is not valid JSON."""
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected JSON, found {error}") from error


def write_csv(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda p: table.to_csv(p, index=False))
