"""Dask workers, either of a cluster at an address or started on this machine."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from nerveceg_lib.runtime.errors import InputError
from nerveceg_lib.runtime.process import cores, uninterrupted

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
    try:
        with uninterrupted():
            client = Client(scheduler, timeout=TIMEOUT) if scheduler else Client(**local)
    except (OSError, ValueError) as error:
        raise InputError(f"--scheduler: no Dask scheduler answers at {scheduler!r} ({error})") from error
    with client:
        yield client
