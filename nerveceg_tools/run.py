"""Run the notebooks in order with papermill: one folder for each run, one marker for each finished notebook."""

import difflib
import linecache
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
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

from nerveceg_lib.runtime.errors import InputError, one_of
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES, artefact_root, find_competition_data, run_folder, show
from nerveceg_lib.runtime.io import UNFINISHED, clear_unfinished, matches, read_json, storing, write_json
from nerveceg_lib.runtime.parameters import typed
from nerveceg_tools.provenance import digest, library_hash, recorded, stamp

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOK_FOLDER = REPOSITORY / "notebooks"
PROFILES = REPOSITORY / "params"
DEFAULTS = "demo"  # the profile that changes nothing: the notebooks' defaults are the demo
NAMES = ("data", "classifier", "segmenter", "inference", "explain", "submission", "bias", "architectures")
SECTIONS = dict(zip(NAMES, (*NOTEBOOKS, *STUDIES), strict=True))  # section of a profile -> notebook
SECTION_OF = {notebook: section for section, notebook in SECTIONS.items()}
SHARED = ("run", "data_dir", "seed", "fold", "precision", "devices", "num_nodes", "strategy")  # on top of a profile
PATHS = {"data_dir": "auto", "submission.masks_csv": ""}  # kernels work in another folder; the value is no path


class NotebookFailed(RuntimeError):
    """A notebook stopped, and not because of bad input. The message names notebook, cell and error."""


def run(profile: str, overrides: Mapping[str, object], only: str, resume: bool, verbosity: int = 0) -> Path:
    """Run notebooks and return the run's folder.

    profile, overrides: the parameters, see `resolve_parameters`.
    only: two-digit numbers of the notebooks to run, such as "03,04"; "" for the six main ones.
    resume: skip notebooks that are finished with the same code, parameters and data, and continue interrupted
        training from its last checkpoint.
    verbosity: -1 prints one line per notebook, 0 also what notebooks print, 1 also all warnings of libraries.

    Raises InputError for wrong parameters and for bad input that a notebook finds, else NotebookFailed for the first
    notebook that fails.
    """
    notebooks = choose_notebooks(only)
    values = resolve_parameters(profile, overrides)
    if NOTEBOOKS[0] in notebooks:
        find_competition_data(str(values["data_dir"]))  # before the notebooks of an earlier run are replaced
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
    states = _states(values)
    for number, notebook in enumerate(notebooks, start=1):
        title = f"[{number}/{len(notebooks)}] {notebook}"
        done, started = folder / notebook / "done.json", folder / notebook / "started.json"
        if resume and matches(done, states[notebook]):
            print(f"{title}: done before, skipped", flush=True)
            continue
        print(title, flush=True)
        start = time.monotonic()
        # what was begun with other code, parameters or data is not continued
        interrupted = {"resume": resume and matches(started, states[notebook])}
        _mark_started(folder / notebook, states[notebook])
        _execute(notebook, values | interrupted, folder / f"{notebook}.ipynb", verbosity)
        started.replace(done)
        print(f"{title}: done in {time.monotonic() - start:.0f} s", flush=True)
    metrics = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/metrics.json"))}
    write_json(folder / "metrics.json", metrics)


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
    """Return the notebooks whose files `notebook` reads: those before it, and for the studies only the first."""
    return NOTEBOOKS[: NOTEBOOKS.index(notebook)] if notebook in NOTEBOOKS else NOTEBOOKS[:1]


def resolve_parameters(profile: str, overrides: Mapping[str, object]) -> dict[str, object]:
    """Return the values of all parameters by name: shared ones as `seed`, all others as `segmenter.epochs`.

    Values are the notebooks' defaults, replaced by those of `profile` (a name in params/ or a YAML file), replaced by
    `overrides`. Raises InputError that lists all unknown names and wrong values.
    """
    known = default_parameters()
    values = known | known_and_typed({**load_profile(profile), **overrides}, known) | {"resume": False}
    for name, no_path in PATHS.items():
        if values.get(name, no_path) != no_path:
            values[name] = str(Path(str(values[name])).expanduser().absolute())
    return values


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
    return {name: default for name, default in parameters.items() if not name.startswith("__")}


