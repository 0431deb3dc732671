"""How fast a phantom data set is written and how much memory that takes: the same work at two sizes.

    python benchmarks/phantom.py

Prints frames per second (image and mask written), and the peak memory of the parent and of the largest worker. Memory
must not grow with the number of frames. Each size runs in a fresh process, since a process cannot lower its own peak.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from nerveceg_tools.phantom.write import write_phantom

SIZES = {"small": (4, 100), "large": (16, 400)}  # patients, test frames; 100 frames per patient


def measure(patients: int, test_frames: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        write_phantom(Path(folder), patients=patients, frames_per_patient=100, test_frames=test_frames)
        seconds = time.perf_counter() - start
    parent, worker = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    frames = patients * 100 + test_frames
    return {"frames": frames, "frames/s": frames / seconds, "parent MiB": parent, "worker MiB": worker}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size:
        print(json.dumps(measure(*SIZES[options.size])))
        return
    figures = {}
    for size in SIZES:
        command = [sys.executable, __file__, "--size", size]
        figures[size] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        print(f"{size:6}" + "".join(f"  {name} {value:.0f}" for name, value in figures[size].items()))
    for name in ("parent MiB", "worker MiB"):
        print(f"{name} large / small: {figures['large'][name] / figures['small'][name]:.2f}")


if __name__ == "__main__":
    main()
