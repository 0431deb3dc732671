"""nbval set-up: what is not compared, and no waiting for a kernel that has died."""

import time
from queue import Empty

from nbval.kernel import RunningKernel

_get_message = RunningKernel.get_message


def pytest_collectstart(collector):
    if getattr(collector, "path", None) is not None and collector.path.suffix == ".ipynb":
        collector.skip_compare += ("stderr", "text/html", "image/svg+xml")


def _get_message_while_alive(self, stream, timeout=None):
    """Ask in short turns: nbval would wait out the whole cell time-out for a dead kernel's answer."""
    end = time.monotonic() + (timeout or 0)
    while True:
        left = end - time.monotonic()
        try:
            return _get_message(self, stream, timeout=max(0.0, min(left, 5.0)))
        except Empty:
            if time.monotonic() >= end or not self.is_alive():
                raise


RunningKernel.get_message = _get_message_while_alive
