"""Write files and folders so that no half-written one ever stands under its final name."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from nerveceg_lib.errors import InputError, StorageError

UNFINISHED = ".unfinished-"  # what names of files and folders begin with until they are whole


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Call `write(temporary path)`, bring the result to the disk, then rename it to `path`.

    Raises StorageError if the disk is full or the folder may not be written.
    """
    path = Path(path)
    temporary = path.with_name(f"{UNFINISHED}{os.getpid()}-{path.name}")
    try:
        with storing(path, part=temporary):
            write(temporary)
            with open(temporary, "r+b") as file:  # Windows syncs no file that was opened to be read
                os.fsync(file.fileno())  # else a power cut may leave the new name over an empty file
            temporary.replace(path)
    finally:
        if os.path.exists(temporary):  # unlike Path.exists not offended by folders that may not be read
            temporary.unlink()


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes `path` once the block has ended well; what `path` held is replaced.

    What an earlier process left half-written is thrown away: two must not make the same folder at once.
    """
    path = path.absolute()  # "." has no name
    unfinished = path.with_name(UNFINISHED + path.name)
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(path, ignore_errors=True)
    unfinished.rename(path)


def new_folder(path: str | Path) -> Path:
    """`path`, if nothing is there or an empty folder; raises InputError otherwise."""
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: already there, expected a new or empty folder")
    return path


def clear_unfinished(folder: Path) -> None:
    """Remove what killed processes left half-written in `folder`, on which nobody else may be working."""
    for path in list(folder.rglob(f"{UNFINISHED}*")):
        path.unlink(missing_ok=True)


@contextmanager
def storing(path: Path, needed: int = 0, part: Path | None = None) -> Iterator[None]:
    """While `path` is written: an OSError becomes a StorageError, and at once where less than `needed` bytes are free.

    `part` is the file under its temporary name, whose size says what is needed at least.
    """
    folder = next(parent for parent in Path(path).absolute().parents if os.path.exists(parent))
    if shutil.disk_usage(folder).free < needed:
        raise StorageError(_complaint(path, folder, needed, "not enough space"))
    try:
        yield
    except OSError as error:
        written = os.path.getsize(part) if part and os.path.exists(part) else 0
        raise StorageError(_complaint(path, folder, max(needed, written), error.strerror or str(error))) from error


def _complaint(path: Path, folder: Path, needed: int, why: str) -> str:
    free = shutil.disk_usage(folder).free
    return f"{path}: cannot be written: {why}; {needed / 1e6:.1f} MB or more needed, {free / 1e6:.1f} MB free"


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
