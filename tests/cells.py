"""A notebook's cells as they stand, in this process.

A kernel and its imports cost more than all cells at this size, so kernels are left to test_pipeline.
"""

from IPython.core.inputtransformer2 import TransformerManager
from matplotlib import pyplot as plt
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from nerveceg_lib import runner
from tests.conftest import REPOSITORY

TINY = {**runner.load_profile(str(REPOSITORY / "tests" / "tiny.yaml")), "segmenter_epochs": 1}


def run_cells(stage: str, **parameters):
    notebook = load_notebook_node(str(runner.NOTEBOOKS / f"{stage}.ipynb"))
    given = {**TINY, **parameters}
    known = {name: given[name] for name in runner.notebook_parameters(stage) if name in given}
    cells = parameterize_notebook(notebook, known, kernel_name="python3", language="python").cells
    names = {"__name__": "__main__"}
    for place, cell in enumerate(cells):
        if cell.cell_type == "code":
            code = TransformerManager().transform_cell(cell.source)
            exec(compile(code, f"{stage}, cell {place}", "exec"), names)
    plt.close("all")
