"""Freeze-thaw: many runs start, each trains a little, those that a model of the landscape believes in go on.

No epoch is trained twice (Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization", 2014,
arXiv:1406.3896). What comes next follows from what has been seen, in this order; see ``docs/freeze-thaw.md``:

1. *look*: single short pieces, a decade apart, until the best lies between worse ones;
2. *wait* on a plateau: where nothing has begun to learn, looks tell nothing, and all train on;
3. *race*: the leader, and those whose look is expected to gain more than it costs, each at doubled lengths;
4. *refine*: once one is finished, whatever is expected to gain most for its price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrtune.search.base import UNLIMITED_BUDGET
from lrtune.search.freeze_thaw.beliefs import Beliefs
from lrtune.search.freeze_thaw.budget import Pace
from lrtune.search.freeze_thaw.candidates import Places
from lrtune.search.freeze_thaw.initial_design import Opening
from lrtune.search.freeze_thaw.prior import Prior
from lrtune.search.freeze_thaw.race import Race
from lrtune.search.freeze_thaw.refine import Refinement

if TYPE_CHECKING:
    from lrtune.search.base import Action, SearchContext

__all__ = ["FreezeThaw", "Prior"]


class FreezeThaw:
    """The default strategy: about the price of two trainings.

    Parameters
    ----------
    prior
        What an earlier study on similar work found; it counts for less the more the runs disagree with it.
    """

    name = "freeze-thaw"

    def __init__(self, prior: Prior | None = None) -> None:
        self.prior = prior

    def next(self, context: SearchContext, /) -> Action:
        """The next piece of work; a function of the situation alone."""
        beliefs = Beliefs(context, self.prior)
        pace = Pace(beliefs)
        if context.self_stopping and context.spent >= UNLIMITED_BUDGET and beliefs.view.completed:
            return pace.end(f"{UNLIMITED_BUDGET:g} full trainings are spent")
        opening = Opening(beliefs, pace)
        return opening.look() or _hopeless(beliefs, pace) or opening.train_past_plateau() or _compare(beliefs, pace)


def _hopeless(beliefs: Beliefs, pace: Pace) -> Action | None:
    """The end where nothing lives, and nowhere is left to look."""
    if beliefs.view.alive:
        return None
    if not beliefs.context.trials:
        return pace.end("the budget leaves no room for a first look")
    lowest = min(
        (observation.seen.recipe.lr for observation in beliefs.view.arms if observation.diverged), default=None
    )
    if lowest is None:
        return pace.end("no run has reported the metric, and nowhere is left to look")
    return pace.end(f"every run diverged, down to a learning rate of {lowest:g}")


def _compare(beliefs: Beliefs, pace: Pace) -> Action:
    """Race, or refine."""
    candidates = Places(beliefs).candidates()
    after = Refinement if beliefs.view.completed else Race
    return after(beliefs, pace).next(candidates)
