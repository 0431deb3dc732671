"""Time alternatives against each other in one run, print the results and store them.

Machines are noisy. Therefore the alternatives take turns, the ratio of a row is the median over the rounds, and the
spread (the lowest and the highest ratio of a round) is printed beside it.
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

from nerveceg_lib.runtime import device, folders
from nerveceg_lib.runtime.io import write_atomically, write_json
from nerveceg_lib.runtime.process import cores

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One comparison. `baseline` and `figure` are in `unit`; `ratio` is the median of figure / baseline of each round.

    `target` is the lowest (`at_least`) or the highest ratio that meets it; with `on_figure` it applies to the figure
    itself. `note` says what limits a row that misses its target, or what was compared.
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
    """Return `repeats` wall-clock seconds of each job: after one warm-up each, all jobs run in turn, round by round.

    Every other round runs backwards, so that no job always benefits from what its neighbour left in the caches.
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
    """Return a row of measurements from the same rounds. `rest`: target, at_least, note, on_figure."""
    ratios = [float(value / base) for base, value in zip(baseline, figure, strict=True)]
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
    """Return a row in items per second, from the seconds that both took for `items` in the same rounds."""
    baseline = [items / seconds for seconds in baseline_seconds]
    figure = [items / seconds for seconds in figure_seconds]
    return paired_row(name, unit, baseline, figure, target=target, note=note)


def peak_mib() -> float:
    """Return the most MiB that this process has held, mapped files included. Call it in a fresh process."""
    if (status := Path("/proc/self/status")).exists():
        # not ru_maxrss, which a child inherits from its parent on Linux
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def in_fresh_process(module: str, *arguments: object) -> dict:
    """Run `python -m module arguments...` and return what it prints as JSON on its last line.

    Raises CalledProcessError if it fails.
    """
    search = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": search}, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stdout)
        done.check_returncode()
    return json.loads(done.stdout.splitlines()[-1])


def machine() -> dict[str, str | int | bool]:
    """Describe the machine that the figures were measured on."""
    return {
        "processor": _processor(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch threads": torch.get_num_threads(),
        "bf16 in hardware": device.has_fast_bf16(),
        "date": datetime.date.today().isoformat(),
    }


def _processor() -> str:
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(rows: Sequence[Row]) -> list[list[str]]:
    """Return the header and the rows as text."""
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
    """Print `rows` as a table, and write them with the machine to benchmarks.json and benchmarks.md in `folder`.

    The default folder is `bench/` in the artefact root.
    """
    folder = Path(folder or folders.artefact_root() / "bench")
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