def read_notebook(notebook: str) -> NotebookNode:
    """Return one of the kit's notebooks as papermill reads it."""
    return load_notebook_node(str(NOTEBOOK_FOLDER / f"{notebook}.ipynb"))


def notebook_values(notebook: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters that one notebook takes, by their local names, out of all `values`."""
    return {name: values[_full_name(SECTION_OF[notebook], name)] for name in notebook_parameters(notebook)}


def _full_name(section: str, name: str) -> str:
    return name if name in (*SHARED, "resume") else f"{section}.{name}"


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
    """Return nested parameters of a YAML file by their full names: {segmenter: {epochs: 4}} -> segmenter.epochs."""
    if dotted := [name for name in nested if "." in str(name)]:
        section, _, name = str(dotted[0]).partition(".")
        raise InputError(f"{dotted[0]}: expected nested names in a file, such as `{section}: {{{name}: ...}}`")
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
    return converted


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
    os.environ |= {"MPLBACKEND": "Agg", "NERVECEG_RUNS": str(artefact_root())}
    _mark_started(run_folder(str(values["run"])) / SECTIONS[name], _states(values)[SECTIONS[name]])
    os.chdir(NOTEBOOK_FOLDER)
    sys.path.insert(0, str(NOTEBOOK_FOLDER))  # kernels find networks of one's own there
    with open(os.devnull, "w") as silence:
        first = getattr(rank_zero_only, "rank", 0) == 0  # only the first process prints
        with redirect_stdout(sys.stdout if first else silence), redirect_stderr(sys.stderr if first else silence):
            run_cells(SECTIONS[name], values, until="train")


def _states(values: Mapping[str, object]) -> dict[str, dict]:
    """Return what shapes the result of each notebook: library, data, and code and parameters up to the notebook."""
    folder = Path(str(values["data_dir"]))  # no such folder for "auto": the phantom is part of the library's hash
    files = [path for pattern in ("*.csv", "train/*", "test/*") for path in sorted(folder.glob(pattern))]
    shared = {"library": library_hash(), "data": stamp(files)}
    own = {}
    for notebook in SECTIONS.values():
        code = digest([cell.source for cell in read_notebook(notebook).cells if cell.cell_type == "code"])
        own[notebook] = {"code": code, "parameters": notebook_values(notebook, values)}
    return {notebook: shared | {name: own[name] for name in (*read_by(notebook), notebook)} for notebook in own}


def _execute(notebook: str, values: dict, output: Path, verbosity: int) -> None:
    unfinished = output.with_name(UNFINISHED + output.name)  # papermill writes it again after each cell
    try:
        with storing(output):
            papermill.execute_notebook(
                NOTEBOOK_FOLDER / f"{notebook}.ipynb",
                unfinished,
                notebook_values(notebook, values),
                cwd=NOTEBOOK_FOLDER,
                progress_bar=sys.stderr.isatty() and verbosity >= 0,
                stdout_file=sys.stdout if verbosity >= 0 else None,
                stderr_file=sys.stderr if verbosity >= 0 else None,
                kernel_name="python3",
                extra_arguments=["--log-level=ERROR"],  # else each kernel warns of its unencrypted local socket
            )
            unfinished.replace(output)
    except PapermillExecutionError as error:
        unfinished.replace(output)
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from error
        where = f"{notebook}, cell {error.cell_index + 1}"
        message = f"{where}: {error.ename}: {error.evalue}\n  executed notebook: {show(output)}"
        raise (InputError if error.ename == "InputError" else NotebookFailed)(message) from error
    except DeadKernelError as error:
        message = f"{notebook}: the kernel died (out of memory, or killed); run the same command with --resume"
        raise NotebookFailed(message) from error
