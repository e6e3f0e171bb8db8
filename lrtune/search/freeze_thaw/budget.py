"""Where freeze-thaw decides how far a run is trained at a time, and plans so that the budget holds it.

That no strategy spends more than its budget is enforced in :mod:`lrtune.study.engine.scheduler`.

Segments double in length and are whole multiples of the shortest one that a trainer can evaluate. The actions of a
decision are made here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lrtune.search.base import Action, Continue, Finish, Start, Wait
from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.observations import Key, Observation

__all__ = ["Budget"]

ROUNDED = 1e-6  # relative: more than the rounding of a stored epoch


class Budget:
    """Lengths, prices, and the actions made of them, for one decision.

    Attributes
    ----------
    length, first
        Epochs of a full training, and of a run's first segment: after the warmup where every combination has one.
    """

    def __init__(self, beliefs: Beliefs) -> None:
        self._beliefs = beliefs
        self._context = beliefs.context
        self.length = beliefs.length
        warmup = beliefs.shortest_warmup
        beyond_warmup = CONFIG.warmups * warmup * self.length if 0 < warmup < 1 else 0.0
        self.first = self.round(max(self._context.finest, CONFIG.first_training * self.length, beyond_warmup))

    def round(self, epochs: float) -> float:
        """Up to a multiple of the shortest segment worth training.

        Where that is no whole epoch, slightly less: stored epochs are rounded, and a run that reached 0.09090909 must
        have reached what was asked for, or it would be asked for again and again.
        """
        finest = self._context.finest
        asked = math.ceil(epochs / finest - ROUNDED) * finest
        if asked >= self.length * (1 - ROUNDED):
            return self.length
        return float(asked if finest.is_integer() else asked * (1 - ROUNDED))

    def after(self, trained: float) -> float:
        """The epoch to which a run that has been trained so far is trained next."""
        target = self.round(max(self.first, 2 * trained))
        return self.length if target > CONFIG.last_segment * self.length else target

    def price(self, run: Observation, until: float) -> float:
        """Full trainings that training it up to an epoch costs."""
        return max(0.0, self._context.price(run.trial, until))

    def remaining(self, run: Observation) -> float:
        """Full trainings that it still costs to its end."""
        return self.price(run, self.length)

    def affords(self, price: float) -> bool:
        """Whether the budget still holds so many full trainings."""
        return self._context.affords(price)

    def start_first(self, lr_x: float, key: Key) -> Action | None:
        """A new run's first segment, where it may be started and leaves room to finish some run.

        With less than one training to spend nothing can be finished, and first segments are all there is.
        """
        price = self.first / self.length
        if self._context.exhausted or not self.affords(price):
            return None
        if not self._context.leaves_an_end(0.0, self.first) and self._context.to_finish < 1:
            return None
        params = self._context.space.params(self._beliefs.recipe(lr_x, key))
        return Start(params=params, until=self.first, why="first look")

    def advance(self, run: Observation, until: float, why: str) -> Action:
        """Train it up to an epoch, from where it was paused or from the beginning."""
        if not self.affords(self.price(run, until)):
            return self.end("the budget ends before another run can be finished")
        if run.number < 0:
            return Start(params=self._context.space.params(run.trial.recipe), until=until, why=why)
        return Continue(number=run.number, until=until, why=why)

    def end(self, why: str, *, settled: bool = False) -> Action:
        """End the search, once no trial is being trained."""
        return Wait() if self._context.busy else Finish(why=why, settled=settled)

    def nothing_to_finish(self) -> Action:
        """End the search where there is nothing that could be trained to its end."""
        limit = "the number of trials is reached"
        return self.end(limit if self._context.exhausted else "the budget leaves no room for a full training")
