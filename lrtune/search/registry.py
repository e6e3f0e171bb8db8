"""The strategies by name: the one list that the command line, study files and errors read."""

from __future__ import annotations

import difflib
import importlib
import inspect
from typing import TYPE_CHECKING

from lrtune.errors import InputError

if TYPE_CHECKING:
    from lrtune.search.base import Strategy
    from lrtune.search.freeze_thaw.strategy import Prior

__all__ = ["DEFAULT", "NAMES", "make"]

STRATEGIES = {
    "freeze-thaw": "freeze_thaw.strategy:FreezeThaw",
    "tpe": "samplers.samplers:TPE",
    "gp": "samplers.samplers:GP",
    "qmc": "samplers.samplers:QMC",
    "random": "samplers.samplers:RandomSearch",
    "grid": "baselines.grid:Grid",
    "top-k": "baselines.top_k:TopK",
    "optuna": "samplers.optuna_native:PlainOptuna",
}
"""Where each is made, below ``lrtune.search``; it gets those options of :func:`make` that it has a parameter for."""

NAMES = tuple(STRATEGIES)
DEFAULT = "freeze-thaw"


def make(name: str, *, prune: bool | None = None, points: int | None = None, prior: Prior | None = None) -> Strategy:
    """The strategy of that name.

    Parameters
    ----------
    name
        One of :data:`NAMES`.
    prune
        Whether runs that fall behind are given up; None takes the strategy's own default. Freeze-thaw
        always does, the grid never.
    points
        Learning rates of the grid; None takes as many as the budget allows.
    prior
        What an earlier study found; for freeze-thaw, the others have no use for it.

    Raises
    ------
    InputError
        If there is no such strategy.
    """
    if name not in STRATEGIES:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        msg = f"strategy must be one of {', '.join(NAMES)} (got {name!r}){hint}"
        raise InputError(msg)
    module, _, attribute = STRATEGIES[name].partition(":")
    maker = getattr(importlib.import_module(f"lrtune.search.{module}"), attribute)
    given = {"prune": prune, "points": points, "prior": prior}
    taken = inspect.signature(maker).parameters
    strategy: Strategy = maker(**{key: value for key, value in given.items() if value is not None and key in taken})
    return strategy
