"""The strategy ``optuna``, a baseline: plain Optuna with its defaults, as its users run it.

TPE proposes, the median pruner is asked after every epoch, and NaN is a failure: the study in which it decides is what
`study.optimize` would have made, with the learning rate as it is and diverged trials failed and therefore unseen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState

from lrtune.core.optuna_logging import quiet
from lrtune.core.outcome import Outcome
from lrtune.search.base import Action, Continue, Finish, Start, Stop, Wait
from lrtune.search.samplers.sampler_study import seed_of

if TYPE_CHECKING:
    from lrtune.search.base import SearchContext, TrialView

__all__ = ["PlainOptuna"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainOptuna:
    """`TPESampler()` and `MedianPruner()`, one trial after another, epoch by epoch."""

    name: str = "optuna"

    def next(self, context: SearchContext, /) -> Action:
        """Go on with the open trial unless the pruner stops it; else ask for the next."""
        context = context.limited()
        for trial in context.trials:
            if trial.open:
                return self._go_on(trial, context)
        first = min(1.0, float(context.epochs))
        if context.exhausted or not context.leaves_an_end(0.0, first):
            return Wait() if context.busy else Finish(why="the budget is spent")
        with quiet():
            sampler = optuna.samplers.TPESampler(seed=seed_of(context.seed, "plain", len(context.trials)))
            params = _study(context, sampler).ask(dict(context.space.distributions())).params
        return Start(params=params, until=first, why="next point")

    def _go_on(self, trial: TrialView, context: SearchContext) -> Action:
        until = min(math.floor(trial.trained + 1e-9) + 1.0, float(context.epochs))
        if not context.leaves_an_end(trial.trained, until, trial.repaid_epochs):
            return Wait() if context.busy else Stop(number=trial.number, why="the budget is spent")
        with quiet():
            study = _study(context, optuna.samplers.RandomSampler(seed=0))
            frozen = next(t for t in study.get_trials(deepcopy=False) if t.user_attrs.get("number") == trial.number)
            if len(frozen.intermediate_values) and optuna.pruners.MedianPruner().prune(study, frozen):
                return Stop(number=trial.number, why="pruned by the median rule")
        return Continue(number=trial.number, until=until, why="next epoch")


def _study(context: SearchContext, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
    study = optuna.create_study(direction=context.direction, sampler=sampler)
    states = {None: TrialState.RUNNING, Outcome.COMPLETED: TrialState.COMPLETE, Outcome.PRUNED: TrialState.PRUNED}
    for trial in context.trials:
        state = states.get(trial.outcome, TrialState.FAIL)
        finite = [(e, v) for e, v in zip(trial.epochs, trial.values, strict=True) if math.isfinite(v)]
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                params=context.space.params(trial.recipe),
                distributions=dict(context.space.distributions()),
                value=trial.result if state is TrialState.COMPLETE else None,
                intermediate_values={math.ceil(epoch): float(value) for epoch, value in finite},
                user_attrs={"number": trial.number},
            )
        )
    return study
