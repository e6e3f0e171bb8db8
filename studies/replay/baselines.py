"""Baselines under the same contract as lrtune's own strategies: random, grid, and a resumable race."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrtune.core.outcome import Outcome
from lrtune.search.base import Action, Continue, Finish, SearchContext, Start, TrialView

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Grid", "Race", "Random"]


def _draw(context: SearchContext, rng: np.random.Generator) -> dict[str, Any]:
    params = {}
    for name, distribution in context.space.distributions().items():
        if hasattr(distribution, "choices"):
            params[name] = distribution.choices[int(rng.integers(len(distribution.choices)))]
        else:
            params[name] = float(10 ** rng.uniform(math.log10(distribution.low), math.log10(distribution.high)))
    return params


@dataclass(frozen=True)
class Random:
    """Full trainings at random points."""

    name: str = "random"

    def next(self, context: SearchContext, /) -> Action:
        """A full training at a random point."""
        if context.left < 1:
            return Finish()
        rng = np.random.default_rng([context.seed, len(context.trials)])
        return Start(params=_draw(context, rng), until=context.epochs)


@dataclass(frozen=True)
class Grid:
    """Full trainings on a jittered grid, in random order, then at random."""

    points: int = 15
    name: str = "grid"

    def next(self, context: SearchContext, /) -> Action:
        """The next point of the grid."""
        count = len(context.trials)
        if context.left < 1:
            return Finish()
        if count >= self.points:
            return Random().next(context)
        rng = np.random.default_rng(context.seed)
        low, high = (math.log10(v) for v in context.space.lr_range)
        spots = low + (high - low) * (np.arange(self.points) + rng.uniform(0, 1)) / self.points
        params = _draw(context, np.random.default_rng([context.seed, count]))
        return Start(params=params | {"lr": float(10 ** rng.permutation(spots)[count])}, until=context.epochs)


@dataclass(frozen=True)
class Race:
    """Successive halving with resume over a jittered grid, then refinements around the winner: the floor."""

    points: int = 15
    first: float = 0.03
    keep: int = 3
    name: str = "race"

    def next(self, context: SearchContext, /) -> Action:
        """The first piece of work that the race still needs."""
        for action in self._steps(context):
            price = action.until - (context.trials[action.number].trained if isinstance(action, Continue) else 0)
            return action if price / context.epochs <= context.left + 1e-9 else Finish()
        return Finish()

    def _steps(self, context: SearchContext) -> Iterator[Start | Continue]:  # noqa: C901 -- the race from start to end
        trials = context.trials
        length = context.epochs
        rungs = [max(1.0, round(self.first * length))]
        while rungs[-1] * self.keep < length:
            rungs.append(rungs[-1] * self.keep)
        rungs.append(float(length))
        rng = np.random.default_rng(context.seed)
        low, high = (math.log10(v) for v in context.space.lr_range)
        count = self.points * math.prod(1 if n == "lr" else 2 for n in context.space.names)
        spots = low + (high - low) * (np.arange(count) + rng.uniform(0, 1)) / count
        if len(trials) < count:
            params = _draw(context, np.random.default_rng([context.seed, len(trials)]))
            yield Start(params=params | {"lr": float(10 ** spots[len(trials)])}, until=rungs[0])
            return
        arms = list(trials[:count])
        for rung in rungs[1:]:
            size = max(1, math.ceil(len(arms) / self.keep)) if rung < length else 1
            before = rungs[rungs.index(rung) - 1]
            arms = sorted(arms, key=lambda t, b=before: _at(t, b, context.sign))[:size]
            for trial in arms:
                if trial.open and trial.trained < rung:
                    yield Continue(number=trial.number, until=rung)
                    return
        done = [t for t in trials if t.outcome is Outcome.COMPLETED]
        step = (high - low) / count
        for _ in range(30):
            best = min(done, key=lambda t: context.sign * t.values[-1], default=arms[0])
            step /= 2 ** (1 / 2)
            for side in (-1, 1):
                lr = float(10 ** (math.log10(best.recipe.lr) + side * step))
                if not context.space.lr_range[0] <= lr <= context.space.lr_range[1]:
                    continue
                if any(abs(math.log10(t.recipe.lr / lr)) < 0.3 * step for t in done if _same(t, best, context)):
                    continue
                near = [t for t in trials if math.isclose(t.recipe.lr, lr) and t.outcome is not None]
                if not near:
                    yield Start(params=context.space.params(best.recipe) | {"lr": lr}, until=length)
                    return


def _same(one: TrialView, other: TrialView, context: SearchContext) -> bool:
    return all(getattr(one.recipe, n) == getattr(other.recipe, n) for n in context.space.names if n != "lr")


def _at(trial: TrialView, epoch: float, sign: float) -> float:
    if trial.outcome is not None and trial.outcome.diverged:
        return math.inf
    held = np.flatnonzero(trial.epochs <= epoch + 1e-9)
    return float(sign * trial.values[held[-1]]) if len(held) else math.inf
