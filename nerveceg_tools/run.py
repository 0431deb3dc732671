"""Run the notebooks in order with papermill: one folder for each run, one marker for each finished notebook."""

import difflib
import json
import linecache
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import papermill
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from nerveceg_lib.runtime import folders
from nerveceg_lib.runtime.errors import InputError, one_of
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES, artefact_root, run_folder, show
from nerveceg_lib.runtime.io import UNFINISHED, clear_unfinished, matches, read_json, storing, write_json
from nerveceg_lib.runtime.parameters import find, typed
from nerveceg_tools.progress import RunBar
from nerveceg_tools.provenance import digest, library_hash, recorded, stamp

PACKAGE = Path(__file__).resolve().parent
REPOSITORY = PACKAGE.parent
SHIPPED = PACKAGE if (PACKAGE / "notebooks").exists() else REPOSITORY  # a wheel has them inside the package
NOTEBOOK_FOLDER = SHIPPED / "notebooks"
PROFILES = SHIPPED / "params"
DEFAULTS = "demo"  # the profile that changes nothing: the notebooks' defaults are the demo
NAMES = ("data", "classifier", "segmenter", "inference", "explain", "submission", "bias", "architectures", "shortcut")
SECTIONS = dict(zip(NAMES, (*NOTEBOOKS, *STUDIES), strict=True))  # section of a profile -> notebook
SECTION_OF = {notebook: section for section, notebook in SECTIONS.items()}
SHARED = ("run", "data_dir", "seed", "fold", "precision", "devices", "num_nodes", "strategy")  # on top of a profile
TRAINED = NOTEBOOKS[1:3]
KINDS = {  # parameters that name networks or losses, perhaps the user's own
    **dict.fromkeys(["classifier.model", "bias.classifier", "shortcut.model"], "classifier"),
    **dict.fromkeys(["segmenter.model", "bias.segmenter", "architectures.models"], "segmenter"),
    **dict.fromkeys(["segmenter.loss", "architectures.loss"], "loss"),
}
PATHS = {"data_dir": "auto", "submission.masks_csv": "", "bias.other_masks": ""}  # name -> the value that is no path


class NotebookFailed(RuntimeError):
    """A notebook stopped, and not because of bad input. The message names notebook, cell and error."""


def run(profile: str, overrides: Mapping[str, object], only: str, resume: bool, verbosity: int = 0) -> Path:
    """Run notebooks and return the run's folder.

    profile, overrides: the parameters, see `resolve_parameters`.
    only: two-digit numbers of the notebooks to run, such as "03,04"; "" for the six main ones.
    resume: skip notebooks that are finished with the same code, parameters and inputs and whose files are those that
        they wrote, and continue interrupted training from its last checkpoint.
    verbosity: -1 prints one line per notebook, 0 also what notebooks print, 1 also all warnings of libraries.

    Raises InputError for wrong parameters and for bad input that a notebook finds, else NotebookFailed for the first
    notebook that fails.
    """
    notebooks = choose_notebooks(only)
    values = resolve_parameters(profile, overrides)
    check_taken(overrides, values, notebooks)
    if NOTEBOOKS[0] in notebooks:
        folders.find_competition_data(str(values["data_dir"]))  # before the notebooks of an earlier run are replaced
    elif not values.get("bias.pool"):  # a pool of finished runs needs no data of its own
        folders.require(str(values["run"]), NOTEBOOKS[0], "dataset.json")  # before a folder is made for a mistyped name
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # a kernel of the user's may belong to another Python
    os.environ["NERVECEG_RUNS"] = str(artefact_root())  # kernels work in notebooks/
    os.environ["PYTHONWARNINGS"] = "default" if verbosity > 0 else "ignore"  # for the kernels
    folder = run_folder(str(values["run"]))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0), recorded(folder, values):
            clear_unfinished(folder)
            _run_notebooks(notebooks, values, folder, resume, verbosity)
    except Timeout as error:
        raise InputError(f"run: expected a run that no other process works on, found {folder.name!r} in use") from error
    return folder


