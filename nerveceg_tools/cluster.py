"""Dask workers, either of a cluster at an address or started on this machine, and how processes are started safely."""

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker

from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.process import cores

TIMEOUT = 20  # seconds that a scheduler has to answer


@contextmanager
def connect(scheduler: str, workers: int) -> Iterator:
    """Connect a `distributed.Client` to the scheduler at an address, or to `workers` local processes.

    Local workers share the cores evenly and end with the context. The client is None if neither is asked for. Raises
    InputError if no scheduler answers.
    """
    if not scheduler and workers < 1:
        yield None
        return
    from distributed import Client

    environment = {"OMP_NUM_THREADS": str(max(1, cores() // max(1, workers)))}
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "env": environment}
    local["silence_logs"] = logging.CRITICAL  # failed tasks are reported by their caller
    with ExitStack() as stack:
        try:
            with uninterrupted():
                client = stack.enter_context(Client(scheduler, timeout=TIMEOUT) if scheduler else Client(**local))
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler: no Dask scheduler answers at {scheduler!r} ({error})") from error
        yield client


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Start processes inside that Ctrl-C does not reach: a terminal sends it to all, and this process ends the others.

    A Ctrl-C or SIGTERM to this process waits until the block is over, because what is half started cannot be ended.
    """
    if threading.current_thread() is not threading.main_thread() or sys.platform == "win32":
        yield  # only the main thread may set handlers, and Windows has no signals to block
        return
    came: list[int] = []
    stops = signal.SIGINT, signal.SIGTERM
    handlers = {kind: signal.signal(kind, lambda number, frame: came.append(number)) for kind in stops}
    resource_tracker.ensure_running()  # its start would unblock them again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # threads and processes that start now inherit it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for kind, handler in handlers.items():
            signal.signal(kind, handler)
        for number in came:
            signal.raise_signal(number)
