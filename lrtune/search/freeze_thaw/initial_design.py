"""The first runs of freeze-thaw: short trainings until the best lies between worse ones, and patience on a plateau.

Nothing is modelled yet. Runs are compared as they are, at the length of the first segment and under one combination
of the other settings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lrtune.search.base import Action, Continue, Wait
from lrtune.search.freeze_thaw.beliefs import warmup
from lrtune.search.freeze_thaw.config import CONFIG

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lrtune.search.freeze_thaw.beliefs import Beliefs
    from lrtune.search.freeze_thaw.budget import Budget
    from lrtune.search.freeze_thaw.observations import Observation

__all__ = ["InitialDesign"]

LOWEST = 1e-6  # decades from the low end of the range, within which a run is one at that end


class InitialDesign:
    """The steps before the model is used; each returns None where it has nothing to do.

    The settings under which the first runs are trained are those with the best prior score among the ones with the
    shortest warmup.
    """

    def __init__(self, beliefs: Beliefs, budget: Budget) -> None:
        self.beliefs = beliefs
        self.observed = beliefs.observed
        self.context = beliefs.context
        self.budget = budget
        low, high = self.context.space.lr_range
        self.range = math.log10(low), math.log10(high)
        least = beliefs.shortest_warmup
        self.key = max((key for key in beliefs.combinations if warmup(key) == least), key=beliefs.prior_score)

    # -- 1. bracket the best ------------------------------------------------------------------------

    def bracket(self) -> Action | None:
        """The next short training, until the best of them lies between worse ones."""
        grid = self._first_grid()
        runs = [run for run in self.observed.runs if run.key == self.key]
        if len(runs) > 2 * len(grid) or self.observed.completed:
            return None
        taken = {_nearest(grid, run.lr_x): run for run in reversed(runs)}
        losses = {i: self._loss(run) for i, run in taken.items() if run.diverged or len(run.values)}
        if not losses:
            return self._first_value(grid, taken)
        best = min(losses, key=lambda i: (losses[i], i))
        if not math.isfinite(losses[best]):
            return self._descend(grid, taken, runs)
        for index in (best + 1, best - 1):
            if 0 <= index < len(grid) and index not in taken:
                return self._start(grid[index])
        if any(run.number in self.context.beside for run in runs):
            return None  # what it reports decides where to look next
        return self._between(runs)

    def _first_grid(self) -> list[float]:
        """Learning rates (log10) of the first runs: a decade apart, jittered, or around an earlier study's best."""
        low, high = self.range
        count = max(2, round((high - low) / CONFIG.spacing))
        step = (high - low) / count
        best = self._earlier_best()
        if best is not None and low <= best <= high:
            return [best + step * k for k in range(-count, count + 1) if low <= best + step * k <= high]
        jitter = np.random.default_rng([self.context.seed, 0]).uniform(-CONFIG.jitter, CONFIG.jitter)
        return [float(v) for v in low + step * (np.arange(count) + 0.5 + jitter)]

    def _earlier_best(self) -> float | None:
        """log10 of an earlier study's best learning rate, under the settings of the first runs."""
        prior = self.beliefs.prior
        return None if prior is None else prior.x + self.beliefs.shift(self.key)

    def _first_value(self, grid: Sequence[float], taken: dict[int, Observation]) -> Action | None:
        """Nothing was reported yet: from the middle outwards, or from an earlier study's best.

        A run that has not reported the metric by its first segment's end goes on until it does.
        """
        silent = [run for run in self.observed.runs if run.trial.open and not len(run.values)]
        if silent:
            run = max(silent, key=lambda run: (run.trained, -run.number))
            until = self.budget.after(run.trained)
            if self.context.leaves_an_end(run.trained, until, run.trial.repaid_epochs):
                return Continue(number=run.number, until=until, why="it has not reported the metric yet")
        earlier = self._earlier_best()
        middle = len(grid) // 2 if earlier is None else _nearest(grid, earlier)
        order = sorted(set(range(len(grid))) - set(taken), key=lambda i: abs(i - middle))
        if order and (not self.context.beside or self.context.by_time or abs(order[0] - middle) <= 1):
            return self._start(grid[order[0]])
        if self.context.beside:
            return None
        return Wait() if self.context.busy else None

    def _descend(
        self, grid: Sequence[float], taken: dict[int, Observation], runs: Sequence[Observation]
    ) -> Action | None:
        """All diverged: the next lower one, at last below the range."""
        left = min(taken) - 1
        if left >= 0:
            return self._start(grid[left])
        lowest = min(run.lr_x for run in runs)
        for x in (self.range[0], self.context.reach[0]):
            if x < lowest - CONFIG.closest:
                return self._start(x)
        return None

    def _between(self, runs: Sequence[Observation]) -> Action | None:
        """Half-way from the best run to its neighbours, or beyond the range."""
        runs = sorted(runs, key=lambda run: run.trial.recipe.lr)
        xs = [run.lr_x for run in runs]
        best = min(range(len(runs)), key=lambda i: (self._loss(runs[i]), i))
        for other in (best + 1, best - 1):
            if 0 <= other < len(xs) and abs(xs[other] - xs[best]) > CONFIG.bisect_above * CONFIG.spacing:
                return self._start((xs[best] + xs[other]) / 2)
        return None if self.observed.plateau else self._beyond(xs, best)  # no best among equals

    def _beyond(self, xs: Sequence[float], best: int) -> Action | None:
        """The end of the range, and what lies beyond, where no run bounds the best one."""
        low, high = self.range
        lowest, highest = self.context.reach
        if best == len(xs) - 1 and xs[best] < high - CONFIG.apart:
            return self._start(high)
        if best == len(xs) - 1 and highest > high + CONFIG.closest:
            return self._start(min(high + CONFIG.spacing, highest))
        if best == 0 and lowest < low - CONFIG.closest:
            return self._start(low if low + CONFIG.closest < xs[best] else max(low - CONFIG.spacing, lowest))
        return None

    def _loss(self, run: Observation) -> float:
        """A run's loss at the end of its first segment, infinite where it diverged or reported nothing."""
        if run.diverged or not len(run.values):
            return math.inf
        return self.observed.at(run, min(run.trained, self.budget.first) / self.budget.length)

    def _start(self, lr_x: float) -> Action | None:
        lr = self.context.space.lr_at(lr_x)
        if not self.context.can_join(self.beliefs.recipe(lr_x, self.key)):
            return None
        if any(run.key == self.key and run.trial.recipe.lr == lr for run in self.observed.runs):
            return None  # in a range so narrow that its ends are one
        return self.budget.start_first(lr_x, self.key)

    # -- 2. train past a plateau ----------------------------------------------------------------------

    def train_past_plateau(self) -> Action | None:
        """Where nothing has begun to learn: train all on, and the lowest learning rate with them, until one does."""
        limit = self.budget.round(CONFIG.plateau_patience * self.budget.length)
        plateau, stalled = self.observed.plateau, self.observed.stalled
        if plateau or stalled is not None:
            if not any(self._lowest(run) for run in self.observed.runs):
                return self._start(self.range[0])
            limit = limit if plateau or stalled is None else min(limit, stalled.trained)
            waiting = plateau + [run for run in self.observed.alive if self._lowest(run)]
        else:
            waiting = self.observed.left_behind
            limit = min(limit, self.beliefs.best.trained)
        ready = [run for run in _spread(waiting) if run.trial.open and run.trained < limit]
        if not ready:
            return None
        run = min(ready, key=lambda run: (run.trained, run.x))
        until = min(self.budget.after(run.trained), limit)
        if self.context.price(run.trial, until) + 1 > self.context.left:
            return None
        return Continue(number=run.number, until=until, why="nothing learns yet")

    def _lowest(self, run: Observation) -> bool:
        """Whether it is at the low end of the range."""
        return run.lr_x <= self.range[0] + LOWEST


def _nearest(grid: Sequence[float], x: float) -> int:
    return int(np.argmin([abs(s - x) for s in grid]))


def _spread(runs: Sequence[Observation]) -> list[Observation]:
    """Those of them that are far enough from each other, the furthest trained first."""
    found: list[Observation] = []
    for run in sorted(runs, key=lambda run: (-run.trained, run.x)):
        if all(abs(run.x - other.x) >= CONFIG.plateau_spacing * CONFIG.spacing for other in found):
            found.append(run)
    return found
