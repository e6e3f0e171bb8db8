"""The strategy ``top-k``, a baseline: one epoch each, then the best k to their end, as many people do by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lrtune.search.base import Action, Continue, Finish, Start, Stop, Wait
from lrtune.search.baselines.grid import CONFIG, cells

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
        """Train every cell for an epoch, then finish the best ones, then end."""
        context = context.limited()
        first, end = min(1.0, float(context.epochs)), float(context.epochs)
        affordable = (context.budget or 0.0) / 2 * context.epochs / first
        others = len(cells(context.space, 2)) // 2
        points = self.points or max(2, min(CONFIG.lr_points, int(affordable / others)))
        todo = cells(context.space, points)[len(context.trials) :]
        if todo and not context.exhausted and context.leaves_an_end(0.0, first):
            return Start(params=todo[0], until=first, why="one epoch")
        if context.busy:
            return Wait()
        best = min((trial for trial in context.trials if trial.open), key=lambda t: _last(t, context), default=None)
        if best is None:
            return Finish(why="the best are trained to their end")
        if context.affords(context.price(best, end)):
            return Continue(number=best.number, until=end, why="among the best after one epoch")
        return Stop(number=best.number, why="not among the best after one epoch")


def _last(trial: TrialView, context: SearchContext) -> float:
    value = context.sign * float(trial.values[-1]) if len(trial.values) else math.inf
    return value if math.isfinite(value) else math.inf
