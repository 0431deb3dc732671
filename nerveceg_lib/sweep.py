"""A grid of notebook runs on Dask workers: every combination of parameters is a run of its own.

<root>/<name>/results.csv, .parquet   one row a point: parameters, run, status, error, seconds, figures of its notebooks
<root>/<name>/results.png             the main figure of every combination
<root>/<name>-<point>/                the run of a point, with its log.txt
"""

import hashlib
import itertools
import json
import os
import re
import sys
import threading
import time
from contextlib import redirect_stderr, redirect_stdout
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
ATTEMPTS = 2

_output = threading.Lock()  # sys.stdout is the process's: a worker with threads does one point after the other


@dataclass(frozen=True)
class Sweep:
    """A grid file, read and checked. `points`: the swept parameters of each run; `metric`: to draw, "" = the score."""

    name: str
    profile: str
    only: list[str]
    fixed: dict[str, object]
    points: list[dict[str, object]]
    metric: str = ""

    def run_of(self, point: dict[str, object]) -> str:
        """The run's name: the same for the same values, whatever else the grid holds.

        It spells the values; those that no folder name can hold are told apart by a hash.
        """
        values = sorted(point.items())
        plain = re.sub(r"[^\w.=-]", "_", "-".join([self.name, *(f"{name}={value}" for name, value in values)]))
        if all(re.fullmatch(r"[\w.-]*", str(value)) for _, value in values) and len(plain) <= 100:
            return plain
        return f"{plain[:100]}-{hashlib.blake2b(json.dumps(values).encode(), digest_size=4).hexdigest()}"


