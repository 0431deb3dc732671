"""Run a grid of parameters on Dask workers: each combination is a run of its own.

<root>/<name>/results.csv             one row per combination: parameters, run, status, error, seconds, metrics
<root>/<name>/results.png             a chart of the main metric
<root>/<name>-<values>/               the run of one combination, with its log.txt
"""

import os
import re
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import artefact_root, run_folder
from nerveceg_lib.runtime.io import read_json, write_atomically, write_csv
from nerveceg_tools import run
from nerveceg_tools.provenance import digest

KEYS = {"name": str, "profile": str, "only": str, "fixed": dict, "grid": dict}
REPEATS = ("seed", "fold", "data.heldout_part", "data.split_seed")  # further runs of the same settings
METRICS = {  # the chart draws the first one it finds
    "inference.score": "score of held-out frames",
    "segmenter.dice_positive": "mean Dice of held-out frames with a nerve",
    "classifier.auroc": "AUROC of the classifier",
}

WAITING = {"status": "waiting", "error": "", "seconds": 0.0}

_output = threading.Lock()  # sys.stdout belongs to the process: a worker with threads runs one combination at a time


@dataclass(frozen=True)
class Sweep:
    """A checked grid file. `points` holds the swept parameters of each run."""

    name: str
    profile: str
    only: str
    fixed: dict[str, object]
    points: list[dict[str, object]]

    def run_of(self, point: dict[str, object]) -> str:
        """Return the name of a point's run, which depends on its values alone and not on the rest of the grid."""
        values = sorted(point.items())
        plain = re.sub(r"[^\w.=-]", "_", "-".join([self.name, *(f"{name}={value}" for name, value in values)]))
        if all(re.fullmatch(r"[\w.-]*", str(value)) for _, value in values) and len(plain) <= 100:
            return plain
        return f"{plain[:100]}-{digest(values)}"  # values that no folder name can spell are told apart by a hash


def read_sweep(path: Path) -> Sweep:
    """Read and check a grid file such as params/sweeps/losses.yaml. Raises InputError before anything runs."""
    content = run.read_yaml(path)
    try:
        return _checked(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _checked(content: dict) -> Sweep:
    unfit = [key for key, value in content.items() if not isinstance(value, KEYS.get(key, ()))]
    if unfit or not {"name", "grid"} <= set(content):
        expected = "expected name and grid, and perhaps profile, only (all text), fixed (nested names)"
        raise InputError(f"{expected}; found {[(key, content[key]) for key in unfit] or list(content)}")
    run_folder(content["name"])
    only = content.get("only", "")
    run.choose_notebooks(only)
    profile = content.get("profile", run.DEFAULTS)
    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).absolute())  # workers may work in another folder
    known = run.resolve_parameters(profile, {})
    fixed, grid = run.flatten(content.get("fixed", {})), run.flatten(content["grid"])
    if "run" in (*fixed, *grid):
        raise InputError("run: expected to be set by the sweep, found in fixed or grid")
    if twice := sorted(set(fixed) & set(grid)):
        raise InputError(f"{twice[0]}: expected in fixed or in grid, found in both")
    fixed, points = run.resolve_paths(run.known_and_typed(fixed, known)), _points(grid, known)
    sweep = Sweep(content["name"], profile, only, fixed, points)
    values = known | fixed | points[0] | {"run": sweep.run_of(points[0])}
    run.check_taken([*fixed, *points[0]], values, run.choose_notebooks(only))
    return sweep


def _points(grid: dict[str, object], known: dict[str, object]) -> list[dict[str, object]]:
    from sklearn.model_selection import ParameterGrid  # a second to import

    try:
        points = [run.resolve_paths(run.known_and_typed(point, known)) for point in ParameterGrid(grid)]
    except (TypeError, ValueError) as error:
        raise InputError(f"grid: {error}") from error
    if not grid or len(set(map(digest, points))) < len(points):
        raise InputError(f"grid: expected lists of different values, found {grid}")
    return points


