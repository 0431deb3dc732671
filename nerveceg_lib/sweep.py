"""A grid of notebook runs on Dask workers: every combination of parameters is a run of its own.

<root>/<name>/results.csv, .parquet   one row a point: parameters, run, status, error, seconds, figures of its notebooks
<root>/<name>/results.png             the main figure of every combination
<root>/<name>-<point>/                the run of a point, with its log.txt
"""

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from nerveceg_lib.errors import InputError
from nerveceg_lib.files import read_json, write_atomically, write_csv
from nerveceg_lib.paths import artefact_root, run_dir

KEYS = {"name": str, "profile": str, "only": str, "fixed": dict, "grid": dict}
REPEATS = ("seed", "fold")  # what a chart draws as further dots of the same combination
METRICS = ("04.score", "03.dice_positives", "02.auroc")


@dataclass(frozen=True)
class Sweep:
    """A grid file, read and checked. `points`: the swept parameters of each run, as YAML scalars."""

    name: str
    profile: str
    only: list[str]
    fixed: dict[str, str]
    points: list[dict[str, str]]

    def run_of(self, point: dict[str, str]) -> str:
        """The run's name: the same for the same values, whatever else the grid holds."""
        values = [f"{name}={value}" for name, value in sorted(point.items())]
        return "-".join([self.name, *("".join(c if c.isalnum() or c in "=_." else "+" for c in v) for v in values)])


def read_sweep(path: Path) -> Sweep:
    """Read and check a grid file (see params/sweeps/losses.yaml), before anything runs. InputError if it is wrong."""
    from nerveceg_lib.runner import choose_stages, resolve_parameters

    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"{path}: expected a YAML file that can be read, found {error}") from error
    if not isinstance(content, dict) or not {"name", "grid"} <= set(content) <= set(KEYS):
        found = sorted(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: expected name and grid, and perhaps profile, only, fixed; found {found}")
    for key, kind in KEYS.items():
        if key in content and not isinstance(content[key], kind):
            raise InputError(f"{path}: {key}: expected {kind.__name__}, found {content[key]!r}")
    run_dir(content["name"])
    points = _expand(path, content["grid"])
    only = [number for number in content.get("only", "").split(",") if number]
    choose_stages(only)
    fixed = {name: _scalar(value) for name, value in content.get("fixed", {}).items()}
    if both := sorted({"run", "resume"} & (set(fixed) | set(content["grid"])) | set(fixed) & set(content["grid"])):
        raise InputError(f"{path}: {both[0]}: expected in one place at most and not set by the sweep itself")
    sweep = Sweep(content["name"], content.get("profile", "demo"), only, fixed, points)
    for point in points:
        resolve_parameters(sweep.profile, fixed | point | {"run": sweep.run_of(point)})
    return sweep


def run_sweep(sweep: Sweep, client, metric: str = "") -> pd.DataFrame:
    """Run all points on the workers of a `distributed.Client` and return the table of results.

    Finished points are skipped by their runs' markers. A failed one is tried once more, then reported; the others go
    on. The table is written anew after each point.
    """
    from distributed import as_completed

    folder = artefact_root() / sweep.name
    folder.mkdir(parents=True, exist_ok=True)
    futures = {
        client.submit(run_point, sweep, point, str(artefact_root()), retries=1, pure=False): point
        for point in sweep.points
    }
    rows, start = {}, time.monotonic()
    for done, future in enumerate(as_completed(list(futures)), start=1):
        point, run = futures[future], sweep.run_of(futures[future])
        row = {"run": run, "status": "done", "error": "", "seconds": 0.0}
        if future.status == "error":
            row |= {"status": "failed", "error": str(future.exception())}
        else:
            row |= future.result()
        rows[run] = {**point, **row}
        table = pd.DataFrame([rows[name] for p in sweep.points if (name := sweep.run_of(p)) in rows])
        _write(folder, table, metric)
        left = (time.monotonic() - start) / done * (len(futures) - done)
        print(
            f"{done}/{len(futures)}  {run}  {row['status']}  {row['seconds']:.0f} s, about {left:.0f} s left",
            flush=True,
        )
        if row["error"]:
            print(f"  {row['error']}", flush=True)
    return table


def run_point(sweep: Sweep, point: dict[str, str], root: str) -> dict[str, object]:
    """Run one point in this process, its output in log.txt; `seconds` and the figures of its notebooks."""
    from nerveceg_lib.runner import run

    os.environ["NERVECEG_RUNS"] = root
    start = time.monotonic()
    folder = run_dir(sweep.run_of(point))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        run(sweep.profile, sweep.fixed | point | {"run": folder.name}, sweep.only, resume=True)
    figures = {
        f"{stage[:2]}.{name}": value
        for stage, metrics in read_json(folder / "metrics.json").items()
        for name, value in metrics.items()
    }
    return {"seconds": round(time.monotonic() - start, 1), **figures}


def _expand(path: Path, grid: dict) -> list[dict[str, str]]:
    for name, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"{path}: grid: {name}: expected a list of values, found {values!r}")
        if len({_scalar(value) for value in values}) < len(values):
            raise InputError(f"{path}: grid: {name}: expected different values, found {values}")
    if not grid:
        raise InputError(f"{path}: grid: expected at least one parameter with a list of values, found none")
    combinations = itertools.product(*([(name, _scalar(value)) for value in values] for name, values in grid.items()))
    return [dict(combination) for combination in combinations]


def _scalar(value: object) -> str:
    """The value as the command line's -p takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _write(folder: Path, table: pd.DataFrame, metric: str) -> None:
    from nerveceg_lib import plots

    write_csv(folder / "results.csv", table)
    write_atomically(folder / "results.parquet", lambda path: table.to_parquet(path, index=False))
    numeric = [name for name in table.columns if "." in name and pd.api.types.is_numeric_dtype(table[name])]
    chosen = next((name for name in (metric, *METRICS, *numeric) if name in numeric), None)
    if chosen:
        swept = [name for name in table.columns[: list(table.columns).index("run")] if name not in REPEATS]
        names = table[swept].agg(", ".join, axis=1) if swept else pd.Series("all", index=table.index)
        finished = table[chosen].notna()
        plots.use_style()
        figure = plots.sweep_results(names[finished], table.loc[finished, chosen], chosen)
        write_atomically(folder / "results.png", lambda path: plots.save(figure, path))
        plots.plt.close(figure)
