"""How a run was set up beyond its recipe, as plain JSON, for :mod:`lrtune.reporting.snippets` to write it as code.

No recipe has the options of an optimizer, parameter groups, or which parameter of an estimator is the learning rate.
The run reads them from what it trains with, and they are stored with the trial, so that code can be written later
without the trainer. Functions and classes are stored by name alone.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.names import USER_MODULE

if TYPE_CHECKING:
    from lrtune.training.base import Run, Setup

__all__ = ["PAIRS", "plain", "reference", "setup_of"]

PAIRS = "pairs"
"""Key under which a dict is stored as a list of pairs: keys of JSON are strings, class labels need not be."""


def setup_of(run: Run) -> Setup:
    """How the first member of a run was set up; empty where the run has no `setup`, as of a user's own trainer."""
    describe = getattr(run, "setup", None)
    return {} if describe is None else dict(describe())


def plain(value: Any) -> Any:
    """A value as JSON holds it; tuples become lists, a dict ``{PAIRS: [[key, value], ...]}``.

    TypeError if it is none of None, bool, int, float, str, or a list, tuple or dict of them; or not finite.
    """
    if isinstance(value, np.generic) or (hasattr(value, "item") and getattr(value, "ndim", None) == 0):
        value = value.item()
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {PAIRS: [[plain(key), plain(one)] for key, one in value.items()]}
    msg = f"no plain value: {type(value).__name__}"
    raise TypeError(msg)


def reference(thing: Any) -> dict[str, str]:
    """Where a class or function can be imported from: ``{"name": "SGD", "module": "torch.optim"}``.

    The module is the shortest package that has it under its name, and empty where it cannot be imported: in the
    program that was started (``__main__``), within a function, or a lambda, whose name is empty too.
    """
    module, name = str(getattr(thing, "__module__", "")), str(getattr(thing, "__qualname__", ""))
    if not name.isidentifier() or module == "__main__":
        last = name.rpartition(".")[2]
        return {"name": last if last.isidentifier() else "", "module": ""}
    if module.startswith(USER_MODULE):  # a file that a study file names: lrtune gave its module a name of its own
        stem = Path(str(getattr(sys.modules.get(module), "__file__", ""))).stem
        return {"name": name, "module": stem if stem.isidentifier() else ""}
    parts = module.split(".")
    homes = (".".join(parts[:end]) for end in range(1, len(parts)))
    shortest = (home for home in homes if getattr(sys.modules.get(home), name, None) is thing)
    return {"name": name, "module": next(shortest, module)}
