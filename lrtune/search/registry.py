"""The strategies by name: the one list that the command line, study files and errors read."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from lrtune.errors import InputError

if TYPE_CHECKING:
    from lrtune.search.base import Strategy
    from lrtune.search.freeze_thaw.strategy import Prior

__all__ = ["BASELINES", "DEFAULT", "NAMES", "make"]

NAMES = ("freeze-thaw", "tpe", "gp", "qmc", "random", "grid", "top-k", "optuna")
BASELINES = ("random", "grid", "top-k", "optuna")
"""What a search is compared with."""

DEFAULT = "freeze-thaw"


def make(name: str, *, prune: bool | None = None, points: int | None = None, prior: Prior | None = None) -> Strategy:
    """The strategy of that name.

    Parameters
    ----------
    name
        One of :data:`NAMES`.
    prune
        Whether runs that fall behind are given up; None takes the strategy's own habit. Freeze-thaw
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
    from lrtune.search.baselines import grid
    from lrtune.search.samplers import samplers

    if name == "freeze-thaw":
        from lrtune.search.freeze_thaw.strategy import FreezeThaw

        return FreezeThaw(prior)
    if name == "grid":
        return grid.Grid(points=points)
    if name == "top-k":
        from lrtune.search.baselines.top_k import TopK

        return TopK(points=points)
    if name == "optuna":
        from lrtune.search.samplers.optuna_native import PlainOptuna

        return PlainOptuna()
    makers = {"tpe": samplers.TPE, "gp": samplers.GP, "qmc": samplers.QMC, "random": samplers.RandomSearch}
    if name not in makers:
        near = difflib.get_close_matches(name, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        msg = f"strategy must be one of {', '.join(NAMES)} (got {name!r}){hint}"
        raise InputError(msg)
    return makers[name]() if prune is None else makers[name](prune=prune)
