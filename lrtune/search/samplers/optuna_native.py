"""Plain Optuna with its defaults, as its users run it: TPE, the median pruner, NaN a failure. A baseline.

The study it decides in is what `study.optimize` would have made: the learning rate as it is, a report
and a question to the pruner after every epoch, a diverged trial failed and therefore unseen.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState

from lrtune.core.optuna_logging import quiet
from lrtune.core.outcome import Outcome
from lrtune.search.base import UNLIMITED_BUDGET, Action, Continue, Finish, Start, Stop, Wait
from lrtune.search.samplers.sampler_study import seed_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from lrtune.search.base import SearchContext, TrialView

__all__ = ["PlainOptuna"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainOptuna:
    """`TPESampler()` and `MedianPruner()`, one trial after another, epoch by epoch."""

    name: str = "optuna"

    def next(self, context: SearchContext, /) -> Action:
        """Go on with the open trial unless the pruner stops it; else ask for the next."""
        if context.budget is None:
            context = dataclasses.replace(context, budget=UNLIMITED_BUDGET)
        busy = any(seen.until is not None for seen in context.trials)
        look = min(1.0, float(context.epochs))
        for seen in context.trials:
            if seen.open:
                return self._go_on(seen, context, busy=busy)
        if context.exhausted or not context.leaves_an_end(0.0, look):
            return Wait() if busy else Finish(why="the budget is spent")
        with quiet():
            sampler = optuna.samplers.TPESampler(seed=seed_of(context.seed, "plain", len(context.trials)))
            study = self._study(context, sampler)
            trial = study.ask(_axes(context))
        return Start(params=trial.params, until=look, why="next point")

    def _go_on(self, seen: TrialView, context: SearchContext, *, busy: bool) -> Action:
        until = min(math.floor(seen.trained + 1e-9) + 1.0, float(context.epochs))
        if not context.leaves_an_end(seen.trained, until, seen.repaid_epochs):
            return Wait() if busy else Stop(number=seen.number, why="the budget is spent")
        with quiet():
            study = self._study(context, optuna.samplers.RandomSampler(seed=0))
            frozen = next(t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("number") == seen.number)
            if len(frozen.intermediate_values) and optuna.pruners.MedianPruner().prune(study, frozen):
                return Stop(number=seen.number, why="pruned by the median rule")
        return Continue(number=seen.number, until=until, why="next epoch")

    @staticmethod
    def _study(context: SearchContext, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        study = optuna.create_study(direction=context.direction, sampler=sampler)
        for seen in context.trials:
            study.add_trial(_trial(seen, context))
        return study


def _axes(context: SearchContext) -> dict[str, BaseDistribution]:
    return dict(context.space.distributions())


def _trial(seen: TrialView, context: SearchContext) -> optuna.trial.FrozenTrial:
    reports = {math.ceil(e): float(v) for e, v in zip(seen.epochs, seen.values, strict=True) if math.isfinite(v)}
    states = {None: TrialState.RUNNING, Outcome.COMPLETED: TrialState.COMPLETE, Outcome.PRUNED: TrialState.PRUNED}
    state = states.get(seen.outcome, TrialState.FAIL)
    return optuna.trial.create_trial(
        state=state,
        params=context.space.params(seen.recipe),
        distributions=_axes(context),
        value=seen.result if state is TrialState.COMPLETE else None,
        intermediate_values=reports,
        user_attrs={"number": seen.number},
    )
