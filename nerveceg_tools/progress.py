"""One progress bar for all notebooks of a run, with the time left."""

import re
import sys
from collections.abc import Mapping
from io import StringIO

from tqdm import tqdm

EPOCH = re.compile(r"^epoch \d+/", re.MULTILINE)  # how a training reports a finished epoch


class RunBar:
    """A bar in the terminal for a whole run, to which papermill hands what the notebooks print.

    A step is one epoch of notebook 2 or 3, or all else that a notebook does. The time left is estimated as if all steps
    took equally long, so it is a rough figure until the first training has ended.

    steps: notebook -> its number of steps.
    visible: whether to draw the bar; what notebooks print is printed in any case.
    """

    def __init__(self, steps: Mapping[str, int], visible: bool):
        self._steps, self._passed = steps, 0
        layout = "run {percentage:3.0f}% |{bar}| {elapsed} passed, about {remaining} left"
        file = sys.stderr if visible else StringIO()
        self._bar = tqdm(total=sum(steps.values()), bar_format=layout, smoothing=0, leave=False, file=file)
        self.close = self._bar.close

    def write(self, text: str) -> None:
        """Print text above the bar, and count the epochs that it reports."""
        tqdm.write(text, end="")
        most = max(0, self._bar.total - self._bar.n - 1)  # studies report more epochs than they have steps
        self._bar.update(min(len(EPOCH.findall(text)), most))

    def flush(self) -> None:
        """Do what papermill asks of a file."""
        sys.stdout.flush()

    def skip(self, notebook: str) -> None:
        """Take a notebook that was done before out of the bar."""
        self._bar.total -= self._steps[notebook]

    def finish(self, notebook: str) -> str:
        """Count all steps of a notebook, and return the time left as text; "" after the last notebook."""
        self._passed += self._steps[notebook]
        self._bar.update(self._passed - self._bar.n)
        state = self._bar.format_dict
        left = state["elapsed"] / state["n"] * (state["total"] - state["n"])
        return f", about {left:.0f} s left" if left else ""
