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
    from lrtune.search.freeze_thaw.observations import Arm

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
        self.situation = beliefs.situation
        self.pace = pace
        low, high = self.situation.space.lr_range
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
        arms = [arm for arm in self.view.arms if arm.key == self.home]
        if len(arms) > 2 * len(spots) or self.view.completed:
            return None
        taken = {_nearest(spots, math.log10(arm.seen.recipe.lr)): arm for arm in reversed(arms)}
        scores = {i: self._score(arm) for i, arm in taken.items() if arm.diverged or len(arm.values)}
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
        jitter = np.random.default_rng([self.situation.seed, 0]).uniform(-JITTER, JITTER)
        return [float(v) for v in low + step * (np.arange(count) + 0.5 + jitter)]

    def _earlier(self) -> float | None:
        """Where an earlier study found its best, as log10 of a learning rate under the settings of the first looks."""
        earlier = self.beliefs.earlier
        return None if earlier is None else earlier.x + self.beliefs.shift(self.home)

    def _blind(self, spots: Sequence[float], taken: dict[int, Arm]) -> Action | None:
        """Nothing is seen yet: from the middle outwards, or from where an earlier study found its best.

        A run that has not reported the metric by its first look goes on until it does.
        """
        silent = [arm for arm in self.view.arms if arm.seen.open and not len(arm.values)]
        if silent:
            arm = max(silent, key=lambda arm: (arm.seen.trained, -arm.number))
            until = self.pace.after(arm.seen.trained)
            if self.situation.leaves_an_end(arm.seen.trained, until, arm.seen.again):
                return Continue(number=arm.number, until=until, why="it has not reported the metric yet")
        earlier = self._earlier()
        middle = len(spots) // 2 if earlier is None else _nearest(spots, earlier)
        order = sorted(set(range(len(spots))) - set(taken), key=lambda i: abs(i - middle))
        if order:
            return self._first(spots[order[0]])
        return Wait() if self.pace.busy else None

    def _descend(self, spots: Sequence[float], taken: dict[int, Arm], arms: Sequence[Arm]) -> Action | None:
        """Nothing lives yet: the cliff lies to the left, at last below the range."""
        left = min(taken) - 1
        if left >= 0:
            return self._first(spots[left])
        lowest = min(math.log10(arm.seen.recipe.lr) for arm in arms)
        for x in (self.range[0], self.situation.reach[0]):
            if x < lowest - FINEST:
                return self._first(x)
        return None

    def _between(self, arms: Sequence[Arm]) -> Action | None:
        """Half-way from the best first look to its neighbours, or beyond the range."""
        arms = sorted(arms, key=lambda arm: arm.seen.recipe.lr)
        xs = [math.log10(arm.seen.recipe.lr) for arm in arms]
        best = min(range(len(arms)), key=lambda i: (self._score(arms[i]), i))
        for other in (best + 1, best - 1):
            if 0 <= other < len(xs) and abs(xs[other] - xs[best]) > HALVED * SPACING:
                return self._first((xs[best] + xs[other]) / 2)
        return None if self.view.plateau else self._beyond(xs, best)  # no best among equals

    def _beyond(self, xs: Sequence[float], best: int) -> Action | None:
        """The end of the range, and what lies beyond, where no look bounds the best one."""
        low, high = self.range
        lowest, highest = self.situation.reach
        if best == len(xs) - 1 and xs[best] < high - APART:
            return self._first(high)
        if best == len(xs) - 1 and highest > high + FINEST:
            return self._first(min(high + SPACING, highest))
        if best == 0 and lowest < low - FINEST:
            return self._first(low if low + FINEST < xs[best] else max(low - SPACING, lowest))
        return None

    def _score(self, arm: Arm) -> float:
        if arm.diverged or not len(arm.values):
            return math.inf
        return self.view.at(arm, min(arm.seen.trained, self.pace.first) / self.pace.length)

    def _first(self, x: float) -> Action | None:
        lr = self.situation.space.lr_at(x)
        if any(arm.key == self.home and arm.seen.recipe.lr == lr for arm in self.view.arms):
            return None  # in a range so narrow that its ends are one
        return self.pace.look(x, self.home)

    # -- 2. wait on a plateau ----------------------------------------------------------------------

    def wake(self) -> Action | None:
        """Where nothing has begun to learn: train all on, and the lowest learning rate with them, until one does."""
        limit = self.pace.round(WAKE * self.pace.length)
        asleep, stalled = self.view.plateau, self.view.stalled
        if asleep or stalled is not None:
            if not any(self._lowest(arm) for arm in self.view.arms):
                return self._first(self.range[0])
            limit = limit if asleep or stalled is None else min(limit, stalled.seen.trained)
            asleep = asleep + [arm for arm in self.view.alive if self._lowest(arm)]
        else:
            asleep = self.view.left_behind
            limit = min(limit, self.beliefs.best.seen.trained)
        ready = [arm for arm in _spread(asleep) if arm.seen.open and arm.seen.trained < limit]
        if not ready:
            return None
        arm = min(ready, key=lambda arm: (arm.seen.trained, arm.x))
        until = min(self.pace.after(arm.seen.trained), limit)
        if (until - arm.seen.trained + arm.seen.again) / self.pace.length + 1 > self.situation.left:
            return None
        return Continue(number=arm.number, until=until, why="nothing learns yet")

    def _lowest(self, arm: Arm) -> bool:
        """Whether it is at the low end of the range."""
        return math.log10(arm.seen.recipe.lr) <= self.range[0] + LOWEST


def _nearest(spots: Sequence[float], x: float) -> int:
    return int(np.argmin([abs(s - x) for s in spots]))


def _spread(arms: Sequence[Arm]) -> list[Arm]:
    """Those of them that stand apart, the furthest trained first."""
    found: list[Arm] = []
    for arm in sorted(arms, key=lambda arm: (-arm.seen.trained, arm.x)):
        if all(abs(arm.x - other.x) >= SPREAD * SPACING for other in found):
            found.append(arm)
    return found
