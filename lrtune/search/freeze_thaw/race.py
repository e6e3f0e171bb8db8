"""Which run trains next until the first one is trained to its last epoch: the leader, or a neighbour of it.

The leader is the run, begun or not, that is expected to end best; another one takes its place as soon as the reports
say so. What the leader needs to its end is always held back from the budget. One worker trains no other run beside it:
on recorded trainings that never paid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.base import Action
    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.budget import Budget
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["race"]

Floats: TypeAlias = npt.NDArray[np.float64]


def race(beliefs: Beliefs, budget: Budget, candidates: Sequence[Observation]) -> Action:
    """The leader's next segment, or a look beside it; the end where the budget holds no full training."""
    beyond = np.array([not budget.affords(budget.remaining(run)) for run in candidates])
    if beyond.all():  # true without candidates
        return budget.nothing_to_finish()
    ends = beliefs.draws(candidates)
    leader = int(np.argmin(np.where(beyond, np.inf, ends.mean(axis=0))))
    run = candidates[leader]
    if not run.trial.open:
        if beliefs.context.busy and len(beliefs.combinations) > 1:
            return budget.end("another worker trains the leader")  # of many settings looked at one seems to be better
        return _beside(budget, candidates, leader, ends, busy=beliefs.context.busy)
    why = "leader" if run.trained >= budget.first else "the model's favourite"
    return budget.advance(run, budget.after(run.trained), why)


def _beside(budget: Budget, candidates: Sequence[Observation], leader: int, ends: Floats, *, busy: bool) -> Action:
    """The leader is another worker's: its best neighbour, for a look, with its end held back from the budget.

    No further while any is trained: what is trained beside the leader is mostly lost when that one is better.
    """
    first, order = candidates[leader], np.argsort(ends.mean(axis=0), kind="stable")
    claimed = first.trial.until
    target = min(budget.length if claimed is None else claimed, budget.round(CONFIG.beside * budget.length))
    reserve = budget.remaining(first) - budget.price(first, claimed or 0)
    for j in order:
        run = candidates[j]
        until = min(budget.after(run.trained), target)
        near = run.trial.open and until > run.trained and abs(run.x - first.x) <= CONFIG.neighbourhood
        if near and budget.affords(budget.price(run, until) + reserve):
            return budget.advance(run, until, "beside the leader")
    for j in () if busy else order:  # nobody trains the leader: it is paused in a process that may have ended
        run = candidates[j]
        if run.trial.open and budget.affords(budget.remaining(run)):
            return budget.advance(run, budget.after(run.trained), "in place of the leader")
    return budget.end("the budget ends before another run can be finished")
