"""Whether a process that holds a trainer may be forked, and what its OpenMP threads need before and after.

A fork copies one thread. GNU's OpenMP (PyTorch and scikit-learn bring it along) does not notice: its first
parallel region in the child waits for ever for threads that are not there. OpenBLAS, and Intel's and LLVM's
OpenMP, handle it themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import re
import sys
import threading
from pathlib import Path

from lrtune.errors import InputError

__all__ = ["check_forks", "end_openmp_threads", "preload_torch", "renew_torch_threads"]

LIBRARY = re.compile(r"\S*libgomp[^/\s]*$", re.MULTILINE)
PAUSE_HARD = 2
"""``omp_pause_hard`` (OpenMP 5.0, section 3.2.44): the threads end, the next region makes new ones."""


def check_forks() -> None:
    """Refuse what cannot be forked.

    Raises
    ------
    InputError
        Says what to do instead.
    """
    if not hasattr(os, "fork") or sys.platform == "darwin":
        msg = f"isolate needs to fork, which {sys.platform} has no safe way to do; leave it out, or use Linux"
        raise InputError(msg)
    if multiprocessing.current_process().daemon:
        msg = "isolate starts processes, which a daemonic process may not do; call tune() from another one"
        raise InputError(msg)
    cuda = getattr(sys.modules.get("torch"), "cuda", None)  # not imported: not in use
    if cuda is not None and cuda.is_initialized():
        msg = (
            "isolate forks, and this process already uses CUDA, which does not survive that: call tune() before "
            "anything is moved to a GPU, or use the command, lrtune optimize --isolate"
        )
        raise InputError(msg)


def preload_torch() -> None:
    """Import, once, what PyTorch imports with its first optimizer: each child would take over a second for it."""
    if "torch" in sys.modules:
        with contextlib.suppress(ImportError):
            importlib.import_module("torch._dynamo")


def end_openmp_threads() -> None:
    """End this thread's idle OpenMP threads before a fork, so that parent and child each make their own.

    How many there are to be stays as it was: results depend on it.
    """
    maps = ""
    with contextlib.suppress(OSError):
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
    for path in set(LIBRARY.findall(maps)):  # every copy of GNU's OpenMP that is loaded
        with contextlib.suppress(OSError, AttributeError):  # before GCC 9 there is no way to ask for it
            library = ctypes.CDLL(path)
            count = library.omp_get_max_threads()
            library.omp_pause_resource_all(PAUSE_HARD)
            library.omp_set_num_threads(count)


def renew_torch_threads() -> None:
    """In the child: let PyTorch replace the pool of threads that it knows to be lost, in one thread.

    Left to itself it does so in the first threads of the first parallel region, all at once, and may find none:
    "Invalid thread pool!". A thread of its own asks, since only the first question of a thread has that effect,
    and how many threads there are stays as it was.
    """
    torch = sys.modules.get("torch")
    if torch is not None:
        thread = threading.Thread(target=torch.get_num_threads)
        thread.start()
        thread.join()
