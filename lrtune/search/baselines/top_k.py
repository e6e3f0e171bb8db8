"""One epoch each, then the best k to their end: what many people do by hand. A baseline."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lrtune.search.base import Action, Continue, Finish, Start, Stop, Wait
from lrtune.search.baselines.grid import LR_POINTS, cells

if TYPE_CHECKING:
    from lrtune.search.base import Seen, Situation

__all__ = ["TopK"]

UNLIMITED_BUDGET = 6.0


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

    def next(self, situation: Situation, /) -> Action:
        """Look at every cell, then finish the best ones, then end."""
        budget = UNLIMITED_BUDGET if situation.budget is None else situation.budget
        look = min(1.0, float(situation.epochs))
        todo = self._cells(situation, budget, look)[len(situation.trials) :]
        left = budget - situation.spent
        capped = dataclasses.replace(situation, budget=budget)
        if todo and not situation.exhausted and capped.leaves_an_end(0.0, look):
            return Start(params=todo[0], until=look, why="one epoch")
        if any(seen.until is not None for seen in situation.trials):
            return Wait()
        paused = [seen for seen in situation.trials if seen.open]
        best = min(paused, key=lambda seen: _last(seen, situation), default=None)
        if best is None:
            return Finish(why="the best are trained to their end")
        price = (situation.epochs - best.trained + best.again) / situation.epochs
        if price <= left * (1 + 1e-9):
            return Continue(number=best.number, until=float(situation.epochs), why="among the best after one epoch")
        return Stop(number=best.number, why="not among the best after one epoch")

    def _cells(self, situation: Situation, budget: float, look: float) -> list[dict[str, Any]]:
        affordable = budget / 2 * situation.epochs / look
        others = len(cells(situation.space, 2)) // 2
        points = self.points or max(2, min(LR_POINTS, int(affordable / others)))
        return cells(situation.space, points)


def _last(seen: Seen, situation: Situation) -> float:
    value = situation.sign * float(seen.values[-1]) if len(seen.values) else math.inf
    return value if math.isfinite(value) else math.inf
