"""Set up one process for repeatable and fast CPU work. Call it before anything imports torch."""

import ctypes
import os
import random
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def configure(seed: int, threads: int = 0) -> None:
    """Seed Python, NumPy and torch, ask for deterministic algorithms, and tune the CPU.

    `threads` is the number of torch threads, 0 = $OMP_NUM_THREADS or all cores; give processes that run side
    by side one core each, for oversubscribed ones slow each other several times over. Between two
    operations OpenMP threads spin for some ten microseconds and then sleep: spinning on blocks a core that
    others want, sleeping at once halves the speed of EfficientNet, whose many operations are short.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler announces itself on stderr, and
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warns of memory that was there before it
    _keep_freed_memory()
    import numpy as np
    import torch

    # not by Lightning, whose import costs the notebooks that do not train four seconds each
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries may draw from the global generator
    torch.manual_seed(seed)
    # what use_deterministic_algorithms does, without its import of the compiler (two seconds a process)
    torch.set_deterministic_debug_mode("warn")
    # filling fresh tensors only serves to expose reads of uninitialised memory and costs a pass each
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property, added late
    torch.set_num_threads(threads or int(os.environ.get("OMP_NUM_THREADS", 0)) or cores())


def threads_of_each(processes: int) -> int:
    """Torch threads for each of several processes that share this machine's cores without a GPU; 0: as ever."""
    return max(1, cores() // processes) if processes > 1 else 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks: returning each activation to the kernel costs a third of a training step."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, -1)  # never
        libc.mallopt(_M_TOP_PAD, 1 << 26)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Processes started within ignore Ctrl-C, which a terminal sends to all: the one that waits ends the rest."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
