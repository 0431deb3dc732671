"""200 runs and 20,000 frames on a Dask cluster of which one worker is killed twice and another one is slow.

    python -m benchmarks.scale [FOLDER]

Writes to FOLDER (default: bench/scale in the artefact root), which should be empty, and prints what it has checked:
every result is there once, no finished run or shard was done twice, and the scheduler's memory at each tenth.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import yaml

from nerveceg_lib.runtime import folders
from nerveceg_lib.runtime.folders import NOTEBOOKS
from nerveceg_tools.predict import SHARD
from tests.cells import PROFILE

RUNS, FRAMES, WORKERS = 200, 20_000, 4
KILLS = (0.25, 0.6)  # shares of the work after which a worker is killed


@contextmanager
def cluster(root: Path) -> Iterator[tuple[str, psutil.Process, psutil.Process]]:
    """Start a scheduler and four workers, the last of which is slow; give address, scheduler and the first worker."""
    contact = root / "scheduler.json"
    environment = os.environ | {"NERVECEG_RUNS": str(root), "OMP_NUM_THREADS": "1"}
    scheduler = ["scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(contact)]
    worker = ["worker", "--scheduler-file", str(contact), "--nthreads", "1", "--no-dashboard"]
    commands = [scheduler, *([*worker, "--name", str(number)] for number in range(WORKERS))]
    started = []
    with open(root / "cluster.txt", "w") as log:
        try:
            for command in commands:
                dask = [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]]
                started.append(subprocess.Popen(dask, env=environment, stdout=log, stderr=subprocess.STDOUT))
                while not contact.exists():
                    time.sleep(0.1)
            psutil.Process(started[-1].pid).nice(19)
            address = yaml.safe_load(contact.read_text())["address"]
            yield address, psutil.Process(started[0].pid), psutil.Process(started[1].pid)
        finally:
            for process in reversed(started):
                process.terminate()
                process.wait()


def disturbed(command: list[str], root: Path, pattern: str, total: int, scheduler, nanny) -> None:
    """Run a command, killing the worker of `nanny` twice on the way, and print what it cost.

    `pattern` finds the files that finished work leaves, `total` of them in the end. None may be written twice.
    """
    start, memory, kills, written = time.monotonic(), {}, list(KILLS), {}
    environment = os.environ | {"NERVECEG_RUNS": str(root)}
    with open(root / f"{command[0]}.txt", "w") as log:
        arguments = [sys.executable, "-m", "nerveceg_tools", *command]
        process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while process.poll() is None:
            for path in root.glob(pattern):
                written.setdefault(path, path.stat().st_mtime_ns)
            memory.setdefault(10 * len(written) // total, scheduler.memory_info().rss / 2**20)
            if kills and len(written) >= kills[0] * total:
                kills.pop(0)
                worker = nanny.children()[-1]
                for victim in [*worker.children(recursive=True), worker]:
                    victim.kill()
                print(f"{len(written)} of {total} done: a worker was killed", flush=True)
            time.sleep(1)
    assert process.returncode == 0 and not kills, (root / f"{command[0]}.txt").read_text()
    again = sum(path.stat().st_mtime_ns != before for path, before in written.items())
    held = ", ".join(f"{mib:.0f}" for mib in memory.values())
    print(f"{command[0]}: {time.monotonic() - start:.0f} s, {again} results written again; scheduler's MiB: {held}")
    assert not again


def sweep(root: Path, address: str, scheduler, nanny) -> None:
    """Run notebook 1 of the tests' profile 200 times, with other seeds of the split."""
    grid = {"name": "scale", "profile": PROFILE, "only": "01", "grid": {"data": {"split_seed": list(range(RUNS))}}}
    (root / "grid.yaml").write_text(yaml.safe_dump(grid))
    command = ["sweep", str(root / "grid.yaml"), "--scheduler", address]
    disturbed(command, root, f"scale-*/{NOTEBOOKS[0]}/done.json", RUNS, scheduler, nanny)
    table = pd.read_csv(root / "scale" / "results.csv")
    assert (table["status"] == "done").all() and table["data.split_seed"].tolist() == list(range(RUNS))
    logs = "".join(path.read_text() for path in root.glob("scale-*/log.txt"))
    begun, finished = logs.count(f"[1/1] {NOTEBOOKS[0]}\n"), logs.count(": done in")
    print(f"{len(table)} rows; notebooks begun {begun} times, finished {finished} times")
    assert finished == RUNS and begun <= RUNS + len(KILLS)


def predict(root: Path, address: str, scheduler, nanny) -> None:
    """Segment 20,000 frames with the networks of a run of the tests' profile."""
    environment = os.environ | {"NERVECEG_RUNS": str(root)}
    run = [sys.executable, "-m", "nerveceg_tools", "run", "--profile", PROFILE, "--only", "01,02,03,04", "-q"]
    subprocess.run(run, env=environment, check=True)
    frames = sorted(next(root.glob("phantom-*")).glob("train/*[0-9].tif"))
    (root / "frames").mkdir()
    for number in range(FRAMES):
        os.link(frames[number % len(frames)], root / "frames" / f"{number:05d}.tif")
    command = ["predict", str(root / "frames"), str(root / "out"), "--run", "tiny", "--scheduler", address]
    disturbed(command, root, "out/shards/*.csv", -(-FRAMES // SHARD), scheduler, nanny)
    table = pd.read_csv(root / "out" / "predictions.csv")
    print(f"{len(table)} rows")
    assert table["frame"].is_unique and len(table) == FRAMES


def main(folder: str = "") -> None:
    root = (Path(folder) if folder else folders.artefact_root() / "bench" / "scale").absolute()
    root.mkdir(parents=True, exist_ok=True)
    with cluster(root) as (address, scheduler, nanny):
        sweep(root, address, scheduler, nanny)
        predict(root, address, scheduler, nanny)


if __name__ == "__main__":
    main(*sys.argv[1:])