def _run_notebooks(notebooks: list[str], values: dict, folder: Path, resume: bool, verbosity: int) -> None:
    epochs = {notebook: int(str(values[f"{SECTION_OF[notebook]}.epochs"])) for notebook in TRAINED}
    steps = {notebook: 1 + epochs.get(notebook, 0) for notebook in notebooks}
    with closing(RunBar(steps, visible=sys.stderr.isatty() and verbosity >= 0)) as bar:
        for number, notebook in enumerate(notebooks, start=1):
            title = f"[{number}/{len(notebooks)}] {notebook}"
            state = _state(notebook, values)
            if resume and matches(folder / notebook / "done.json", _done(notebook, values, state)):
                bar.skip(notebook)
                bar.write(f"{title}: done before, skipped\n")
                continue
            bar.write(f"{title}\n")
            start = time.monotonic()
            # what was begun with other code, parameters or inputs is not continued
            interrupted = {"resume": resume and matches(folder / notebook / "started.json", state)}
            if notebook in TRAINED and int(str(values["devices"])) > 1:
                _fit_on_devices(SECTION_OF[notebook], values | interrupted, verbosity)
                interrupted = {"resume": True}  # the notebook reads the network that is finished
            _mark_started(folder / notebook, state)
            _execute(notebook, values | interrupted, folder / f"{notebook}.ipynb", verbosity, bar)
            (folder / notebook / "started.json").unlink()
            write_json(folder / notebook / "done.json", _done(notebook, values, state))
            bar.write(f"{title}: done in {time.monotonic() - start:.0f} s{bar.finish(notebook)}\n")
    write_json(folder / "metrics.json", current_metrics(folder))


def _fit_on_devices(name: str, values: Mapping[str, object], verbosity: int) -> None:
    """Train by `fit` in a process of its own, which starts the others: a notebook's kernel cannot."""
    full_names = [full for full in local_names(SECTIONS[name]) if full != "resume"]
    words = [word for full in full_names for word in ("-p", full, str(values[full]))]
    command = [sys.executable, "-m", "nerveceg_tools", "fit", name, *words, *["--resume"] * bool(values["resume"])]
    output = subprocess.DEVNULL if verbosity < 0 else None
    with subprocess.Popen(command, stdout=output, stderr=subprocess.PIPE, text=True) as process:
        try:
            _, printed = process.communicate()
        except KeyboardInterrupt:
            process.terminate()  # a scheduler's SIGTERM reaches this process alone
            raise
    if process.returncode == 130:
        raise KeyboardInterrupt
    if process.returncode:
        messages = re.findall(r"^error: (.*)", printed, re.MULTILINE | re.DOTALL) or printed.strip().splitlines()
        message = messages[-1].strip() if messages else f"the training of the {name} was killed; was memory too small?"
        raise (InputError if process.returncode == 2 else NotebookFailed)(message)


def _mark_started(folder: Path, state: dict) -> None:
    """Note what shapes the results that will be written to a notebook's folder; they are not done any more."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "done.json").unlink(missing_ok=True)
    write_json(folder / "started.json", state)


def choose_notebooks(only: str) -> list[str]:
    """Return the notebooks with these two-digit numbers ("03,04"), in order; the six main ones if there are none."""
    for number in filter(None, only.split(",")):
        one_of("--only", number, [notebook[:2] for notebook in SECTION_OF])
    return [notebook for notebook in SECTION_OF if notebook[:2] in only.split(",")] or list(NOTEBOOKS)


def read_by(notebook: str) -> Sequence[str]:
    """Return the notebooks whose files `notebook` reads: only the first for trainings and studies, else all before."""
    return NOTEBOOKS[:1] if notebook in (*TRAINED, *STUDIES) else NOTEBOOKS[: NOTEBOOKS.index(notebook)]


def resolve_parameters(profile: str, overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the values of all parameters by name: shared ones as `seed`, all others as `segmenter.epochs`.

    Values are the notebooks' defaults, replaced by those of `profile` (a name in params/ or a YAML file), replaced by
    `overrides`. Raises InputError that lists all unknown names and wrong values.
    """
    known = default_parameters()
    values = known | known_and_typed({**load_profile(profile), **overrides}, known) | {"resume": False}
    return resolve_paths(values)


def resolve_paths(values: dict[str, object]) -> dict[str, object]:
    """Return `values` with absolute paths, because kernels and workers work in other folders."""
    resolved = dict(values)
    for name, no_path in PATHS.items():
        if (text := values.get(name, no_path)) != no_path:
            paths = str(text).split(",") if name == "bias.other_masks" else [str(text)]
            resolved[name] = ",".join(str(Path(path).expanduser().absolute()) for path in paths)
    return resolved


