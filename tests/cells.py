"""A notebook's cells in this process: a kernel and its imports would cost more than all cells at this size."""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from IPython.core.inputtransformer2 import TransformerManager
from matplotlib import pyplot as plt
from papermill.iorw import load_notebook_node

from nerveceg_tools import run
from tests.conftest import REPOSITORY

PROFILE = str(REPOSITORY / "tests" / "tiny.yaml")
TINY = run.resolve_parameters(PROFILE, {"segmenter.epochs": 1})  # values by full names, such as TINY["data.folds"]


def run_cells(notebook: str, until: str = "", **changes: object) -> None:
    """Execute a notebook with TINY and `changes` by full names: run_cells(name, seed=1, **{"segmenter.epochs": 2}).

    Figures are made but saved as empty files: to render them takes longer than most trainings at this size.
    """
    with mock.patch("nerveceg_lib.plots.show", lambda figure, path: Path.touch(path)):
        run.run_cells(notebook, TINY | changes, until)
    plt.close("all")


def definitions(notebook: str, **names: object) -> SimpleNamespace:
    """Return what the cells tagged `definitions` define; `names` are known to them, as are the notebook's imports."""
    for cell in load_notebook_node(str(run.NOTEBOOK_FOLDER / f"{notebook}.ipynb")).cells:
        source = cell.source
        if "find_spec" in source and cell.cell_type == "code":  # of the set-up cell only the imports
            source = "\n".join(line for line in source.splitlines() if line.startswith(("from ", "import ")))
        elif "definitions" not in cell.metadata.get("tags", []):
            continue
        exec(TransformerManager().transform_cell(source), names)
    return SimpleNamespace(**names)
