"""What the Kaggle command line pushes: the package as a data set, each notebook as a kernel that uses it.

<out>/package/       the wheel with dataset-metadata.json, for `kaggle datasets create`
<out>/<notebook>/    the notebook with kernel-metadata.json, for `kaggle kernels push`
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from nerveceg_lib.errors import InputError
from nerveceg_lib.files import new_folder, storing, whole_folder, write_json
from nerveceg_lib.paths import STAGES, STUDIES
from nerveceg_lib.runner import NOTEBOOKS, REPOSITORY, notebook_parameters, resolve_parameters

COMPETITION = "ultrasound-nerve-segmentation"
ON_CPU = (STAGES[0], STAGES[5])  # GPU hours are rationed
SOURCE = ("nerveceg_lib", "pyproject.toml", "README.md", "LICENSE")  # what the wheel is made of


def write_kernels(user: str, out: Path, profile: str, overrides: dict[str, str]) -> list[str]:
    """Write a folder for the package and one a notebook to the new folder `out`; returns the commands that push them.

    `user` is the name in Kaggle's addresses. Parameters are set as `runner.run` sets them. Each kernel reads what the
    earlier ones wrote. Raises InputError for a name that Kaggle does not give.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]+", user):
        raise InputError(f"user: expected the name in your Kaggle profile's address, in small letters, found {user!r}")
    chosen, _ = resolve_parameters(profile, overrides)
    with storing(out), whole_folder(new_folder(out)) as folder:
        _write_package(user, folder / "package")
        for stage in (*STAGES, *STUDIES):
            _write_kernel(user, stage, chosen, folder / stage)
    pushes = [f"kaggle kernels push -p {out / stage}" for stage in STAGES]
    return [f"kaggle datasets create -p {out / 'package'}", *pushes]


def _write_package(user: str, folder: Path) -> None:
    with TemporaryDirectory() as copy:  # pip would build inside the repository
        for name in SOURCE:
            kind = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
            kind(REPOSITORY / name, Path(copy) / name)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--wheel-dir", str(folder), copy], check=True)
    write_json(
        folder / "dataset-metadata.json",
        {"title": "NerveCeg package", "id": f"{user}/nerveceg-package", "licenses": [{"name": "Apache 2.0"}]},
    )


def _write_kernel(user: str, stage: str, chosen: dict, folder: Path) -> None:
    folder.mkdir()
    parameters = {name: chosen[name] for name in notebook_parameters(stage)}
    notebook = load_notebook_node(str(NOTEBOOKS / f"{stage}.ipynb"))
    nbformat.write(parameterize_notebook(notebook, parameters), folder / f"{stage}.ipynb")
    earlier = STAGES[: STAGES.index(stage)] if stage in STAGES else STAGES[:1]  # a study reads what notebook 1 wrote
    write_json(
        folder / "kernel-metadata.json",
        {
            "id": f"{user}/{_slug(stage)}",
            "title": _title(stage),  # Kaggle derives the address from it
            "code_file": f"{stage}.ipynb",
            "language": "python",
            "kernel_type": "notebook",
            "is_private": True,
            "enable_gpu": stage not in ON_CPU,
            "enable_internet": True,  # for the packages that Kaggle's image lacks
            "competition_sources": [COMPETITION],
            "dataset_sources": [f"{user}/nerveceg-package"],
            "kernel_sources": [f"{user}/{_slug(before)}" for before in earlier],
            "model_sources": [],
        },
    )


def _title(stage: str) -> str:
    return f"NerveCeg {stage.replace('_', ' ')}"


def _slug(stage: str) -> str:
    return _title(stage).lower().replace(" ", "-")
