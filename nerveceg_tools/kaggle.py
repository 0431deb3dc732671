"""Folders for the Kaggle command line: the package as a data set, and each notebook as a kernel that uses it.

<out>/package/       wheel, stored results and dataset-metadata.json, for `kaggle datasets create`
<out>/<notebook>/    the notebook with kernel-metadata.json, for `kaggle kernels push`
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat

from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import NOTEBOOKS, STUDIES
from nerveceg_lib.runtime.io import new_folder, storing, whole_folder, write_json
from nerveceg_tools.run import NOTEBOOK_FOLDER, REPOSITORY, parameterised, read_by, resolve_parameters

COMPETITION = "ultrasound-nerve-segmentation"
ON_CPU = (NOTEBOOKS[0], NOTEBOOKS[5])  # GPU hours are rationed
SOURCE = ("nerveceg_lib", "nerveceg_tools", "notebooks", "params", "pyproject.toml", "README.md", "LICENSE")


def write_kernels(user: str, out: Path, profile: str, overrides: Mapping[str, object]) -> list[str]:
    """Write a folder for the package and one for each notebook, and return the commands that push them.

    user: the name in Kaggle's addresses.
    out: a new or empty folder.
    profile, overrides: the parameters, as for `run`.

    Each kernel reads what the earlier ones wrote. Raises InputError for a user name that Kaggle does not give, and
    where the kit was installed without a clone.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]+", user):
        raise InputError(f"user: expected the name in your Kaggle profile's address, in small letters, found {user!r}")
    if missing := [name for name in SOURCE if not (REPOSITORY / name).exists()]:
        raise InputError(f"kaggle: expected a clone to build the package from, found {REPOSITORY} without {missing}")
    values = resolve_parameters(profile, overrides)
    with storing(out), whole_folder(new_folder(out)) as folder:
        _write_package(user, folder / "package")
        for notebook in (*NOTEBOOKS, *STUDIES):
            _write_kernel(user, notebook, values, folder / notebook)
    pushes = [f"kaggle kernels push -p {out / notebook}" for notebook in NOTEBOOKS]
    return [f"kaggle datasets create -p {out / 'package'} --dir-mode zip", *pushes]


def _write_package(user: str, folder: Path) -> None:
    with TemporaryDirectory() as copy:  # pip would build inside the repository
        for name in SOURCE:
            copy_any = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
            copy_any(REPOSITORY / name, Path(copy) / name)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--wheel-dir", str(folder), copy], check=True)
    shutil.copytree(NOTEBOOK_FOLDER / "results", folder / "results")  # notebook 7 reads these tables
    metadata = {"title": "NerveCeg package", "id": f"{user}/nerveceg-package", "licenses": [{"name": "Apache 2.0"}]}
    write_json(folder / "dataset-metadata.json", metadata)


def _write_kernel(user: str, notebook: str, values: dict, folder: Path) -> None:
    folder.mkdir()
    nbformat.write(parameterised(notebook, values), folder / f"{notebook}.ipynb")
    write_json(
        folder / "kernel-metadata.json",
        {
            "id": f"{user}/{_slug(notebook)}",
            "title": f"NerveCeg {notebook.replace('_', ' ')}",  # Kaggle derives the id's second part from it
            "code_file": f"{notebook}.ipynb",
            "language": "python",
            "kernel_type": "notebook",
            "is_private": True,
            "enable_gpu": notebook not in ON_CPU,
            "enable_internet": True,  # for packages that Kaggle's image lacks
            "competition_sources": [COMPETITION],
            "dataset_sources": [f"{user}/nerveceg-package"],
            "kernel_sources": [f"{user}/{_slug(earlier)}" for earlier in read_by(notebook)],
        },
    )


def _slug(notebook: str) -> str:
    return f"nerveceg-{notebook.replace('_', '-')}"
