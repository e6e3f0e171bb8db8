"""How far a run is trained at a time, and what that costs: in whole pieces, at doubled lengths, within the budget."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lrtune.search.base import Action, Continue, Finish, Start, Wait

if TYPE_CHECKING:
    from lrtune.search.freeze_thaw.beliefs import Beliefs, Candidate

__all__ = ["Pace"]

FIRST = 0.01  # of a full training: the shortest first look where a trainer can look so early
PAST_WARMUP = 1.5  # times the warmup, where all settings have one: how far a first look goes
LAST_LEG = 0.6  # of a full training: a run that would come so far is trained to its end
ROUNDED = 1e-6  # relative: more than the rounding of a stored epoch
SUMMED = 1e-9  # full trainings: more than the rounding of summed prices


class Pace:
    """Lengths, prices, and the actions made of them, for one decision.

    Attributes
    ----------
    length, first
        Epochs of a full training, and of a first look.
    """

    def __init__(self, beliefs: Beliefs) -> None:
        self._beliefs = beliefs
        self._situation = beliefs.context
        self.length = beliefs.length
        self.first = self.round(max(self._situation.finest, FIRST * self.length, self._beyond_warmup()))

    def _beyond_warmup(self) -> float:
        """Epochs from which a look tells something where every setting warms up: until then high peaks flatter."""
        least = self._beliefs.shortest_warmup
        return PAST_WARMUP * least * self.length if 0 < least < 1 else 0.0

    # -- lengths -----------------------------------------------------------------------------------

    def round(self, epochs: float) -> float:
        """Up to a multiple of the smallest useful piece.

        Where that is no whole epoch the answer lies a hair below it: a stored epoch is rounded, and a run
        that reached 0.09090909 must have reached what was asked, or it would be asked for for ever.
        """
        finest = self._situation.finest
        asked = math.ceil(epochs / finest - ROUNDED) * finest
        if asked >= self.length * (1 - ROUNDED):
            return self.length
        return float(asked if finest.is_integer() else asked * (1 - ROUNDED))

    def after(self, trained: float) -> float:
        """Up to where a run that has been trained so far goes next."""
        target = self.round(max(self.first, 2 * trained))
        return self.length if target > LAST_LEG * self.length else target

    # -- prices ------------------------------------------------------------------------------------

    def price(self, candidate: Candidate, until: float) -> float:
        """Full trainings that training it up to an epoch costs."""
        again = 0.0 if candidate.observation is None else candidate.observation.seen.repaid_epochs
        return max(0.0, until - candidate.trained + again) / self.length

    def affords(self, price: float) -> bool:
        """Whether the budget still holds that many full trainings."""
        return price <= self._situation.left + SUMMED

    # -- actions -----------------------------------------------------------------------------------

    def look(self, x: float, key: tuple[object, ...]) -> Action | None:
        """A first look, where it may be started and leaves room to finish something."""
        price = self.first / self.length
        # With less than one training to spend nothing can be finished, and looks are all there is.
        if self._situation.exhausted or not self.affords(price):
            return None
        if not self._situation.leaves_an_end(0.0, self.first) and self._situation.to_finish < 1:
            return None
        recipe = self._beliefs.recipe(x, key)
        return Start(params=self._situation.space.params(recipe), until=self.first, why="first look")

    def advance(self, candidate: Candidate, until: float, why: str) -> Action:
        """Train it up to an epoch, from where it stands or from the beginning."""
        if not self.affords(self.price(candidate, until)):
            return self.end("the budget ends before another run can be finished")
        if candidate.observation is None:
            return Start(params=self._situation.space.params(candidate.recipe), until=until, why=why)
        return Continue(number=candidate.observation.number, until=until, why=why)

    def end(self, why: str, *, settled: bool = False) -> Action:
        """End the search, once nobody trains any more."""
        return Wait() if self.busy else Finish(why=why, settled=settled)

    def nowhere(self) -> Action:
        """End the search where there is nothing that could be trained to its end."""
        if self._situation.exhausted:
            return self.end("the number of trials is reached")
        return self.end("the budget leaves no room for a full training")

    @property
    def busy(self) -> bool:
        """Whether anybody trains anything right now."""
        return any(trial.until is not None for trial in self._situation.trials)
