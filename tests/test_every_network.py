"""Every network by name through the notebooks that meet it: the cells as they stand, in this process.

A kernel and its imports cost more than all cells at this size, so kernels are left to test_pipeline.
"""

import json
import os
import shutil
from itertools import cycle, islice

import pytest
from matplotlib import pyplot as plt
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from nerveceg_lib import paths, runner
from nerveceg_lib.models import CLASSIFIERS, SEGMENTERS
from nerveceg_lib.submission import validate_submission
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.slow
TINY = {**runner.load_profile(str(REPOSITORY / "tests" / "tiny.yaml")), "segmenter_epochs": 1}


def run_cells(stage: str, **parameters):
    notebook = load_notebook_node(str(runner.NOTEBOOKS / f"{stage}.ipynb"))
    given = {**TINY, **parameters}
    known = {name: given[name] for name in runner.notebook_parameters(stage) if name in given}
    cells = parameterize_notebook(notebook, known, kernel_name="python3", language="python").cells
    names = {"__name__": "__main__"}
    for place, cell in enumerate(cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{stage}, cell {place}", "exec"), names)
    plt.close("all")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NERVECEG_RUNS", str(root))
        patch.chdir(runner.NOTEBOOKS)
        run_cells(paths.STAGES[0])
    return root


def pairs():
    """All names of both registries; the shorter one begins anew."""
    count = max(len(CLASSIFIERS), len(SEGMENTERS))
    return list(islice(zip(cycle(CLASSIFIERS), cycle(SEGMENTERS), strict=False), count))


@pytest.mark.parametrize(("classifier", "segmenter"), pairs())
def test_network_goes_through_the_notebooks(classifier, segmenter, prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path, copy_function=os.link, dirs_exist_ok=True)
    monkeypatch.setenv("NERVECEG_RUNS", str(tmp_path))
    monkeypatch.chdir(runner.NOTEBOOKS)
    for stage in paths.STAGES[1:]:
        run_cells(stage, classifier_model=classifier, segmenter_model=segmenter)
    folder = tmp_path / TINY["run"]
    trained = [json.loads(path.read_text())["model"] for path in sorted(folder.glob("0[23]*/*er.json"))]
    assert trained == [classifier, segmenter]
    data = next(tmp_path.glob("phantom-*"))
    validate_submission(folder / paths.STAGES[5] / "submission.csv", data / "sample_submission.csv")
    assert len(list((folder / paths.STAGES[4]).glob("*.png"))) >= 2
