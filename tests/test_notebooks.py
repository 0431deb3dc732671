"""What every committed notebook must be, without running it."""

import ast
import json
import re

import nbformat
import papermill
import pytest

from tests.conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def code(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def test_all_six_are_here():
    assert [path.stem[:2] for path in NOTEBOOKS][:6] == ["01", "02", "03", "04", "05", "06"]


def test_is_valid_and_small(path):
    nbformat.validate(nbformat.read(path, 4))
    assert path.stat().st_size < 1_000_000


def test_was_executed_from_top_to_bottom_without_error(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_has_outputs_that_nbval_compares_and_a_picture(code):
    compared = [c for c in code if c.outputs and "nbval-ignore-output" not in c.metadata.get("tags", [])]
    assert any(output.output_type == "stream" for cell in compared for output in cell.outputs)
    assert any("image/png" in o.get("data", {}) for cell in code for o in cell.outputs)


def test_has_one_parameters_cell_that_papermill_reads(path, code):
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    statements = ast.parse(tagged[0].source).body
    assert all(isinstance(s, ast.AnnAssign) and isinstance(s.value, ast.Constant) for s in statements)
    read = papermill.inspect_notebook(path)
    assert list(read) == [s.target.id for s in statements]
    for statement in statements:
        entry = read[statement.target.id]
        assert type(statement.value.value).__name__ == statement.annotation.id == entry["inferred_type_name"]


def test_cells_are_short_and_define_no_class(code):
    for cell in code:
        assert len(cell.source.splitlines()) <= 25
        assert "\nclass " not in f"\n{cell.source}"


def test_outputs_hold_no_widget_and_no_machine_path(code):
    stored = re.sub(r'"image/\w+": "[^"]*"', "", json.dumps([cell.outputs for cell in code]))  # base64 may spell a path
    assert "widget" not in stored
    assert not re.search(r"/(root|home|work|Users|tmp)/", stored)


def test_begins_and_ends_as_agreed(path):
    cells = nbformat.read(path, 4).cells
    assert cells[0].source.startswith(f"# {int(path.stem[:2])} · ")
    for word in ("**Question:**", "reads", "writes", "time", "full run"):
        assert word in cells[0].source
    assert "## Takeaways" in cells[-1].source and "**Exercise.**" in cells[-1].source
    link = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", cells[-1].source)
    assert link and (path.parent / link[0]).exists()
