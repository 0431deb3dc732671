"""How fast and in how much memory a phantom data set is written: the same job at two sizes.

    python benchmarks/phantom.py [--workers 2]

Prints frames per second (image and mask written), and the peak memory of the parent and of the largest
worker. Memory must not grow with the number of frames. Each size runs in a fresh process, since a process
cannot lower its own peak.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

from nerveceg_lib.data.phantom_set import write_phantom

SIZES = {"small": (4, 100), "large": (16, 400)}  # subjects, test frames; 100 frames a subject


def measure(subjects: int, test_frames: int, workers: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        sizes = {"subjects": subjects, "frames_per_subject": 100, "test_frames": test_frames}
        write_phantom(folder, **sizes, workers=workers, progress=False)
        seconds = time.perf_counter() - start
    parent, worker = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    frames = subjects * 100 + test_frames
    return {"frames": frames, "frames/s": frames / seconds, "parent MiB": parent, "worker MiB": worker}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--size", choices=SIZES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.size:
        print(json.dumps(measure(*SIZES[options.size], options.workers)))
        return
    found = {}
    for size in SIZES:
        command = [sys.executable, __file__, "--size", size, "--workers", str(options.workers)]
        found[size] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"{size:6}" + "".join(f"  {name} {value:.0f}" for name, value in found[size].items()))
    for name in ("parent MiB", "worker MiB"):
        print(f"{name} large / small: {found['large'][name] / found['small'][name]:.2f}")


if __name__ == "__main__":
    main()
