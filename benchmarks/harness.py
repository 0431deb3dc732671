"""Time alternatives against each other in one run, and print and store what came of it.

Machines are noisy: the alternatives take turns, a row's ratio is the median over the rounds, and the spread
(lowest and highest ratio of a round) is printed beside it.
"""

import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

from nerveceg_lib import compute, paths
from nerveceg_lib.files import write_atomically, write_json

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One comparison. `baseline` and `figure` are in `unit`, `ratio` is figure / baseline round by round.

    `target` is the least (`at_least`) or the greatest ratio that meets it; with `on_figure` it speaks of the
    figure itself. `note` says what limits a row that misses, or what was compared.
    """

    name: str
    unit: str
    baseline: float
    figure: float
    ratio: float
    spread: tuple[float, float]
    target: float
    at_least: bool = True
    note: str = ""
    on_figure: bool = False

    @property
    def met(self) -> bool:
        value = self.figure if self.on_figure else self.ratio
        return value >= self.target if self.at_least else value <= self.target


def alternate(jobs: dict[str, Callable[[], object]], repeats: int = 5) -> dict[str, list[float]]:
    """Wall-clock seconds of each job, `repeats` a job: one warm-up each, then all in turn, round by round.

    Every other round runs backwards, so that none always profits from what its neighbour left in the caches.
    """
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats):
        for name in list(jobs)[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            jobs[name]()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def paired_row(name: str, unit: str, baseline: Sequence[float], figure: Sequence[float], **rest) -> Row:
    """Row of measurements taken in the same rounds; `rest`: target, at_least, note, on_figure."""
    ratios = [float(ours / theirs) for theirs, ours in zip(baseline, figure, strict=True)]
    spread = (min(ratios), max(ratios))
    return Row(name, unit, float(median(baseline)), float(median(figure)), median(ratios), spread, **rest)


def rate_row(
    name: str,
    unit: str,
    items: float,
    baseline_seconds: Sequence[float],
    figure_seconds: Sequence[float],
    target: float,
    note: str = "",
) -> Row:
    """Row in items per second, from the seconds that baseline and figure took in the same rounds for `items`."""
    baseline = [items / seconds for seconds in baseline_seconds]
    figure = [items / seconds for seconds in figure_seconds]
    return paired_row(name, unit, baseline, figure, target=target, note=note)


def peak_mib() -> float:
    """Most MiB this process has held, mapped files included. Call it in a fresh process: no peak ever sinks."""
    if (status := Path("/proc/self/status")).exists():
        # not ru_maxrss, which a child inherits from its parent on Linux
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def in_fresh_process(module: str, *arguments: object) -> dict:
    """What `python -m module arguments...` prints as JSON on its last line. Raises CalledProcessError if it fails."""
    search = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": search}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout)
        done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, str | int | bool]:
    """What the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        "bf16 in hardware": compute.has_fast_bf16(),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Header and rows as text."""
    head = ["", "unit", "baseline", "figure", "ratio", "spread", "target", "", "note"]
    return [head, *(_cells(row) for row in rows)]


def _cells(row: Row) -> list[str]:
    low, high = row.spread
    target = f"{'>=' if row.at_least else '<='} {row.target:g}{' ' + row.unit if row.on_figure else ''}"
    return [
        row.name,
        row.unit,
        _short(row.baseline),
        _short(row.figure),
        f"{row.ratio:.2f}",
        f"{low:.2f} to {high:.2f}",
        target,
        "met" if row.met else "MISSED",
        row.note,
    ]


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def report(rows: Sequence[Row], folder: Path | None = None) -> None:
    """Print `rows` as a table; write them and the machine to benchmarks.json and benchmarks.md in `folder`.

    `folder` is by default `bench/` in the artefact root.
    """
    folder = Path(folder or paths.artefact_root() / "bench")
    folder.mkdir(parents=True, exist_ok=True)
    facts, lines = machine(), table(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print(", ".join(f"{name}: {value}" for name, value in facts.items()))
    content = {"machine": facts, "rows": [asdict(row) | {"met": row.met} for row in rows]}
    write_json(folder / "benchmarks.json", content)
    write_atomically(folder / "benchmarks.md", lambda path: path.write_text(_markdown(lines, facts)))


def _markdown(lines: list[list[str]], facts: dict) -> str:
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in ruled)
    about = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"# Benchmarks\n\nRatio: median over paired rounds; spread: lowest and highest.\n\n{body}\n\n{about}\n"
