"""Which run trains next after the first was trained to its last epoch, and where a search without limits ends.

Whatever is expected to save most for its price, until that is below the noise; beside that, settings that were never
tried, and at the end of a budget the two best once more under another seed.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.search.base import Action, Start
from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.budget import Budget
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["refine"]

Floats: TypeAlias = npt.NDArray[np.float64]


def refine(beliefs: Beliefs, budget: Budget, candidates: Sequence[Observation]) -> Action:
    """Another run's next segment, a repeat, or the end."""
    ends = beliefs.draws(candidates)
    known = [j for j, run in enumerate(candidates) if run.completed or run.trial.until is not None]
    gain = np.maximum(0, ends[:, known].min(axis=1, keepdims=True) - ends).mean(axis=0)  # beside what others train
    remaining = np.array([budget.remaining(run) for run in candidates])
    ready = np.array(
        [run.trial.open and budget.affords(float(price)) for run, price in zip(candidates, remaining, strict=True)]
    )
    if not ready.any():
        return _neighbour(beliefs, budget) or budget.end("the budget leaves no room for another full training")
    worth = np.where(ready, gain / np.maximum(remaining, CONFIG.least_price), -np.inf)
    pick = int(np.argmax(worth))
    if beliefs.context.busy and gain[pick] < CONFIG.beside_worth * remaining[pick]:
        return budget.end("another worker trains what is worth it")  # waits for it
    if _enough(beliefs, float(gain[pick]), float(remaining[pick])):
        return _neighbour(beliefs, budget) or budget.end(
            "what the model still expects to gain is below the noise", settled=True
        )
    return (
        _repeat(beliefs, budget, float(gain[pick]))
        or _untried(beliefs, budget, candidates, worth)
        or budget.advance(candidates[pick], budget.after(candidates[pick].trained), "refine")
    )


def _enough(beliefs: Beliefs, gain: float, remaining: float) -> bool:
    """Whether a search without limits ends, rather than finish the run that is expected to gain most."""
    given = beliefs.context.worth
    worth = CONFIG.worth if given is None else given
    worth *= 1 + CONFIG.worth_per_tenfold * math.log10(len(beliefs.combinations))
    least = CONFIG.least_spent if given is None else 0.0
    if beliefs.confirmed:
        worth, least = CONFIG.worth_confirmed * worth, CONFIG.least_spent_confirmed
    spent_enough = beliefs.context.self_stopping and beliefs.context.spent >= least
    return spent_enough and gain < worth * max(remaining, CONFIG.least_price)


def _neighbour(beliefs: Beliefs, budget: Budget) -> Action | None:
    """The next segment of a run beside the best one, where on that side none was trained long enough to judge.

    An answer between worse neighbours can be trusted; the search goes on where a neighbour turns out better.
    """
    best = min(beliefs.observed.completed, key=lambda run: (beliefs.result(run), run.number))
    judging = budget.round(CONFIG.judging_from * budget.length)
    low, high = (math.log10(end) for end in beliefs.context.space.lr_range)
    for side in (1, -1):
        beside = [r for r in beliefs.observed.runs if r.key == best.key and _within(side * (r.x - best.x))]
        if any(run.diverged or run.trained >= judging for run in beside):
            continue
        paused = [run for run in beside if run.trial.open]
        x = best.lr_x + side * CONFIG.neighbour
        if paused:
            run = max(paused, key=lambda run: (run.trained, -abs(run.x - best.x)))
        elif not beside and low <= x <= high and not beliefs.context.exhausted:
            run = beliefs.unstarted(x, best.key)
        else:
            continue
        if budget.affords(budget.price(run, judging)):
            return budget.advance(run, judging, "a neighbour of the best")
    return None


def _within(distance: float) -> bool:
    """Whether a distance in decades, to the side that is asked about, makes a run a neighbour."""
    return CONFIG.closest < distance <= CONFIG.neighbourhood


def _untried(beliefs: Beliefs, budget: Budget, candidates: Sequence[Observation], worth: Floats) -> Action | None:
    """The first segment of the candidate of most `worth` that has a value of a setting that was never tried."""
    if len(beliefs.observed.completed) < CONFIG.untried_after:
        return None
    tried = [set(values) for values in zip(*(run.key for run in beliefs.observed.runs), strict=True)]
    untried = {
        key: any(value not in known for value, known in zip(key, tried, strict=True))
        for key in {run.key for run in candidates}
    }
    new = np.array([run.number < 0 and untried[run.key] for run in candidates])
    worth = np.where(new, worth, -np.inf)
    if not np.isfinite(worth).any():
        return None
    return budget.advance(candidates[int(np.argmax(worth))], budget.first, "a setting never looked at")


def _repeat(beliefs: Beliefs, budget: Budget, gain: float) -> Action | None:
    """One of the two best once more under another seed, where the budget ends and little is left to gain."""
    context = beliefs.context
    if context.self_stopping or context.left >= CONFIG.repeat_left or gain >= CONFIG.tied or context.exhausted:
        return None
    base = min(trial.recipe.seed for trial in context.trials)
    repeated = {trial.recipe.with_seed(0) for trial in context.trials if trial.recipe.seed == base + 1}
    first = [run.trial.recipe for run in sorted(beliefs.observed.completed, key=beliefs.result)]
    tops = [recipe for recipe in first if recipe.seed == base][:2]
    for recipe in tops:
        if recipe.with_seed(0) not in repeated:
            params = context.space.params(recipe)
            return Start(params=params, until=budget.length, seed=1, why="paired repeat") if budget.affords(1) else None
    return None
