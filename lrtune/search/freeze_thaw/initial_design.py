"""The opening of a freeze-thaw search: short looks until the best lies between worse ones, and waiting on a plateau.

Nothing is modelled yet. Looks are compared as they are, all at the length of the first one and under one
combination of the other settings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from lrtune.search.base import Action, Continue, Wait
from lrtune.search.freeze_thaw.beliefs import warmup
from lrtune.search.freeze_thaw.candidates import APART, FINEST

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.budget import Pace
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["Opening"]

Key: TypeAlias = tuple[Any, ...]

SPACING = 1.0  # decades between first looks: half the width of a basin in practice
JITTER = 0.25  # of the spacing, to either side: where the first looks fall is chance
HALVED = 0.75  # of the spacing: neighbours of the best further away than this get a look half-way
WAKE = 0.2  # of a full training: how long to wait for the first run to leave a plateau
SPREAD = 0.4  # of the spacing: how far apart the runs that wait on a plateau are
LOWEST = 1e-6  # decades from the low end of the range, within which a run is one at that end


class Opening:
    """What is done before anything can be believed; each step is None where it has nothing to do."""

    def __init__(self, beliefs: Beliefs, pace: Pace) -> None:
        self.beliefs = beliefs
        self.view = beliefs.view
        self.context = beliefs.context
        self.pace = pace
        low, high = self.context.space.lr_range
        self.range = math.log10(low), math.log10(high)
        self.home = self._home()

    def _home(self) -> Key:
        """Settings under which the learning rate is bracketed first: liked, but without a warmup to wait for."""
        least = self.beliefs.shortest_warmup
        return max((key for key in self.beliefs.combos if warmup(key) == least), key=self.beliefs.liking)

    # -- 1. look -----------------------------------------------------------------------------------

    def look(self) -> Action | None:
        """The next first look, until the best of them lies between worse ones."""
        spots = self._spots()
        arms = [observation for observation in self.view.arms if observation.key == self.home]
        if len(arms) > 2 * len(spots) or self.view.completed:
            return None
        taken = {_nearest(spots, math.log10(observation.seen.recipe.lr)): observation for observation in reversed(arms)}
        scores = {
            i: self._score(observation)
            for i, observation in taken.items()
            if observation.diverged or len(observation.values)
        }
        if not scores:
            return self._blind(spots, taken)
        best = min(scores, key=lambda i: (scores[i], i))
        if not math.isfinite(scores[best]):
            return self._descend(spots, taken, arms)
        for spot in (best + 1, best - 1):
            if 0 <= spot < len(spots) and spot not in taken:
                return self._first(spots[spot])
        return self._between(arms)

    def _spots(self) -> list[float]:
        """First looks: a decade apart, jittered; around an earlier study's best where there is one."""
        low, high = self.range
        count = max(2, round((high - low) / SPACING))
        step = (high - low) / count
        best = self._earlier()
        if best is not None and low <= best <= high:
            return [best + step * k for k in range(-count, count + 1) if low <= best + step * k <= high]
        jitter = np.random.default_rng([self.context.seed, 0]).uniform(-JITTER, JITTER)
        return [float(v) for v in low + step * (np.arange(count) + 0.5 + jitter)]

    def _earlier(self) -> float | None:
        """Where an earlier study found its best, as log10 of a learning rate under the settings of the first looks."""
        earlier = self.beliefs.earlier
        return None if earlier is None else earlier.x + self.beliefs.shift(self.home)

    def _blind(self, spots: Sequence[float], taken: dict[int, Observation]) -> Action | None:
        """Nothing is seen yet: from the middle outwards, or from where an earlier study found its best.

        A run that has not reported the metric by its first look goes on until it does.
        """
        silent = [
            observation for observation in self.view.arms if observation.seen.open and not len(observation.values)
        ]
        if silent:
            observation = max(silent, key=lambda observation: (observation.seen.trained, -observation.number))
            until = self.pace.after(observation.seen.trained)
            if self.context.leaves_an_end(observation.seen.trained, until, observation.seen.repaid_epochs):
                return Continue(number=observation.number, until=until, why="it has not reported the metric yet")
        earlier = self._earlier()
        middle = len(spots) // 2 if earlier is None else _nearest(spots, earlier)
        order = sorted(set(range(len(spots))) - set(taken), key=lambda i: abs(i - middle))
        if order:
            return self._first(spots[order[0]])
        return Wait() if self.pace.busy else None

    def _descend(
        self, spots: Sequence[float], taken: dict[int, Observation], arms: Sequence[Observation]
    ) -> Action | None:
        """Nothing lives yet: the cliff lies to the left, at last below the range."""
        left = min(taken) - 1
        if left >= 0:
            return self._first(spots[left])
        lowest = min(math.log10(observation.seen.recipe.lr) for observation in arms)
        for x in (self.range[0], self.context.reach[0]):
            if x < lowest - FINEST:
                return self._first(x)
        return None

    def _between(self, arms: Sequence[Observation]) -> Action | None:
        """Half-way from the best first look to its neighbours, or beyond the range."""
        arms = sorted(arms, key=lambda observation: observation.seen.recipe.lr)
        xs = [math.log10(observation.seen.recipe.lr) for observation in arms]
        best = min(range(len(arms)), key=lambda i: (self._score(arms[i]), i))
        for other in (best + 1, best - 1):
            if 0 <= other < len(xs) and abs(xs[other] - xs[best]) > HALVED * SPACING:
                return self._first((xs[best] + xs[other]) / 2)
        return None if self.view.plateau else self._beyond(xs, best)  # no best among equals

    def _beyond(self, xs: Sequence[float], best: int) -> Action | None:
        """The end of the range, and what lies beyond, where no look bounds the best one."""
        low, high = self.range
        lowest, highest = self.context.reach
        if best == len(xs) - 1 and xs[best] < high - APART:
            return self._first(high)
        if best == len(xs) - 1 and highest > high + FINEST:
            return self._first(min(high + SPACING, highest))
        if best == 0 and lowest < low - FINEST:
            return self._first(low if low + FINEST < xs[best] else max(low - SPACING, lowest))
        return None

    def _score(self, observation: Observation) -> float:
        if observation.diverged or not len(observation.values):
            return math.inf
        return self.view.at(observation, min(observation.seen.trained, self.pace.first) / self.pace.length)

    def _first(self, x: float) -> Action | None:
        lr = self.context.space.lr_at(x)
        if any(observation.key == self.home and observation.seen.recipe.lr == lr for observation in self.view.arms):
            return None  # in a range so narrow that its ends are one
        return self.pace.look(x, self.home)

    # -- 2. wait on a plateau ----------------------------------------------------------------------

    def train_past_plateau(self) -> Action | None:
        """Where nothing has begun to learn: train all on, and the lowest learning rate with them, until one does."""
        limit = self.pace.round(WAKE * self.pace.length)
        plateaued, stalled = self.view.plateau, self.view.stalled
        if plateaued or stalled is not None:
            if not any(self._lowest(observation) for observation in self.view.arms):
                return self._first(self.range[0])
            limit = limit if plateaued or stalled is None else min(limit, stalled.seen.trained)
            plateaued = plateaued + [observation for observation in self.view.alive if self._lowest(observation)]
        else:
            plateaued = self.view.left_behind
            limit = min(limit, self.beliefs.best.seen.trained)
        ready = [
            observation
            for observation in _spread(plateaued)
            if observation.seen.open and observation.seen.trained < limit
        ]
        if not ready:
            return None
        observation = min(ready, key=lambda observation: (observation.seen.trained, observation.x))
        until = min(self.pace.after(observation.seen.trained), limit)
        if (
            until - observation.seen.trained + observation.seen.repaid_epochs
        ) / self.pace.length + 1 > self.context.left:
            return None
        return Continue(number=observation.number, until=until, why="nothing learns yet")

    def _lowest(self, observation: Observation) -> bool:
        """Whether it is at the low end of the range."""
        return math.log10(observation.seen.recipe.lr) <= self.range[0] + LOWEST


def _nearest(spots: Sequence[float], x: float) -> int:
    return int(np.argmin([abs(s - x) for s in spots]))


def _spread(arms: Sequence[Observation]) -> list[Observation]:
    """Those of them that stand apart, the furthest trained first."""
    found: list[Observation] = []
    for observation in sorted(arms, key=lambda observation: (-observation.seen.trained, observation.x)):
        if all(abs(observation.x - other.x) >= SPREAD * SPACING for other in found):
            found.append(observation)
    return found
