"""Explorers: menus and sliders that redraw a figure in Jupyter, and the figure alone where nobody can move them."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import psutil
from IPython import get_ipython
from IPython.display import clear_output, display
from matplotlib.figure import Figure

from nerveceg_lib import plots
from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.folders import artefact_root, run_folder

Choices = list  # of values, or of (label, value)
Slider = tuple[float, float, float, float]  # lowest, highest, step, first value


def explore(draw: Callable[..., Figure], path: Path, **controls: Choices | Slider | Callable[..., Choices]) -> None:
    """Show the figure that `draw` returns, with a menu or slider for each of its arguments.

    Args:
        draw: Called with the values of all controls, by name.
        path: PNG file of the figure for the first values.
        controls: For each argument of `draw`, the choices of a menu, the range of a slider, or a function that is
            called with the values of the controls before it and returns the choices that these leave.

    papermill, nbval and nbconvert get the figure for the first values and no controls.
    """
    if has_widgets():
        Explorer(draw, controls).show()
        return
    values: dict[str, object] = {}
    for name, control in controls.items():
        values[name] = control[3] if isinstance(control, tuple) else labelled_choices(control, values)[0][1]
    plots.show(draw(**values), path)


def open_run(run: str, options: Sequence[str] = ()) -> int:
    """Open the executed notebooks of a run in JupyterLab, with the run's parameters, and return its exit code.

    options: JupyterLab's own, such as "--no-browser". Raises InputError for a run without executed notebooks.
    """
    from nerveceg_tools.run import NOTEBOOK_FOLDER  # imports papermill, which notebooks need not wait for

    folder = run_folder(run)
    if not any(folder.glob("*.ipynb")):
        raise InputError(f"run: expected one with executed notebooks, found none in {folder}; `run` executes them")
    places = {
        "NERVECEG_RUNS": str(artefact_root()),  # kernels work in the folder of their notebook
        "NERVECEG_RESULTS": str(NOTEBOOK_FOLDER / "results"),
        # networks and losses of one's own
        "PYTHONPATH": os.pathsep.join([str(NOTEBOOK_FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "jupyterlab", str(folder), *options]
    return subprocess.run(command, env=os.environ | places).returncode


def has_widgets() -> bool:
    """Return whether this kernel belongs to a notebook that somebody has open, and not to a batch run."""
    name = os.environ.get("JPY_SESSION_NAME")  # JupyterLab and Jupyter Notebook name the open notebook
    return (
        (name is not None and name != _environment_of_parent().get("JPY_SESSION_NAME"))  # else a cell started papermill
        or "google.colab" in sys.modules
        or os.environ.get("KAGGLE_KERNEL_RUN_TYPE") == "Interactive"
        or "__vsc_ipynb_file__" in getattr(get_ipython(), "user_ns", {})
    )


def _environment_of_parent() -> dict[str, str]:
    try:
        return psutil.Process().parent().environ()
    except (psutil.Error, AttributeError):  # of another user, or gone
        return {}


def labelled_choices(control: Choices | Callable[..., Choices], values: dict) -> list[tuple[str, object]]:
    """Return the labels and values that a control offers, given the values of those before it."""
    choices = control(**values) if callable(control) else control
    return [choice if isinstance(choice, tuple) else (str(choice), choice) for choice in choices]


class Explorer:
    """The controls and the figure, which is drawn again when one of them changes."""

    def __init__(self, draw: Callable[..., Figure], controls: dict):
        import ipywidgets  # takes half a second to import

        self.draw, self.controls, self.busy = draw, controls, False
        self.figure = Figure()  # until the first is drawn
        self.output = ipywidgets.Output()
        self.boxes: dict = {}
        values: dict = {}
        for name, control in controls.items():
            label = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
            if isinstance(control, tuple):
                low, high, step, value = control
                kind = ipywidgets.IntSlider if isinstance(step, int) else ipywidgets.FloatSlider
                box = kind(value, min=low, max=high, step=step, continuous_update=False, **label)
            else:  # choices that change stand in an open list, so that one sees them change
                kind = ipywidgets.Select if callable(control) else ipywidgets.Dropdown
                box = kind(options=labelled_choices(control, values), **label)
            self.boxes[name], values[name] = box, box.value
        for box in self.boxes.values():
            box.observe(self.redraw, "value")
        row = ipywidgets.HBox([*self.boxes.values()], layout={"flex_flow": "row wrap"})
        self.panel = ipywidgets.VBox([row, self.output])

    def show(self) -> None:
        """Display the controls with the figure; the figure alone where the stored notebook is read without a kernel."""
        self.redraw()
        picture = BytesIO()
        self.figure.savefig(picture, format="png")
        display(self.panel._repr_mimebundle_() | {"image/png": b64encode(picture.getvalue()).decode()}, raw=True)

    def offer(self, box, choices: list[tuple[str, object]]) -> None:
        """Replace the choices of a list; the chosen one stays chosen if it is still among them."""
        chosen = box.value
        box.options = choices
        box.value = chosen if chosen in [value for _, value in choices] else choices[0][1]

    def redraw(self, change: object = None) -> None:
        """Offer the choices that the other values leave, keep a chosen one that is still among them, and draw."""
        if self.busy:  # this method has changed the choices itself
            return
        with self.output:  # which also shows errors
            clear_output(wait=True)
            values: dict = {}
            try:
                self.busy = True
                for name, box in self.boxes.items():
                    if callable(self.controls[name]):
                        self.offer(box, labelled_choices(self.controls[name], values))
                    values[name] = box.value
            finally:
                self.busy = False
            self.figure = self.draw(**values)
            plt.close(self.figure)
            display(self.figure)
