"""The grid: every cell once, failed cells again, nothing to do when complete. An honest baseline."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lrtune.core.outcome import Outcome
from lrtune.search.base import Action, Continue, Finish, Start, Wait

if TYPE_CHECKING:
    from lrtune.core.space import Space
    from lrtune.search.base import SearchContext, TrialView

__all__ = ["LR_POINTS", "Grid", "cells"]

LR_POINTS = 15
"""Learning rates of a grid that no budget limits: about two a decade over the usual range."""

RANGE_POINTS = 3
"""Points of any other range: its ends and its middle."""

ATTEMPTS = 2
"""How often a cell whose training failed is tried."""

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

    def next(self, context: SearchContext, /) -> Action:
        """Finish what is open, else start the next cell that has no completed trial."""
        for seen in context.trials:
            if seen.open:
                price = (context.epochs - seen.trained + seen.repaid_epochs) / context.epochs
                if price <= context.left * (1 + 1e-9):
                    return Continue(number=seen.number, until=float(context.epochs), why="a cell of the grid")
        todo = [cell for cell in self._cells(context) if self._wanted(cell, context)]
        busy = any(seen.until is not None for seen in context.trials)
        if not todo:
            return Wait() if busy else Finish(why="the grid is complete")
        if context.exhausted or context.left < 1 - 1e-9:
            limit = "the number of trials" if context.exhausted else f"the budget of {context.budget:g} trainings"
            return Wait() if busy else Finish(why=f"{limit} ended with {len(todo)} cells of the grid to go")
        return Start(params=todo[0], until=float(context.epochs), why="a cell of the grid")

    def _cells(self, context: SearchContext) -> list[dict[str, Any]]:
        budget = context.budget
        return cells(context.space, self.points, math.inf if budget is None else budget)

    def _wanted(self, cell: dict[str, Any], context: SearchContext) -> bool:
        tried = [seen for seen in context.trials if _same(context.space.params(seen.recipe), cell)]
        lost = [seen for seen in tried if seen.outcome in LOST]
        return len(lost) == len(tried) < ATTEMPTS

    @staticmethod
    def coverage(context: SearchContext, cell_count: int) -> float:
        """Share of the cells that were trained, 0 to 1."""
        done: list[TrialView] = [seen for seen in context.trials if seen.outcome is Outcome.COMPLETED]
        return len(done) / cell_count if cell_count else 1.0


def cells(space: Space, points: int | None = None, budget: float = math.inf) -> list[dict[str, Any]]:
    """Every cell of the grid, those in the middle of the learning rate's range first.

    Parameters
    ----------
    space
        What is searched.
    points
        Number of learning rates; None takes as many as the budget allows, 15 at most and 2 at least.
    budget
        Full trainings that may be spent.
    """
    axes = {name: _axis(distribution) for name, distribution in space.distributions().items() if name != "lr"}
    others = math.prod(len(values) for values in axes.values())
    wanted = min(LR_POINTS, int(budget / others)) if math.isfinite(budget) else LR_POINTS
    low, high = space.lr_range
    lrs = np.unique(np.geomspace(low, high, max(points or wanted, 2)).clip(low, high))
    order = sorted(range(len(lrs)), key=lambda index: (abs(index - (len(lrs) - 1) / 2), index))
    grid = itertools.product([float(lrs[index]) for index in order], *axes.values())
    return [dict(zip(("lr", *axes), values, strict=True)) for values in grid]


def _axis(distribution: object) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        space = np.geomspace if distribution.log else np.linspace
        return sorted({round(float(v)) for v in space(distribution.low, distribution.high, RANGE_POINTS)})
    if isinstance(distribution, FloatDistribution):
        space = np.geomspace if distribution.log else np.linspace
        values = space(distribution.low, distribution.high, RANGE_POINTS).clip(distribution.low, distribution.high)
        return list(dict.fromkeys(values.tolist()))
    msg = f"a grid over {distribution!r} cannot be made"
    raise TypeError(msg)


def _same(params: dict[str, Any], cell: dict[str, Any]) -> bool:
    return all(
        math.isclose(params[name], value, rel_tol=1e-9) if isinstance(value, float) else params[name] == value
        for name, value in cell.items()
    )
