"""`python -m benchmarks.torture [TRIALS]`: end runs at random moments of each notebook, resume them, and compare."""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import yaml

from benchmarks.interruption import ONLY, PARAMETERS, PROFILE, RUN, SIGNALS, assert_same, complete, interrupt
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_lib.runtime.io import read_json

PLACES = {  # what is interrupted -> the notebook that does it; a sweep does everything
    "phantom": NOTEBOOKS[0],
    "cache": NOTEBOOKS[0],
    "classifier": NOTEBOOKS[1],
    "segmenter": NOTEBOOKS[2],
    "inference": NOTEBOOKS[3],
    "submission": NOTEBOOKS[5],
    "sweep": "",
}
OUTCOMES = ("same result", "over before", "failed")
WORKERS = 2


def main(trials: int) -> int:
    """Print one line per trial and a summary; return 1 if any trial failed."""
    numbers = [range(worker, trials, WORKERS) for worker in range(WORKERS)]
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(WORKERS) as pool:
        counts = sum(pool.map(campaign, [Path(folder) / str(worker) for worker in range(WORKERS)], numbers), Counter())
    print(f"\n{trials} interruptions\n{'place':12} {'signal':8}", *(f"{outcome:>11}" for outcome in OUTCOMES))
    for place in PLACES:
        for kill in SIGNALS:
            print(f"{place:12} {kill.name:8}", *(f"{counts[place, kill.name, outcome]:11}" for outcome in OUTCOMES))
    failed = sum(count for (*_, outcome), count in counts.items() if outcome == "failed")
    print(f"failed: {failed} of {trials}")
    return int(failed > 0)


def campaign(folder: Path, numbers: range) -> Counter:
    """Do the trials with these numbers one after the other, around one undisturbed run, and count their outcomes."""
    root, saved = folder / "runs", folder / "saved"  # executed notebooks name their folder, so all trials use `root`
    folder.mkdir()
    complete(RUN, root)
    seconds = {
        notebook: read_json(root / "tiny" / f"{notebook}.ipynb")["metadata"]["papermill"]["duration"]
        for notebook in NOTEBOOKS
        if notebook[:2] in ONLY
    }
    root.rename(saved)
    outcomes: Counter = Counter()
    for number in numbers:
        place, kill = list(PLACES)[number % len(PLACES)], SIGNALS[number // len(PLACES) % len(SIGNALS)]
        draw, outcome = random.Random(number), "over before"
        while outcome == "over before":  # draw another moment, so that every trial interrupts something
            try:
                outcome = trial(place, kill, draw, root, saved, seconds)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                outcome = "failed"
                print(f"trial {number}: {error}", flush=True)
            print(f"trial {number}: {place}, {kill.name}: {outcome}", flush=True)
            outcomes[place, kill.name, outcome] += 1
    return outcomes


def trial(place: str, kill, draw: random.Random, root: Path, saved: Path, seconds: dict[str, float]) -> str:
    """Interrupt the run at a random moment, resume it to its end, and compare it with the saved one."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(saved, root)
    command, run, words, most = RUN, "tiny", f"] {PLACES[place]}", seconds.get(PLACES[place], 0.0)
    if place == "sweep":
        command, run, words, most = sweep(root), "torture-seed=0", "1 runs", sum(seconds.values())
    else:
        forget(root, place)
    code = interrupt(command, root, some_time_after(words, draw.uniform(0, most)), kill)
    complete(command, root)
    assert_same(root, saved, run)
    return "same result" if code else "over before"


def some_time_after(words: str, seconds: float) -> Callable[[str], bool]:
    """Return the moment `seconds` after `words` were printed."""
    seen: list[float] = []

    def has_come(printed: str) -> bool:
        if words in printed:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= seconds

    return has_come


def forget(root: Path, place: str) -> None:
    """Take the run back to the beginning of a notebook; "phantom" and "cache" also forget the shared files."""
    for notebook in NOTEBOOKS[NOTEBOOKS.index(PLACES[place]) :]:
        shutil.rmtree(root / "tiny" / notebook, ignore_errors=True)
        (root / "tiny" / f"{notebook}.ipynb").unlink(missing_ok=True)
    for shared in {"phantom": ("cache", "phantom-*"), "cache": ("cache",)}.get(place, ()):
        for path in root.glob(shared):
            shutil.rmtree(path)


def sweep(root: Path) -> list[str]:
    """Write a grid of one point with the run's parameters; its worker has one thread, as the run has."""
    content = {"name": "torture", "profile": PROFILE, "only": ONLY, "fixed": PARAMETERS, "grid": {"seed": [0]}}
    grid = root / "grid.yaml"
    grid.write_text(yaml.safe_dump(content))
    return ["sweep", str(grid), "--workers", "2"]


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
