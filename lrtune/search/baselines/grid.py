"""The strategy ``grid``, a baseline: every cell of a grid once, failed cells again, nothing to do when complete."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lrtune.core.outcome import Outcome
from lrtune.search.base import Action, Continue, Finish, Start, Wait

if TYPE_CHECKING:
    from lrtune.core.space import Space
    from lrtune.search.base import SearchContext

__all__ = ["CONFIG", "Grid", "GridConfig", "cells"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GridConfig:
    """The constants of the grid."""

    lr_points: int = 15  # learning rates where no budget limits them; definition: two a decade, usually
    range_points: int = 3  # points of any other range; definition: its ends and its middle
    attempts: int = 2  # times that a cell is tried whose training failed; definition


CONFIG = GridConfig()

LOST = frozenset({Outcome.FAILED, Outcome.INTERRUPTED, Outcome.STALLED, Outcome.OUT_OF_MEMORY})
"""Outcomes that say nothing about the cell: it is tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Trains every cell of a grid to its end, from the middle outwards so that an early end is of use.

    Attributes
    ----------
    points
        Number of learning rates; None takes as many as the budget allows, 15 at most.
    """

    points: int | None = None
    name: str = "grid"
    joins: ClassVar[bool] = True

    def next(self, context: SearchContext, /) -> Action:
        """Finish what is open, else start the next cell that has no completed trial."""
        end = float(context.epochs)
        for trial in context.trials:
            if trial.open and context.affords(context.price(trial, end)):
                return Continue(number=trial.number, until=end, why="a cell of the grid")
        limit = math.inf if context.budget is None or context.timed else context.budget
        todo = [cell for cell in cells(context.space, self.points, limit) if _wanted(cell, context)]
        if context.beside:
            todo = [cell for cell in todo if context.can_join(context.space.recipe(cell))]
        if todo and not context.exhausted and context.left >= 1 - 1e-9:
            return Start(params=todo[0], until=end, why="a cell of the grid")
        if context.busy:
            return Wait()
        if not todo:
            return Finish(why="the grid is complete")
        what = "the number of trials" if context.exhausted else f"the budget of {context.budget:g} trainings"
        return Finish(why=f"{what} ended with {len(todo)} cells of the grid to go")


def cells(space: Space, points: int | None = None, budget: float = math.inf) -> list[dict[str, Any]]:
    """Every cell of the grid, those in the middle of the learning rate's range first.

    It has `points` learning rates; with None as many as the budget (full trainings) allows, 15 at most and 2 at least.
    """
    axes = {name: axis.spread(CONFIG.range_points) for name, axis in space.axes.items() if name != "lr"}
    others = math.prod(len(values) for values in axes.values())
    wanted = min(CONFIG.lr_points, int(budget / others)) if math.isfinite(budget) else CONFIG.lr_points
    low, high = space.lr_range
    lrs = np.unique(np.geomspace(low, high, max(points or wanted, 2)).clip(low, high))
    order = sorted(range(len(lrs)), key=lambda index: (abs(index - (len(lrs) - 1) / 2), index))
    grid = itertools.product([float(lrs[index]) for index in order], *axes.values())
    return [dict(zip(("lr", *axes), values, strict=True)) for values in grid]


def _wanted(cell: dict[str, Any], context: SearchContext) -> bool:
    """Whether every trial of the cell failed, and few did."""
    tried = [trial for trial in context.trials if _same(context.space.params(trial.recipe), cell)]
    return len(tried) < CONFIG.attempts and all(trial.outcome in LOST for trial in tried)


def _same(params: dict[str, Any], cell: dict[str, Any]) -> bool:
    return all(
        math.isclose(params[name], value, rel_tol=1e-9) if isinstance(value, float) else params[name] == value
        for name, value in cell.items()
    )
