"""Scorers by the names under which a trainer reports them: scikit-learn's own, or the user's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from sklearn.metrics import get_scorer, get_scorer_names

from lrtune.errors import InputError

__all__ = ["LOSSES", "scorers_of"]

LOSSES = ("train_loss", "valid_loss")
"""What is reported besides."""


def scorers_of(metrics: Iterable[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Scorers by name; InputError if one is not known, or has no name."""
    if isinstance(metrics, str) or not isinstance(metrics, Iterable):
        msg = (
            f"metrics is a list of names or a mapping of names to scorers (got {metrics!r}); write metrics=['accuracy']"
        )
        raise InputError(msg)
    given = metrics if isinstance(metrics, Mapping) else dict(zip(*[list(metrics)] * 2, strict=True))
    for name in given:
        if not isinstance(name, str):
            msg = f"a scorer of your own needs a name (got {name!r} without one); write metrics={{'score': ...}}"
            raise InputError(msg)
    return {name: _scorer(scorer) for name, scorer in given.items() if name not in LOSSES}


def _scorer(name: Any) -> Any:
    try:
        return get_scorer(name)
    except (ValueError, TypeError):
        near = difflib.get_close_matches(str(name), [*LOSSES, *get_scorer_names()], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see sklearn.metrics.get_scorer_names()"
        msg = f"the metric {name!r} is none of train_loss, valid_loss and scikit-learn's scorers; {hint}"
        raise InputError(msg) from None