def run_sweep(sweep: Sweep, client) -> pd.DataFrame:
    """Run all points on the workers of a `distributed.Client` and return the table of results.

    Finished notebooks are skipped as with --resume. A failed point is tried a second time and then reported, while
    the others continue. Table and chart are written again after each point.
    """
    from distributed import as_completed

    root, start = artefact_root(), time.monotonic()
    rows = {sweep.run_of(point): point | {"run": sweep.run_of(point)} | WAITING for point in sweep.points}
    out = sys.stdout  # a worker in this process redirects it while it runs a point
    (root / sweep.name).mkdir(parents=True, exist_ok=True)
    futures = {client.submit(run_point, sweep, point, root, pure=False, retries=1): point for point in sweep.points}
    for done, future in enumerate(as_completed(list(futures)), start=1):
        name = sweep.run_of(futures[future])
        row = rows[name] | {"status": "done"}
        try:
            row |= future.result()  # waits if the worker has died meanwhile and another one repeats the work
        except Exception as error:
            row |= {"status": "failed", "error": str(error) or repr(error)}
        rows[name] = row
        table = pd.DataFrame(rows.values())
        _write(root / sweep.name, table, list(sweep.points[0]))
        at_once = min(len(client.nthreads()), len(futures))  # the others are nearly done when the first one is
        left = (time.monotonic() - start) / (done + at_once - 1) * (len(futures) - done)
        progress = f"{done}/{len(futures)}  {name}  {row['status']}, about {left:.0f} s left"
        print(f"{progress}\n  {row['error']}" if row["error"] else progress, file=out, flush=True)
    return table


def run_point(sweep: Sweep, point: dict[str, object], root: Path) -> dict[str, object]:
    """Run one point in this process, with its output in log.txt, and return the seconds and metrics of its notebooks.

    Seconds count also for notebooks that were finished before.
    """
    os.environ["NERVECEG_RUNS"] = str(root)
    overrides = sweep.fixed | point | {"run": sweep.run_of(point)}
    folder = run_folder(sweep.run_of(point))
    folder.mkdir(parents=True, exist_ok=True)
    with _output, open(folder / "log.txt", "a") as log, redirect_stdout(log), redirect_stderr(log):
        try:
            run.run(sweep.profile, overrides, sweep.only, resume=True)
        except InputError as error:  # Dask would try what can only fail once more
            print(f"error: {error}")
            return {"status": "failed", "error": str(error)}
    seconds = 0.0
    metrics: dict[str, object] = {}
    for notebook in run.choose_notebooks(sweep.only):
        seconds += read_json(folder / f"{notebook}.ipynb")["metadata"]["papermill"]["duration"]
        if (path := folder / notebook / "metrics.json").exists():
            metrics |= {f"{run.SECTION_OF[notebook]}.{name}": value for name, value in read_json(path).items()}
    return {"seconds": round(seconds, 1)} | metrics


def _write(folder: Path, table: pd.DataFrame, swept: list[str]) -> None:
    write_csv(folder / "results.csv", table)
    numbers = [name for name in table.select_dtypes("number") if "." in name and name not in swept]
    drawn = next((name for name in (*METRICS, *numbers) if name in numbers and table[name].notna().any()), "")
    if not drawn:
        (folder / "results.png").unlink(missing_ok=True)  # of an earlier sweep
        return
    _draw(folder / "results.png", table, drawn, [name for name in swept if name not in REPEATS])


def _draw(path: Path, table: pd.DataFrame, drawn: str, by: list[str]) -> None:
    """Plot a line per combination of the parameters `by`, the best on top: a dot per run and a bar at their mean.

    Grey lines join the runs of one seed and part, which can be compared with each other. The title counts the failed
    runs.
    """
    import matplotlib.pyplot as plt

    from nerveceg_lib import plots

    label, failed = METRICS.get(drawn, drawn), int((table["status"] == "failed").sum())
    table = table[table[drawn].notna()]
    names = table[by].astype(str).agg(", ".join, axis=1) if by else pd.Series("all", index=table.index)
    means = table[drawn].groupby(names).mean().sort_values()
    plots.use_style()
    figure, axis = plt.subplots(figsize=(7, 0.35 * len(means) + 1.2))
    rows = names.map({name: row for row, name in enumerate(means.index)})
    if repeats := [name for name in REPEATS if name in table]:
        for _, alike in table.assign(row=rows).sort_values("row").groupby(repeats):
            axis.plot(alike[drawn], alike["row"], color="lightgrey", linewidth=1)
    axis.plot(table[drawn], rows, "o", color=plots.PREDICTION, alpha=0.7, label="run")
    axis.plot(means, range(len(means)), "|", color="black", markersize=14, markeredgewidth=2, label="mean")
    axis.set_yticks(range(len(means)), means.index)
    axis.set(xlabel=label, ylim=(-0.6, len(means) - 0.4))
    title = f"{len(table)} runs" + (f" by {', '.join(by)}" if by else "") + (f", {failed} failed" if failed else "")
    axis.set_title(title)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    write_atomically(path, figure.savefig)
    plt.close(figure)
