"""One epoch each, then the best k to their end: what many people do by hand. A baseline."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.search.base import UNLIMITED_BUDGET, Action, Continue, Finish, Start, Stop, Wait
from lrtune.search.baselines.grid import LR_POINTS, cells

if TYPE_CHECKING:
    from lrtune.search.base import SearchContext, TrialView

__all__ = ["TopK"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Trains every cell of a grid for one epoch, then as many of the best as the budget holds to their end.

    Attributes
    ----------
    points
        Learning rates of the grid; None takes 15, or as many as half of the budget pays for.
    """

    points: int | None = None
    name: str = "top-k"

    def next(self, context: SearchContext, /) -> Action:
        """Look at every cell, then finish the best ones, then end."""
        budget = UNLIMITED_BUDGET if context.budget is None else context.budget
        look = min(1.0, float(context.epochs))
        todo = self._cells(context, budget, look)[len(context.trials) :]
        left = budget - context.spent
        capped = dataclasses.replace(context, budget=budget)
        if todo and not context.exhausted and capped.leaves_an_end(0.0, look):
            return Start(params=todo[0], until=look, why="one epoch")
        if any(seen.until is not None for seen in context.trials):
            return Wait()
        paused = [seen for seen in context.trials if seen.open]
        best = min(paused, key=lambda seen: _last(seen, context), default=None)
        if best is None:
            return Finish(why="the best are trained to their end")
        price = (context.epochs - best.trained + best.repaid_epochs) / context.epochs
        if price <= left * (1 + 1e-9):
            return Continue(number=best.number, until=float(context.epochs), why="among the best after one epoch")
        return Stop(number=best.number, why="not among the best after one epoch")

    def _cells(self, context: SearchContext, budget: float, look: float) -> list[dict[str, Any]]:
        affordable = budget / 2 * context.epochs / look
        others = len(cells(context.space, 2)) // 2
        points = self.points or max(2, min(LR_POINTS, int(affordable / others)))
        return cells(context.space, points)


def _last(seen: TrialView, context: SearchContext) -> float:
    value = context.sign * float(seen.values[-1]) if len(seen.values) else math.inf
    return value if math.isfinite(value) else math.inf
