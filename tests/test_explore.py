"""Explorers without a browser; `test_pipeline` moves those of the notebooks in JupyterLab."""

import psutil
import pytest
from matplotlib.figure import Figure

from nerveceg_tools import explore


def test_only_an_open_notebook_has_widgets(monkeypatch):
    assert not explore.has_widgets()
    monkeypatch.setenv("JPY_SESSION_NAME", "/notebooks/01.ipynb")
    assert explore.has_widgets()
    monkeypatch.setattr(psutil.Process, "environ", lambda process: {"JPY_SESSION_NAME": "/notebooks/01.ipynb"})
    assert not explore.has_widgets(), "papermill was started from a cell of an open notebook"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    assert explore.has_widgets()


def controls(drawn):
    """A menu, a list that depends on it, and a slider; what is drawn is noted in `drawn`."""

    def draw(**values):
        drawn.append(values)
        return Figure()

    letters = {"a": ["x", "y"], "b": [("the letter y", "y"), "z"]}
    return draw, {"kind": ["a", "b"], "letter": lambda kind: letters[kind], "size": (0, 10, 1, 3)}


def test_a_batch_run_draws_the_first_values(tmp_path):
    drawn = []
    draw, given = controls(drawn)
    explore.explore(draw, tmp_path / "figure.png", **given)
    assert drawn == [{"kind": "a", "letter": "x", "size": 3}] and (tmp_path / "figure.png").exists()


def test_a_moved_control_draws_once_with_the_choices_that_are_left():
    drawn = []
    explorer = explore.Explorer(*controls(drawn))
    explorer.show()
    explorer.boxes["letter"].value = "y"
    explorer.boxes["kind"].value = "b"  # which offers y, too
    explorer.boxes["letter"].value = "z"
    explorer.boxes["kind"].value = "a"  # which does not offer z
    explorer.boxes["size"].value = 7
    assert [tuple(values.values()) for values in drawn] == [
        ("a", "x", 3), ("a", "y", 3), ("b", "y", 3), ("b", "z", 3), ("a", "x", 3), ("a", "x", 7),
    ]  # fmt: skip


def test_after_a_figure_that_cannot_be_drawn_the_next_one_is():
    drawn = []
    draw, given = controls(drawn)

    def fails_for_y(**values):
        assert values["letter"] != "y"
        return draw(**values)

    explorer = explore.Explorer(fails_for_y, given)
    explorer.show()
    with pytest.raises(AssertionError):  # a kernel shows it instead
        explorer.boxes["letter"].value = "y"
    explorer.boxes["letter"].value = "x"
    assert len(drawn) == 2
