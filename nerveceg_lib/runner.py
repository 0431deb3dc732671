"""Run the notebooks in order with papermill: one folder a run, a marker a finished stage."""

import ast
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import papermill
import yaml
from filelock import FileLock, Timeout
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from nerveceg_lib.errors import InputError
from nerveceg_lib.files import UNFINISHED, clear_unfinished, read_json, storing, write_json
from nerveceg_lib.paths import STAGES, STUDIES, artefact_root, run_dir, show
from nerveceg_lib.record import add_data, write_record

REPOSITORY = Path(__file__).resolve().parent.parent
NOTEBOOKS = REPOSITORY / "notebooks"
PROFILES = REPOSITORY / "params"


class StageFailed(RuntimeError):
    """A notebook stopped: the message names notebook, cell and error; `exit_code` is the process's."""

    def __init__(self, message: str, exit_code: int = 1):
        super().__init__(message)
        self.exit_code = exit_code


def run(profile: str, overrides: dict[str, str], only: list[str], resume: bool, loudness: int = 0) -> Path:
    """Run the stages and studies `only` (two-digit numbers; empty = all stages) and return the run's folder.

    Parameters are the notebooks' defaults, then `params/<profile>.yaml`, then `overrides` (YAML scalars).
    With `resume`, stages with a matching marker are skipped and training goes on from its last checkpoint. `loudness`:
    -1 a line a notebook, 0 also what notebooks print and the progress of long cells, 1 also all warnings of libraries.
    Raises InputError for unknown names and wrong types, StageFailed for the first notebook that fails.
    """
    chosen_stages = choose_stages(only)
    chosen, names = resolve_parameters(profile, overrides)
    os.environ["NERVECEG_RUNS"] = str(artefact_root())  # the kernels work in notebooks/
    os.environ["PYTHONWARNINGS"] = "default" if loudness > 0 else "ignore"  # of the kernels
    folder = run_dir(chosen["run"])
    folder.mkdir(parents=True, exist_ok=True)
    with _alone_in(folder):
        clear_unfinished(folder)
        record = write_record(folder, chosen, _library_hash())
        _run_stages(chosen_stages, chosen, names, folder, resume, loudness)
        add_data(record)
        _collect_metrics(folder)
    return folder


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go when this process ends, however it does."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"run: expected a run that nobody else works on, found {folder.name!r} in use") from error
    try:
        yield
    finally:
        lock.release()


def _run_stages(chosen_stages: list[str], chosen: dict, names: dict, folder: Path, resume: bool, loudness: int) -> None:
    fingerprints = [_library_hash() + _data_hash(chosen["data_dir"])]
    for stage in (*STAGES, *STUDIES):
        parameters = {name: chosen[name] for name in names[stage]}
        before = fingerprints[1] if stage in STUDIES else fingerprints[-1]  # a study reads what notebook 1 wrote
        fingerprints.append(_stage_hash(before, stage, parameters))
        if stage in chosen_stages:
            number = f"[{chosen_stages.index(stage) + 1}/{len(chosen_stages)}] {stage}"
            _run_stage(number, stage, parameters, folder, fingerprints[-1], resume, loudness)


def choose_stages(only: list[str]) -> list[str]:
    """The notebooks of these two-digit numbers, in order; all stages of the main job for none."""
    if unknown := sorted(set(only) - {stage[:2] for stage in (*STAGES, *STUDIES)}):
        raise InputError(f"--only: no notebook {unknown}, expected some of {[s[:2] for s in (*STAGES, *STUDIES)]}")
    return [stage for stage in (*STAGES, *STUDIES) if stage[:2] in only] if only else list(STAGES)


def resolve_parameters(profile: str, overrides: dict[str, str]) -> tuple[dict, dict[str, list[str]]]:
    """Values of all parameters under a profile and overrides (YAML scalars), and the names that each notebook takes.

    Raises InputError for unknown names and wrong types.
    """
    defaults = {stage: notebook_parameters(stage) for stage in (*STAGES, *STUDIES)}
    chosen = _merge(load_profile(profile), overrides, defaults)
    return chosen, {stage: list(parameters) for stage, parameters in defaults.items()}


