"""The notebook contract of every committed notebook, checked without running it."""

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


def test_is_valid_and_small(path):
    nbformat.validate(nbformat.read(path, 4))
    assert path.stat().st_size < 1_000_000


def test_was_executed_from_top_to_bottom_without_error(code):
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_has_outputs_that_nbval_compares_and_a_picture(code):
    compared = [c for c in code if c.outputs and "nbval-ignore-output" not in c.metadata.get("tags", [])]
    assert any(output.output_type == "stream" for cell in compared for output in cell.outputs)
    pictures = {"image/png", "image/jpeg"}
    assert any(pictures & set(output.get("data", {})) for cell in code for output in cell.outputs)


def test_leaves_no_progress_bar_and_no_warning_behind(code):
    assert not [o for cell in code for o in cell.outputs if o.output_type == "stream" and o.name == "stderr"]


def test_one_last_cell_checks_the_results(code):
    asserts = [n for n, cell in enumerate(code) if re.search("^assert ", cell.source, re.MULTILINE)]
    assert asserts == [len(code) - 1]
    assert "nbval-ignore-output" not in code[-1].metadata.get("tags", [])
    assert len(code[-1].outputs) == 1 and code[-1].outputs[0].text.count("\n") == 1


def test_no_printed_line_wraps(code):
    """At a page width of 1,100 px a line of output has room for about 115 characters."""
    printed = [o.text for cell in code for o in cell.outputs if o.output_type == "stream"]
    assert all(len(line) <= 115 for text in printed for line in text.splitlines())


def test_has_one_parameters_cell_that_papermill_reads(path, code):
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert tagged == code[:1], "the parameters come first, so that the set-up cell can use them"
    assert "runtime.check_parameters(globals())" in code[1].source
    statements = ast.parse(tagged[0].source).body
    assert all(isinstance(s, ast.AnnAssign) and isinstance(s.value, ast.Constant) for s in statements)
    read = papermill.inspect_notebook(path)
    assert list(read) == [s.target.id for s in statements]
    for statement in statements:
        entry = read[statement.target.id]
        assert type(statement.value.value).__name__ == statement.annotation.id == entry["inferred_type_name"]


def test_cells_fit_on_a_screen(code):
    assert all(len(cell.source.splitlines()) <= 50 for cell in code)


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
