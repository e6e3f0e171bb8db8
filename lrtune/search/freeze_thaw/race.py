"""The race to the first full training: the leader trains on, and those that may yet overtake it catch up.

A challenger gets a look where what that is expected to gain is worth more than it costs; the end of the
leader is always held back from the budget.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

from lrtune.search.freeze_thaw.candidates import free

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.base import Action
    from lrtune.search.freeze_thaw.beliefs import Beliefs, Candidate
    from lrtune.search.freeze_thaw.budget import Pace

__all__ = ["Race"]

Floats: TypeAlias = npt.NDArray[np.float64]

PRICE = 0.05  # regret (of the way from untrained to best) that one full training of looks must be expected to save
PAID = 1e-3  # regret that a full training paid already is worth: between equals the one that came further leads


class Race:
    """What is done before the first run is complete."""

    def __init__(self, beliefs: Beliefs, pace: Pace) -> None:
        self.beliefs = beliefs
        self.pace = pace

    def next(self, candidates: Sequence[Candidate]) -> Action:
        """A challenger's look or the leader's next piece; the end where the budget holds no full training."""
        if not candidates:
            return self.pace.nowhere()
        until = self._looks(candidates)
        fallen, smooth, looks = self.beliefs.draws(candidates, until)
        remaining = np.array([self.pace.price(c, self.pace.length) for c in candidates])
        beyond = np.array([not self.pace.affords(float(price)) for price in remaining])
        if beyond.all():
            return self.pace.nowhere()
        leader = int(np.argmin(np.where(beyond, np.inf, fallen.mean(axis=0) + PAID * remaining)))
        cost = np.array([self.pace.price(c, float(u)) for c, u in zip(candidates, until, strict=True)])
        ready = np.array([free(c) and u > c.trained for c, u in zip(candidates, until, strict=True)])
        worth = np.where(ready, gain(fallen, smooth, looks, leader) - PRICE * cost, -np.inf)
        worth[leader] = -np.inf
        pick = int(np.argmax(worth))
        chosen = (candidates[pick], float(until[pick])) if worth[pick] > 0 else None
        return self._lead(candidates[leader], chosen) or self._beside(candidates, leader, fallen)

    def _looks(self, candidates: Sequence[Candidate]) -> Floats:
        """Up to where each would be looked at, shape (candidates,): twice as far, but no further than any came."""
        first = self.pace.first
        reach = max([first, *(c.trained for c in candidates)])
        return np.array([self.pace.round(min(max(first, 2 * c.trained), reach)) for c in candidates])

    def _lead(self, leader: Candidate, challenger: tuple[Candidate, float] | None) -> Action | None:
        """Train the leader on, after the one that may yet overtake it has caught up; None where it is busy."""
        reserve = self.pace.price(leader, self.pace.length)
        if leader.trained < self.pace.first and free(leader) and self.pace.affords(reserve):
            return self.pace.advance(leader, self.pace.first, "the model's favourite")
        if challenger is not None and self.pace.affords(self.pace.price(*challenger) + reserve):
            return self.pace.advance(*challenger, "challenger")
        if free(leader):
            return self.pace.advance(leader, self.pace.after(leader.trained), "leader")
        return None

    def _beside(self, candidates: Sequence[Candidate], leader: int, fallen: Floats) -> Action:
        """The leader is somebody else's: the next best, no further than the leader, and what the leader still needs."""
        observation = candidates[leader].observation
        claimed = None if observation is None else observation.seen.until
        target = self.pace.length if claimed is None else claimed
        reserve = self.pace.price(candidates[leader], self.pace.length) - self.pace.price(
            candidates[leader], claimed or 0
        )
        for j in np.argsort(fallen.mean(axis=0), kind="stable"):
            c = candidates[j]
            until = min(self.pace.after(c.trained), target)
            if free(c) and until > c.trained and self.pace.affords(self.pace.price(c, until) + reserve):
                return self.pace.advance(c, until, "beside the leader")
        return self.pace.end("the budget ends before another run can be finished")


def gain(fallen: Floats, smooth: Floats, looks: Floats, leader: int) -> Floats:
    """What a look at each candidate is expected to gain over the leader, shape (candidates,).

    The knowledge gradient of two alternatives (Frazier, Powell and Dayanik 2009, "The Knowledge-Gradient Policy
    for Correlated Normal Beliefs", section 3): the part of the difference that the look resolves.
    """
    ahead = smooth[:, [leader]] - smooth
    mean = (fallen[:, [leader]] - fallen).mean(axis=0)
    centred = ahead - ahead.mean(axis=0)
    shown = looks - looks.mean(axis=0)
    resolved = np.abs((centred * shown).mean(axis=0)) / np.maximum(shown.std(axis=0), 1e-9)
    z = np.clip(mean / np.maximum(resolved, 1e-9), -30, 30)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    found: Floats = resolved * density + mean * ndtr(z) - np.maximum(mean, 0)
    return found
