"""Optuna's own announcements are not for lrtune's users."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING

import optuna

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]

# While it is imported it says that it would like greenlet, and no verbosity is asked for then.
logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the announcement of a new study, and that a part is experimental, for the block."""
    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)
