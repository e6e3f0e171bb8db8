"""Strategies that sample: ``tpe``, ``gp``, ``qmc`` and ``random``.

Each trains one recipe after another, from rung to rung, and gives a run up where it falls behind
(:mod:`lrtune.search.samplers.rungs`); they differ in where the next recipe comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from lrtune.search.base import UNLIMITED_BUDGET, Action, Continue, Finish, Start, Stop, Wait
from lrtune.search.samplers.rungs import next_rung, should_stop
from lrtune.search.samplers.sampler_study import propose, seed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lrtune.core.space import Space
    from lrtune.search.base import SearchContext

__all__ = ["GP", "QMC", "TPE", "RandomSearch", "Sampled", "from_unit"]

STARTUP = 5
"""Points spread evenly before a model is asked: half of Optuna's default, for searches this short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """The part that all sampling strategies share.

    Attributes
    ----------
    name
        The name under which a study file selects it.
    sample
        Makes the next point of the space.
    prune
        Whether runs that fall behind are given up; without it every run is trained to its end.
    """

    name: str
    sample: Callable[[SearchContext], Mapping[str, Any]]
    prune: bool = True

    def next(self, context: SearchContext, /) -> Action:
        """Continue what is paused or give it up; else start the next point."""
        for seen in context.trials:
            if seen.open and len(seen.epochs) and self.prune and should_stop(seen, context):
                return Stop(number=seen.number, why="fell behind")
        for seen in context.trials:
            if seen.open:
                until = self._until(seen.trained, context)
                price = (until - seen.trained + seen.repaid_epochs) / context.epochs
                if price <= context.left * (1 + 1e-9):
                    return Continue(number=seen.number, until=until, why="next rung" if self.prune else "to its end")
                return Stop(number=seen.number, why="the budget ends before it could be trained to its end")
        return self._start(context)

    def _start(self, context: SearchContext) -> Action:
        busy = any(seen.until is not None for seen in context.trials)
        ending = self._ending(context)
        if ending:
            return Wait() if busy else Finish(why=ending)
        until = self._until(0.0, context)
        return Start(params=self.sample(context), until=until, why="next point")

    def _ending(self, context: SearchContext) -> str:
        if context.exhausted:
            return "the number of trials is reached"
        budget = UNLIMITED_BUDGET if context.budget is None and context.self_stopping else context.budget
        if budget is None:
            return ""
        running = sum(1 - seen.trained / context.epochs for seen in context.trials if seen.outcome is None)
        if budget - context.spent - running < 1 - 1e-9:
            return f"the budget of {budget:g} full trainings is used: what is left is no full training"
        return ""

    def _until(self, trained: float, context: SearchContext) -> float:
        if not self.prune:
            return float(context.epochs)
        return next_rung(trained, context.epochs, context.finest)


def TPE(*, prune: bool = True) -> Sampled:  # noqa: N802 -- named like a class, as the contract has it
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023), Optuna's own."""

    def sample(context: SearchContext) -> Mapping[str, Any]:
        if len(context.trials) < STARTUP:
            return _sobol(context)
        return propose(context, lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP))

    return Sampled(name="tpe", sample=sample, prune=prune)


def GP(*, prune: bool = True) -> Sampled:  # noqa: N802 -- named as what it makes
    """Gaussian process with log expected improvement, Optuna's own; pruned trials at a fair value."""

    def sample(context: SearchContext) -> Mapping[str, Any]:
        if len(context.trials) < STARTUP:
            return _sobol(context)
        return propose(
            context,
            lambda seed: optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, deterministic_objective=False),
        )

    return Sampled(name="gp", sample=sample, prune=prune)


def QMC(*, prune: bool = True) -> Sampled:  # noqa: N802 -- named as what it makes
    """A scrambled Sobol sequence (Owen 1998), the same however often the search is resumed."""
    return Sampled(name="qmc", sample=_sobol, prune=prune)


def RandomSearch(*, prune: bool = False) -> Sampled:  # noqa: N802 -- named as what it makes
    """Uniform random points (Bergstra and Bengio 2012), each from a seed of its own; an honest baseline."""

    def sample(context: SearchContext) -> Mapping[str, Any]:
        draws = np.random.default_rng(seed_of(context.seed, "random", len(context.trials)))
        return from_unit(context.space, draws.random(len(context.space.names)))

    return Sampled(name="random", sample=sample, prune=prune)


def _sobol(context: SearchContext) -> Mapping[str, Any]:
    """Point number n of the scrambled sequence, n the number of trials so far."""
    from scipy.stats import qmc

    sequence = qmc.Sobol(len(context.space.names), scramble=True, rng=seed_of(context.seed, "qmc"))
    if context.trials:
        sequence.fast_forward(len(context.trials))
    return from_unit(context.space, sequence.random(1)[0])


def from_unit(space: Space, unit: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    """The point of the space at coordinates in [0, 1), shape (number of settings,)."""
    values = {}
    for share, (name, distribution) in zip(unit, space.distributions().items(), strict=True):
        values[name] = _value(float(share), distribution)
    return values


def _value(share: float, distribution: object) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    if isinstance(distribution, IntDistribution):
        value = math.floor(_between(share, distribution.low, distribution.high + 1, distribution.log))
        return min(max(value, distribution.low), distribution.high)
    if isinstance(distribution, FloatDistribution):
        between = _between(share, distribution.low, distribution.high, distribution.log)
        return min(max(between, distribution.low), distribution.high)
    msg = f"a point of {distribution!r} cannot be made"
    raise TypeError(msg)


def _between(share: float, low: float, high: float, log: bool) -> float:  # noqa: FBT001 -- as Optuna has it
    if not log:
        return float(low + share * (high - low))
    ratio = high / low  # beyond the largest float where a range goes from 1e-307 to 1e6
    return float(low * ratio**share if math.isfinite(ratio) else low ** (1 - share) * high**share)
