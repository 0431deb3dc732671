"""Measure speed and memory as ratios against a baseline in the same run.

    python -m benchmarks [rle data inference training phantom] [--quick] [--out FOLDER]

Prints one row a comparison and writes benchmarks.json and benchmarks.md to FOLDER. Rows that miss their target
do not fail the command: machines are too noisy for that.
"""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

ROWS = ("rle", "data", "inference", "training")  # modules with rows(quick)
SUBJECTS = (*ROWS, "phantom")  # phantom prints figures of its own, without a baseline


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument(
        "subjects", nargs="*", metavar="subject", help=f"of {', '.join(SUBJECTS)}; default: all but phantom"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, for a look")
    parser.add_argument("--out", type=Path, help="default: bench/ in the artefact root")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.subjects) - set(SUBJECTS)):
        parser.error(f"unknown subjects {unknown}, expected some of {list(SUBJECTS)}")

    from nerveceg_lib import runtime

    runtime.configure(seed=0)  # before torch, which the harness imports
    from benchmarks.harness import report

    rows = []
    for subject in options.subjects or ROWS:
        print(f"{subject} ...", flush=True)
        if subject == "phantom":
            subprocess.run([sys.executable, "-m", "benchmarks.phantom"], check=True)
        else:
            rows += importlib.import_module(f"benchmarks.{subject}").rows(options.quick)
    if rows:
        report(rows, options.out)
        missed = sum(not row.met for row in rows)
        print(f"{len(rows) - missed} of {len(rows)} rows met, {missed} missed")


if __name__ == "__main__":
    main()