def default_parameters() -> dict[str, object]:
    """Return all parameters of all notebooks with their defaults, named as in `resolve_parameters`."""
    return {
        _full_name(section, name): default
        for section, notebook in SECTIONS.items()
        for name, default in notebook_parameters(notebook).items()
        if name != "resume"  # set by --resume alone
    }


def notebook_parameters(notebook: str) -> dict[str, object]:
    """Return names and defaults in the notebook's cell tagged `parameters`."""
    cells = read_notebook(notebook).cells
    parameters: dict[str, object] = {}
    exec(next(cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])), {}, parameters)
    return {name: default for name, default in parameters.items() if name != "__annotations__"}


def read_notebook(notebook: str) -> NotebookNode:
    """Return one of the kit's notebooks as papermill reads it."""
    return load_notebook_node(str(NOTEBOOK_FOLDER / f"{notebook}.ipynb"))


def notebook_values(notebook: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters that one notebook takes, by their local names, out of all `values`."""
    return {name: values[full_name] for full_name, name in local_names(notebook).items()}


def local_names(notebook: str) -> dict[str, str]:
    """Return the parameters that one notebook takes: full name -> local name."""
    return {_full_name(SECTION_OF[notebook], name): name for name in notebook_parameters(notebook)}


def _full_name(section: str, name: str) -> str:
    return name if name in (*SHARED, "resume") else f"{section}.{name}"


def check_taken(overrides: Iterable[str], values: Mapping[str, object], notebooks: Sequence[str]) -> None:
    """Raise InputError for each override that would have no effect: no chosen notebook takes it.

    One that another notebook takes may be repeated if that notebook ran with the same value.
    """
    mistakes = []
    for name in overrides:
        takers = [notebook for notebook in SECTION_OF if name in local_names(notebook)]
        states = [_ran(run_folder(str(values["run"])) / notebook)["state"] for notebook in takers]
        ran_with = [state["parameters"].get(name.split(".")[-1]) for state in states]
        if not set(takers) & set(notebooks) and values[name] not in ran_with:
            taker = " and ".join(takers)
            mistakes.append(f"{name}: only {taker} takes it, and has not run with {values[name]!r}; run it too")
    if mistakes:
        raise InputError("\n".join(mistakes))


def load_profile(profile: str) -> dict[str, object]:
    """Return the parameters of a profile by their full names. `demo` has none: it stands for the defaults."""
    if profile == DEFAULTS:
        return {}
    path = Path(profile)
    if path.suffix not in {".yaml", ".yml"}:
        profiles = {path.stem: path for path in PROFILES.glob("*.yaml")}
        path = profiles[one_of("--profile", profile, [DEFAULTS, *sorted(profiles)])]
    return flatten(read_yaml(path))


def read_yaml(path: Path) -> dict:
    """Return the `name: value` lines of a YAML file. Raises InputError for a file that does not hold any."""
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: expected YAML, found {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `name: value` lines, found {type(content).__name__}")
    return content


def flatten(nested: Mapping) -> dict[str, object]:
    """Return the parameters of a YAML file by their full names: {segmenter: {epochs: 4}} -> segmenter.epochs."""
    values: dict[str, object] = {}
    for name, value in nested.items():
        section = {} if value is None and name in SECTIONS else value
        values |= {f"{name}.{n}": v for n, v in section.items()} if isinstance(section, dict) else {str(name): value}
    return values


def known_and_typed(values: Mapping[str, object], known: Mapping[str, object]) -> dict[str, object]:
    """Return `values` in the types of the defaults `known`, see `typed`. Raises InputError for all unknown names."""
    unknown = [name for name in values if name not in known]
    mistakes = [f"{name}: no notebook has this parameter; {_nearest(name, known)}" for name in unknown]
    converted: dict[str, object] = {}
    try:
        converted = typed({name: value for name, value in values.items() if name in known}, known)
    except InputError as error:
        mistakes.append(str(error))
    if mistakes:
        raise InputError("\n".join(mistakes))
    _check_own_code(converted)
    return converted


def _check_own_code(values: Mapping[str, object]) -> None:
    """Raise InputError that lists the networks and losses that nobody defines, and the user's losses that fail.

    Otherwise a run would notice it only after the notebooks before it.
    """
    named = [(name, value.strip()) for name in KINDS if name in values for value in str(values[name]).split(",")]
    if not named:
        return  # the next lines import torch
    import torch

    from nerveceg_lib.losses import SEGMENTATION_LOSSES
    from nerveceg_lib.models import CLASSIFIERS, SEGMENTERS

    known: dict[str, Mapping[str, Callable]]
    known = {"classifier": CLASSIFIERS, "segmenter": SEGMENTERS, "loss": SEGMENTATION_LOSSES}
    mistakes = []
    with mock.patch.object(sys, "path", [*sys.path, str(NOTEBOOK_FOLDER)]):  # where kernels find the user's modules
        for name, value in named:
            if (NOTEBOOK_FOLDER / f"{value.partition(':')[0]}.py").exists():
                sys.modules.pop(value.partition(":")[0], None)  # it may have changed in the meantime
            try:
                found = find(name, value, known[KINDS[name]])
                if KINDS[name] == "loss" and (shape := tuple(found(*torch.zeros(2, 2, 1, 64, 96)).shape)):
                    mistakes.append(
                        f"{name}: {value}: expected one number per batch, such as a mean, found shape {shape}"
                    )
            except InputError as error:
                mistakes.append(str(error))
            except Exception as error:
                mistakes.append(f"{name}: {value} fails on two blank frames: {type(error).__name__}: {error}")
    if mistakes:
        raise InputError("\n".join(mistakes))


def _nearest(name: str, known: Mapping[str, object]) -> str:
    """Say which known names may be meant: the same in other sections, the nested form of a flat one, or similar."""
    section, _, rest = name.partition("_")
    same = [other for other in known if other == f"{section}.{rest}" or other.split(".")[-1] == name.split(".")[-1]]
    if close := difflib.get_close_matches(name, same or known, n=4, cutoff=0.0 if same else 0.6):
        return f"did you mean {' or '.join(close)}?"
    return f"expected a name such as segmenter.epochs, or one of {', '.join(SHARED)}"


def parameterised(notebook: str, values: Mapping[str, object]) -> NotebookNode:
    """Return a notebook with its parameters, out of all `values`, injected as papermill does it."""
    parameters = notebook_values(notebook, values)
    return parameterize_notebook(read_notebook(notebook), parameters, kernel_name="python3", language="python")


def run_cells(notebook: str, values: Mapping[str, object], until: str = "") -> None:
    """Execute the notebook's code cells in this process, to its end or up to and including the cell tagged `until`.

    What the notebook prints is printed; what it displays (tables, source code) is left out.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    with mock.patch("IPython.display.display", lambda *objects, **options: None) as display:
        names = {"__name__": "__main__", "display": display}
        for number, cell in enumerate(parameterised(notebook, values).cells, start=1):
            if cell.cell_type != "code":
                continue
            source, file = TransformerManager().transform_cell(cell.source), f"<{notebook}, cell {number}>"
            linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file  # for inspect.getsource
            exec(compile(source, file, "exec"), names)
            if until and until in cell.metadata.get("tags", []):
                return


def fit(name: str, profile: str, overrides: Mapping[str, object], resume: bool) -> None:
    """Train the "classifier" or the "segmenter" as its notebook does, in each process of torchrun or SLURM."""
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    values = resolve_parameters(profile, overrides) | {"resume": resume}
    check_taken(overrides, values, [SECTIONS[name]])
    folders.require(str(values["run"]), NOTEBOOKS[0], "dataset.json")
    os.environ |= {"MPLBACKEND": "Agg", "NERVECEG_RUNS": str(artefact_root())}
    folder, state = run_folder(str(values["run"])) / SECTIONS[name], _state(SECTIONS[name], values)
    before = read_json(folder / "started.json") if (folder / "started.json").exists() else _ran(folder)["state"]
    if resume and before["parameters"] and before != json.loads(json.dumps(state)):  # all processes see the same
        raise InputError(f"--resume: the {name} was begun with other code, parameters or inputs; leave --resume out")
    _mark_started(folder, state)
    os.chdir(NOTEBOOK_FOLDER)
    sys.path.insert(0, str(NOTEBOOK_FOLDER))  # kernels find networks of one's own there
    with open(os.devnull, "w") as silence:
        first = getattr(rank_zero_only, "rank", 0) == 0  # only the first process prints
        with redirect_stdout(sys.stdout if first else silence), redirect_stderr(sys.stderr if first else silence):
            run_cells(SECTIONS[name], values, until="train")


def _state(notebook: str, values: Mapping[str, object]) -> dict:
    """Return what shapes the results of a notebook: code, parameters, the data, and the files of earlier notebooks."""
    run, folder = str(values["run"]), Path(str(values["data_dir"]))
    given = [Path(str(values.get("submission.masks_csv", "")))] if notebook == NOTEBOOKS[5] else []
    if notebook == NOTEBOOKS[0]:  # "auto" is no folder: the phantom is part of the library's hash
        given = [path for pattern in ("*.csv", "train/*", "test/*") for path in sorted(folder.glob(pattern))]
    read = [f"{run}/{name}" for name in read_by(notebook)]
    if notebook == NOTEBOOKS[3]:
        others = filter(None, str(values.get("inference.ensemble_runs", "")).split(","))
        read += [f"{other}/{name}" for other in others for name in NOTEBOOKS[1:3]]
    if notebook == STUDIES[0]:
        given = [Path(path) for path in str(values.get("bias.other_masks", "")).split(",")]
        patterns = filter(None, str(values.get("bias.pool", "")).split(","))
        pooled = sorted(path.name for pattern in patterns for path in artefact_root().glob(pattern.strip()))
        read += [f"{other}/{notebook}" for other in pooled]
    return {
        "library": library_hash(),
        "code": digest([cell.source for cell in read_notebook(notebook).cells if cell.cell_type == "code"]),
        "parameters": notebook_values(notebook, {**values, "resume": False}),
        "data": stamp(path for path in given if path.is_file()),
        "inputs": {name: _outputs(artefact_root() / name) for name in read},
    }


def _done(notebook: str, values: Mapping[str, object], state: dict) -> dict:
    return {"state": state, "outputs": _outputs(run_folder(str(values["run"])) / notebook)}


def _ran(folder: Path) -> dict:
    """Return what `done.json` says of a notebook's last run: nothing if there was none, or by an older release."""
    content = read_json(folder / "done.json") if (folder / "done.json").exists() else {}
    return content if "outputs" in content else {"state": {"inputs": {}, "parameters": {}}, "outputs": ""}


def _outputs(folder: Path) -> str:
    """Return the stamp of the files that a notebook wrote to its folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return stamp(path for path in files if path.name not in {"done.json", "started.json"})


def current_metrics(folder: Path) -> dict[str, dict]:
    """Return the figures of those notebooks of a run whose files, and those that they read, are still the same."""
    metrics = {}
    for path in sorted(folder.glob("*/metrics.json")):
        done = _ran(path.parent)
        stamps = done["state"]["inputs"] | {f"{folder.name}/{path.parent.name}": done["outputs"]}
        if all(_outputs(artefact_root() / name) == before for name, before in stamps.items()):
            metrics[path.parent.name] = read_json(path)
    return metrics


def _execute(notebook: str, values: dict, output: Path, verbosity: int, bar: RunBar) -> None:
    unfinished = output.with_name(UNFINISHED + output.name)  # papermill writes it again after each cell
    try:
        with storing(output):
            papermill.execute_notebook(
                NOTEBOOK_FOLDER / f"{notebook}.ipynb",
                unfinished,
                notebook_values(notebook, values),
                cwd=NOTEBOOK_FOLDER,
                progress_bar=False,
                stdout_file=bar if verbosity >= 0 else None,
                stderr_file=sys.stderr if verbosity >= 0 else None,
                kernel_name="python3",
                extra_arguments=["--log-level=CRITICAL"],  # else a kernel reports its socket and interruptions
            )
            unfinished.replace(output)
    except PapermillExecutionError as error:
        unfinished.replace(output)
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from error
        where = f"{notebook}, cell {error.cell_index + 1}"
        for file, line in re.findall(r"notebooks/(\w+\.py):(\d+)", "\n".join(error.traceback))[-1:]:
            where += f", {file}, line {line}"  # a network or loss of the user's own
        message = f"{where}: {error.ename}: {error.evalue}\n  executed notebook: {show(output)}"
        raise (InputError if error.ename == "InputError" else NotebookFailed)(message) from error
    except DeadKernelError as error:
        message = f"{notebook}: the kernel died (out of memory, or killed); run the same command with --resume"
        raise NotebookFailed(message) from error
