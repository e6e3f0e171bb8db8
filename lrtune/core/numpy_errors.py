"""NumPy's handling of floating-point errors: its defaults for lrtune's arithmetic, the user's for the user's code.

``numpy.seterr(all="raise")``, a usual way to find where NaN begins, holds for the whole thread: a harmless underflow in
a sampler would end the search (optuna/optuna#2639 has one).
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["own_errstate", "users_errstate"]

DEFAULTS: dict[str, Any] = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
"""NumPy's defaults: https://numpy.org/doc/stable/reference/generated/numpy.seterr.html"""

_users: ContextVar[dict[str, Any] | None] = ContextVar("_users", default=None)


@contextlib.contextmanager
def own_errstate() -> Iterator[None]:
    """Within the block (or the decorated function) NumPy's defaults hold; afterwards what held before."""
    users: dict[str, Any] = dict(np.seterr(**DEFAULTS))
    token = _users.set(users)
    try:
        yield
    finally:
        _users.reset(token)
        np.seterr(**users)


@contextlib.contextmanager
def users_errstate() -> Iterator[None]:
    """Within the block, inside of :func:`own_errstate`, the user's settings hold; changes to them are kept."""
    users = _users.get()
    if users is None:
        yield
        return
    own = np.seterr(**users)
    try:
        yield
    finally:
        users.update(np.seterr(**own))