def load_profile(profile: str) -> dict:
    """The parameters of `params/<profile>.yaml`, or of a YAML file given by path."""
    path = Path(profile) if profile.endswith((".yaml", ".yml")) else PROFILES / f"{profile}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in PROFILES.glob("*.yaml"))
        raise InputError(f"--profile: expected one of {known} or a YAML file, found {profile!r}")
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected YAML, found {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected `name: value` lines, found {type(content).__name__}")
    return content


def notebook_parameters(stage: str) -> dict[str, object]:
    """Names and defaults in the cell tagged `parameters` of a notebook."""
    found = papermill.inspect_notebook(NOTEBOOKS / f"{stage}.ipynb")
    return {name: ast.literal_eval(entry["default"]) for name, entry in found.items()}


def _merge(profile: dict, overrides: dict[str, str], defaults: dict[str, dict]) -> dict:
    merged = {name: value for parameters in defaults.values() for name, value in parameters.items()}
    for name, value in (profile | overrides).items():
        if name not in merged:
            raise InputError(f"{name}: no notebook has this parameter, expected one of {sorted(merged)}")
        wanted = type(merged[name])
        if name in overrides and wanted is not str:
            value = _scalar(name, value)
        if wanted is float and type(value) is int:
            value = float(value)
        if type(value) is not wanted:
            raise InputError(f"{name}: expected {wanted.__name__}, found {value!r} ({type(value).__name__})")
        merged[name] = value
    if merged["data_dir"] != "auto":
        merged["data_dir"] = str(Path(merged["data_dir"]).expanduser().absolute())
    return merged


def _scalar(name: str, text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{name}: expected a number, true or false, found {text!r}") from error


def _run_stage(
    number: str, stage: str, parameters: dict, folder: Path, fingerprint: str, resume: bool, loudness: int
) -> None:
    marker = folder / stage / "done.json"
    if resume and marker.exists() and read_json(marker)["fingerprint"] == fingerprint:
        print(f"{number}: done before, skipped", flush=True)
        return
    marker.unlink(missing_ok=True)
    print(f"{number}", flush=True)
    start = time.monotonic()
    if "resume" in parameters:
        parameters = parameters | {"resume": resume}
    _execute(stage, parameters, folder / f"{stage}.ipynb", loudness)
    seconds = time.monotonic() - start
    write_json(marker, {"fingerprint": fingerprint, "parameters": parameters, "seconds": round(seconds, 1)})
    print(f"{number}: done in {seconds:.0f} s", flush=True)


def _execute(stage: str, parameters: dict, output: Path, loudness: int) -> None:
    unfinished = output.with_name(UNFINISHED + output.name)  # papermill writes it anew after each cell
    try:
        with storing(output):
            papermill.execute_notebook(
                NOTEBOOKS / f"{stage}.ipynb",
                unfinished,
                parameters,
                cwd=NOTEBOOKS,
                progress_bar=sys.stderr.isatty() and loudness >= 0,
                stdout_file=sys.stdout if loudness >= 0 else None,
                stderr_file=sys.stderr if loudness >= 0 else None,
                kernel_name="python3",
                extra_arguments=["--log-level=ERROR"],  # else each kernel warns of its unencrypted local socket
            )
            unfinished.replace(output)
    except PapermillExecutionError as error:
        unfinished.replace(output)
        if error.ename == "KeyboardInterrupt":
            raise KeyboardInterrupt from error
        where = f"{stage}, cell {error.cell_index + 1}"
        message = f"{where}: {error.ename}: {error.evalue}\n  executed notebook: {show(output)}"
        raise StageFailed(message, 2 if error.ename == "InputError" else 1) from error
    except DeadKernelError as error:
        raise StageFailed(f"{stage}: the kernel died (out of memory, or killed); go on with --resume") from error


def _library_hash() -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted((REPOSITORY / "nerveceg_lib").rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _data_hash(data_dir: str) -> str:
    """Names, sizes and times of the data files, so that changed data is noticed without reading them."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(Path(data_dir).glob("t*/*.tif")) if data_dir != "auto" else []:
        digest.update(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def _stage_hash(previous: str, stage: str, parameters: dict) -> str:
    """Chained over the stages, because each reads what the ones before it wrote."""
    notebook = nbformat.read(NOTEBOOKS / f"{stage}.ipynb", as_version=4)
    code = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    shaping = {name: value for name, value in parameters.items() if name != "resume"}
    content = json.dumps([previous, code, shaping], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _collect_metrics(folder: Path) -> None:
    found = {path.parent.name: read_json(path) for path in sorted(folder.glob("*/metrics.json"))}
    write_json(folder / "metrics.json", found)