def read_sweep(path: Path, metric: str = "") -> Sweep:
    """Read and check a grid file (see params/sweeps/losses.yaml), before anything runs. InputError if it is wrong."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: expected a YAML file that can be read, found {error}") from error
    try:
        return _check(content, metric)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def run_sweep(sweep: Sweep, client) -> pd.DataFrame:
    """Run all points on the workers of a `distributed.Client` and return the table of results.

    Finished points are skipped by their runs' markers. A failed one is tried once more, then reported; the others go
    on. The table is written anew after each point.
    """
    from distributed import as_completed

    root, rows, start = artefact_root(), {}, time.monotonic()
    out = sys.stdout  # a worker in this process redirects it while it runs a point
    (root / sweep.name).mkdir(parents=True, exist_ok=True)
    futures = {client.submit(run_point, sweep, point, str(root), pure=False): point for point in sweep.points}
    for done, future in enumerate(as_completed(list(futures)), start=1):
        point, run = futures[future], sweep.run_of(futures[future])
        if future.status == "finished":
            row = future.result()
        else:  # not the notebook but the worker failed, again and again
            row = {"run": run, "status": "failed", "error": str(future.exception()), "seconds": 0.0}
        rows[run] = point | row
        table = pd.DataFrame([rows[name] for p in sweep.points if (name := sweep.run_of(p)) in rows])
        _write(root / sweep.name, table, list(sweep.points[0]), sweep.metric)
        left = (time.monotonic() - start) / done * (len(futures) - done)
        times = f"{row['seconds']:.0f} s, about {left:.0f} s left"
        print(f"{done}/{len(futures)}  {run}  {row['status']}  {times}", file=out, flush=True)
        if row["error"]:
            print(f"  {row['error']}", file=out, flush=True)
    if sweep.metric and sweep.metric not in table:
        print(f"--metric: no finished run has {sweep.metric!r}; the chart shows another figure", file=out, flush=True)
    return table


def run_point(sweep: Sweep, point: dict[str, object], root: str) -> dict[str, object]:
    """Run one point in this process, its output in log.txt: its row of the table, without the point's own values.

    A failed run is tried once more and then told in the row: raised, it would fill the console with Dask's report.
    `seconds` is the time of the point's notebooks, also if they were done before; of a failed point, this call's.
    """
    from nerveceg_lib.runner import choose_stages, run

    os.environ["NERVECEG_RUNS"] = root
    start, name = time.monotonic(), sweep.run_of(point)
    folder = run_dir(name)
    folder.mkdir(parents=True, exist_ok=True)
    overrides = {name: _scalar(value) for name, value in (sweep.fixed | point | {"run": name}).items()}
    with _output, open(folder / "log.txt", "a") as log, redirect_stdout(log), redirect_stderr(log):
        for _ in range(ATTEMPTS):
            try:
                run(sweep.profile, overrides, sweep.only, resume=True)
                break
            except (RuntimeError, ValueError, OSError) as error:  # of notebook, data or machine: other points go on
                message = str(error) or repr(error)
                print(f"failed: {message}", flush=True)
        else:
            seconds = round(time.monotonic() - start, 1)
            return {"run": name, "status": "failed", "error": message, "seconds": seconds}
    row = {"run": name, "status": "done", "error": "", "seconds": 0.0}
    for stage in choose_stages(sweep.only):
        row["seconds"] += read_json(folder / stage / "done.json")["seconds"]
        if (metrics := folder / stage / "metrics.json").exists():
            row |= {f"{stage[:2]}.{figure}": value for figure, value in read_json(metrics).items()}
    return row


def _check(content: object, metric: str) -> Sweep:
    from nerveceg_lib.runner import choose_stages, resolve_parameters

    if not isinstance(content, dict) or not {"name", "grid"} <= set(content) <= set(KEYS):
        found = list(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(f"expected name and grid, and perhaps profile, only, fixed; found {found}")
    for key, kind in KEYS.items():
        if key in content and not isinstance(content[key], kind):
            raise InputError(f"{key}: expected {kind.__name__}, found {content[key]!r}")
    name, grid, fixed = content["name"], content["grid"], content.get("fixed", {})
    try:
        run_dir(name)
    except InputError as error:
        raise InputError(f"name: expected a plain folder name, found {name!r}") from error
    only = [number for number in content.get("only", "").split(",") if number]
    numbers = [stage[:2] for stage in choose_stages(only)]
    if metric and (metric[:2] not in numbers or metric[2:3] != "."):
        raise InputError(f"--metric: expected a figure of one of the notebooks {numbers}, found {metric!r}")
    for parameter in grid:
        if parameter in fixed:
            raise InputError(f"{parameter}: expected in fixed or in grid, found in both")
    for parameter in ("run", "resume"):
        if parameter in (*fixed, *grid):
            raise InputError(f"{parameter}: expected to be left to the sweep, found in fixed or grid")
    profile = content.get("profile", "demo")
    if profile.endswith((".yaml", ".yml")):
        profile = str(Path(profile).absolute())  # workers elsewhere work in another folder

    def typed(given: dict[str, object]) -> dict[str, object]:
        chosen, _ = resolve_parameters(profile, {name: _scalar(value, name) for name, value in given.items()})
        return {name: chosen[name] for name in given}

    fixed, lists = typed(fixed), {}
    for parameter, values in grid.items():
        if not isinstance(values, list) or not values:
            raise InputError(f"grid: {parameter}: expected a list of values, found {values!r}")
        lists[parameter] = [typed({parameter: value})[parameter] for value in values]
        if len(set(lists[parameter])) < len(values):
            raise InputError(f"grid: {parameter}: expected different values, found {values}")
    if not lists:
        raise InputError("grid: expected at least one parameter with a list of values, found none")
    points = [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]
    return Sweep(name, profile, only, fixed, points, metric)


def _scalar(value: object, name: str = "") -> str:
    """The value as the command line's -p takes it."""
    if not isinstance(value, str | bool | int | float):
        raise InputError(f"{name}: expected a number, text, true or false, found {value!r}")
    return value if isinstance(value, str) else yaml.safe_dump(value).split("\n")[0]  # str() gives 1e-05, text in YAML


def _write(folder: Path, table: pd.DataFrame, swept: list[str], metric: str) -> None:
    from nerveceg_lib import plots

    write_csv(folder / "results.csv", table)
    write_atomically(folder / "results.parquet", lambda path: table.to_parquet(path, index=False))
    numeric = [name for name in table.columns if "." in name and pd.api.types.is_numeric_dtype(table[name])]
    chosen = next((name for name in (metric, *METRICS, *numeric) if name in numeric), None)
    if chosen:
        finished = table[table[chosen].notna()]
        by = [name for name in swept if name not in REPEATS]
        names = finished[by].astype(str).agg(", ".join, axis=1) if by else pd.Series("all", index=finished.index)
        plots.use_style()
        figure = plots.sweep_results(names, finished[chosen], chosen, ", ".join(by))
        write_atomically(folder / "results.png", lambda path: plots.save(figure, path))
        plots.plt.close(figure)
