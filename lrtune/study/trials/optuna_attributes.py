"""What Optuna and its dashboard get to see of a trial: readable attributes, intermediate values, state, constraint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from lrtune.core.outcome import Outcome
from lrtune.reporting.diagnosis import judge
from lrtune.storage import TrialChange
from lrtune.study.trials.stored_trial import RECORD, encode

if TYPE_CHECKING:
    from lrtune.core.records import TrialRecord
    from lrtune.study.settings import Settings
    from lrtune.study.trials.stored_trial import StoredTrial

__all__ = ["change_at_end", "intermediate_values"]

MOST_REPORTS = 200
"""Intermediate values of a trial, at the most."""


def intermediate_values(record: TrialRecord, settings: Settings) -> dict[int, float]:
    """The metric at the end of the curve by its epoch, where that is whole (every n-th of a long run) and finite."""
    epochs, values = record.curve.of(settings.metric)
    if not len(values) or not math.isfinite(values[-1]):
        return {}
    every = max(1, math.ceil(settings.epochs / MOST_REPORTS))
    epoch = int(epochs[-1])
    due = epoch >= 1 and (epoch % every == 0 or epoch >= settings.epochs)
    return {epoch: float(values[-1])} if due else {}


def change_at_end(trial: StoredTrial, outcome: Outcome, settings: Settings) -> TrialChange:
    """All that is written when a trial ends, in one change: a diverged one gets a constraint, the more the sooner."""
    record = trial.record
    state, values = _state(record, settings.metric)
    diverged = {"diverged": 2.0 - min(record.curve.trained / settings.epochs, 1.0)}
    return TrialChange(
        attributes={RECORD: encode(trial)} | _readable(record, outcome, settings),
        reports={} if outcome.diverged else intermediate_values(record, settings),
        constraints=diverged if outcome.diverged else {},
        state=state,
        values=values,
    )


def _readable(record: TrialRecord, outcome: Outcome, settings: Settings) -> dict[str, Any]:
    readable: dict[str, Any] = {"outcome": outcome.value, "cost": round(record.trained / settings.epochs, 4)}
    if record.why:
        readable["why"] = record.why[:2000]
    if len(record.curve):
        verdict = judge(
            record.curve,
            metric=settings.metric,
            direction=settings.direction,
            epochs=settings.epochs,
            lr=record.recipe.lr,
            outcome=outcome,
        )
        readable["verdict"] = f"{verdict.kind.value}: {verdict.why}"[:500]
    return readable


def _state(record: TrialRecord, metric: str) -> tuple[TrialState, list[float] | None]:
    outcome = record.outcome
    if outcome is Outcome.COMPLETED and record.value is not None:
        return TrialState.COMPLETE, [record.value]
    if outcome is Outcome.PRUNED or (outcome is not None and outcome.diverged):
        values = record.curve.of(metric)[1]
        last = float(values[-1]) if len(values) else math.nan
        return TrialState.PRUNED, [last] if outcome is Outcome.PRUNED and math.isfinite(last) else None
    return TrialState.FAIL, None
