"""`python -m tests.torture [TRIALS]`: end a run at a random moment of each stage, go on, and compare, over and over."""

import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import yaml

from nerveceg_lib.files import read_json
from nerveceg_lib.paths import STAGES
from tests.interruption import DRAWS, ONLY, PROFILE, RUN, SIGNALS, assert_same, complete, interrupt

KINDS = ("phantom", "cache", "classifier", "segmenter", "inference", "submission", "sweep")
WORKERS = 2


def main(trials: int) -> int:
    """Print a line a trial and a summary; returns 1 if any trial failed."""
    numbers = [range(worker, trials, WORKERS) for worker in range(WORKERS)]
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(WORKERS) as pool:
        found = sum(pool.map(campaign, [Path(folder) / str(worker) for worker in range(WORKERS)], numbers), Counter())
    print(f"\n{trials} interruptions\n{'kind':12} {'signal':8} {'same result':>11} {'over before':>11} {'failed':>6}")
    for kind in KINDS:
        for kill in SIGNALS:
            counts = [found[kind, kill.name, outcome] for outcome in ("same result", "over before", "failed")]
            print(f"{kind:12} {kill.name:8} {counts[0]:11} {counts[1]:11} {counts[2]:6}")
    failed = sum(count for (*_, outcome), count in found.items() if outcome == "failed")
    print(f"failed: {failed} of {trials}")
    return int(failed > 0)


def campaign(folder: Path, numbers: range) -> Counter:
    """The trials of these numbers, one after the other, around one undisturbed run: how many had which outcome."""
    root, saved = folder / "runs", folder / "saved"  # the run knows its place, so trials take turns in `root`
    complete(RUN, root)
    seconds = {
        stage: read_json(root / "tiny" / stage / "done.json")["seconds"] for stage in STAGES if stage[:2] in ONLY
    }
    root.rename(saved)
    outcomes = Counter()
    for number in numbers:
        kind, kill = KINDS[number % len(KINDS)], SIGNALS[number // len(KINDS) % len(SIGNALS)]
        draw, outcome = random.Random(number), "over before"
        while outcome == "over before":  # drawn again, so that every trial ends something
            try:
                outcome = trial(kind, kill, draw, root, saved, seconds)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                outcome = "failed"
                print(f"trial {number}: {error}", flush=True)
            print(f"trial {number}: {kind}, {kill.name}: {outcome}", flush=True)
            outcomes[kind, kill.name, outcome] += 1
    return outcomes


def trial(kind: str, kill, draw: random.Random, root: Path, saved: Path, seconds: dict[str, float]) -> str:
    """End the run at a random moment of the stage, go on to the end: "same result", or "over before" the signal."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(saved, root)
    command, run, after, most = RUN, "tiny", "", sum(seconds.values())
    if kind == "sweep":
        command, run = sweep(root), "torture-seed=0"
    else:
        stage = STAGES[(0, 0, 1, 2, 3, 5)[KINDS.index(kind)]]
        after, most = f"] {stage}", seconds[stage]
        forget(root, kind, stage)
    code = interrupt(command, root, after, draw.uniform(0, most), kill)
    complete(command, root)
    assert_same(root, saved, run)
    return "same result" if code else "over before"


def forget(root: Path, kind: str, since: str) -> None:
    """Take the run back to the beginning of a stage, and of what lies before its notebook."""
    for stage in STAGES[STAGES.index(since) :]:
        shutil.rmtree(root / "tiny" / stage, ignore_errors=True)
        (root / "tiny" / f"{stage}.ipynb").unlink(missing_ok=True)
    for shared in ("cache", "phantom-*") if kind == "phantom" else ("cache",) if kind == "cache" else ():
        for path in root.glob(shared):
            shutil.rmtree(path)


def sweep(root: Path) -> list[str]:
    content = {"name": "torture", "profile": PROFILE, "only": ONLY, "fixed": DRAWS, "grid": {"seed": [0]}}
    grid = root / "grid.yaml"
    grid.write_text(yaml.safe_dump(content))
    return ["sweep", str(grid), "--workers", "2"]  # one thread each, as in the run it is compared with


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
