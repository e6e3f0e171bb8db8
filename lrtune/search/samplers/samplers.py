"""The strategies that sample: ``tpe``, ``gp``, ``qmc`` and ``random``.

Each trains one recipe after another, from rung to rung, and gives a run up where it falls behind
(:mod:`lrtune.search.samplers.rungs`); they differ in where the next recipe comes from.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from lrtune.search.base import Action, Continue, Finish, Start, Stop, Wait
from lrtune.search.samplers.config import CONFIG
from lrtune.search.samplers.rungs import next_rung, should_stop
from lrtune.search.samplers.sampler_study import propose, seed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lrtune.core.space import Space
    from lrtune.search.base import SearchContext

__all__ = ["GP", "QMC", "TPE", "RandomSearch", "Sampled", "from_unit"]


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
        for trial in context.trials:
            if trial.open and len(trial.epochs) and self.prune and should_stop(trial, context):
                return Stop(number=trial.number, why="fell behind")
        for trial in context.trials:
            if trial.open:
                until = self._until(trial.trained, context)
                if context.affords(context.price(trial, until)):
                    return Continue(number=trial.number, until=until, why="next rung" if self.prune else "to its end")
                return Stop(number=trial.number, why="the budget ends before it could be trained to its end")
        ending = _ending(context)
        if ending:
            return Wait() if context.busy else Finish(why=ending)
        return Start(params=self.sample(context), until=self._until(0.0, context), why="next point")

    def _until(self, trained: float, context: SearchContext) -> float:
        return next_rung(trained, context.epochs, context.finest) if self.prune else float(context.epochs)


def _ending(context: SearchContext) -> str:
    """Why no further run is started; empty if one is."""
    if context.exhausted:
        return "the number of trials is reached"
    limited = context.limited() if context.self_stopping else context
    running = sum(1 - trial.trained / context.epochs for trial in context.trials if trial.outcome is None)
    if limited.left - running < 1 - 1e-9:
        return f"the budget of {limited.budget:g} full trainings is used: what is left is no full training"
    return ""


def _modelled(name: str, sampler: Callable[..., optuna.samplers.BaseSampler], *, prune: bool) -> Sampled:
    """A strategy that asks a sampler of Optuna's, made from a seed, after a few Sobol points."""

    def sample(context: SearchContext) -> Mapping[str, Any]:
        return _sobol(context) if len(context.trials) < CONFIG.startup else propose(context, sampler)

    return Sampled(name=name, sample=sample, prune=prune)


def TPE(*, prune: bool = True) -> Sampled:  # noqa: N802 -- named like a class, as the contract has it
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023), Optuna's own."""
    return _modelled("tpe", partial(optuna.samplers.TPESampler, n_startup_trials=CONFIG.startup), prune=prune)


def GP(*, prune: bool = True) -> Sampled:  # noqa: N802 -- named as what it makes
    """Gaussian process with log expected improvement, Optuna's own; pruned trials count at their expected end."""
    sampler = partial(optuna.samplers.GPSampler, n_startup_trials=CONFIG.startup, deterministic_objective=False)
    return _modelled("gp", sampler, prune=prune)


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
    return {name: axis.at(float(share)) for share, (name, axis) in zip(unit, space.axes.items(), strict=True)}
