"""Linear algebra on one thread: the matrices of a decision are small, and waking a pool costs more than they do.

A BLAS library hands even a matrix of 20 rows to its threads, which then spin while they wait for each other:
measured on two busy cores, a decision took ten times the CPU that it takes on one thread.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from typing import TYPE_CHECKING

import scipy.linalg  # noqa: F401 -- with numpy: a library is found only once it is loaded
from threadpoolctl import ThreadpoolController

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["one_thread"]

_controller = functools.cache(ThreadpoolController)  # the loaded libraries; looking for them takes milliseconds
_TURN = threading.RLock()  # two at once would each restore what the other had set


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within the block numpy and scipy compute on the calling thread; afterwards as before."""
    with _TURN, _controller().limit(limits=1, user_api="blas"):
        yield
