"""The default strategy: short trainings of many learning rates, of which a model picks those that are trained on.

No epoch is trained twice (Swersky, Snoek and Adams, "Freeze-Thaw Bayesian Optimization", 2014, arXiv:1406.3896).
The next trial is chosen here, by the first of these steps that has something to do (for a run that is to be trained
beside others in one stacked model, by the first and :mod:`.beside`):

1. *bracket* (:mod:`.initial_design`): short trainings a decade apart until the best lies between worse ones;
2. *train past a plateau* (:mod:`.initial_design`): where nothing has begun to learn, all train on;
3. *end before overfitting* (:mod:`.overfitting`): where the furthest run overfits, the one that ends where it was best;
4. *race* (:mod:`.race`), until one is complete: the leader, and those whose next segment is expected to gain more than
   it costs;
5. *refine* (:mod:`.refine`), from then on: whatever is expected to gain most for its price.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrtune.search.base import UNLIMITED_BUDGET, Wait
from lrtune.search.freeze_thaw.beliefs import Beliefs
from lrtune.search.freeze_thaw.beside import beside
from lrtune.search.freeze_thaw.budget import Budget
from lrtune.search.freeze_thaw.candidates import Candidates
from lrtune.search.freeze_thaw.initial_design import InitialDesign
from lrtune.search.freeze_thaw.overfitting import end_before_overfitting
from lrtune.search.freeze_thaw.prior import Prior
from lrtune.search.freeze_thaw.race import race
from lrtune.search.freeze_thaw.refine import refine

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
    joins = True

    def __init__(self, prior: Prior | None = None) -> None:
        self.prior = prior

    def next(self, context: SearchContext, /) -> Action:
        """The next action; a function of the context alone."""
        beliefs = Beliefs(context, self.prior)
        budget = Budget(beliefs)
        endless = context.self_stopping and context.worth is None
        if endless and context.spent >= UNLIMITED_BUDGET and beliefs.observed.completed:
            return budget.end(f"{UNLIMITED_BUDGET:g} full trainings are spent")
        design = InitialDesign(beliefs, budget)
        if context.beside:
            return design.bracket() or (
                beside(beliefs, budget, Candidates(beliefs).all()) if beliefs.observed.alive else Wait()
            )
        action = design.bracket() or _nothing_alive(beliefs, budget) or design.train_past_plateau()
        if action is not None:
            return action
        action = end_before_overfitting(beliefs, budget)
        if action is not None:
            return action
        candidates = Candidates(beliefs).all()
        return (refine if beliefs.observed.completed else race)(beliefs, budget, candidates)


def _nothing_alive(beliefs: Beliefs, budget: Budget) -> Action | None:
    """The end where no run is alive and nowhere is left to try."""
    if beliefs.observed.alive:
        return None
    if not beliefs.context.trials:
        return budget.end("the budget leaves no room for a first look")
    lowest = min((run.trial.recipe.lr for run in beliefs.observed.runs if run.diverged), default=None)
    if lowest is None:
        return budget.end("no run has reported the metric, and nowhere is left to look")
    return budget.end(f"every run diverged, down to a learning rate of {lowest:g}")
