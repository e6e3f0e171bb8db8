"""Optuna's log messages and its warnings about experimental parts, hidden where they are not for lrtune's users."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING

import optuna

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["quiet"]

# Its import logs that greenlet is missing, before any verbosity is looked at.
logging.getLogger("optuna._gp.batched_lbfgsb").setLevel(logging.ERROR)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the message about a new study, and warnings about experimental parts, for the block."""
    verbosity = optuna.logging.get_verbosity()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)
