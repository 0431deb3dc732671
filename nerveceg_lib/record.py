"""What it takes to repeat a run: one file a command in the run's folder `records/`."""

import hashlib
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from nerveceg_lib.files import read_json, write_json
from nerveceg_lib.paths import STAGES, locate


def write_record(folder: Path, parameters: dict, library: str) -> Path:
    """Write parameters (seeds among them), command, versions, git revision and processor of this command; its path."""
    path = folder / "records" / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.json"
    path.parent.mkdir(exist_ok=True)
    content = {
        "command": shlex.join(["python", "-m", "nerveceg_lib", *sys.argv[1:]]),
        "parameters": parameters,
        "library": library,
        "revision": _revision(),
        "python": platform.python_version(),
        "packages": {found.name: found.version for found in metadata.distributions()},
        "system": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }
    write_json(path, content)
    return path


def add_data(path: Path) -> None:
    """Add the hash of the data's files, known once notebook 1 has read them, to the record at `path`."""
    described = path.parents[1] / STAGES[0] / "dataset.json"
    if described.exists():
        files = read_json(locate(read_json(described)["cache"]) / "manifest.json")["files"]
        hashes = json.dumps({name: record["blake2b"] for name, record in files.items()}, sort_keys=True)
        data = hashlib.blake2b(hashes.encode(), digest_size=16).hexdigest()
        write_json(path, read_json(path) | {"data": data})


def _revision() -> str | None:
    """The git revision of the library, with "+" where files differ from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + "+" * bool(changed.stdout)


def processor() -> str:
    """The model, where the system tells it; `platform` knows the kind alone."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
