"""Which runs are trained beside one that trains anyway, where a further member of a stacked model costs little time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lrtune.search.base import Wait
from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.base import Action, SearchContext
    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.budget import Budget
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["beside"]


def beside(beliefs: Beliefs, budget: Budget, candidates: Sequence[Observation]) -> Action:
    """The run that is expected to save most for the time that it adds, trained for no longer than those it joins.

    Where full trainings are limited it is charged all that it trains, but joins for less: a budget is spent anyway.
    """
    context = beliefs.context
    known = [j for j, run in enumerate(candidates) if run.completed or run.trial.until is not None]
    if not known:
        return Wait()
    joined = [run for run in beliefs.observed.runs if run.number in context.beside]
    longest = max((run.trial.until or 0.0) - run.trained for run in joined)
    planned = context.spent + sum(1 - (run.trial.until or 0.0) / budget.length for run in joined)
    price = context.beside_price if context.by_time else 1.0
    few = len(beliefs.observed.completed) < (1 if context.by_time else CONFIG.fewest)
    reserve = context.to_finish + few  # the first may yet diverge, and an answer of one full training is not sure
    ends = beliefs.draws(candidates)
    gain = np.maximum(0, ends[:, known].min(axis=1, keepdims=True) - ends).mean(axis=0)
    found: list[tuple[float, int, float]] = []
    for j, run in enumerate(candidates):
        remaining, until = budget.remaining(run), min(budget.after(run.trained), budget.round(run.trained + longest))
        free = run.trial.open and not run.completed and context.can_join(run.trial.recipe) and until > run.trained
        if free and budget.affords(budget.price(run, until) + reserve):
            worth = gain[j] / max(price * remaining, CONFIG.least_price)
            found += [(worth, j, until)] if worth > _least(context, planned + remaining) else []
    if not found:
        return Wait()
    _, pick, until = max(found, key=lambda item: item[0])
    return budget.advance(candidates[pick], until, "beside")


def _least(context: SearchContext, planned: float) -> float:
    """The loss that a full training beside others must be expected to save, of so many that are spent or planned."""
    if not context.by_time:
        return CONFIG.beside_worth_of_budget
    return 0.0 if context.self_stopping and planned <= CONFIG.beside_spent else CONFIG.beside_worth
