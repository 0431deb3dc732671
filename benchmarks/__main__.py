"""Measure speed and memory as ratios against a baseline in the same run.

    python -m benchmarks [rle data inference training peers phantom] [--quick] [--out FOLDER]

Prints one row per comparison and writes benchmarks.json and benchmarks.md to FOLDER. Rows that miss their target do not
make the command fail, because machines are too noisy for that.
"""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

ROWS = ("rle", "data", "inference", "training", "peers")  # modules with rows(quick)
SUBJECTS = (*ROWS, "phantom")  # the phantom has no baseline: its figures are printed separately


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument(
        "subjects", nargs="*", metavar="subject", help=f"of {', '.join(SUBJECTS)}; default: all but phantom"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see whether everything runs")
    parser.add_argument("--out", type=Path, help="default: bench/ in the artefact root")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.subjects) - set(SUBJECTS)):
        parser.error(f"unknown subjects {unknown}, expected some of {list(SUBJECTS)}")

    from nerveceg_lib.runtime import configure

    configure(seed=0)  # before torch, which the harness imports
    from benchmarks import networks
    from benchmarks.harness import report

    if options.quick:
        networks.shrink()
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
