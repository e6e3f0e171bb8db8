"""Which run trains next until the first one is trained to its last epoch: the leader, or one that may overtake it.

A challenger is trained where that is expected to gain more than it costs; what the leader needs to its end is always
held back from the budget.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

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
    """A challenger's or the leader's next segment; the end where the budget holds no full training."""
    remaining = np.array([budget.remaining(run) for run in candidates])
    beyond = np.array([not budget.affords(float(price)) for price in remaining])
    if beyond.all():  # true without candidates
        return budget.nothing_to_finish()
    furthest = max([budget.first, *(run.trained for run in candidates)])
    until = np.array([budget.round(min(max(budget.first, 2 * run.trained), furthest)) for run in candidates])
    ends, smooth, next_values = beliefs.draws(candidates, until)
    score = ends.mean(axis=0) + CONFIG.trained_bonus * remaining
    leader = int(np.argmin(np.where(beyond, np.inf, score)))
    cost = np.array([budget.price(run, float(u)) for run, u in zip(candidates, until, strict=True)])
    ready = np.array([run.trial.open and u > run.trained for run, u in zip(candidates, until, strict=True)])
    gain = knowledge_gradient(ends, smooth, next_values, leader) - CONFIG.challenger_price * cost
    worth = np.where(ready, gain, -np.inf)
    worth[leader] = -np.inf
    pick = int(np.argmax(worth))
    challenger = (candidates[pick], float(until[pick])) if worth[pick] > 0 else None
    return _lead(budget, candidates[leader], challenger) or _beside(budget, candidates, leader, ends)


def _lead(budget: Budget, leader: Observation, challenger: tuple[Observation, float] | None) -> Action | None:
    """Train the leader on, after the one that may yet overtake it has caught up; None where it is busy."""
    reserve = budget.remaining(leader)
    if leader.trained < budget.first and leader.trial.open and budget.affords(reserve):
        return budget.advance(leader, budget.first, "the model's favourite")
    if challenger is not None and budget.affords(budget.price(*challenger) + reserve):
        return budget.advance(*challenger, "challenger")
    if leader.trial.open:
        return budget.advance(leader, budget.after(leader.trained), "leader")
    return None


def _beside(budget: Budget, candidates: Sequence[Observation], leader: int, ends: Floats) -> Action:
    """Another worker trains the leader: its best neighbour, for a look, with its end held back from the budget.

    No further: what is trained beside the leader is mostly lost when that one is better.
    """
    first = candidates[leader]
    claimed = first.trial.until
    target = min(budget.length if claimed is None else claimed, budget.round(CONFIG.beside * budget.length))
    reserve = budget.remaining(first) - budget.price(first, claimed or 0)
    for j in np.argsort(ends.mean(axis=0), kind="stable"):
        run = candidates[j]
        if abs(run.x - first.x) > CONFIG.neighbourhood:
            continue
        until = min(budget.after(run.trained), target)
        if run.trial.open and until > run.trained and budget.affords(budget.price(run, until) + reserve):
            return budget.advance(run, until, "beside the leader")
    return budget.end("the budget ends before another run can be finished")


def knowledge_gradient(ends: Floats, smooth: Floats, next_values: Floats, leader: int) -> Floats:
    """Loss that training each candidate on is expected to save, beside the leader, shape (candidates,).

    The knowledge gradient of two alternatives (Frazier, Powell and Dayanik 2009, "The Knowledge-Gradient Policy
    for Correlated Normal Beliefs", section 3): the part of the difference that the next value resolves. The
    arguments are those of :meth:`.Beliefs.draws`, each of shape (draws, candidates).
    """
    ahead = smooth[:, [leader]] - smooth
    mean = (ends[:, [leader]] - ends).mean(axis=0)
    centred = ahead - ahead.mean(axis=0)
    shown = next_values - next_values.mean(axis=0)
    resolved = np.abs((centred * shown).mean(axis=0)) / np.maximum(shown.std(axis=0), 1e-9)
    z = np.clip(mean / np.maximum(resolved, 1e-9), -30, 30)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    found: Floats = resolved * density + mean * ndtr(z) - np.maximum(mean, 0)
    return found
