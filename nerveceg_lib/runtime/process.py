"""Set up one process for repeatable and fast CPU work. Call it before anything imports torch."""

import ctypes
import os
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
SECONDS_BETWEEN_LINES = 30.0
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def configure(seed: int) -> None:
    """Seed Python, NumPy and torch, ask for deterministic algorithms, and tune the CPU.

    torch gets $OMP_NUM_THREADS threads, or else one per core. Processes that run side by side should have one core
    each, because otherwise they slow each other down several times over.

    Between two operations OpenMP threads spin for about ten microseconds and then sleep. Longer spinning would block a
    core that other processes want; sleeping at once would halve the speed of EfficientNet, whose many operations are
    short.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # torch's profiler announces itself on stderr and warns of memory that was allocated before it started
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    _keep_freed_memory()
    import numpy as np
    import torch

    # Lightning could do this, but its import would cost the notebooks that do not train four seconds each
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries may draw from the global generator
    torch.manual_seed(seed)
    # the same as use_deterministic_algorithms, without its import of the compiler (two seconds per process)
    torch.set_deterministic_debug_mode("warn")
    # filling fresh tensors only exposes reads of uninitialised memory, and costs a pass over each of them
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property, added late
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 0)) or cores())


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reported(items: Iterable[Item], description: str, total: int) -> Iterator[Item]:
    """Yield `items`, and print how many of `total` are done every half minute; short work prints nothing.

    A progress bar would stay behind in the stored output of a notebook.
    """
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() > next_line:
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            print(f"{description}: {number} of {total}", flush=True)


def ahead(work: Callable[[Item], Result], items: Iterable[Item], threads: int = 1, depth: int = 2) -> Iterator[Result]:
    """Yield `work(item)` for each item in order, with at most `depth` more items under way in `threads`."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        # without waiting, because the garbage collector may close this generator in one of its own threads
        pool.shutdown(wait=False, cancel_futures=True)


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks, because returning each activation to the kernel costs a third of a training step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_TOP_PAD, 1 << 26)
