"""Dask workers: of a cluster by its address, or started on this machine."""

from collections.abc import Iterator
from contextlib import contextmanager

from nerveceg_lib.errors import InputError
from nerveceg_lib.runtime import cores, uninterrupted

TIMEOUT = 20  # seconds that a scheduler has to answer


@contextmanager
def connect(scheduler: str, workers: int) -> Iterator:
    """A `distributed.Client` of the `scheduler` at an address, or of `workers` local processes, which share the
    cores evenly and end with the context; None if neither is asked for.

    Raises InputError if no scheduler answers.
    """
    if not scheduler and workers < 1:
        yield None
        return
    from distributed import Client, LocalCluster

    if scheduler:
        try:
            client = Client(scheduler, timeout=TIMEOUT)
        except (OSError, ValueError) as error:
            raise InputError(f"--scheduler: no Dask scheduler answers at {scheduler!r} ({error})") from error
        with client:
            yield client
        return
    environment = {"OMP_NUM_THREADS": str(max(1, cores() // workers))}
    local = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None, "env": environment}
    with uninterrupted():
        cluster = LocalCluster(**local)
    with cluster, Client(cluster) as client:
        yield client
