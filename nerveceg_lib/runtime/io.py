"""Write files and folders so that nothing half-written ever has its final name."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from nerveceg_lib.runtime.errors import InputError, StorageError

UNFINISHED = ".unfinished-"  # prefix of the names of files and folders until they are complete


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary path)`, flush the result to the disk, then rename it to `path`.

    Raises StorageError if the disk is full or the folder may not be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name[-50:]}")  # a name may have 255 bytes
    try:
        with storing(path, part=temporary):
            write(temporary)
            with open(temporary, "r+b") as file:  # Windows syncs no file that was opened to be read
                os.fsync(file.fileno())  # else a power cut may leave the new name over an empty file
            temporary.replace(path)
    finally:
        if os.path.exists(temporary):  # Path.exists raises for folders that may not be read
            temporary.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a new folder to write into; it replaces `path` once the block has ended without an error.

    Whatever an earlier process left half-written is removed, so two processes must not make the same folder at once.
    """
    path = path.absolute()  # "." has no name
    unfinished = path.with_name(UNFINISHED + path.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        shutil.rmtree(path, ignore_errors=True)
        unfinished.rename(path)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def new_folder(path: str | Path) -> Path:
    """Return `path` if nothing is there or an empty folder. Raises InputError otherwise."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: already there, expected a new or empty folder")
    return path


def clear_unfinished(folder: Path) -> None:
    """Remove the half-written files and folders that killed processes left in `folder`.

    No other process may be working in it.
    """
    for path in list(folder.rglob(f"{UNFINISHED}*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def storing(path: Path, needed: int = 0, part: Path | None = None) -> Iterator[None]:
    """Turn an OSError raised while `path` is written into a StorageError.

    Raises it immediately if fewer than `needed` bytes are free. `part` is the temporary file; its size is the least
    space that is needed.
    """
    folder = next(parent for parent in Path(path).absolute().parents if os.path.exists(parent))
    if shutil.disk_usage(folder).free < needed:
        raise StorageError(_storage_message(path, folder, needed, "not enough space"))
    try:
        yield
    except OSError as error:
        written = os.path.getsize(part) if part and os.path.exists(part) else 0
        raise StorageError(
            _storage_message(path, folder, max(needed, written), error.strerror or str(error))
        ) from error


def _storage_message(path: Path, folder: Path, needed: int, why: str) -> str:
    free = shutil.disk_usage(folder).free
    return f"{path}: cannot be written: {why}; {needed / 1e6:.1f} MB or more needed, {free / 1e6:.1f} MB free"


def write_json(path: Path, content: Any) -> None:
    write_atomically(path, lambda p: p.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n"))


def read_json(path: Path) -> Any:
    """Return the content of a JSON file. Raises InputError if it is not valid JSON."""
    try:
        return json.loads(Path(path).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected JSON, found {error}") from error


def matches(path: Path, content: Any) -> bool:
    """Return whether the JSON file at `path` exists and holds `content`, in which tuples count as lists.

    Everything that may be resumed or reused (a notebook, a training, a folder of predictions) writes what shaped it to
    a JSON file and asks this question before it continues.
    """
    return path.exists() and read_json(path) == json.loads(json.dumps(content))


def write_csv(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda p: table.to_csv(p, index=False))
