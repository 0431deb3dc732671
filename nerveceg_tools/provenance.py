"""What it takes to repeat a run: one JSON file for each command in the run's folder `records/`."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from nerveceg_lib.runtime import process
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_lib.runtime.io import read_json, write_json


@contextmanager
def recorded(folder: Path, parameters: dict) -> Iterator[None]:
    """Write the record of this command before the block, and add the data's hash after it, as notebook 1 noted it."""
    dataset = folder / NOTEBOOKS[0] / "dataset.json"
    path = folder / "records" / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.json"
    path.parent.mkdir(exist_ok=True)
    record = {
        "command": shlex.join(["python", "-m", "nerveceg_tools", *sys.argv[1:]]),
        "parameters": parameters,
        "library": library_hash(),
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {package.name: package.version for package in metadata.distributions()},
        "system": platform.platform(),
        "processor": processor(),
        **arithmetic(),
    }
    write_json(path, record)
    yield
    write_json(path, record | {"data": read_json(dataset).get("digest") if dataset.exists() else None})


def arithmetic() -> dict[str, object]:
    """Return what decides the last bits of a sum besides versions: threads, instruction sets and builds."""
    import cv2
    import numpy as np

    process.configure(seed=0)  # the kernels will have as many threads as this process has now
    import torch

    return {
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__config__.show(),
        "numpy": np.show_config(mode="dicts"),
        "opencv": cv2.getCPUFeaturesLine(),
    }


def digest(content: object) -> str:
    """Return a short hash of any content that JSON can hold."""
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()


def stamp(paths: Iterable[Path]) -> str:
    """Return a hash of names, sizes and times of files, which notices a change without reading them."""
    return digest([(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths])


def library_hash() -> str:
    """Return a hash of the code that shapes results: the library, the phantom, and modules beside the notebooks."""
    root = Path(__file__).parent.parent
    files = [*(root / "nerveceg_lib").rglob("*.py"), *(root / "nerveceg_tools" / "phantom").rglob("*.py")]
    files += (root / "notebooks").glob("*.py")  # networks and losses of the user's own
    return digest([path.read_text(encoding="utf-8") for path in sorted(files)])


def _revision() -> str:
    """Return the git revision, with "+" if files differ from it; "" outside a repository or without git."""
    git = 'git describe --always --dirty=+ --abbrev=40 --exclude="*"'  # by a shell: git may be missing
    return subprocess.run(git, shell=True, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()


def processor() -> str:
    """Return the processor's model where the system tells it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
